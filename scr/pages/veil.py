"""How a trace is laid over its picture, in figures and on pages alike: attention, sources, neighbours."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

INK: Mapping[str, str] = {"neighbor": "#56B4E9", "dark": "#000000", "light": "#FFFFFF"}
"""What is drawn in which colour: of the figures' palette; shapes tell sources and neighbours apart too."""
OPACITY = 0.7
"""Of the dark veil over a patch without any attention; the most attended patch has none. A colour instead would be
mistaken for one of the picture."""
STROKES = (0.16, 0.08)
"""Width of a line's light edge and of its dark core, as shares of a patch."""
INSET, RADIUS = 0.1, 0.2
"""Distance of a source's square from the border of its patch, and radius of a neighbour's dot, likewise."""


def look() -> dict[str, Any]:
    """These numbers as JSON values, for `veil.js`."""
    return {"ink": dict(INK), "opacity": OPACITY, "strokes": list(STROKES), "inset": INSET, "radius": RADIUS}


def attention_bytes(attention: Sequence[float]) -> dict[str, Any]:
    """A map as `veil.js` reads it.

    Args:
        attention: one number ≥ 0 per patch.

    Returns:
        `attention`: base64 of a byte per patch, 255 for the most attended; `most`: that one's share of all, None where
        nothing is attended to.
    """
    highest, total = max(attention, default=0.0), sum(attention)
    shares = bytes(round(255 * value / highest) if highest > 0 else 0 for value in attention)
    return {"attention": base64.b64encode(shares).decode(), "most": highest / total if total > 0 else None}
