"""MME: fourteen tasks of two questions per image."""
