"""One-pass SCR's predictor: `python -m scr.onepass train`. No torch."""

from .command import build_parser, main

__all__ = ["build_parser", "main"]
