"""Which passages an index holds: ids, metadata and digests, in an Arrow file that is memory-mapped.

Columns: id (string), metadata (map of string to JSON text, so that passages may differ in their keys and the
file can be written in one pass), digest (16 bytes of the passage's contents).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wellread.types import Passage

__all__ = ["Catalog", "CatalogWriter", "digest", "in_batches", "matches"]

SCHEMA = pa.schema([("id", pa.string()), ("metadata", pa.map_(pa.string(), pa.string())), ("digest", pa.binary(16))])
KEPT_MASKS = 32


def digest(passage: Passage) -> bytes:
    """16 bytes that stand for the contents of a passage."""
    contents = [passage.id, passage.title, passage.text, passage.source, dict(passage.metadata)]
    text = json.dumps(contents, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode("utf8", "surrogatepass"), digest_size=16).digest()


def in_batches(passages: Iterable[Passage], size: int) -> Iterator[list[Passage]]:
    """Lists of up to `size` passages, in order."""
    stream = iter(passages)
    while batch := list(islice(stream, size)):
        yield batch


def _encode(value: Any) -> str:
    """A metadata value as text that is equal where the values are equal (3 and 3.0 are, 3 and "3" are not)."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def matches(passage: Passage, where: Mapping[str, Any]) -> bool:
    """Whether all conditions hold for a passage, as in `Catalog.mask`."""
    known = _fields(passage)
    return all(name in known and _encode(known[name]) in _options(value) for name, value in where.items())


def _fields(passage: Passage) -> dict[str, Any]:
    """What conditions can name."""
    return {"source": passage.source, **passage.metadata}


class CatalogWriter:
    """Writes a catalog batch by batch in bounded memory."""

    def __init__(self, path: Path) -> None:
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, SCHEMA)

    def write(self, batch: Sequence[Passage]) -> None:
        columns = [
            [passage.id for passage in batch],
            [[(key, _encode(value)) for key, value in _fields(passage).items()] for passage in batch],
            [digest(passage) for passage in batch],
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA)]
        self._writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))

    def copy(self, catalog: Catalog, keep: np.ndarray) -> None:
        """Copy the rows of another catalog where `keep` ([passages] bool) is True."""
        self._writer.write_table(catalog.table.filter(pa.array(keep)))

    def close(self) -> None:
        self._writer.close()
        self._sink.close()


class Catalog:
    """The passages of one segment, by position."""

    def __init__(self, path: Path) -> None:
        self.table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._masks: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return self.table.num_rows

    def ids(self, positions: Sequence[int]) -> list[str]:
        """The ids at these positions, in the order asked for."""
        column = self.table["id"]
        return [column[int(position)].as_py() for position in positions]

    def passage(self, position: int) -> Passage:
        """The passage at this position, without title and text."""
        metadata = {key: json.loads(value) for key, value in self.table["metadata"][position].as_py()}
        return Passage(self.ids([position])[0], "", metadata=metadata, source=str(metadata.pop("source")))

    def positions(self, ids: Sequence[str]) -> np.ndarray:
        """[ids] int64: where each id stands, -1 where it is not here."""
        found = pc.index_in(pa.array(ids, pa.string()), value_set=self.table["id"].combine_chunks())
        return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)

    @cached_property
    def keys(self) -> frozenset[str]:
        """The metadata keys that occur."""
        chunks = self.table["metadata"].chunks
        return frozenset(key for chunk in chunks for key in pc.unique(chunk.keys).to_pylist())

    def mask(self, where: Mapping[str, Any]) -> np.ndarray:
        """[passages] bool, True where all conditions hold."""
        key = json.dumps({name: _options(value) for name, value in where.items()}, sort_keys=True)
        if key not in self._masks:
            if len(self._masks) >= KEPT_MASKS:
                self._masks.pop(next(iter(self._masks)))
            masks = [self._matches(name, _options(value)) for name, value in where.items()]
            self._masks[key] = np.logical_and.reduce(masks)
        return self._masks[key]

    def places_in(self, name: str, options: Sequence[Any]) -> np.ndarray:
        """[passages] int64: which of the options each passage has under a metadata key, -1 for none of them."""
        places = np.full(len(self), -1, dtype=np.int64)
        if len(self) == 0:
            return places
        known = pa.array([_encode(option) for option in options], pa.string())
        column = self.table["metadata"].combine_chunks()
        entries = pa.ListArray.from_arrays(column.offsets, _entries(column))
        parents, flat = pc.list_parent_indices(entries), entries.flatten()
        there = pc.equal(flat.field(0), name)
        found = pc.fill_null(pc.index_in(flat.field(1).filter(there), value_set=known), -1)
        places[parents.filter(there).to_numpy()] = found.to_numpy(zero_copy_only=False)
        return places

    def _matches(self, name: str, options: list[str]) -> np.ndarray:
        mask = np.zeros(len(self), dtype=bool)
        start = 0
        for chunk in self.table["metadata"].chunks:
            # A map array is a list of (key, value) entries; `flatten` keeps to the rows of this chunk.
            entries = pa.ListArray.from_arrays(chunk.offsets, _entries(chunk))
            parents = pc.list_parent_indices(entries)
            flat = entries.flatten()
            hit = pc.and_(pc.equal(flat.field(0), name), pc.is_in(flat.field(1), pa.array(options, pa.string())))
            mask[start + parents.filter(hit).to_numpy()] = True
            start += len(chunk)
        return mask

    def digest_sum(self, keep: np.ndarray) -> int:
        """The sum of the digests of the kept rows, modulo 2^128; equal for equal sets of passages."""
        words = np.zeros(4, dtype=np.uint64)
        start = 0
        for chunk in self.table["digest"].chunks:
            rows = np.frombuffer(chunk.buffers()[1], dtype="<u4").reshape(-1, 4)
            rows = rows[chunk.offset : chunk.offset + len(chunk)]
            words += rows[keep[start : start + len(chunk)]].sum(axis=0, dtype=np.uint64)
            start += len(chunk)
        return sum(int(word) << (32 * place) for place, word in enumerate(words)) % (1 << 128)


def _entries(chunk: pa.MapArray) -> pa.StructArray:
    return pa.StructArray.from_arrays([chunk.keys, chunk.items], names=["key", "value"])


def _options(value: Any) -> list[str]:
    several = isinstance(value, (list, tuple, set, frozenset))
    return sorted(_encode(item) for item in (value if several else [value]))
