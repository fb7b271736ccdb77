"""The contract of a retriever, and what all of them check in the same way.

A retriever is built over passages into a directory, opened from it, asked with probes, and kept up to date
with `add` and `delete`. Adding and deleting give the same results as building anew from what is left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from wellread.config import from_mapping
from wellread.locking import locked
from wellread.retrieval.manifest import refuse_finished
from wellread.types import Candidates, Passage, Probe

__all__ = ["Retriever", "Synced", "words_of"]


class Synced(NamedTuple):
    """How many passages a sync added, replaced, deleted, and left alone."""

    added: int
    replaced: int
    deleted: int
    unchanged: int


class Retriever(ABC):
    """Probe -> candidates over one set of passages.

    name: the name in `RETRIEVERS`. Options: a frozen dataclass with the options of `build`; they are kept in
    the index, so `open` needs none.
    """

    name: ClassVar[str]
    Options: ClassVar[type]
    of_a_model: ClassVar[bool] = False
    """Whether it searches keys that a model makes, which `build` is then given as `encoder`."""
    reads: bool = False
    """Whether an encoder that is nobody's model reads the passages, in the precision of the option `reading`."""
    tells_all: ClassVar[bool] = False
    """Whether all else scores 0 where it finds fewer passages than were asked for."""

    @classmethod
    def build(cls, passages: Iterable[Passage], out: str | Path, *, overwrite: bool = False, **options) -> Self:
        """Index the passages into the directory `out` and open the result.

        overwrite: replace the index that is in `out`; without it a finished index is refused.
        options: the fields of `cls.Options`. Errors: ValueError for unknown or bad options, a used directory,
        one that another process writes, and passages that share an id.
        """
        chosen = from_mapping(cls.Options, options, where=cls.name)
        refuse_finished(Path(out), overwrite)
        with locked(Path(out), make=True):
            return cls._build(passages, Path(out), chosen, overwrite)

    @classmethod
    @abstractmethod
    def _build(cls, passages: Iterable[Passage], out: Path, options: Any, overwrite: bool) -> Self:
        """Index the passages into `out`."""

    @classmethod
    @abstractmethod
    def open(cls, directory: str | Path) -> Self:
        """Open an index; large arrays are memory-mapped."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of passages that can be found."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A digest of the set of passages: equal for equal sets, however they came to be."""

    def search(
        self, probes: Sequence[Probe], *, top_k: int, where: Mapping[str, Any] | None = None
    ) -> list[Candidates]:
        """The best `top_k` candidates of every probe, best first; equal scores in index order.

        where: only passages whose metadata match, such as {"topic": "planet"}; a list means any of its
        values; "source" is the passage's source unless the metadata have that key. Filtering comes before
        ranking: `top_k` matching passages are returned where so many exist. Lexical search returns only
        passages that share a word with the probe, so there may be fewer.
        Errors: ValueError for top_k < 1, probes without what this retriever needs, unknown metadata keys.
        """
        if isinstance(probes, Probe):
            raise ValueError("search got a single Probe; give a list of probes.")
        if top_k < 1:
            raise ValueError(f"top_k={top_k} is too small; it must be at least 1.")
        return self._search(list(probes), top_k, dict(where or {})) if probes else []

    @abstractmethod
    def _search(self, probes: list[Probe], top_k: int, where: dict[str, Any]) -> list[Candidates]:
        """Search with checked arguments."""

    @abstractmethod
    def add(self, passages: Iterable[Passage]) -> int:
        """Add passages and say how many; ValueError where an id is already in the index."""

    @abstractmethod
    def delete(self, ids: Iterable[str]) -> int:
        """Delete passages and say how many; ValueError where an id is not in the index."""

    @abstractmethod
    def digests(self) -> dict[str, bytes]:
        """The ids of the passages that can be found, each with 16 bytes that stand for its contents."""

    def about(self, ids: Sequence[str]) -> list[Passage]:
        """The passages of these ids, as far as the index knows them: without title and text."""
        return [Passage(name, "") for name in ids]

    def sync(self, passages: Iterable[Passage]) -> Synced:
        """Make the index hold these passages and no others, reading only those that are new or changed.

        passages: something that can be iterated from the start again. A sync that was killed is mended by the next one.
        """
        from wellread.retrieval.catalog import digest

        if iter(passages) is passages:
            raise ValueError(
                f"passages is a {type(passages).__name__}, which can be read only once; give a list, or an object that "
                "opens its source in __iter__."
            )
        known, seen, fresh = self.digests(), set(), set()
        for passage in passages:
            seen.add(passage.id)
            if known.get(passage.id) != digest(passage):
                fresh.add(passage.id)
        gone, changed = known.keys() - seen, known.keys() & fresh
        if gone or changed:
            self.delete([*gone, *changed])
        if fresh:
            self.add(passage for passage in passages if passage.id in fresh)
        return Synced(len(fresh) - len(changed), len(changed), len(gone), len(seen) - len(fresh))


def words_of(probe: Probe, retriever: str) -> str:
    """The words of a probe; ValueError where it has vectors only."""
    if probe.words is None:
        raise ValueError(f"the probe has vectors but no words; {retriever} search needs words.")
    return probe.words
