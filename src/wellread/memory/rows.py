"""The row of one passage: its columns, its checksum, and its way into Arrow and out again."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from wellread.memory.codecs import Codec
from wellread.types import Passage

__all__ = [
    "PASSAGE_COLUMNS",
    "Encoded",
    "batched",
    "check_encoded",
    "checksums",
    "digests",
    "keys_of",
    "passages_of",
    "schema",
    "states_of",
    "to_batch",
    "tokens_of",
]

T = TypeVar("T")
PASSAGE_COLUMNS = ("id", "title", "text", "metadata", "source")


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a system remembers of one passage.

    tokens: [tokens] integers. states: [stored, dim] float, or None. keys: [dim] float, one vector, or None.
    """

    tokens: np.ndarray
    states: Tensor | None = None
    keys: Tensor | None = None


def batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Runs of `size` items, the last one shorter; reads no further than the run it gives."""
    iterator = iter(items)
    while run := tuple(islice(iterator, size)):  # itertools.batched is not in Python 3.11
        yield run


def schema(*, key_dim: int | None, compressible: bool) -> pa.Schema:
    """The columns of the table. keys is there only if passages have keys; states is null without states."""
    # General compression costs more time than it saves bytes on codes that look like noise.
    plain = None if compressible else {"lance-encoding:compression": "none"}
    fields = [pa.field(name, pa.string(), nullable=False) for name in PASSAGE_COLUMNS]
    fields += [
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("tokens", pa.binary(), nullable=False),
        pa.field("states", pa.large_binary(), metadata=plain),
    ]
    if key_dim is not None:
        fields.append(pa.field("keys", pa.list_(pa.float32(), key_dim), nullable=False))
    return pa.schema([*fields, pa.field("checksum", pa.int64(), nullable=False)])


def check_encoded(passage: Passage, encoded: Encoded, *, dim: int | None, key_dim: int | None) -> None:
    """ValueError if what the encoder gave for a passage does not fit the memory."""
    where = f"passage id={passage.id!r}"
    tokens = np.asarray(encoded.tokens)
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"{where}: tokens are {tokens.dtype} {tokens.shape}; the encoder must give [tokens] int.")
    if tokens.size and (tokens.min() < 0 or tokens.max() > np.iinfo(np.int32).max):
        raise ValueError(f"{where}: a token is {tokens.min()} or {tokens.max()}; ids go from 0 to 2147483647.")
    for name, value, width in (("states", encoded.states, dim), ("keys", encoded.keys, key_dim)):
        axes = 2 if name == "states" else 1
        if (value is None) != (width is None):
            given = "no" if value is None else f"{tuple(value.shape)}"
            raise ValueError(f"{where}: the encoder gave {given} {name}, but the memory has dim={width} for them.")
        if value is None:
            continue
        if value.dim() != axes or value.shape[-1] != width:
            wanted = f"[stored, {width}]" if axes == 2 else f"[{width}]"
            raise ValueError(f"{where}: {name} have shape {tuple(value.shape)}; the memory holds {wanted}.")
        if not torch.isfinite(value).all():
            raise ValueError(f"{where}: {name} hold nan or inf; check the model (T5 overflows in fp16, use bf16).")


def to_batch(
    passages: Sequence[Passage], encoded: Sequence[Encoded], codes: Sequence[bytes | None], table: pa.Schema
) -> pa.RecordBatch:
    """Rows of passages, with their checksums. codes: bytes of the states of each passage, or None."""
    tokens = [np.asarray(item.tokens).astype("<i4").tobytes() for item in encoded]
    columns = {name: [getattr(item, name) for item in passages] for name in ("id", "title", "text", "source")}
    columns["metadata"] = [_json(item) for item in passages]
    columns["num_tokens"] = [len(item) // 4 for item in tokens]
    columns["tokens"] = tokens
    columns["states"] = codes
    if "keys" in table.names:
        flat = torch.cat([item.keys.float().cpu() for item in encoded]).numpy()
        columns["keys"] = pa.FixedSizeListArray.from_arrays(flat, type=table.field("keys").type)
    columns["checksum"] = [0] * len(passages)
    arrays = [
        value if isinstance(value := columns[field.name], pa.Array) else pa.array(value, field.type) for field in table
    ]
    batch = pa.RecordBatch.from_arrays(arrays, schema=table)
    place = table.get_field_index("checksum")
    return batch.set_column(place, table.field(place), pa.array(checksums(batch), pa.int64()))


def _json(passage: Passage) -> str:
    try:
        return json.dumps(dict(passage.metadata), ensure_ascii=False, sort_keys=True)
    except TypeError as error:
        raise ValueError(
            f"passage id={passage.id!r}: metadata cannot be written as JSON ({error}); "
            "use text, numbers, booleans, lists and tables."
        ) from error


def digests(batch: pa.RecordBatch) -> Iterator[bytes]:
    """A 16-byte blake2b of everything in each row except its checksum; parts are framed by their lengths."""
    names = [*PASSAGE_COLUMNS, "tokens", "states"]
    parts = [_views(batch.column(name)) for name in names]
    if "keys" in batch.schema.names:
        parts.append([memoryview(row).cast("B") for row in keys_of(batch.column("keys"))])
    counts = batch.column("num_tokens").to_pylist()
    for index, count in enumerate(counts):
        row = [part[index] for part in parts]
        digest = blake2b(digest_size=16)
        digest.update(struct.pack(f"<q{len(row)}q", count, *(-1 if item is None else len(item) for item in row)))
        for item in row:
            if item is not None:
                digest.update(item)
        yield digest.digest()


def checksums(batch: pa.RecordBatch) -> list[int]:
    """The checksum column: the first 8 bytes of each row's digest."""
    return [int.from_bytes(digest[:8], "little", signed=True) for digest in digests(batch)]


