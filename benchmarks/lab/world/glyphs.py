"""How each category looks: a few Pillow primitives on the unit square, in tones of one base colour.

A glyph is data, not code: ``(shape, coordinates, tone)`` with coordinates in 0–1 of the object's box, origin at the top
left. Tones are derived from the object's jittered base colour, so that a whole object shifts together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["GLYPHS", "Glyph", "draw_glyph"]

# Drawn larger and averaged down: edges at 10 pixels would otherwise be jagged beyond recognition.
SUPERSAMPLING = 4

# Factors on the base colour; "white" and "black" are absolute.
TONES = {"body": 1.0, "dark": 0.5, "light": 1.5}

Primitive = tuple[str, tuple[float, ...], str]


class Glyph(NamedTuple):
    """The look of one category: base colour, width over height, and what is drawn in which order."""

    color: tuple[int, int, int]
    aspect: float
    primitives: tuple[Primitive, ...]


GLYPHS: dict[str, Glyph] = {
    "person": Glyph((200, 120, 90), 0.5, (
        ("ellipse", (0.28, 0.0, 0.72, 0.26), "light"), ("rect", (0.2, 0.27, 0.8, 0.62), "body"),
        ("rect", (0.0, 0.28, 0.16, 0.6), "body"), ("rect", (0.84, 0.28, 1.0, 0.6), "body"),
        ("rect", (0.22, 0.62, 0.44, 1.0), "dark"), ("rect", (0.56, 0.62, 0.78, 1.0), "dark"))),
    "bicycle": Glyph((60, 160, 120), 1.6, (
        ("ring", (0.0, 0.38, 0.4, 1.0, 0.07), "dark"), ("ring", (0.6, 0.38, 1.0, 1.0, 0.07), "dark"),
        ("line", (0.2, 0.7, 0.4, 0.25, 0.7, 0.25, 0.8, 0.7, 0.08), "body"),
        ("line", (0.4, 0.25, 0.5, 0.7, 0.7, 0.25, 0.08), "body"), ("rect", (0.3, 0.1, 0.48, 0.2), "dark"))),
    "car": Glyph((190, 50, 60), 1.7, (
        ("polygon", (0.2, 0.4, 0.35, 0.1, 0.7, 0.1, 0.85, 0.4), "light"), ("rect", (0.0, 0.38, 1.0, 0.78), "body"),
        ("ellipse", (0.1, 0.62, 0.34, 1.0), "black"), ("ellipse", (0.66, 0.62, 0.9, 1.0), "black"))),
    "truck": Glyph((200, 70, 50), 1.7, (
        ("rect", (0.0, 0.0, 0.62, 0.78), "body"), ("rect", (0.66, 0.25, 1.0, 0.78), "light"),
        ("ellipse", (0.1, 0.62, 0.34, 1.0), "black"), ("ellipse", (0.68, 0.62, 0.92, 1.0), "black"))),
    "boat": Glyph((150, 90, 60), 1.2, (
        ("polygon", (0.0, 0.68, 1.0, 0.68, 0.8, 1.0, 0.2, 1.0), "body"),
        ("polygon", (0.48, 0.0, 0.48, 0.62, 0.08, 0.62), "white"),
        ("polygon", (0.54, 0.1, 0.54, 0.62, 0.9, 0.62), "light"))),
    "traffic light": Glyph((90, 90, 80), 0.45, (
        ("rect", (0.1, 0.0, 0.9, 0.8), "dark"), ("rect", (0.4, 0.8, 0.6, 1.0), "body"),
        ("ellipse", (0.28, 0.04, 0.72, 0.26), "red"), ("ellipse", (0.28, 0.29, 0.72, 0.51), "yellow"),
        ("ellipse", (0.28, 0.54, 0.72, 0.76), "green"))),
    "stop sign": Glyph((205, 30, 40), 0.6, (
        ("rect", (0.42, 0.55, 0.58, 1.0), "dark"),
        ("polygon", (0.3, 0.0, 0.7, 0.0, 1.0, 0.18, 1.0, 0.42, 0.7, 0.6, 0.3, 0.6, 0.0, 0.42, 0.0, 0.18), "body"),
        ("rect", (0.2, 0.24, 0.8, 0.36), "white"))),
    "bench": Glyph((140, 95, 50), 1.7, (
        ("rect", (0.0, 0.0, 1.0, 0.16), "body"), ("rect", (0.0, 0.24, 1.0, 0.4), "body"),
        ("rect", (0.0, 0.5, 1.0, 0.68), "light"), ("rect", (0.06, 0.68, 0.16, 1.0), "dark"),
        ("rect", (0.84, 0.68, 0.94, 1.0), "dark"))),
    "bird": Glyph((70, 110, 190), 1.3, (
        ("ellipse", (0.15, 0.35, 0.8, 0.85), "body"), ("ellipse", (0.62, 0.1, 0.92, 0.5), "body"),
        ("polygon", (0.9, 0.22, 1.0, 0.3, 0.9, 0.38), "yellow"), ("polygon", (0.3, 0.55, 0.1, 0.0, 0.6, 0.45), "dark"),
        ("polygon", (0.2, 0.55, 0.0, 0.75, 0.25, 0.75), "dark"), ("rect", (0.45, 0.84, 0.5, 1.0), "yellow"))),
    "cat": Glyph((170, 130, 90), 1.0, (
        ("polygon", (0.08, 0.0, 0.4, 0.3, 0.1, 0.5), "dark"), ("polygon", (0.92, 0.0, 0.6, 0.3, 0.9, 0.5), "dark"),
        ("ellipse", (0.06, 0.18, 0.94, 1.0), "body"), ("ellipse", (0.24, 0.42, 0.4, 0.6), "green"),
        ("ellipse", (0.6, 0.42, 0.76, 0.6), "green"), ("polygon", (0.42, 0.68, 0.58, 0.68, 0.5, 0.8), "black"))),
    "dog": Glyph((165, 115, 70), 1.0, (
        ("ellipse", (0.1, 0.05, 0.9, 0.95), "body"), ("ellipse", (0.0, 0.1, 0.26, 0.75), "dark"),
        ("ellipse", (0.74, 0.1, 1.0, 0.75), "dark"), ("ellipse", (0.3, 0.5, 0.7, 1.0), "light"),
        ("ellipse", (0.4, 0.54, 0.6, 0.7), "black"), ("ellipse", (0.3, 0.28, 0.4, 0.4), "black"),
        ("ellipse", (0.6, 0.28, 0.7, 0.4), "black"))),
    "horse": Glyph((120, 75, 45), 1.2, (
        ("ellipse", (0.05, 0.35, 0.75, 0.72), "body"),
        ("polygon", (0.55, 0.5, 0.8, 0.0, 0.95, 0.08, 0.75, 0.6), "body"),
        ("polygon", (0.8, 0.0, 1.0, 0.2, 0.95, 0.3, 0.78, 0.2), "body"), ("rect", (0.12, 0.6, 0.22, 1.0), "dark"),
        ("rect", (0.58, 0.6, 0.68, 1.0), "dark"), ("polygon", (0.08, 0.42, 0.0, 0.8, 0.1, 0.6), "dark"))),
    "sheep": Glyph((215, 210, 200), 1.25, (
        ("ellipse", (0.0, 0.2, 0.5, 0.75), "body"), ("ellipse", (0.25, 0.05, 0.75, 0.8), "body"),
        ("ellipse", (0.7, 0.15, 1.0, 0.6), "black"), ("rect", (0.15, 0.7, 0.25, 1.0), "black"),
        ("rect", (0.55, 0.7, 0.65, 1.0), "black"))),
    "cow": Glyph((130, 85, 60), 1.3, (
        ("rect", (0.0, 0.25, 0.72, 0.72), "body"), ("ellipse", (0.12, 0.3, 0.36, 0.58), "white"),
        ("ellipse", (0.45, 0.4, 0.64, 0.64), "white"), ("rect", (0.7, 0.1, 1.0, 0.48), "body"),
        ("rect", (0.08, 0.72, 0.18, 1.0), "dark"), ("rect", (0.54, 0.72, 0.64, 1.0), "dark"),
        ("polygon", (0.7, 0.1, 0.66, 0.0, 0.78, 0.1), "white"))),
    "umbrella": Glyph((150, 60, 150), 1.0, (
        ("pie", (0.0, 0.0, 1.0, 1.0, 180.0, 360.0), "body"), ("pie", (0.33, 0.0, 0.67, 1.0, 180.0, 360.0), "light"),
        ("rect", (0.46, 0.5, 0.54, 1.0), "black"), ("rect", (0.46, 0.92, 0.72, 1.0), "black"))),
    "kite": Glyph((230, 170, 40), 0.8, (
        ("polygon", (0.5, 0.0, 1.0, 0.32, 0.5, 0.7, 0.0, 0.32), "body"),
        ("polygon", (0.5, 0.0, 0.5, 0.7, 0.0, 0.32), "light"),
        ("line", (0.5, 0.7, 0.3, 0.82, 0.6, 0.96, 0.07), "dark"))),
    "bottle": Glyph((50, 140, 80), 0.4, (
        ("rect", (0.34, 0.0, 0.66, 0.3), "dark"), ("ellipse", (0.05, 0.24, 0.95, 0.5), "body"),
        ("rect", (0.05, 0.37, 0.95, 1.0), "body"), ("rect", (0.05, 0.55, 0.95, 0.78), "white"))),
    "cup": Glyph((110, 160, 200), 1.0, (
        ("ring", (0.58, 0.25, 1.0, 0.75, 0.1), "dark"),
        ("polygon", (0.0, 0.05, 0.76, 0.05, 0.68, 1.0, 0.08, 1.0), "body"),
        ("ellipse", (0.0, 0.0, 0.76, 0.18), "light"))),
    "bowl": Glyph((120, 155, 190), 1.6, (
        ("pie", (0.0, -0.75, 1.0, 0.95, 0.0, 180.0), "body"), ("ellipse", (0.0, 0.0, 1.0, 0.28), "light"),
        ("rect", (0.32, 0.88, 0.68, 1.0), "dark"))),
    "pizza": Glyph((220, 170, 80), 1.0, (
        ("ellipse", (0.0, 0.0, 1.0, 1.0), "dark"), ("ellipse", (0.1, 0.1, 0.9, 0.9), "body"),
        ("ellipse", (0.25, 0.22, 0.45, 0.42), "red"), ("ellipse", (0.55, 0.3, 0.75, 0.5), "red"),
        ("ellipse", (0.36, 0.58, 0.56, 0.78), "red"))),
    "chair": Glyph((170, 110, 60), 0.7, (
        ("rect", (0.0, 0.0, 0.2, 1.0), "body"), ("rect", (0.0, 0.5, 1.0, 0.66), "light"),
        ("rect", (0.8, 0.6, 1.0, 1.0), "body"), ("rect", (0.2, 0.1, 0.36, 0.4), "dark"))),
    "bed": Glyph((90, 90, 170), 1.7, (
        ("rect", (0.0, 0.0, 0.1, 1.0), "dark"), ("rect", (0.1, 0.45, 1.0, 0.85), "body"),
        ("rect", (0.12, 0.25, 0.4, 0.48), "white"), ("rect", (0.92, 0.4, 1.0, 1.0), "dark"))),
    "laptop": Glyph((130, 130, 140), 1.3, (
        ("rect", (0.14, 0.0, 0.86, 0.62), "dark"), ("rect", (0.2, 0.06, 0.8, 0.56), "blue"),
        ("polygon", (0.12, 0.66, 0.88, 0.66, 1.0, 1.0, 0.0, 1.0), "body"))),
    "mouse": Glyph((150, 150, 160), 0.7, (
        ("ellipse", (0.0, 0.1, 1.0, 1.0), "body"), ("line", (0.5, 0.1, 0.5, 0.5, 0.08), "black"),
        ("line", (0.02, 0.5, 0.98, 0.5, 0.08), "black"), ("line", (0.5, 0.12, 0.7, 0.0, 0.08), "dark"))),
    "keyboard": Glyph((120, 120, 125), 2.2, (
        ("rect", (0.0, 0.0, 1.0, 1.0), "dark"), ("dots", (0.05, 0.08, 0.95, 0.92, 7, 3), "light"))),
    "microwave": Glyph((160, 160, 165), 1.5, (
        ("rect", (0.0, 0.0, 1.0, 1.0), "body"), ("rect", (0.08, 0.14, 0.66, 0.86), "black"),
        ("dots", (0.74, 0.2, 0.94, 0.8, 1, 3), "green"))),
    "oven": Glyph((150, 150, 155), 1.0, (
        ("rect", (0.0, 0.0, 1.0, 1.0), "body"), ("rect", (0.12, 0.4, 0.88, 0.88), "black"),
        ("dots", (0.12, 0.08, 0.88, 0.26, 4, 1), "red"))),
    "sink": Glyph((185, 195, 205), 1.3, (
        ("rect", (0.0, 0.4, 1.0, 1.0), "body"), ("ellipse", (0.12, 0.5, 0.88, 0.92), "dark"),
        ("line", (0.5, 0.6, 0.5, 0.06, 0.72, 0.06, 0.72, 0.22, 0.1), "light"))),
    "refrigerator": Glyph((200, 205, 210), 0.55, (
        ("rect", (0.0, 0.0, 1.0, 1.0), "body"), ("rect", (0.0, 0.34, 1.0, 0.39), "black"),
        ("rect", (0.1, 0.1, 0.22, 0.28), "dark"), ("rect", (0.1, 0.45, 0.22, 0.75), "dark"))),
    "book": Glyph((120, 60, 60), 1.3, (
        ("polygon", (0.0, 0.1, 0.5, 0.22, 1.0, 0.1, 1.0, 0.88, 0.5, 1.0, 0.0, 0.88), "body"),
        ("polygon", (0.06, 0.04, 0.48, 0.16, 0.48, 0.9, 0.06, 0.78), "white"),
        ("polygon", (0.94, 0.04, 0.52, 0.16, 0.52, 0.9, 0.94, 0.78), "white"))),
    "clock": Glyph((215, 205, 180), 1.0, (
        ("ellipse", (0.0, 0.0, 1.0, 1.0), "dark"), ("ellipse", (0.1, 0.1, 0.9, 0.9), "light"),
        ("line", (0.5, 0.5, 0.5, 0.18, 0.08), "black"), ("line", (0.5, 0.5, 0.74, 0.6, 0.08), "black"))),
    "teddy bear": Glyph((150, 95, 55), 0.8, (
        ("ellipse", (0.1, 0.0, 0.36, 0.22), "dark"), ("ellipse", (0.64, 0.0, 0.9, 0.22), "dark"),
        ("ellipse", (0.18, 0.04, 0.82, 0.48), "body"), ("ellipse", (0.12, 0.42, 0.88, 1.0), "body"),
        ("ellipse", (0.32, 0.52, 0.68, 0.88), "light"), ("ellipse", (0.4, 0.26, 0.6, 0.42), "light"),
        ("ellipse", (0.0, 0.45, 0.24, 0.7), "dark"), ("ellipse", (0.76, 0.45, 1.0, 0.7), "dark"))),
}  # fmt: skip

_ABSOLUTE = {
    "white": (240, 240, 235),
    "black": (25, 25, 30),
    "red": (210, 40, 40),
    "yellow": (235, 205, 60),
    "green": (60, 190, 80),
    "blue": (70, 120, 210),
}


def draw_glyph(name: str, size: tuple[int, int], color: tuple[float, float, float], mirrored: bool) -> np.ndarray:
    """Draw one object.

    Args:
        name: The category.
        size: Width and height of the box, in pixels.
        color: The object's own base colour, 0–255, already jittered.
        mirrored: Whether left and right are exchanged.

    Returns:
        ``uint8`` array of shape ``(height, width, 4)``: RGB, and coverage as alpha.
    """
    width, height = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    tile = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    draw = ImageDraw.Draw(tile)
    for shape, numbers, tone in GLYPHS[name].primitives:
        base = _ABSOLUTE.get(tone) or tuple(channel * TONES[tone] for channel in color)
        fill = (*(int(min(255, max(0, channel))) for channel in base), 255)
        _draw(draw, shape, numbers, fill, width - 1, height - 1)
    if mirrored:
        tile = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # reduce() averages premultiplied values only if asked by mode: "RGBa" keeps edges free of black fringes.
    return np.asarray(tile.convert("RGBa").reduce(SUPERSAMPLING).convert("RGBA"))


def _draw(
    draw: ImageDraw.ImageDraw, shape: str, numbers: tuple[float, ...], fill: tuple[int, ...], width: int, height: int
) -> None:
    def points(values: tuple[float, ...]) -> list[tuple[float, float]]:
        return [(values[i] * width, values[i + 1] * height) for i in range(0, len(values), 2)]

    if shape == "ellipse":
        draw.ellipse(points(numbers), fill=fill)
    elif shape == "rect":
        draw.rectangle(points(numbers), fill=fill)
    elif shape == "polygon":
        draw.polygon(points(numbers), fill=fill)
    elif shape == "line":
        draw.line(points(numbers[:-1]), fill=fill, width=max(1, round(numbers[-1] * height)), joint="curve")
    elif shape == "ring":
        draw.ellipse(points(numbers[:4]), outline=fill, width=max(1, round(numbers[4] * width)))
    elif shape == "pie":
        draw.pieslice(points(numbers[:4]), numbers[4], numbers[5], fill=fill)
    elif shape == "dots":
        left, top, right, bottom, columns, rows = numbers
        for i in range(int(columns)):
            for j in range(int(rows)):
                x0 = left + (right - left) * i / columns
                y0 = top + (bottom - top) * j / rows
                x1 = x0 + 0.7 * (right - left) / columns
                y1 = y0 + 0.7 * (bottom - top) / rows
                draw.rectangle(points((x0, y0, x1, y1)), fill=fill)
    else:
        known = "ellipse, rect, polygon, line, ring, pie, dots"
        raise ValueError(f"unknown shape: got {shape!r}; expected one of {known}. Correct the glyph table.")
