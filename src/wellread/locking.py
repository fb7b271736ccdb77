"""A folder held for writing, so that the same command started twice does not write one thing from two sides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["LOCK", "locked"]

LOCK = ".lock"
"""The file in a folder that is held while somebody writes there; it says nothing when nobody does."""


@contextmanager
def locked(folder: Path, *, make: bool = False) -> Iterator[None]:
    """Hold a folder for writing; ValueError where another process does. A killed one lets go.

    make: make the folder where it is missing. What was made here is taken away again where nothing came of it.
    """
    from filelock import FileLock, Timeout

    made = make and not folder.exists()
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    fresh = not (folder / LOCK).exists()
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"another process is changing {folder}; wait for it to end, or end it.") from error
    try:
        yield
    except BaseException:
        if fresh:
            (folder / LOCK).unlink(missing_ok=True)
        raise
    finally:
        lock.release()
        if made:
            with suppress(OSError):  # something is in it
                folder.rmdir()
