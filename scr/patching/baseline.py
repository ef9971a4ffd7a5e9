"""What every method is compared with. Standard library only, as those who read records need the word alone."""

BASELINE = "none"
"""The method that is none: the model as it is."""
