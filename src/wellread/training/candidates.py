"""The candidates of every training question: found once, kept in the run's folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wellread.bars import progress_bar
from wellread.retrieval import open_index
from wellread.retrieval.given import read_run
from wellread.retrieval.readable import Lookup, readable, search_readable
from wellread.types import Candidates, Probe, Question

if TYPE_CHECKING:
    from wellread.retrieval.base import Retriever

__all__ = ["Finder", "open_finder", "read_kept", "seek", "write_kept"]

# Enough at a time for a retriever to work in bulk, few enough for the progress bar to move.
BATCH = 2048


@dataclass(frozen=True)
class Finder:
    """Finds candidates, or reads back what it found before.

    index, candidates: one of them, a folder with a search index or a file of rankings; or neither, where the search of
    the model that is trained finds all. cache: the folder results are kept in, None to keep none. passages: looks up
    those of a file of rankings, which may name what is hidden from a question.
    """

    index: Path | None
    candidates: Path | None
    cache: Path | None = None
    progress: bool = True
    passages: Lookup | None = None

    def find(self, questions: Sequence[Question], *, top_k: int, name: str) -> list[Candidates]:
        """The best `top_k` candidates of every question, by its words; `name` is part of the cache's name."""
        _check_ids(questions)
        if self.candidates is None and self.index is None:
            return [Candidates((), ()) for _ in questions]
        if self.candidates is not None:
            return _of_file(self.candidates, questions, top_k, self.passages)
        kept = None
        if self.cache is not None:
            kept = self.cache / f"candidates-{name}-{self._fingerprint(questions, top_k)}.jsonl"
            if kept.is_file():
                return _of_file(kept, questions, top_k)
        index = open_index(self.index)
        found = seek(index, questions, top_k=top_k, name=name, progress=self.progress)
        if kept is not None:
            write_kept(kept, questions, found)
        return found

    def _fingerprint(self, questions: Sequence[Question], top_k: int) -> str:
        digest = hashlib.sha256(f"{top_k}\0".encode())
        # An index writes this file anew whenever it changes.
        digest.update((self.index / "index.json").read_bytes())
        for question in questions:
            digest.update("".join(f"{name}\0" for name in (question.id, question.words, *question.hidden)).encode())
        return digest.hexdigest()[:12]


def seek(
    index: Retriever, questions: Sequence[Question], *, top_k: int, name: str, progress: bool = True
) -> list[Candidates]:
    """The best `top_k` of an index for every question, by its words, without the passages hidden from it."""
    found: list[Candidates] = []
    with progress_bar(total=len(questions), desc=f"candidates of {name}", shown=progress) as bar:
        for start in range(0, len(questions), BATCH):
            some = questions[start : start + BATCH]
            probes = [Probe(words=question.words, picture=question.picture) for question in some]
            found += search_readable(index.search, some, probes, top_k=top_k, passages=index.about)
            bar.update(len(some))
    return found


def open_finder(
    *,
    index: Path | None,
    candidates: Path | None,
    cache: Path | None = None,
    progress: bool = True,
    passages: Lookup | None = None,
) -> Finder:
    """A Finder over what exists; ValueError where the file or index does not."""
    if candidates is not None and not candidates.is_file():
        raise ValueError(f"data.candidates={str(candidates)!r} does not exist; give a file of candidates.")
    if index is not None and not (index / "index.json").is_file():
        raise ValueError(f"data.index={str(index)!r} holds no search index; make one with `wellread index`.")
    return Finder(index, candidates, cache, progress, passages)


def _check_ids(questions: Sequence[Question]) -> None:
    texts: dict[str, str] = {}
    for question in questions:
        if texts.setdefault(question.id, question.text) != question.text:
            raise ValueError(f"question id={question.id!r} stands for two questions; give each an id of its own.")


def _of_file(path: Path, questions: Sequence[Question], top_k: int, passages: Lookup | None = None) -> list[Candidates]:
    known, _ = read_run(path)
    missing = [question.id for question in questions if question.id not in known]
    if missing:
        raise ValueError(
            f"{path} has no row for {len(missing)} of {len(questions)} questions, such as {missing[0]!r}; "
            "a file of candidates needs one for each."
        )
    found = [known[question.id] for question in questions]
    found = found if passages is None else readable(questions, found, passages)
    return [each.top(top_k) for each in found]


def read_kept(path: Path) -> dict[str, Candidates]:
    """What `write_kept` wrote: candidates by question."""
    known, _ = read_run(path)
    return known


def write_kept(path: Path, questions: Sequence[Question], found: Sequence[Candidates]) -> None:
    """Keep the candidates of questions in a file that retriever "given" reads; it is whole or not there."""
    rows = {}
    for question, candidates in zip(questions, found):
        pairs = zip(candidates.ids, candidates.scores)
        rows[question.id] = [{"id": name, "score": score} for name, score in pairs]
    waiting = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(waiting, "w", encoding="utf8") as file:
        for name, pairs in rows.items():
            file.write(json.dumps({"id": name, "candidates": pairs}, ensure_ascii=False) + "\n")
    os.replace(waiting, path)
