"""What all command lines share. No torch."""
