"""One finding a file: a figure with its table."""
