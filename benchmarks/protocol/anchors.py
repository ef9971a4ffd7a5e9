"""Whether the unmodified model measures what others measured of it: nobody should believe a gain before. No torch."""

from __future__ import annotations

from statistics import fmean
from typing import NamedTuple

from ..tasks import expand_tasks
from .declaration import Anchor, Protocol, Published
from .examine import Examination


class Compared(NamedTuple):
    """A baseline beside what was published.

    Attributes:
        anchor: what was published, and how far from it is still well.
        value: what was measured; None where the baseline was not run to its end, or the metric is undefined.
        nearest: the published number that is nearest to it.
        off: how far it lies below (negative) or above all that was published; 0 between them, and None without a value.
    """

    anchor: Anchor
    value: float | None
    nearest: Published
    off: float | None

    @property
    def is_off(self) -> bool:
        """Whether that is farther than the declared tolerance."""
        return self.off is not None and abs(self.off) > self.anchor.tolerance


def compare_baseline(found: Examination, protocol: Protocol) -> list[Compared]:
    """Every anchor of a protocol with what was measured for it; a group's is the mean over its tasks."""
    return [_compared(anchor, _value(found, anchor)) for anchor in protocol.anchors]


def _value(found: Examination, anchor: Anchor) -> float | None:
    values = []
    for task in expand_tasks((anchor.tasks,)):
        baseline = found.baseline(anchor.part, task)
        value = None if baseline is None else baseline.scores.metrics.get(anchor.metric)
        if value is None:
            return None
        values.append(value)
    return fmean(values)


def _compared(anchor: Anchor, value: float | None) -> Compared:
    if value is None:
        return Compared(anchor, None, anchor.published[0], None)
    numbers = [one["value"] for one in anchor.published]
    nearest = min(anchor.published, key=lambda one: abs(one["value"] - value))
    off = min(0.0, value - min(numbers)) + max(0.0, value - max(numbers))
    return Compared(anchor, value, nearest, off)
