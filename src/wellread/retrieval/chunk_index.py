"""An index of keys for nearest neighbours by L2 distance: inverted lists (faiss), trained once, written in shards.

    index.json       what it was made with, its shards
    trained.faiss    centres of the lists and the code, learnt from a sample
    shard-00000.faiss, ...   the keys of chunks 0 to shard_rows - 1, ...; opened memory-mapped

An inverted list is searched with codes of the keys, so what comes out are candidates: who asks for them compares
their stored keys exactly (`ChunkDatabase.search`).
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wellread.bars import progress_bar
from wellread.config import require
from wellread.locking import locked
from wellread.retrieval.blocks import different, read_json, write_json
from wellread.retrieval.chunk_keys import AGAIN, Keys
from wellread.retrieval.encoders import INSTALL

__all__ = ["CODES", "INDEX", "ChunkIndex", "IndexOptions", "build_index"]

INDEX = "index"
MANIFEST = "index.json"
COMMAND = "wellread chunks index"
ADD = 1 << 16  # keys added at a time: 100 MB at 384 dimensions
PER_LIST = 128  # keys per list that the centres are learnt from; faiss wants 39 at least
ROUNDS = 12  # of k-means; its gain is in the first ones

# Name -> faiss's code of a key, by the number of its dimensions. Bytes per key at 384: 1536, 384, 96.
CODES = {"flat": lambda dim: "Flat", "sq8": lambda dim: "SQ8", "pq": lambda dim: f"PQ{max(1, dim // 4)}x8"}


@dataclass(frozen=True)
class IndexOptions:
    """code: how keys lie in the lists: "flat", "sq8" (a byte a dimension) or "pq" (a byte per four). lists: how
    many; 0 for twice the square root of the keys. shard_rows: keys per file. seed: of the sample and the centres."""

    code: str = "sq8"
    lists: int = 0
    shard_rows: int = 1 << 18
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.code in CODES, f"code={self.code!r} is unknown; use one of: {', '.join(CODES)}.")
        require(self.lists >= 0, f"lists={self.lists} is negative; it must be 0 (automatic) or more.")
        require(self.shard_rows >= 1, f"shard_rows={self.shard_rows} is too small; it must be at least 1.")
        require(importlib.util.find_spec("faiss") is not None, f"the index needs the package faiss; {INSTALL}")


class ChunkIndex:
    """Shards of inverted lists, searched one after the other. Without lists (few keys) there is nothing to search."""

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        import faiss

        self.path, self.info, self.lists = path, info, info["num_lists"]
        self.starts = [shard["start"] for shard in info["shards"]]
        files = [str(path / shard["file"]) for shard in info["shards"]]
        self.shards = [faiss.read_index(file, faiss.IO_FLAG_MMAP) for file in files]

    @classmethod
    def open(cls, folder: str | Path) -> ChunkIndex:
        """The index of the keys in a folder. ValueError where there is none or it is damaged."""
        path = Path(folder) / INDEX
        info = read_json(path / MANIFEST, "index", COMMAND)
        try:
            return cls(path, info)
        except (RuntimeError, OSError, KeyError) as error:
            raise ValueError(f"index {path} is damaged ({error}); remove it and run `{COMMAND}` again.") from error

    def search(
        self, keys: np.ndarray, count: int, *, allowed: np.ndarray | None = None, probes: int = 32
    ) -> np.ndarray:
        """The `count` nearest by their codes: chunk numbers [keys, found <= count] int64, -1 for none.

        allowed: [chunks] bool, which chunks may be found. probes: lists looked into.
        """
        import faiss

        found, far = [np.empty((len(keys), 0), np.int64)], [np.empty((len(keys), 0), np.float32)]
        for start, shard in zip(self.starts, self.shards):
            chosen = {}
            if allowed is not None:
                part = allowed[start : start + shard.ntotal]
                if not part.any():
                    continue
                bits = np.packbits(part, bitorder="little")  # lives until the search is over: faiss does not copy it
                chosen = {} if part.all() else {"sel": faiss.IDSelectorBitmap(bits)}
            how = faiss.SearchParametersIVF(nprobe=min(probes, self.lists), **chosen)
            distances, numbers = shard.search(keys, min(count, shard.ntotal), params=how)
            found.append(np.where(numbers < 0, -1, numbers + start))
            far.append(np.where(numbers < 0, np.inf, distances))
        order = np.argsort(np.concatenate(far, axis=1), axis=1, kind="stable")[:, :count]
        return np.take_along_axis(np.concatenate(found, axis=1), order, axis=1)

    @cached_property
    def members(self) -> tuple[np.ndarray, np.ndarray]:
        """The chunk numbers of all lists, one list after the other, and where each begins, [lists + 1]."""
        import faiss

        found: list[list[np.ndarray]] = [[] for _ in range(self.lists)]
        for start, shard in zip(self.starts, self.shards):
            stored = faiss.extract_index_ivf(shard).invlists
            for number, parts in enumerate(found):
                if size := stored.list_size(number):
                    parts.append(faiss.rev_swig_ptr(stored.get_ids(number), size).astype(np.int64) + start)
        rows = [np.concatenate([np.empty(0, np.int64), *parts]) for parts in found]
        return np.concatenate(rows), np.cumsum([0, *map(len, rows)])

    def nearest_lists(self, keys: np.ndarray, probes: int) -> np.ndarray:
        """The lists whose centres are nearest to every key, [keys, probes] int64."""
        import faiss

        return faiss.extract_index_ivf(self.shards[0]).quantizer.search(keys, min(probes, self.lists))[1]


def build_index(keys: Keys, folder: str | Path, options: IndexOptions | None = None) -> ChunkIndex:
    """Train an index on a sample of the keys and write its shards; called again after a kill, finished ones stay.

    ValueError where there is an index of other keys or options.
    """
    import faiss

    options, path = options or IndexOptions(), Path(folder) / INDEX
    lists = min(options.lists or int(2 * len(keys) ** 0.5), len(keys) // 39)
    lists = lists if lists >= 2 else 0  # so few keys are compared one by one
    made_with = {"keys": keys.fingerprint, **asdict(options)}
    with locked(path, make=True):
        begun = path / "begun.json"
        for file in (path / MANIFEST, begun):
            if file.is_file():
                info = read_json(file, "index", COMMAND)
                there = {name: info.get(name) for name in made_with}
                require(there == made_with, f"{path} holds an index of {different(there, made_with)}; {AGAIN}")
        if not (path / MANIFEST).is_file():
            write_json(begun, made_with)
            shards = []
            if lists:
                if not (path / "trained.faiss").is_file():
                    _write(_trained(keys, lists, options), path / "trained.faiss")
                starts = range(0, len(keys), options.shard_rows)
                for number, start in enumerate(progress_bar(starts, desc="index", unit=" shards")):
                    file = path / f"shard-{number:05d}.faiss"
                    if not file.is_file():
                        shard = faiss.read_index(str(path / "trained.faiss"))
                        stop = min(start + options.shard_rows, len(keys))
                        for first in range(start, stop, ADD):
                            shard.add(np.ascontiguousarray(keys[first : min(first + ADD, stop)]))
                        _write(shard, file)
                    shards.append({"file": file.name, "start": start})
            write_json(path / MANIFEST, {**made_with, "num_lists": lists, "chunks": len(keys), "shards": shards})
            begun.unlink()
    return ChunkIndex.open(folder)


def _trained(keys: Keys, lists: int, options: IndexOptions) -> Any:
    import faiss

    index = faiss.index_factory(keys.dim, f"IVF{lists},{CODES[options.code](keys.dim)}", faiss.METRIC_L2)
    index.cp.seed, index.cp.niter = options.seed + 1, ROUNDS
    index.cp.max_points_per_centroid = PER_LIST
    draw = np.random.default_rng(options.seed)
    rows = np.sort(draw.choice(len(keys), min(len(keys), PER_LIST * lists), replace=False))
    sample = np.ascontiguousarray(keys[rows])
    with progress_bar(desc=f"{lists} lists of {len(sample):,} keys", total=1, bar_format="{desc} {elapsed}") as bar:
        index.train(sample)
        bar.update()
    return index


def _write(index: Any, file: Path) -> None:
    import faiss

    draft = file.with_name(f".{file.name}.new")
    faiss.write_index(index, str(draft))
    os.replace(draft, file)
