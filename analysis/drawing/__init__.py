"""How figures, pictures and tables look."""
