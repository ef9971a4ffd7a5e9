"""`python -m scr.publish`: write a method as a repository that transformers' `generate` runs by itself."""

from .command import main

__all__ = ["main"]
