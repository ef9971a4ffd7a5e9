"""What a method costs: `python -m benchmarks.overhead`."""

from .command import build_parser, main

__all__ = ["build_parser", "main"]
