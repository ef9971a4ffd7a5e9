"""What happens where a prompt with images is read for the first time."""
