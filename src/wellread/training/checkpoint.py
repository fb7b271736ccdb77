"""What a run keeps in its folder, so that a kill at any moment loses little and breaks nothing.

checkpoint.pt   everything needed to go on: weights, optimiser, step, best metric
log.jsonl       one row per `log_every` steps and per evaluation
best, last      model folders
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

__all__ = [
    "RunLog",
    "drop_checkpoint",
    "has_checkpoint",
    "read_checkpoint",
    "replace_folder",
    "settle_folder",
    "write_checkpoint",
]

FILE = "checkpoint.pt"
FORMAT = 1


def write_checkpoint(out: Path, state: Mapping[str, Any]) -> Path:
    """Write the state of a run. The one before stays in place until the new one is whole on disk."""
    waiting = out / f".{FILE}.part"
    try:
        with open(waiting, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        # torch ends its archive even after a failed write, and that failure hides the first one.
        refused = error if isinstance(error, OSError) else error.__context__
        if not isinstance(refused, OSError):
            raise
        waiting.unlink(missing_ok=True)
        raise OSError(refused.errno, refused.strerror, str(out / FILE)) from error
    os.replace(waiting, out / FILE)
    return out / FILE


def has_checkpoint(out: Path) -> bool:
    """Whether a run in this folder can be gone on with."""
    return (out / FILE).is_file()


def read_checkpoint(out: Path) -> dict[str, Any] | None:
    """The state of the run in a folder, on the CPU; None where there is none yet."""
    if not has_checkpoint(out):
        return None
    try:
        state = torch.load(out / FILE, map_location="cpu", weights_only=True)
    except (EOFError, UnpicklingError, RuntimeError) as error:
        raise ValueError(f"{out / FILE} is damaged ({error}); restart the run with --restart.") from error
    if state.get("format") != FORMAT:
        raise ValueError(
            f"{out / FILE} has format {state.get('format')!r}; this version reads format {FORMAT}: "
            "restart the run with --restart."
        )
    return state


def drop_checkpoint(out: Path) -> None:
    """Forget the run in a folder: its state, log and models. Cached candidates stay."""
    for name in (FILE, RunLog.NAME):
        (out / name).unlink(missing_ok=True)
    for name in ("best", "last", ".best.old", ".last.old", ".best.part", ".last.part"):
        shutil.rmtree(out / name, ignore_errors=True)


def replace_folder(folder: Path, write: Callable[[Path], Any]) -> Path:
    """Have `write` fill a new folder, then put it in the place of the old one."""
    part, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    settle_folder(folder)
    shutil.rmtree(part, ignore_errors=True)
    write(part)
    if folder.exists():
        os.replace(folder, old)
    os.replace(part, folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def settle_folder(folder: Path) -> None:
    """Finish or undo a replacement that was killed between its two moves."""
    old = folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    shutil.rmtree(old, ignore_errors=True)


class RunLog:
    """log.jsonl: rows with a `step`, in order."""

    NAME = "log.jsonl"

    def __init__(self, out: Path, *, step: int, write: bool = True) -> None:
        """Keep the rows of the first `step` steps: later ones are written again. write: False is mute."""
        self.path = out / self.NAME if write else None
        if self.path is None or not self.path.is_file():
            return
        kept = [line for line in self.path.read_text(encoding="utf8").splitlines() if _step_of(line) <= step]
        waiting = out / f".{self.NAME}.part"
        waiting.write_text("".join(f"{line}\n" for line in kept), encoding="utf8")
        os.replace(waiting, self.path)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        if self.path is not None:
            with open(self.path, "a", encoding="utf8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _step_of(line: str) -> float:
    """The step of a row; infinity for a row that a kill cut short."""
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return float("inf")
