"""Decoding loops of our own, and what they are made of: a beam search that can look back, and what it looks at."""
