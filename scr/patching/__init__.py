"""Put a method on a model, several of them, or none, and take them off."""
