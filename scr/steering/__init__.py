"""Vectors that are learnt once, from demonstrations, and added at every call."""
