"""How far long work is: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

__all__ = ["Bar", "progress_bar"]

Bar = tqdm

SECONDS = 30
"""Between two lines of a log, and before the first: what takes less time says nothing."""


def progress_bar(work: Iterable | None = None, *, shown: bool = True, **given: Any) -> Bar:
    """A tqdm bar over `work`, or to be updated by hand. given: what tqdm takes, such as total, desc, unit, initial."""
    if shown and not sys.stderr.isatty():
        given |= {"file": _Lines(sys.stderr), "ncols": 0, "mininterval": SECONDS, "maxinterval": SECONDS}
        given |= {"delay": SECONDS, "position": 0}
    return tqdm(work, disable=not shown, **given)


class _Lines:
    """Where a bar writes every state over the last one: a log that keeps each as a line."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.last = stream, ""

    def write(self, text: str) -> None:
        state = text.strip("\r\n ")
        if state not in ("", self.last):  # the last one comes again when the bar is closed
            self.stream.write(state + "\n")
            self.last = state

    def flush(self) -> None:
        self.stream.flush()
