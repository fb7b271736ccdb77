"""A memory stored with another codec: the states are read back, not computed again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from wellread.memory.build import MemorizeReport, memorize
from wellread.memory.rows import Encoded
from wellread.memory.store import Memory
from wellread.types import Passage

__all__ = ["recode"]

# Large enough for bulk reads, small enough to stay in bounded memory.
BATCH = 64


def recode(source: Memory, out: str | Path, *, codec: str, progress: bool = True) -> MemorizeReport:
    """Write the passages of a memory into a new one with `codec`; resumes as `memorize` does.

    No encoder runs. What the source's own codec has lost stays lost: recode from bf16. A search index kept in the
    source is copied. ValueError where the source holds no states.
    """
    if source.dim is None:
        raise ValueError(f"memory {source.path} holds tokens only; there are no states to store with another codec.")

    def stored(passages: Sequence[Passage]) -> list[Encoded]:
        rows = source.fetch([passage.id for passage in passages])
        keys = [None] * len(passages) if rows.keys is None else list(rows.keys)
        return [Encoded(*row) for row in zip(rows.tokens, rows.states, keys, strict=True)]

    report = memorize(
        source,
        stored,
        out,
        codec=codec,
        fingerprint=source.fingerprint,
        dim=source.dim,
        batch_size=BATCH,
        total=len(source),
        progress=progress,
    )
    index = source.path / "index"
    if index.is_dir() and not (Path(out) / "index").is_dir():
        shutil.copytree(index, Path(out) / "index")
    return report
