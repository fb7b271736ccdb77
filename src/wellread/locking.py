"""A folder held for writing, so that the same command started twice does not write one thing from two sides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["LOCK", "locked"]

LOCK = ".lock"
"""The file in a folder that is held while somebody writes there; it says nothing when nobody does."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder and hold it for writing; ValueError where another process does. A killed one lets go."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"another process is changing {folder}; wait for it to end, or end it.") from error
    try:
        yield
    finally:
        lock.release()
