"""Files that several processes write to, and that a kill leaves whole. No torch."""
