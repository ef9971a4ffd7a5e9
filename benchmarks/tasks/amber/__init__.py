"""AMBER: captions and yes/no questions about the same images."""
