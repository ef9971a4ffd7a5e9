"""Texts about a user's own images, and which of their words may be made up: what `scr.describe` is made of."""
