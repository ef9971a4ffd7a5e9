"""Leading questions about absent objects."""
