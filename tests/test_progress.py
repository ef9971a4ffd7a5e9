"""Off a terminal a run says now and then how far it is."""

from __future__ import annotations

import threading

import pytest

from scr.command import progress
from scr.command.progress import Progress, duration


def test_lines_tell_done_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    lines: list[str] = []
    said = threading.Event()

    def report(line: str) -> None:
        lines.append(line)
        said.set()

    with Progress("pope · scr", 600, report) as shown:
        assert said.wait(5)
        assert lines[0].startswith("pope · scr: 0 of 600 answers after 0 s")
        shown.update(150)
        said.clear()
        assert said.wait(5)
        assert said.wait(5)
    count = len(lines)
    assert lines[-1].startswith("pope · scr: 150 of 600 answers after 0 s, ")
    assert lines[-1].endswith(" left")
    assert len(lines) == count
    assert shown._line(300.0) == "pope · scr: 150 of 600 answers after 5 min, 0.5 per second, about 15 min left"


def test_other_processes_say_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    with Progress("pope · scr", 600, None) as shown:
        shown.update(3)
        threading.Event().wait(0.05)
    assert capsys.readouterr() == ("", "")


def test_the_teller_ends_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    with pytest.raises(ValueError, match="x"), Progress("t", 1, lambda line: None):
        raise ValueError("x")
    assert not any(thread.name == "progress" for thread in threading.enumerate())


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (7260, "2 h 1 min")])
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
