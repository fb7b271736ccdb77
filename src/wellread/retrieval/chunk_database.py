"""The database that neighbours come from: chunks, their keys and an index over these.

DIR/          chunks (`ChunkTexts`)
DIR/keys/     their keys (`Keys`)
DIR/index/    inverted lists of the keys (`ChunkIndex`)
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np

from wellread.config import require
from wellread.retrieval.chunk_index import ChunkIndex
from wellread.retrieval.chunk_keys import ChunkEncoder, Keys
from wellread.retrieval.chunks import ChunkTexts

__all__ = ["PROBES", "ChunkDatabase", "Found", "fingerprint_of", "recalled"]

PROBES = 32
# Candidates compared exactly: a multiple of what is asked for, because codes mistake near keys for nearer ones ...
PER_NEIGHBOUR = 2
SPARE = 16
EXACT = 4  # the same for products in float32, which mistake only what is equally near
# ... and more where a document is closed to its own chunks, which are mostly the nearest; short rows ask again.
SPARE_FOR_OWN = 32
AGAIN = 4
MOST_CANDIDATES = 2048  # what faiss gives at most on some devices; beyond it keys are compared one by one
ROWS = 1 << 16  # keys compared at a time
QUERIES = 256  # keys compared with all others at a time: 64 MB of distances
NUMBERS = 1 << 24  # of the keys of candidates gathered at a time: 64 MB

Found = tuple[np.ndarray, np.ndarray]


class ChunkDatabase:
    """Chunks that can be searched by key. texts: their `ChunkTexts`; keys: theirs."""

    def __init__(self, texts: ChunkTexts, keys: Keys, index: ChunkIndex) -> None:
        self.texts, self.keys, self.index = texts, keys, index
        names = (("keys", keys.info["texts"], texts.fingerprint), ("index", index.info["keys"], keys.fingerprint))
        for name, there, given in names:
            require(there == given, f"the {name} of {texts.path} are of other chunks ({there}, not {given}); {REMOVE}")

    @classmethod
    def open(cls, folder: str | Path) -> ChunkDatabase:
        """The database in a folder; ValueError where a part of it is missing, damaged or of other chunks."""
        return cls(ChunkTexts.open(folder), Keys.open(folder), ChunkIndex.open(folder))

    @property
    def fingerprint(self) -> str:
        """Hash of the texts and of how their keys were made."""
        return fingerprint_of(self.texts, self.keys)

    @cached_property
    def encoder(self) -> ChunkEncoder:
        """What made the keys, loaded when it is first used."""
        return self.keys.encoder()

    def encode(self, texts: list[str]) -> np.ndarray:
        """Keys of texts to search with, [texts, dim] float32."""
        return self.encoder.encode(texts)

    def share(self, share: float, *, seed: int = 0) -> np.ndarray | None:
        """[documents] bool: a share of the documents, drawn with `seed`; smaller shares lie within larger ones.

        None of all (1), which `search` takes for no limit.
        """
        require(0 < share <= 1, f"share={share}; it must be above 0 and at most 1 (all documents).")
        if share == 1:
            return None
        count = max(1, round(share * self.texts.num_documents))
        chosen = np.zeros(self.texts.num_documents, bool)
        chosen[np.random.default_rng(seed).permutation(self.texts.num_documents)[:count]] = True
        return chosen

    def search(
        self,
        keys: np.ndarray,
        k: int,
        exclude_documents: np.ndarray | None = None,
        limit: int | np.ndarray | None = None,
        *,
        probes: int = PROBES,
        exact: bool = False,
    ) -> Found:
        """The k nearest chunks of every key [n, dim]: numbers [n, k] int64 and squared L2 distances [n, k] float32.

        Nearest first, equal ones by number; -1 and infinity where fewer than k may be found. exclude_documents:
        [n], the document whose chunks a key must not find, -1 for none. limit: only chunks with numbers below it,
        or [documents] bool, only those of chosen documents (see `share`). probes: lists looked into. exact: compare
        with every key. What inverted lists give is compared exactly with the stored keys; a row that would come out
        short is searched again in more lists and at last in all keys.
        """
        keys = np.ascontiguousarray(keys, np.float32)
        dim = self.keys.dim
        shape = keys.shape
        require(keys.ndim == 2 and shape[1] == dim, f"keys have shape {shape}; this database needs (n, {dim}).")
        require(k >= 1, f"k={k} is too small; at least 1 neighbour must be asked for.")
        own = self._own(exclude_documents, len(keys))
        allowed = self._allowed(limit)
        numbers, distances = np.full((len(keys), k), -1, np.int64), np.full((len(keys), k), np.inf, np.float32)
        if exact or not self.index.lists:
            return self._exact(keys, k, own, allowed)
        wanted = np.minimum(k, self._reachable(own, allowed))
        pending, count = np.arange(len(keys)), PER_NEIGHBOUR * k + (SPARE if (own < 0).all() else SPARE_FOR_OWN)
        while len(pending) and count <= MOST_CANDIDATES:
            for part in _parts(len(pending), max(1, NUMBERS // (count * dim))):
                rows = pending[part]
                found = self.index.search(keys[rows], count, allowed=allowed, probes=probes)
                numbers[rows], distances[rows] = self._nearest(keys[rows], found, k, own[rows])
            pending = pending[(numbers[pending] >= 0).sum(1) < wanted[pending]]
            count, probes = AGAIN * count, AGAIN * probes
        if len(pending):
            numbers[pending], distances[pending] = self._exact(keys[pending], k, own[pending], allowed)
        return numbers, distances

    def search_many(
        self,
        keys: np.ndarray,
        k: int,
        exclude_documents: np.ndarray | None = None,
        limit: int | np.ndarray | None = None,
        *,
        probes: int = PROBES,
    ) -> Found:
        """As `search`, for many keys at once: list by list, all keys that look into a list in one product.

        Keys are compared exactly, not by their codes, and own documents are left out at once. The stored keys are
        read once for all that is asked, so this is the faster way from some thousand keys on.
        """
        keys = np.ascontiguousarray(keys, np.float32)
        if not self.index.lists:
            return self.search(keys, k, exclude_documents, limit)
        own, allowed = self._own(exclude_documents, len(keys)), self._allowed(limit)
        lists = self.index.nearest_lists(keys, probes)
        candidates = self._by_list(keys, lists, k, own, allowed)
        numbers, distances = np.empty((len(keys), k), np.int64), np.empty((len(keys), k), np.float32)
        for part in _parts(len(keys), max(1, NUMBERS // (candidates.shape[1] * self.keys.dim))):
            numbers[part], distances[part] = self._nearest(keys[part], candidates[part], k, own[part])
        short = np.flatnonzero((numbers >= 0).sum(1) < np.minimum(k, self._reachable(own, allowed)))
        if len(short):
            numbers[short], distances[short] = self.search(keys[short], k, own[short], limit, probes=AGAIN * probes)
        return numbers, distances

    def _by_list(
        self, keys: np.ndarray, lists: np.ndarray, k: int, own: np.ndarray, allowed: np.ndarray | None
    ) -> np.ndarray:
        """The nearest chunks in the lists [n, probes] that each key looks into, [n, k + EXACT] numbers, -1 for none."""
        import torch

        members, ends = self.index.members
        far = np.full((*lists.shape, k), np.inf, np.float32)
        numbers = np.full((*lists.shape, k), -1, np.int64)
        order = np.argsort(lists, axis=None, kind="stable")
        borders = np.searchsorted(lists.ravel()[order], np.arange(self.index.lists + 1))
        for number in np.flatnonzero(np.diff(borders)):
            rows = members[ends[number] : ends[number + 1]]
            rows = rows if allowed is None else rows[allowed[rows]]
            if not len(rows):
                continue
            asking, places = np.divmod(order[borders[number] : borders[number + 1]], lists.shape[1])
            stored = self.keys[rows]
            away = np.einsum("rd,rd->r", stored, stored) - 2 * (keys[asking] @ stored.T)
            away[self.texts.documents(rows)[None] == own[asking, None]] = np.inf
            least, which = torch.topk(torch.from_numpy(away), min(k, len(rows)), largest=False, sorted=False)
            far[asking, places, : len(rows)] = least.numpy()
            numbers[asking, places, : len(rows)] = rows[which.numpy()]
        far, numbers = far.reshape(len(keys), -1), numbers.reshape(len(keys), -1)
        numbers[np.isinf(far)] = -1
        best = np.argpartition(far, min(k + EXACT, far.shape[1]) - 1, axis=1)[:, : k + EXACT]
        return np.take_along_axis(numbers, best, 1)

    def recall(
        self,
        k: int = 10,
        limit: int | np.ndarray | None = None,
        *,
        sample: int = 200,
        seed: int = 0,
        probes: int = PROBES,
    ) -> float:
        """Share of the k exactly nearest chunks that `search` finds, 0 to 1, over `sample` chunks of the database.

        The document of a sampled chunk is closed to it, as in training.
        """
        draw = np.random.default_rng(seed)
        rows = np.sort(draw.choice(len(self.keys), min(sample, len(self.keys)), replace=False))
        keys, own = self.keys[rows], self.texts.documents(rows)
        _, found = self.search(keys, k, own, limit, probes=probes)
        _, right = self.search(keys, k, own, limit, exact=True)
        return recalled(found, right)

    def _own(self, documents: np.ndarray | None, count: int) -> np.ndarray:
        if documents is None:
            return np.full(count, -1)
        documents = np.asarray(documents, np.int64)
        shape, last = documents.shape, self.texts.num_documents - 1
        require(shape == (count,), f"exclude_documents has shape {shape}; give one document per key: ({count},).")
        wrong = documents[(documents < -1) | (documents > last)]
        require(not len(wrong), f"document={wrong[:1]} is unknown; documents go from 0 to {last} (-1 for none).")
        return documents

    def _allowed(self, limit: int | np.ndarray | None) -> np.ndarray | None:
        """[chunks] bool of what may be found; None for everything."""
        if limit is None:
            return None
        if isinstance(limit, np.ndarray):
            shape, count = limit.shape, self.texts.num_documents
            require(shape == (count,), f"limit has shape {shape}; give one bool per document: ({count},).")
            allowed = np.repeat(limit.astype(bool), np.diff(self.texts.first_chunks))
            require(bool(allowed.any()), "limit leaves no chunk; choose at least one document that has some.")
            return allowed
        require(limit >= 1, f"limit={limit} leaves no chunk; it must be at least 1.")
        return np.arange(self.texts.num_chunks) < limit

    def _reachable(self, own: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
        """[n]: how many chunks each key may find."""
        first = self.texts.first_chunks
        before = np.arange(len(self.keys) + 1) if allowed is None else np.concatenate([[0], np.cumsum(allowed)])
        return before[-1] - np.where(own < 0, 0, before[first[own + 1]] - before[first[own]])

    def _nearest(self, keys: np.ndarray, candidates: np.ndarray, k: int, own: np.ndarray) -> Found:
        """The k nearest of [n, candidates] chunk numbers (-1: none), by the stored keys, none of the own document."""
        documents = self.texts.documents(candidates)
        candidates = np.where((documents == own[:, None]) | (candidates < 0), -1, candidates)
        difference = self.keys[candidates]
        difference -= keys[:, None]
        distances = np.einsum("ncd,ncd->nc", difference, difference)
        distances[candidates < 0] = np.inf
        order = np.lexsort((candidates, distances))[:, :k]
        numbers, distances = (np.take_along_axis(values, order, 1) for values in (candidates, distances))
        missing = ((0, 0), (0, k - order.shape[1]))
        return np.pad(numbers, missing, constant_values=-1), np.pad(distances, missing, constant_values=np.inf)

    def _exact(self, keys: np.ndarray, k: int, own: np.ndarray, allowed: np.ndarray | None) -> Found:
        """As `search`, by comparing with every key."""
        parts = [self._exact_part(keys[at], k, own[at], allowed) for at in _parts(len(keys), QUERIES)]
        empty = (np.empty((0, k), np.int64), np.empty((0, k), np.float32))
        return tuple(np.concatenate(values) for values in zip(empty, *parts))

    def _exact_part(self, keys: np.ndarray, k: int, own: np.ndarray, allowed: np.ndarray | None) -> Found:
        numbers, distances = np.empty((len(keys), 0), np.int64), np.empty((len(keys), 0), np.float32)
        first, keep = self.texts.first_chunks, k + SPARE  # more than k, because these distances are less exact
        for start in range(0, len(self.keys), ROWS):
            block = self.keys[start : start + ROWS]
            far = np.einsum("rd,rd->r", block, block) - 2 * (keys @ block.T)
            if allowed is not None:
                far[:, ~allowed[start : start + ROWS]] = np.inf
            for row in np.flatnonzero(own >= 0):
                far[row, max(0, first[own[row]] - start) : max(0, first[own[row] + 1] - start)] = np.inf
            best = np.argpartition(far, min(keep, far.shape[1]) - 1, axis=1)[:, :keep]
            distances = np.concatenate([distances, np.take_along_axis(far, best, 1)], axis=1)
            numbers = np.concatenate([numbers, best + start], axis=1)
            best = np.argsort(distances, axis=1)[:, :keep]
            numbers, distances = (np.take_along_axis(values, best, 1) for values in (numbers, distances))
        return self._nearest(keys, np.where(np.isinf(distances), -1, numbers), k, own)


def fingerprint_of(texts: ChunkTexts, keys: Keys) -> str:
    """The fingerprint of a database of these chunks and keys, for those who need no more of it."""
    return hashlib.blake2b(f"{texts.fingerprint} {keys.fingerprint}".encode(), digest_size=16).hexdigest()


def recalled(found: np.ndarray, right: np.ndarray) -> float:
    """Share of the nearest chunks that were found, by their distances [n, k]: either of two equally near counts."""
    there = np.isfinite(right)
    furthest = np.where(there, right, -np.inf).max(1, initial=-np.inf, keepdims=True)
    return float((found <= furthest).sum() / max(1, there.sum()))


REMOVE = "remove that folder and run `wellread chunks index` again."


def _parts(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]
