"""Scenes put together from drawings that a person recognises: what is in them, where, and how they are spoken of."""
