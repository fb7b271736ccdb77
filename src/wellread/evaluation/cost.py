"""What running costs: milliseconds per stage, bytes per passage."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Stopwatch", "bytes_per_passage", "stored_bytes"]


class Stopwatch:
    """Milliseconds per stage; a stage entered twice adds up.

    >>> watch = Stopwatch()
    >>> with watch("read"):
    ...     pass
    >>> list(watch.milliseconds)
    ['read']
    """

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        _wait_for_device()
        start = time.perf_counter()
        try:
            yield
        finally:
            _wait_for_device()
            spent = 1000 * (time.perf_counter() - start)
            self.milliseconds[stage] = self.milliseconds.get(stage, 0.0) + spent

    @property
    def total(self) -> float:
        """Milliseconds of all stages; stages inside one another count twice."""
        return sum(self.milliseconds.values())


def stored_bytes(path: str | Path) -> int:
    """The bytes of a file or of all files in a folder. ValueError where nothing is there."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a file or a folder.")
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    return sum(item.stat().st_size for item in files)


def bytes_per_passage(path: str | Path, num_passages: int) -> float:
    """What a memory or an index takes on disk for each of its passages."""
    if num_passages < 1:
        raise ValueError(f"num_passages={num_passages} is too small; it must be at least 1.")
    return stored_bytes(path) / num_passages


def _wait_for_device() -> None:
    """Wait for work in flight on a GPU, where one is used: its calls return before it is done."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
