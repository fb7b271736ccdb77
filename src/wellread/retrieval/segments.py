"""What indexes kept as segments share: `index.json`, adding, deleting, merging, metadata filters.

An index is a list of segments, each a folder that never changes once written; deleted passages are marked in
a small file beside it. A change writes new files first and replaces `index.json` last, so a killed change
leaves the index as it was. One writer at a time; readers keep what they opened.
"""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wellread.config import from_mapping, to_mapping
from wellread.locking import locked
from wellread.retrieval.base import Retriever
from wellread.retrieval.catalog import Catalog
from wellread.retrieval.manifest import prepare, read_manifest, some, write_manifest
from wellread.types import Candidates, Passage

__all__ = ["Hits", "Segment", "SegmentedRetriever", "best", "join"]

# More segments than this are merged when passages are added: the small ones into one, or all of them into one
# where deleted passages are a larger share than MOST_DELETED.
MOST_SEGMENTS = 8
MOST_DELETED = 0.25

# What one segment found for one probe: positions and scores, [found] each, best first.
Hits = tuple[np.ndarray, np.ndarray]


class Segment:
    """One folder of an index. alive: [passages] bool, False where a passage was deleted."""

    def __init__(self, path: Path, deleted: str | None) -> None:
        self.path = path
        self.catalog = Catalog(path / "catalog.arrow")
        self.alive = np.ones(len(self.catalog), dtype=bool)
        if deleted is not None:
            self.alive[np.load(path / deleted)] = False

    @property
    def num_passages(self) -> int:
        return int(self.alive.sum())


