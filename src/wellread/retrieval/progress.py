"""Arrays of a segment on their way to disk, so that a build that was killed goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wellread.retrieval.blocks import Blocks
from wellread.retrieval.catalog import digest
from wellread.types import Passage

__all__ = ["Progress"]


class Progress(Blocks):
    """Blocks of passages. Those already done are recognised by a digest of all passages so far; at the first
    difference the rest is thrown away and made anew. NAME.part holds the rows of an array."""

    def __init__(self, path: Path, made_with: Mapping[str, Any], names: Sequence[str] = ("vectors",)) -> None:
        super().__init__(path, made_with, names, suffix="part")
        self.seen = hashlib.blake2b(digest_size=16)
        self.count = 0

    def done(self, batch: Sequence[Passage]) -> bool:
        """Whether the arrays of the next block are there already."""
        for passage in batch:
            self.seen.update(digest(passage))
        if self.count < len(self.blocks):
            if self.blocks[self.count]["digest"] == self.seen.hexdigest():
                self.count += 1
                return True
            self.keep(self.blocks[: self.count])
        return False

    def append(self, **arrays: np.ndarray) -> None:
        """Write the arrays ([rows, ...] each, one per name) of the block that `done` said no to."""
        super().append(self.seen.hexdigest(), **arrays)
        self.count += 1

    def array(self, name: str) -> np.ndarray:
        """All rows of an array, memory-mapped; [0, 0] where there are none."""
        self.keep(self.blocks[: self.count])
        return super().array(name)

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
