"""Progress of long work: a bar on a terminal, lines in a log, nothing where it is not wanted."""

from __future__ import annotations

import io
import sys

from wellread import bars
from wellread.bars import progress_bar


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def shown(monkeypatch, *, terminal: bool, seconds: float, **given) -> str:
    stream = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(bars, "SECONDS", seconds)
    with progress_bar(total=3, desc="read", unit="passage", **given) as bar:
        for _ in range(3):
            bar.update()
    return stream.getvalue()


def test_a_log_gets_whole_lines(monkeypatch):
    lines = shown(monkeypatch, terminal=False, seconds=0).splitlines()
    states = list(dict.fromkeys(line.split("[")[0].strip() for line in lines))
    assert states[-3:] == ["read:  33% 1/3", "read:  67% 2/3", "read: 100% 3/3"]
    assert not any(mark in line for line in lines for mark in "\r█")


def test_bars_within_a_bar_are_lines_too(monkeypatch):
    stream = Stream(terminal=False)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(bars, "SECONDS", 0)
    with progress_bar(total=1, desc="outer") as outer:
        with progress_bar(total=2, desc="inner") as inner:
            inner.update(2)
        outer.update()
    assert all(line.startswith(("outer: ", "inner: ")) for line in stream.getvalue().splitlines())
    assert "\x1b" not in stream.getvalue()


def test_short_work_says_nothing_in_a_log(monkeypatch):
    assert shown(monkeypatch, terminal=False, seconds=30) == ""


def test_a_terminal_gets_a_bar_at_once(monkeypatch):
    written = shown(monkeypatch, terminal=True, seconds=30)
    assert written.startswith("\rread:   0%|")
    assert "3/3" in written


def test_nothing_is_shown_where_nobody_wants_it(monkeypatch):
    assert shown(monkeypatch, terminal=True, seconds=0, shown=False) == ""
