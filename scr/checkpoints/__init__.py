"""Find and load checkpoints: all of their weights, none of their code."""
