"""Vectors that are learnt once, from demonstrations, and added at every call."""

from typing import TYPE_CHECKING

from .._hooks import on_demand

if TYPE_CHECKING:
    from .shifts import Demonstration, principal_shift, visual_textual_vectors
    from .vectors import Card, SteeringVectors, find_vectors, read_vectors, write_vectors

__getattr__ = on_demand(__name__)
