"""Token keys as a segment keeps them: plain numbers or residual codes, in the order of passages or of inverted lists.

offsets   [passages + 1] int64: the tokens of passage p are offsets[p] .. offsets[p + 1] - 1, in the passage's order.
keys      [rows, dim] float32 or float16; with codec "residual" int8.

A row is a token. Segments with inverted lists keep their rows list by list, and in a list by token:

centroids [lists, dim] float32: the middle of each list. A key is in the list of the nearest centroid.
starts    [lists + 1] int64: the rows of list l are starts[l] .. starts[l + 1] - 1.
rows      [tokens] int: the row of every token. owners [rows] int: the passage of every row.

A residual code follows ColBERTv2 (Santhanam et al. 2021, section 3.3) with a size for every token beside its 8 bits a
dimension: key = centroids[list] + steps * (size + 1) * code, where
lists     [rows] uint: the list of every row. sizes [rows] uint8. steps [dim] float32.
Raw attention keys need this: with 6 bits a dimension, or 8 bits and one size for all, too many of the nearest change.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
import torch

from wellread.nn.kmeans import assign, kmeans
from wellread.retrieval.segments import Segment

__all__ = ["TokenSegment", "arrange", "runs"]

ROWS = 65536  # keys held as float32 at a time while they are arranged: 33 MB at 128 dimensions
SAMPLE = 64  # keys per list that the centroids are learned from
SMALLEST = 39  # keys per list at least, or there are fewer lists
LARGEST = 1 << 16  # lists at most: their numbers take two bytes
ITERATIONS = 5
LEVELS = 127  # codes run from -127 to 127, sizes from 1 to 256


class TokenSegment(Segment):
    """Tokens of one segment; arrays are memory-mapped, see above. `lists` and what follows are None without lists."""

    def __init__(self, path: Path, deleted: str | None) -> None:
        super().__init__(path, deleted)
        self.keys, self.offsets = _load(path, "keys"), _load(path, "offsets")
        self.lengths = np.diff(self.offsets)
        self.centroids, self.starts, self.rows, self.owners, self.lists, self.sizes, self.steps = (
            _load(path, name) for name in ("centroids", "starts", "rows", "owners", "lists", "sizes", "steps")
        )

    @property
    def dim(self) -> int:
        return self.keys.shape[1]

    @property
    def inverted(self) -> bool:
        return self.rows is not None

    @property
    def num_lists(self) -> int:
        return len(self.centroids) if self.inverted else 0

    def bytes_of(self) -> dict[str, int]:
        """Bytes of every array on disk, by name."""
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return {name: value.nbytes for name, value in arrays.items() if name not in ("alive", "lengths")}

    def decode(self, rows: np.ndarray | slice) -> np.ndarray:
        """Keys of rows, [n, dim] float32."""
        if self.sizes is None:
            return np.asarray(self.keys[rows], dtype=np.float32)
        rows = np.arange(*rows.indices(len(self.keys))) if isinstance(rows, slice) else rows
        return _decoded(self.keys, self.lists, self.sizes, self.centroids, self.steps, rows)

    def keys_of(self, passages: np.ndarray) -> np.ndarray:
        """All keys of some passages, in their order: [tokens, dim] float32. passages: [n] positions."""
        if not len(passages):
            return np.empty((0, self.dim), np.float32)
        first, last = passages[0], passages[-1]
        whole = last - first + 1 == len(passages) and (np.diff(passages) == 1).all()
        if whole:
            tokens = slice(self.offsets[first], self.offsets[last + 1])
        else:
            tokens = runs(self.offsets[passages], self.lengths[passages])
        return self.decode(self.rows[tokens] if self.inverted else tokens)

    def owner(self, rows: np.ndarray) -> np.ndarray:
        """The passage of every row."""
        if self.inverted:
            return self.owners[rows]
        return np.searchsorted(self.offsets, rows, side="right") - 1


def runs(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, ... of every run, one run after the other: [sum of lengths] int64."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)


def arrange(path: Path, keys: np.ndarray, lengths: np.ndarray, *, codec: str, lists: int) -> None:
    """Write the arrays of a segment. keys: [tokens, dim], may be memory-mapped. lists: how many, 0 for no lists.

    Takes about 14 bytes of memory a token where there are lists.
    """
    np.save(path / "offsets.npy", np.append(0, np.cumsum(lengths, dtype=np.int64)))
    kind = np.int8 if codec == "residual" else np.dtype(codec)
    target = np.lib.format.open_memmap(path / "keys.npy", mode="w+", dtype=kind, shape=keys.shape)
    if not lists:
        for part in _parts(len(keys)):
            target[part] = keys[part]
        target.flush()
        return
    centroids, steps = _learn(keys, min(lists, max(1, len(keys) // SMALLEST)))
    nearest = np.empty(len(keys), np.min_scalar_type(len(centroids) - 1))
    for part in _parts(len(keys)):
        nearest[part] = assign(_tensor(keys[part]), torch.from_numpy(centroids)).numpy()
    order = np.argsort(nearest, kind="stable")
    _save_lists(path, order, nearest, lengths, len(centroids))
    np.save(path / "centroids.npy", centroids)
    if codec == "residual":
        np.save(path / "steps.npy", steps)
        np.save(path / "lists.npy", nearest[order])
    sizes = np.empty(len(keys), np.uint8)
    for part in _parts(len(keys)):
        plain = np.asarray(keys[order[part]], np.float32)
        if codec == "residual":
            target[part], sizes[part] = _encoded(plain - centroids[nearest[order[part]]], steps)
        else:
            target[part] = plain
    target.flush()
    if codec == "residual":
        np.save(path / "sizes.npy", sizes)


def _save_lists(path: Path, order: np.ndarray, nearest: np.ndarray, lengths: np.ndarray, count: int) -> None:
    """order: the token of every row. nearest: the list of every token."""
    starts = np.append(0, np.cumsum(np.bincount(nearest, minlength=count))).astype(np.int64)
    np.save(path / "starts.npy", starts)
    rows = np.empty(len(order), np.int32 if len(order) < 1 << 31 else np.int64)
    rows[order] = np.arange(len(order), dtype=rows.dtype)
    np.save(path / "rows.npy", rows)
    np.save(path / "owners.npy", np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[order])


def _learn(keys: np.ndarray, lists: int) -> tuple[np.ndarray, np.ndarray]:
    """Centroids [lists, dim] and steps [dim], float32, from a sample of the keys."""
    draw = np.random.default_rng(1)
    sample = np.sort(draw.permutation(len(keys))[: SAMPLE * lists])
    vectors = _tensor(keys[sample])
    if not len(vectors):
        return np.zeros((1, keys.shape[1]), np.float32), np.ones(keys.shape[1], np.float32)
    centroids = kmeans(vectors, lists, iterations=ITERATIONS, generator=torch.Generator().manual_seed(1))
    rest = (vectors - centroids[assign(vectors, centroids)]).numpy()
    deviation = rest.std(0)
    deviation[deviation == 0] = 1.0
    # The largest size goes to half as much again as the sample's largest residual; what is larger is clipped.
    unit = 1.5 * np.abs(rest / deviation).max() / LEVELS / 256
    return centroids.numpy(), (deviation * (unit or 1.0)).astype(np.float32)


def _encoded(residuals: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes [n, dim] int8 and sizes [n] uint8 (one less than what they stand for)."""
    scaled = residuals / steps
    sizes = np.clip(np.ceil(np.abs(scaled).max(1) / LEVELS), 1, 256)
    codes = np.clip(np.rint(scaled / sizes[:, None]), -LEVELS, LEVELS)
    return codes.astype(np.int8), (sizes - 1).astype(np.uint8)


@numba.njit(cache=True, nogil=True)
def _decoded(codes, lists, sizes, centroids, steps, rows):  # numba compiles one version per type of array
    keys = np.empty((len(rows), codes.shape[1]), np.float32)
    for place in range(len(rows)):
        row = rows[place]
        centre = centroids[lists[row]]
        size = np.float32(sizes[row]) + np.float32(1)
        for column in range(codes.shape[1]):
            keys[place, column] = centre[column] + steps[column] * size * np.float32(codes[row, column])
    return keys


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, start + ROWS) for start in range(0, count, ROWS))


def _tensor(vectors: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(vectors, np.float32))


class _Mapped:
    """A memory-mapped array without the mark that it can only be read: torch warns of the mark, and nothing writes."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.__array_interface__ = array.__array_interface__ | {"data": (array.ctypes.data, False)}


def _load(path: Path, name: str) -> np.ndarray | None:
    file = path / f"{name}.npy"
    return np.asarray(_Mapped(np.load(file, mmap_mode="r"))) if file.exists() else None
