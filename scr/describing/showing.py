"""How a description prints, and how a notebook shows it. Standard library only."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .description import Description, Doubt

_LONGEST = 80  # characters of a text on a line
_MOST = 3  # doubts on a line
_RED = "200, 30, 30"
_PLAIN = "text-decoration: underline dotted; text-underline-offset: 3px"


def as_line(description: Description) -> str:
    """Its image, method, the begin of its text, and the words that are most likely made up."""
    head = f"Description({description.image!r}, {description.method}"
    if description.error is not None:
        return f"{head}, error: {description.error})"
    text = description.text
    said = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    scored = [(doubt.score, doubt.word) for doubt in description.doubts if doubt.score is not None]
    words = ", ".join(f"{word} {score:.2f}" for score, word in sorted(scored, reverse=True)[:_MOST])
    if description.doubts and not scored:
        words = f"{', '.join(doubt.word for doubt in description.doubts[:_MOST])} (uncalibrated)"
    return f"{head}, {said!r}{f', doubts: {words}' if words else ''})"


def as_html(description: Description) -> str:
    """The text with its doubtful words underlined, above its image and method."""
    by = html.escape(f"{description.image}, {description.method}, {description.milliseconds:.0f} ms")
    if description.error is not None:
        return f"<figure><p>no text: {html.escape(description.error)}</p><figcaption>{by}</figcaption></figure>"
    if description.doubts:
        by += html.escape(f", doubts by {description.calibration}" if description.calibration else ", uncalibrated")
    parts, done = [], 0
    for doubt in description.doubts:
        parts += [html.escape(description.text[done : doubt.start]), _underlined(doubt)]
        done = doubt.end
    parts.append(html.escape(description.text[done:]))
    return f"<figure><p>{''.join(parts)}</p><figcaption>{by}</figcaption></figure>"


def reasons(doubt: Doubt) -> str:
    """What a doubt rests on, in words: the measures that were computed, and the score or that there is none."""
    score = "uncalibrated" if doubt.score is None else f"made up with probability {doubt.score:.2f}"
    parts = [
        (doubt.confidence, "said with probability {:.2f}"),
        (doubt.evidence, "the image adds {:+.1f} nats"),
        (doubt.recheck, "asked again: yes − no = {:+.1f}"),
    ]
    return "; ".join([score, *(words.format(value) for value, words in parts if value is not None)])


def _underlined(doubt: Doubt) -> str:
    style = _PLAIN
    if doubt.score is not None:
        style = (
            f"text-decoration: underline rgba({_RED}, {doubt.score:.2f}) {1 + 3 * doubt.score:.1f}px; "
            "text-underline-offset: 3px"
        )
    return f'<span style="{style}" title="{html.escape(reasons(doubt))}">{html.escape(doubt.word)}</span>'
