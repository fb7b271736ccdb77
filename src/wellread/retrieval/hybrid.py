"""Hybrid search: what two or more retrievers found, joined by their scores or by their ranks.

    scores: score(p) = mean over retrievers r of (s_r(p) - mean_r) / deviation_r
    ranks:  score(p) = sum over retrievers r that found p: 1 / (rank_constant + rank of p in r), ranks from 1

Scores are standardised over all that any retriever found for the question; what one of them did not find has the lowest
score that it gave there, or 0 where it finds all that share a word and found fewer than asked. A mean of standardised
scores keeps how far the best is ahead, and finds more than ranks do (Bruch, Gai and Ingber 2023, arXiv 2210.11934).
Ranks: reciprocal rank fusion (Cormack, Clarke and Buettcher 2009; rank_constant = 60). Each part is an index of its own
in a folder of the hybrid index.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from wellread.config import from_mapping, require, to_mapping
from wellread.locking import locked
from wellread.retrieval import RETRIEVERS, open_index
from wellread.retrieval.base import Retriever, Synced
from wellread.retrieval.manifest import prepare, read_manifest, refuse_finished, write_manifest
from wellread.types import Candidates, Passage, Probe

__all__ = ["HybridOptions", "HybridRetriever", "fuse_ranks", "fuse_scores"]


ROUNDING = 1e-6  # of the largest score: scores that differ by less are equal


@dataclass(frozen=True)
class HybridOptions:
    """parts: names of the retrievers to join. fusion: by "scores" or by "ranks". rank_constant: with ranks,
    how little the first stand out. depth: candidates asked of each part, at least; `top_k` where that is more."""

    parts: tuple[str, ...] = ("lexical", "dense")
    fusion: Literal["scores", "ranks"] = "scores"
    rank_constant: float = 60.0
    depth: int = 100

    def __post_init__(self) -> None:
        require(len(set(self.parts)) >= 2, f"parts={self.parts!r} is too few; name two retrievers or more.")
        require(self.rank_constant > 0, f"rank_constant={self.rank_constant} must be above 0 (60 is usual).")
        require(self.depth >= 1, f"depth={self.depth} is too small; it must be at least 1.")


class HybridRetriever(Retriever):
    """The parts' finds, joined by `Options.fusion`."""

    name = "hybrid"
    reads = True
    Options = HybridOptions

    def __init__(
        self, parts: Sequence[Retriever], options: HybridOptions | None = None, directory: Path | None = None
    ) -> None:
        """directory: what is held while the parts change, where they lie in one."""
        self.parts = list(parts)
        self.reads = any(part.reads for part in self.parts)
        self.options = options or HybridOptions(parts=tuple(part.name for part in parts))
        self.directory = directory

    @classmethod
    def build(cls, passages: Iterable[Passage], out: str | Path, *, overwrite: bool = False, **options: Any) -> Self:
        """As `Retriever.build`; options of a part, such as `encoder`, go to every part that has them.

        After a kill, the same call goes on where it was (a part that resumes) or starts again.
        """
        chosen, for_parts = _share_out(options)
        # The parts read the passages one after the other; an iterator could be read only once.
        again = list(passages) if iter(passages) is passages else passages
        out = Path(out)
        refuse_finished(out, overwrite)
        with locked(out, make=True):
            prepare(out, overwrite, expected=chosen.parts)
            for name, part_options in for_parts.items():
                RETRIEVERS[name].build(again, out / name, overwrite=True, **part_options)
            write_manifest(out, {"retriever": cls.name, "options": to_mapping(chosen)})
        return cls.open(out)

    @classmethod
    def _build(cls, passages: Iterable[Passage], out: Path, options: HybridOptions, overwrite: bool) -> Self:
        raise AssertionError("build shares the options out itself")

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        chosen = from_mapping(HybridOptions, read_manifest(directory)["options"], where=cls.name)
        return cls([open_index(Path(directory) / name) for name in chosen.parts], chosen, Path(directory))

    def __len__(self) -> int:
        return len(self.parts[0])

    @property
    def fingerprint(self) -> str:
        self._check_even()
        return self.parts[0].fingerprint

    def _check_even(self) -> None:
        """A change that was killed between two parts leaves them with different passages."""
        if len({part.fingerprint for part in self.parts}) > 1:
            sizes = ", ".join(f"{part.name} {len(part)}" for part in self.parts)
            raise ValueError(
                f"the parts hold different passages ({sizes}); bring them together with `wellread index --sync`, or "
                "`wellread memory sync`, or build the hybrid index again."
            )

    def _changing(self) -> AbstractContextManager[None]:
        return nullcontext() if self.directory is None else locked(self.directory)

    def _search(self, probes: list[Probe], top_k: int, where: dict[str, Any]) -> list[Candidates]:
        self._check_even()
        depth = max(top_k, self.options.depth)
        rankings = [part.search(probes, top_k=depth, where=where) for part in self.parts]
        return [self._fused(found, depth).top(top_k) for found in zip(*rankings)]

    def _fused(self, rankings: Sequence[Candidates], depth: int) -> Candidates:
        if self.options.fusion == "ranks":
            return fuse_ranks(rankings, rank_constant=self.options.rank_constant)
        return fuse_scores(rankings, depth=depth, tells_all=[part.tells_all for part in self.parts])

    def add(self, passages: Iterable[Passage]) -> int:
        self._check_even()
        again = list(passages)
        with self._changing():
            for part in self.parts:
                part.add(again)
        return len(again)

    def delete(self, ids: Iterable[str]) -> int:
        self._check_even()
        again = list(dict.fromkeys(ids))
        with self._changing():
            for part in self.parts:
                part.delete(again)
        return len(again)

    def about(self, ids: Sequence[str]) -> list[Passage]:
        return self.parts[0].about(ids)

    def digests(self) -> dict[str, bytes]:
        return self.parts[0].digests()

    def sync(self, passages: Iterable[Passage]) -> Synced:
        """As `Retriever.sync`, part by part."""
        with self._changing():
            first, *_ = [part.sync(passages) for part in self.parts]
        return first