def _bounds(column: pa.Array) -> np.ndarray:
    """Where each value of a text or bytes column starts in its buffer, and where the last one ends."""
    wide = pa.types.is_large_binary(column.type) or pa.types.is_large_string(column.type)
    offsets = np.frombuffer(column.buffers()[1], np.int64 if wide else np.int32)
    return offsets[column.offset : column.offset + len(column) + 1]


def _views(column: pa.Array) -> list[memoryview | None]:
    """The bytes of each value of a text or bytes column, without copying; None where it is null."""
    if column.null_count == len(column):
        return [None] * len(column)
    bounds = _bounds(column)
    values = memoryview(column.buffers()[2] or b"")
    views = [values[start:end] for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist())]
    if column.null_count:
        present = column.is_valid().to_pylist()
        return [view if valid else None for view, valid in zip(views, present)]
    return views


def _joined(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of all values one after another, [bytes] uint8, and the length of each value."""
    bounds = _bounds(column)
    buffer = column.buffers()[2]
    values = np.frombuffer(buffer, np.uint8) if buffer else np.empty(0, np.uint8)
    return values[bounds[0] : bounds[-1]], np.diff(bounds)


def passages_of(batch: pa.RecordBatch) -> list[Passage]:
    """The passages of rows that hold PASSAGE_COLUMNS."""
    columns = (batch.column(name).to_pylist() for name in PASSAGE_COLUMNS)
    return [
        Passage(id, text, title, json.loads(metadata), source) for id, title, text, metadata, source in zip(*columns)
    ]


def tokens_of(column: pa.Array) -> list[np.ndarray]:
    """Token ids of each row, [tokens] int32."""
    values, lengths = _joined(column)
    return np.split(values.copy().view("<i4"), np.cumsum(lengths // 4)[:-1]) if len(column) else []


def states_of(column: pa.Array, codec: Codec, dtype: torch.dtype) -> list[Tensor]:
    """States of each row, [stored, dim], decoded all at once."""
    values, lengths = _joined(column)
    codes = torch.from_numpy(values.copy()).view(-1, codec.bytes_per_token)
    return list(codec.decode(codes, dtype).split((lengths // codec.bytes_per_token).tolist()))


def keys_of(column: pa.Array) -> np.ndarray:
    """Keys of the rows, [rows, dim] float32, read-only."""
    return column.flatten().to_numpy().reshape(len(column), column.type.list_size)
