"""Declared protocols for real weights: `python -m benchmarks.protocol list|run|check|render`."""

from .command import build_parser, main

__all__ = ["build_parser", "main"]
