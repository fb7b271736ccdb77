"""Arrays of a segment on their way to disk, so that a build that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wellread.retrieval.catalog import digest
from wellread.types import Passage

__all__ = ["Progress"]


class Progress:
    """Arrays that grow along their first axis: appended in blocks, each one safe once `append` returns.

    names: of the arrays; NAME.part holds the rows of one. progress.jsonl says first what they are made with, then
    per block the shape and type of its arrays and a digest of all passages so far. Blocks already done are
    recognised by that digest; at the first difference the rest is thrown away and made anew.
    """

    def __init__(self, path: Path, made_with: Mapping[str, Any], names: Sequence[str] = ("vectors",)) -> None:
        self.path = path
        self.files = {name: path / f"{name}.part" for name in names}
        self.record = path / "progress.jsonl"
        self.made_with = {**made_with, "arrays": list(names)}
        self.seen = hashlib.blake2b(digest_size=16)
        self.count = 0
        for file in self.files.values():
            file.touch()
        self._keep(self._recorded())

    def done(self, batch: Sequence[Passage]) -> bool:
        """Whether the arrays of the next block are there already."""
        for passage in batch:
            self.seen.update(digest(passage))
        if self.count < len(self.blocks):
            if self.blocks[self.count]["digest"] == self.seen.hexdigest():
                self.count += 1
                return True
            self._keep(self.blocks[: self.count])
        return False

    def append(self, **arrays: np.ndarray) -> None:
        """Write the arrays ([rows, ...] each, one per name) of the block that `done` said no to."""
        assert arrays.keys() == self.files.keys()
        row: dict[str, Any] = {"digest": self.seen.hexdigest()}
        for name, array in arrays.items():
            row[name] = {"shape": list(array.shape), "type": str(array.dtype)}
            _append(self.files[name], np.ascontiguousarray(array).tobytes())
        _append(self.record, json.dumps(row).encode() + b"\n")
        self.blocks.append(row)
        self.count += 1

    def array(self, name: str) -> np.ndarray:
        """All rows of an array, memory-mapped; [0, 0] where there are none."""
        self._keep(self.blocks[: self.count])
        rows = sum(block[name]["shape"][0] for block in self.blocks)
        if not rows:
            return np.empty((0, 0), np.float32)
        last = self.blocks[-1][name]
        return np.memmap(self.files[name], dtype=last["type"], mode="r", shape=(rows, *last["shape"][1:]))

    def save(self, name: str) -> None:
        """Write NAME.npy without reading the array into memory."""
        array = self.array(name)
        target = np.lib.format.open_memmap(self.path / f"{name}.npy", mode="w+", dtype=array.dtype, shape=array.shape)
        if len(array):
            target[:] = array
            target.flush()

    def finish(self) -> None:
        """Forget the blocks: all that is made of them is safe."""
        self.record.unlink()
        for file in self.files.values():
            file.unlink()

    def _recorded(self) -> list[dict[str, Any]]:
        """The blocks that are safely on disk; a line cut off by a kill ends them."""
        lines = self.record.read_bytes().split(b"\n")[:-1] if self.record.exists() else []
        rows = [json.loads(line) for line in lines]
        return rows[1:] if rows and rows[0] == self.made_with else []

    def _keep(self, blocks: Sequence[dict[str, Any]]) -> None:
        """Throw away everything but these blocks."""
        self.blocks = list(blocks)
        for name, file in self.files.items():
            os.truncate(file, sum(_bytes(block[name]) for block in self.blocks))
        lines = [self.made_with, *self.blocks]
        draft = self.record.with_suffix(".new")
        draft.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf8")
        os.replace(draft, self.record)


def _bytes(described: Mapping[str, Any]) -> int:
    return int(np.prod(described["shape"])) * np.dtype(described["type"]).itemsize


def _append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