def fuse_scores(rankings: Sequence[Candidates], *, depth: int, tells_all: Sequence[bool] = ()) -> Candidates:
    """The mean of several retrievers' standardised scores for one probe; equal ones in order of first appearance.

    What a retriever did not find has the lowest score that it gave. depth: how many were asked of each; of one that
    `tells_all` (one flag for each ranking; without them none does) and found fewer, everything else scores 0.
    """
    ids = list(dict.fromkeys(name for ranking in rankings for name in ranking.ids))
    if not ids:
        return Candidates((), ())
    total = np.zeros(len(ids))
    for place, ranking in enumerate(rankings):
        known = dict(zip(ranking.ids, ranking.scores))
        complete = bool(tells_all) and tells_all[place] and len(known) < depth
        lowest = 0.0 if complete or not known else min(known.values())
        scores = np.array([known.get(name, lowest) for name in ids])
        spread = scores.std()
        if spread > ROUNDING * np.abs(scores).max():
            total += (scores - scores.mean()) / spread
    total /= len(rankings)
    order = np.argsort(-total, kind="stable")
    return Candidates(tuple(ids[place] for place in order), tuple(total[order].tolist()))


def fuse_ranks(rankings: Iterable[Candidates], *, rank_constant: float = 60.0) -> Candidates:
    """Reciprocal rank fusion of several rankings of one probe; equal scores in order of first appearance."""
    scores: dict[str, float] = defaultdict(float)
    for ranking in rankings:
        for rank, name in enumerate(ranking.ids, start=1):
            scores[name] += 1 / (rank_constant + rank)
    order = sorted(scores, key=scores.__getitem__, reverse=True)
    return Candidates(tuple(order), tuple(scores[name] for name in order))


def _share_out(options: dict[str, Any]) -> tuple[HybridOptions, dict[str, dict[str, Any]]]:
    """Options -> the hybrid's own, and per part those that it has. ValueError for options nobody has."""
    parts = options.get("parts", HybridOptions.parts)
    fields = {name: _field_names(RETRIEVERS[name].Options) for name in parts}
    taken = frozenset().union(*fields.values())
    own = {key: value for key, value in options.items() if key not in taken}
    chosen = from_mapping(HybridOptions, own, where=HybridRetriever.name)
    return chosen, {
        name: {key: value for key, value in options.items() if key in names} for name, names in fields.items()
    }


def _field_names(kind: type) -> frozenset[str]:
    return frozenset(item.name for item in dataclasses.fields(kind))
