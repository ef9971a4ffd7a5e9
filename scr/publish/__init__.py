"""`python -m scr.publish`: write a method as a repository that transformers' `generate` runs by itself."""

from .command import build_parser, main

__all__ = ["build_parser", "main"]