class SegmentedRetriever(Retriever):
    """A retriever whose index is a list of segments; subclasses say how to write, merge and search one."""

    Part: ClassVar[type[Segment]]

    def __init__(self, directory: str | Path, manifest: dict[str, Any]) -> None:
        self.directory = Path(directory)
        self.manifest = manifest
        self.options = from_mapping(self.Options, manifest["options"], where=self.name)
        self._load()

    @classmethod
    @abstractmethod
    def _write_segment(cls, passages: Iterable[Passage], path: Path, options: Any) -> None:
        """Write catalog and arrays of the passages into the folder `path`, which may hold an unfinished try."""

    @classmethod
    @abstractmethod
    def _merge_segments(cls, segments: Sequence[Any], path: Path, options: Any) -> None:
        """Write one segment with the living passages of several, in order."""

    @classmethod
    def _build(cls, passages: Iterable[Passage], out: Path, options: Any, overwrite: bool) -> Self:
        prepare(out, overwrite)
        path = out / "segment-00000"
        path.mkdir(exist_ok=True)
        cls._write_segment(passages, path, options)
        catalog = Catalog(path / "catalog.arrow")
        if not len(catalog):
            shutil.rmtree(path)
            raise ValueError("there are no passages to index; give at least one.")
        try:
            _refuse_repeated(catalog)
        except ValueError:
            shutil.rmtree(path)
            raise
        manifest = {"retriever": cls.name, "options": to_mapping(options), "next": 1}
        manifest["segments"] = [{"name": path.name, "deleted": None}]
        manifest.update(_summary([cls.Part(path, None)]))
        write_manifest(out, manifest)
        return cls.open(out)

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        manifest = read_manifest(directory)
        if manifest["retriever"] != cls.name:
            raise ValueError(
                f"{directory} holds a {manifest['retriever']} index, not a {cls.name} one; use open_index."
            )
        return cls(directory, manifest)

    def __len__(self) -> int:
        return self.manifest["passages"]

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    def add(self, passages: Iterable[Passage]) -> int:
        with self._changing():
            path = self._new_segment()
            try:
                self._write_segment(passages, path, self.options)
                catalog = Catalog(path / "catalog.arrow")
                self._refuse_known(catalog)
            except BaseException:
                shutil.rmtree(path)
                raise
            if not len(catalog):
                shutil.rmtree(path)
                return 0
            self._commit([*self.manifest["segments"], {"name": path.name, "deleted": None}])
            self._tidy()
            return len(catalog)

    def delete(self, ids: Iterable[str]) -> int:
        wanted = list(dict.fromkeys(ids))
        with self._changing():
            places = [self._living_positions(segment, wanted) for segment in self.segments]
            missing = [name for name, *found in zip(wanted, *places) if max(found) < 0]
            if missing:
                raise ValueError(f"{some(missing)} not in the index; nothing was deleted.")
            rows = [dict(row) for row in self.manifest["segments"]]
            for row, segment, positions in zip(rows, self.segments, places):
                gone = positions[positions >= 0]
                if len(gone):
                    row["deleted"] = f"deleted-{self._number():05d}.npy"
                    np.save(segment.path / row["deleted"], np.append(np.flatnonzero(~segment.alive), gone))
            self._commit(rows)
        return len(wanted)

    def digests(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for segment in self.segments:
            rows = segment.catalog.table.filter(pa.array(segment.alive))
            found |= zip(rows["id"].to_pylist(), rows["digest"].to_pylist())
        return found

    def about(self, ids: Sequence[str]) -> list[Passage]:
        found: dict[str, Passage] = {}
        for segment in self.segments:
            for name, position in zip(ids, self._living_positions(segment, ids)):
                if position >= 0:
                    found[name] = segment.catalog.passage(int(position))
        return [found.get(name) or Passage(name, "") for name in ids]

    def compact(self) -> None:
        """Merge everything into one segment and drop what was deleted; results stay the same."""
        with self._changing():
            self._merge(0)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the index for a change, and begin it with what other processes made of the index since it was opened."""
        with locked(self.directory):
            manifest = read_manifest(self.directory)
            if manifest != self.manifest:
                self.manifest = manifest
                self._load()
            yield

    def allowed(self, where: dict[str, Any]) -> list[np.ndarray]:
        """Per segment, [passages] bool: which passages may be found."""
        known = frozenset().union(*(segment.catalog.keys for segment in self.segments)) if where else ()
        unknown = [key for key in where if key not in known]
        if unknown:
            raise ValueError(
                f"metadata key {unknown[0]!r} does not occur in this index; use one of: {', '.join(sorted(known))}."
            )
        if not where:
            return [segment.alive for segment in self.segments]
        return [segment.alive & segment.catalog.mask(where) for segment in self.segments]

    def candidates(self, found: Sequence[Sequence[Hits]], top_k: int) -> list[Candidates]:
        """What all segments found ([segments][probes]) -> the best `top_k` per probe."""
        return [self._candidates(hits, top_k) for hits in zip(*found)]

    def _candidates(self, hits: Sequence[Hits], top_k: int) -> Candidates:
        scores = np.concatenate([scores for _, scores in hits])
        origin = np.repeat(np.arange(len(hits)), [len(positions) for positions, _ in hits])
        positions = np.concatenate([positions for positions, _ in hits])
        chosen = np.lexsort((positions, origin, -scores))[:top_k]
        ids = [self.segments[origin[row]].catalog.ids([positions[row]])[0] for row in chosen]
        return Candidates(tuple(ids), tuple(scores[chosen].tolist()))

    def _load(self) -> None:
        rows = self.manifest["segments"]
        try:
            self.segments = [self.Part(self.directory / row["name"], row["deleted"]) for row in rows]
        except (OSError, EOFError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"index {self.directory} is damaged ({error}); build it again with `wellread index --overwrite`."
            ) from error

    def _number(self) -> int:
        self.manifest["next"] += 1
        return self.manifest["next"] - 1

    def _new_segment(self) -> Path:
        path = self.directory / f"segment-{self._number():05d}"
        if path.exists():  # left by a killed change: no index.json names it
            shutil.rmtree(path)
        path.mkdir()
        return path

    def _commit(self, rows: list[dict[str, Any]]) -> None:
        """Make these segments the index: write index.json, open them, remove what is no longer named."""
        self.manifest = {**self.manifest, "segments": rows}
        self._load()
        self.manifest.update(_summary(self.segments))
        write_manifest(self.directory, self.manifest)
        named = {row["name"] for row in rows}
        for path in self.directory.glob("segment-*"):
            if path.name not in named:
                shutil.rmtree(path)
        for row in rows:
            for path in (self.directory / row["name"]).glob("deleted-*.npy"):
                if path.name != row["deleted"]:
                    path.unlink()

    def _tidy(self) -> None:
        if len(self.segments) > MOST_SEGMENTS:
            total = sum(len(segment.alive) for segment in self.segments)
            self._merge(0 if len(self) < (1 - MOST_DELETED) * total else 1)

    def _merge(self, start: int) -> None:
        if not any(segment.num_passages for segment in self.segments[start:]):
            return
        path = self._new_segment()
        self._merge_segments(self.segments[start:], path, self.options)
        self._commit([*self.manifest["segments"][:start], {"name": path.name, "deleted": None}])

    def _refuse_known(self, catalog: Catalog) -> None:
        _refuse_repeated(catalog)
        ids = catalog.table["id"].to_pylist()
        for segment in self.segments:
            known = [ids[row] for row in np.flatnonzero(self._living_positions(segment, ids) >= 0)]
            if known:
                raise ValueError(f"{some(known)} already in the index; delete the old passages first.")

    @staticmethod
    def _living_positions(segment: Segment, ids: Sequence[str]) -> np.ndarray:
        positions = segment.catalog.positions(ids)
        return np.where((positions >= 0) & segment.alive[positions], positions, -1)


def best(scores: np.ndarray, top_k: int, *, floor: float = -np.inf) -> Hits:
    """The `top_k` highest of [passages] scores that lie above `floor`, equal ones in order of position."""
    # Only what lies above the floor is partitioned: numpy's partition is slow on many equal values.
    positions = np.flatnonzero(scores > floor)
    values = scores[positions]
    if top_k < len(values):
        least = np.partition(values, len(values) - top_k)[len(values) - top_k]
        positions, values = positions[values >= least], values[values >= least]
    order = np.argsort(-values, kind="stable")[:top_k]
    return positions[order], values[order]


def join(found: Sequence[Hits], top_k: int) -> Hits:
    """The `top_k` best of several Hits of one probe, equal scores in order of position."""
    positions = np.concatenate([np.empty(0, np.int64), *(positions for positions, _ in found)])
    scores = np.concatenate([np.empty(0, np.float32), *(scores for _, scores in found)])
    order = np.lexsort((positions, -scores))[:top_k]
    return positions[order], scores[order]


def _summary(segments: Sequence[Segment]) -> dict[str, Any]:
    total = sum(segment.catalog.digest_sum(segment.alive) for segment in segments) % (1 << 128)
    return {"passages": sum(segment.num_passages for segment in segments), "fingerprint": f"{total:032x}"}


def _refuse_repeated(catalog: Catalog) -> None:
    ids = catalog.table["id"]
    if len(pc.unique(ids)) == len(ids):
        return
    counts = pc.value_counts(ids.combine_chunks())
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    raise ValueError(f"{some(repeated)} more than once among the passages; every passage needs an id of its own.")
