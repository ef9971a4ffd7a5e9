"""Show what was found: reads records that `benchmarks` left behind, never a model."""

from .drawing.overlays import overlay

__all__ = ["overlay"]
