"""Passages found -> documents found: what a question set that judges documents (BEIR) is measured by.

A document that was cut leaves passages named DOCUMENT-0, DOCUMENT-1, ... with the document in their metadata. A
document ranks where its best passage does, and has that passage's score (the maximum over its passages).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wellread.bars import progress_bar
from wellread.retrieval.base import Retriever
from wellread.retrieval.catalog import Catalog
from wellread.retrieval.hybrid import HybridRetriever
from wellread.types import Candidates, Probe

__all__ = ["Documents", "search_documents"]

KEY = "document"
"""The metadata of a piece that name the document it was cut from."""
BATCH = 128


class Documents:
    """Which document every passage of an index comes from."""

    def __init__(self, retriever: Retriever) -> None:
        while isinstance(retriever, HybridRetriever):  # its parts hold the same passages
            retriever = retriever.parts[0]
        parts = getattr(retriever, "segments", ())
        self._segments = [(part.catalog, part.alive, _column(part.catalog)) for part in parts]

    @property
    def cut(self) -> bool:
        """Whether some passages are pieces of documents."""
        return any(column is not None for _, _, column in self._segments)

    def of(self, ids: Sequence[str]) -> list[str]:
        """The documents of passages, in the same order; what is no piece of a document stands for itself."""
        names = list(ids)
        for catalog, _, column in self._segments:
            if column is None or not names:
                continue
            positions = catalog.positions(ids)
            for place in (positions >= 0).nonzero()[0]:
                text = column[int(positions[place])].as_py()
                document = None if text is None else json.loads(text)
                # The name tells a piece from a passage that has a field of its own called `document`.
                if isinstance(document, str) and ids[place].startswith(f"{document}-"):
                    names[place] = document
        return names

    def fold(self, found: Sequence[Candidates]) -> list[Candidates]:
        """Candidates that are passages -> candidates that are documents, each at the place of its best passage."""
        ids = list(dict.fromkeys(name for candidates in found for name in candidates.ids))
        names = dict(zip(ids, self.of(ids)))
        return [_folded(candidates, names) for candidates in found]

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those of the ids that name neither a passage nor a document of the index; none where it keeps no list."""
        left = list(dict.fromkeys(ids)) if self._segments else []
        for catalog, alive, column in self._segments:
            positions = catalog.positions(left)
            here = (positions >= 0) & alive[positions]
            if column is not None:
                wanted = pa.array([json.dumps(name, ensure_ascii=False) for name in left], pa.string())
                kept = column.filter(pa.array(alive)).combine_chunks()
                here |= pc.is_in(wanted, value_set=kept).to_numpy(zero_copy_only=False)
            left = [name for name, found in zip(left, here) if not found]
        return left

    def are_judged(self, ids: Iterable[str]) -> bool:
        """Whether judgements that name these ids are about documents: some were cut, and no piece is named."""
        ids = list(ids)
        return self.cut and self.of(ids) == ids


def search_documents(
    retriever: Retriever,
    probes: Sequence[Probe],
    *,
    top_k: int,
    documents: Documents | None = None,
    where: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> list[Candidates]:
    """The best `top_k` documents of every probe, best first; its best passages where `documents` is None.

    Asks for more passages until there are `top_k` documents or nothing more is found.
    """
    found: list[Candidates] = []
    with progress_bar(total=len(probes), desc="rank", shown=progress, unit=" questions") as bar:
        for start in range(0, len(probes), BATCH):
            some = probes[start : start + BATCH]
            if documents is None:
                found += retriever.search(some, top_k=top_k, where=where)
            else:
                found += _search_some(retriever, some, top_k, documents, where)
            bar.update(len(some))
    return found


def _search_some(
    retriever: Retriever,
    probes: Sequence[Probe],
    top_k: int,
    documents: Documents,
    where: Mapping[str, Any] | None,
) -> list[Candidates]:
    found: dict[int, Candidates] = {}
    short, depth = list(range(len(probes))), top_k
    while short:
        passages = retriever.search([probes[number] for number in short], top_k=depth, where=where)
        folded = documents.fold(passages)
        found |= {number: candidates.top(top_k) for number, candidates in zip(short, folded)}
        short = [
            number
            for number, pieces, whole in zip(short, passages, folded)
            if len(whole.ids) < top_k and len(pieces.ids) >= depth
        ]
        depth *= 2
    return [found[number] for number in range(len(probes))]


def _folded(candidates: Candidates, names: dict[str, str]) -> Candidates:
    scores: dict[str, float] = {}
    for name, score in zip(candidates.ids, candidates.scores):
        scores.setdefault(names[name], score)
    return Candidates(tuple(scores), tuple(scores.values()))


def _column(catalog: Catalog) -> Any:
    """Per passage, the JSON text of its metadata `document`, null without one; None where no passage has it."""
    return pc.map_lookup(catalog.table["metadata"], KEY, "first") if KEY in catalog.keys else None
