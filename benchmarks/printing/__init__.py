"""What commands read from their flags, and what they print."""
