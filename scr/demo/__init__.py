"""A page to try the methods on: `python -m scr.demo`. No torch."""

from .command import build_parser, main

__all__ = ["build_parser", "main"]
