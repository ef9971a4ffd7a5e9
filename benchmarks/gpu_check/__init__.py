"""What only a GPU can show: `python -m benchmarks.gpu_check --output FOLDER`."""

from .command import build_parser, main

__all__ = ["build_parser", "main"]
