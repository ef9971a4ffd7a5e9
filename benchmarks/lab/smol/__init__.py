"""The lab's model on a pretrained language model: `python -m benchmarks.lab.smol`."""

from .command import build_parser, main

__all__ = ["build_parser", "main"]
