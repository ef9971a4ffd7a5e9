"""How far a command is: a bar on a terminal; elsewhere, in a cluster's log, a line now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tqdm import tqdm

INTERVAL = 30.0
"""Seconds between two lines."""


class Progress:
    """Counts answers inside a `with`.

    Args:
        title: what is being answered.
        total: number of answers to come.
        report: is told the lines; None for a process that says nothing, on a terminal either.
        unit: what answers are called.
    """

    def __init__(self, title: str, total: int, report: Callable[[str], None] | None, unit: str = "answers") -> None:
        self._title, self._total, self._report, self._unit = title, total, report, unit
        self._done = 0
        self._over = threading.Event()
        self._teller = threading.Thread(target=self._tell, name="progress", daemon=True)

    def __enter__(self) -> Self:
        """Begin to show."""
        self._started = time.monotonic()
        shown = self._report is not None and sys.stderr.isatty()
        self._bar = tqdm(total=self._total, desc=self._title, unit=self._unit, disable=not shown)
        if self._report is not None and not shown:
            self._teller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show no more."""
        self._bar.close()
        self._over.set()
        if self._teller.ident is not None:
            self._teller.join()

    def update(self, count: int) -> None:
        """So many more are answered."""
        self._done += count
        self._bar.update(count)

    def _tell(self) -> None:
        while not self._over.wait(INTERVAL):
            if self._report is not None:
                self._report(self._line(time.monotonic() - self._started))

    def _line(self, seconds: float) -> str:
        """What is said after so many seconds."""
        line = f"{self._title}: {self._done} of {self._total} {self._unit} after {duration(seconds)}"
        if not self._done:
            return line
        left = seconds / self._done * (self._total - self._done)
        return f"{line}, {self._done / seconds:.2g} per second, about {duration(left)} left"


def duration(seconds: float) -> str:
    """A time in words: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
