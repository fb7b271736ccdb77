"""Dense search: one vector per passage, compared with the probe's vector by inner product.

Exact search multiplies memory-mapped vectors block by block. Approximate search (`approximate=True`) probes an
inverted file (faiss IVF) per segment; segments too small for one are searched exactly. Building writes vectors
in blocks and resumes after a kill where it stopped.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from tqdm import tqdm

from wellread.config import require
from wellread.retrieval.catalog import CatalogWriter, digest, in_batches
from wellread.retrieval.encoders import DEFAULT_ENCODER, INSTALL, Encoder, encoder_from
from wellread.retrieval.segments import Hits, Segment, SegmentedRetriever, best
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
    precision: of the stored vectors; float16 halves the file and slows exact search on CPUs."""

    encoder: str = DEFAULT_ENCODER
    approximate: bool = False
    lists: int = 0
    probes: int = 32
    precision: Literal["float32", "float16"] = "float32"

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


class DenseRetriever(SegmentedRetriever):
    """Search by one vector. Probes need one row of `vectors`, or words, which the encoder turns into a vector.

    Scores are inner products (cosines for normalised encoders).
    """

    name = "dense"
    Options = DenseOptions
    Part = DenseSegment
    segments: list[DenseSegment]
    _encoders: ClassVar[dict[str, Encoder]] = {}

    @classmethod
    def build(
        cls,
        passages: Iterable[Passage],
        out: str | Path,
        *,
        overwrite: bool = False,
        encoder: str | Encoder = DEFAULT_ENCODER,
        **options: Any,
    ) -> Self:
        """As `Retriever.build`; `encoder` may also be an object with the methods of `encoders.Encoder`, which
        is then known by its name for as long as the process lives (`open` it later with `use_encoder`)."""
        if not isinstance(encoder, str):
            encoder = cls.use_encoder(encoder)
        return super().build(passages, out, overwrite=overwrite, encoder=encoder, **options)

    @classmethod
    def use_encoder(cls, encoder: Encoder) -> str:
        """Make an encoder object known by its name to all dense indexes in this process; gives the name."""
        cls._encoders[encoder.name] = encoder
        return encoder.name

    @classmethod
    def _encoder(cls, options: DenseOptions) -> Encoder:
        if options.encoder not in cls._encoders:
            cls._encoders[options.encoder] = encoder_from(options.encoder)
        return cls._encoders[options.encoder]

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
            vectors[words] = self._encoder(self.options).questions([probes[row].words for row in words])
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
        encoder = cls._encoder(options)
        progress = Progress(path, {"encoder": options.encoder, "precision": options.precision})
        catalog = CatalogWriter(path / "catalog.arrow")
        bar = tqdm(desc="vectors", unit=" passages", disable=None)
        for batch in in_batches(passages, BLOCK):
            catalog.write(batch)
            if not progress.done(batch):
                vectors = np.asarray(encoder.passages(batch)).astype(options.precision)
                progress.append(vectors)
            bar.update(len(batch))
        bar.close()
        catalog.close()
        progress.finish()
        _invert(path, options)

    @classmethod
    def _merge_segments(cls, segments: Sequence[DenseSegment], path: Path, options: DenseOptions) -> None:
        catalog = CatalogWriter(path / "catalog.arrow")
        progress = Progress(path, {})
        for segment in segments:
            catalog.copy(segment.catalog, segment.alive)
            rows = np.flatnonzero(segment.alive)
            for start in range(0, len(rows), ROWS):
                progress.append(segment.vectors[rows[start : start + ROWS]])
        catalog.close()
        progress.finish()
        _invert(path, options)


class Progress:
    """The vectors of a segment on their way to disk: appended in blocks, each one safe once `append` returns.

    progress.jsonl says first what the vectors are made with, then per block its rows, bytes and a digest of all
    passages so far. Blocks already done are recognised by that digest; at the first difference the rest is
    thrown away and made anew.
    """

    def __init__(self, path: Path, made_with: Mapping[str, Any]) -> None:
        self.path = path
        self.file = path / "vectors.part"
        self.record = path / "progress.jsonl"
        self.made_with = dict(made_with)
        self.seen = hashlib.blake2b(digest_size=16)
        self.count = 0
        self.file.touch()
        self._keep(self._recorded())

    def done(self, batch: Sequence[Passage]) -> bool:
        """Whether the vectors of the next block are there already."""
        for passage in batch:
            self.seen.update(digest(passage))
        if self.count < len(self.blocks):
            if self.blocks[self.count]["digest"] == self.seen.hexdigest():
                self.count += 1
                return True
            self._keep(self.blocks[: self.count])
        return False

    def append(self, vectors: np.ndarray) -> None:
        """Write the vectors ([rows, dim]) of the block that `done` said no to."""
        row = {"rows": len(vectors), "bytes": vectors.nbytes, "digest": self.seen.hexdigest()}
        row |= {"dim": vectors.shape[1], "type": str(vectors.dtype)}
        _append(self.file, np.ascontiguousarray(vectors).tobytes())
        _append(self.record, json.dumps(row).encode() + b"\n")
        self.blocks.append(row)
        self.count += 1

    def _recorded(self) -> list[dict[str, Any]]:
        """The blocks that are safely on disk; a line cut off by a kill ends them."""
        lines = self.record.read_bytes().split(b"\n")[:-1] if self.record.exists() else []
        rows = [json.loads(line) for line in lines]
        return rows[1:] if rows and rows[0] == self.made_with else []

    def _keep(self, blocks: Sequence[dict[str, Any]]) -> None:
        """Throw away everything but these blocks."""
        self.blocks = list(blocks)
        os.truncate(self.file, sum(block["bytes"] for block in self.blocks))
        lines = [self.made_with, *self.blocks]
        draft = self.record.with_suffix(".new")
        draft.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf8")
        os.replace(draft, self.record)

    def finish(self) -> None:
        """Turn the file into `vectors.npy` without reading it into memory."""
        self._keep(self.blocks[: self.count])
        dim, kind = (self.blocks[0]["dim"], self.blocks[0]["type"]) if self.blocks else (0, "float32")
        shape = (sum(block["rows"] for block in self.blocks), dim)
        target = np.lib.format.open_memmap(self.path / "vectors.npy", mode="w+", dtype=kind, shape=shape)
        if self.blocks:
            target[:] = np.memmap(self.file, dtype=kind, mode="r", shape=shape)
            target.flush()
        self.record.unlink()
        self.file.unlink()


def _append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


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
    return [_join(found, top_k) for found in hits]


def _join(found: Sequence[Hits], top_k: int) -> Hits:
    positions = np.concatenate([np.empty(0, np.int64), *(positions for positions, _ in found)])
    scores = np.concatenate([np.empty(0, np.float32), *(scores for _, scores in found)])
    order = np.lexsort((positions, -scores))[:top_k]
    return positions[order], scores[order]


def _approximate(segment: DenseSegment, allowed: np.ndarray, probes: np.ndarray, top_k: int, lists: int) -> list[Hits]:
    import faiss

    bits = np.packbits(allowed, bitorder="little")
    # The selector does not copy the bits, so they live until the search is over.
    selector = {} if allowed.all() else {"sel": faiss.IDSelectorBitmap(bits)}
    how = faiss.SearchParametersIVF(nprobe=min(lists, segment.inverted.nlist), **selector)
    scores, positions = segment.inverted.search(probes, top_k, params=how)
    hits = [_join([(p[p >= 0], s[p >= 0])], top_k) for p, s in zip(positions, scores)]
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
