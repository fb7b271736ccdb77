"""Dense search: one vector per passage, compared with the probe's vector by inner product.

Exact search multiplies memory-mapped vectors block by block. Approximate search (`approximate=True`) probes an
inverted file (faiss IVF) per segment; segments too small for one are searched exactly. Building writes vectors
in blocks and resumes after a kill where it stopped.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wellread.bars import progress_bar
from wellread.config import require
from wellread.retrieval.catalog import CatalogWriter, in_batches
from wellread.retrieval.encoded import EncodedRetriever
from wellread.retrieval.encoders import DEFAULT_ENCODER, INSTALL, Encoder, encoder_from
from wellread.retrieval.progress import Progress
from wellread.retrieval.segments import Hits, Segment, best, join
from wellread.types import Candidates, Passage, Probe

__all__ = ["DenseOptions", "DenseRetriever"]

BLOCK = 512  # passages encoded and made safe on disk at a time
ROWS = 65536  # vectors multiplied at a time: 100 MB at 384 dimensions
COLUMNS = 256  # probes multiplied at a time: 67 MB of scores
# Below this share of allowed passages, only their vectors are gathered and compared, exactly.
FEW_ALLOWED = 0.1


@dataclass(frozen=True)
class DenseOptions:
    """encoder: name or folder of a sentence-transformers model. approximate: search with an inverted file.
    lists: its number of lists, 0 for twice the square root of the passages. probes: lists searched per probe.
    precision: of the stored vectors; float16 halves the file and slows exact search on CPUs. reading: precision that
    passages are read in; bf16 takes far less time on processors that compute in it."""

    encoder: str = DEFAULT_ENCODER
    approximate: bool = False
    lists: int = 0
    probes: int = 32
    precision: Literal["float32", "float16"] = "float32"
    reading: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        require(self.lists >= 0, f"lists={self.lists} is negative; it must be 0 (automatic) or more.")
        require(self.probes >= 1, f"probes={self.probes} is too small; it must be at least 1.")
        missing = self.approximate and importlib.util.find_spec("faiss") is None
        require(not missing, f"approximate search needs the package faiss, which is missing; {INSTALL}")


class DenseSegment(Segment):
    """vectors: [passages, dim], memory-mapped. inverted: faiss index over them, or None."""

    def __init__(self, path: Path, deleted: str | None) -> None:
        super().__init__(path, deleted)
        self.vectors = np.load(path / "vectors.npy", mmap_mode="r")
        self.inverted = None
        if (path / "inverted.faiss").exists():
            import faiss

            self.inverted = faiss.read_index(str(path / "inverted.faiss"), faiss.IO_FLAG_MMAP)


class DenseRetriever(EncodedRetriever):
    """Search by one vector. Probes need one row of `vectors`, or words, which the encoder turns into a vector.

    Scores are inner products (cosines for normalised encoders).
    """

    name = "dense"
    reads = True
    Options = DenseOptions
    Part = DenseSegment
    segments: list[DenseSegment]

    @classmethod
    def open_encoder(cls, name: str) -> Encoder:
        return encoder_from(name)

    @property
    def dim(self) -> int:
        return self.segments[0].vectors.shape[1]

    def _search(self, probes: list[Probe], top_k: int, where: dict[str, Any]) -> list[Candidates]:
        vectors = self._probe_vectors(probes)
        allowed = self.allowed(where)
        found = [self._search_segment(*pair, vectors, top_k) for pair in zip(self.segments, allowed)]
        return self.candidates(found, top_k)

    def _probe_vectors(self, probes: Sequence[Probe]) -> np.ndarray:
        """[probes, dim] float32."""
        words = [row for row, probe in enumerate(probes) if probe.vectors is None]
        vectors = np.empty((len(probes), self.dim), dtype=np.float32)
        if words:
            vectors[words] = self.encoder_named(self.options.encoder).questions([probes[row].words for row in words])
        for row, probe in enumerate(probes):
            if probe.vectors is None:
                continue
            shape = tuple(probe.vectors.shape)
            if shape != (1, self.dim):
                raise ValueError(f"probe vectors have shape {shape}; this dense index needs (1, {self.dim}).")
            vectors[row] = probe.vectors[0].detach().float().cpu().numpy()
        return vectors

    def _search_segment(self, segment: DenseSegment, allowed: np.ndarray, probes: np.ndarray, top_k: int) -> list[Hits]:
        if allowed.sum() < max(FEW_ALLOWED * len(allowed), top_k):
            rows = np.flatnonzero(allowed)
            hits = _exact(segment.vectors[rows], np.ones(len(rows), bool), probes, top_k)
            return [(rows[positions], scores) for positions, scores in hits]
        if segment.inverted is None:
            return _exact(segment.vectors, allowed, probes, top_k)
        return _approximate(segment, allowed, probes, top_k, self.options.probes)

    @classmethod
    def _write_segment(cls, passages: Iterable[Passage], path: Path, options: DenseOptions) -> None:
        from wellread.nn.precision import computing_in

        encoder = cls.encoder_named(options.encoder)
        progress = Progress(
            path, {"encoder": options.encoder, "precision": options.precision, "reading": options.reading}
        )
        catalog = CatalogWriter(path / "catalog.arrow")
        bar = progress_bar(desc="vectors", unit=" passages")
        for batch in in_batches(passages, BLOCK):
            catalog.write(batch)
            if not progress.done(batch):
                with computing_in(options.reading):
                    vectors = np.asarray(encoder.passages(batch))
                progress.append(vectors=vectors.astype(options.precision))
            bar.update(len(batch))
        bar.close()
        catalog.close()
        progress.save("vectors")
        _invert(path, options)
        progress.finish()

    @classmethod
    def _merge_segments(cls, segments: Sequence[DenseSegment], path: Path, options: DenseOptions) -> None:
        catalog = CatalogWriter(path / "catalog.arrow")
        progress = Progress(path, {})
        for segment in segments:
            catalog.copy(segment.catalog, segment.alive)
            rows = np.flatnonzero(segment.alive)
            for start in range(0, len(rows), ROWS):
                progress.append(vectors=segment.vectors[rows[start : start + ROWS]])
        catalog.close()
        progress.save("vectors")
        _invert(path, options)
        progress.finish()


def _exact(vectors: np.ndarray, allowed: np.ndarray, probes: np.ndarray, top_k: int) -> list[Hits]:
    """All [passages, dim] vectors against all [probes, dim], block by block; one Hits per probe."""
    hits: list[list[Hits]] = [[] for _ in probes]
    for start in range(0, len(vectors), ROWS):
        block = np.asarray(vectors[start : start + ROWS], dtype=np.float32)
        closed = ~allowed[start : start + ROWS]
        for first in range(0, len(probes), COLUMNS):
            scores = probes[first : first + COLUMNS] @ block.T
            scores[:, closed] = -np.inf
            for row, found in zip(scores, hits[first:]):
                positions, values = best(row, top_k)
                found.append((positions + start, values))
    return [join(found, top_k) for found in hits]


def _approximate(segment: DenseSegment, allowed: np.ndarray, probes: np.ndarray, top_k: int, lists: int) -> list[Hits]:
    import faiss

    bits = np.packbits(allowed, bitorder="little")
    # The selector does not copy the bits, so they live until the search is over.
    selector = {} if allowed.all() else {"sel": faiss.IDSelectorBitmap(bits)}
    how = faiss.SearchParametersIVF(nprobe=min(lists, segment.inverted.nlist), **selector)
    scores, positions = segment.inverted.search(probes, top_k, params=how)
    hits = [join([(p[p >= 0], s[p >= 0])], top_k) for p, s in zip(positions, scores)]
    # Fewer than asked for although more are allowed: the probed lists were too thin, so look at everything.
    short = [row for row, (found, _) in enumerate(hits) if len(found) < min(top_k, int(allowed.sum()))]
    if short:
        for row, exact in zip(short, _exact(segment.vectors, allowed, probes[short], top_k)):
            hits[row] = exact
    return hits


def _invert(path: Path, options: DenseOptions) -> None:
    """Write the inverted file of a segment's vectors, where asked for and where there are enough of them."""
    vectors = np.load(path / "vectors.npy", mmap_mode="r")
    # faiss wants 39 vectors per list to place its centres.
    lists = min(options.lists or int(2 * len(vectors) ** 0.5), len(vectors) // 39)
    if not options.approximate or lists < 2:
        return
    import faiss

    dim = vectors.shape[1]
    coarse = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFFlat(coarse, dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = 1
    sample = np.random.default_rng(1).permutation(len(vectors))[: 256 * lists]
    index.train(np.asarray(vectors[np.sort(sample)], dtype=np.float32))
    for start in range(0, len(vectors), ROWS):
        index.add(np.ascontiguousarray(vectors[start : start + ROWS], dtype=np.float32))
    faiss.write_index(index, str(path / "inverted.faiss"))
