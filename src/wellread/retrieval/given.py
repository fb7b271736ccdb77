"""Given candidates: rankings made elsewhere, read from a file and asked for by question.

Two formats are read, plain or `.gz`: JSON lines {"id": question id, "candidates": [{"id", "score"}, ...]} with
an optional "question" text, and TREC runs ("question Q0 passage rank score tag"). Candidates are ordered by
score, equal ones as they stand in the file. `write_run` writes both.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from wellread.config import require
from wellread.retrieval.base import words_of
from wellread.retrieval.catalog import CatalogWriter, in_batches
from wellread.retrieval.segments import Segment, SegmentedRetriever
from wellread.types import Candidates, Passage, Probe, Question

__all__ = ["GivenOptions", "GivenRetriever", "read_run", "write_run"]

BATCH = 8192


@dataclass(frozen=True)
class GivenOptions:
    """run: the file of candidates; the index keeps its path."""

    run: str = ""

    def __post_init__(self) -> None:
        require(self.run != "", "run='' is empty; give the file of candidates (JSON lines or a TREC run).")
        require(Path(self.run).is_file(), f"run {self.run} does not exist; give a file of candidates.")


class GivenRetriever(SegmentedRetriever):
    """Answers probes from a file. `words` of a probe are the question's text, where it is known, or its id.

    Built over passages, candidates that were deleted or do not match `where` are left out; `from_run` needs
    no passages and gives the candidates as they are.
    """

    name = "given"
    Options = GivenOptions
    Part = Segment

    @classmethod
    def from_run(cls, run: str | Path, questions: Iterable[Question] = ()) -> Self:
        """The candidates of a file, without an index; `questions` let it be asked by their texts."""
        manifest = {"retriever": cls.name, "options": {"run": str(run)}, "segments": [], "fingerprint": ""}
        retriever = cls(Path(run).parent, manifest)
        retriever.know(questions)
        return retriever

    def know(self, questions: Iterable[Question]) -> None:
        """Let questions be asked by their texts. ValueError where one text has two ids with candidates."""
        for question in questions:
            self._know(question.text, question.id)

    def __len__(self) -> int:
        if self.segments:
            return super().__len__()
        return len({name for candidates in self._run.values() for name in candidates.ids})

    def _load(self) -> None:
        super()._load()
        if not hasattr(self, "_run"):
            self._run, texts = read_run(self.options.run)
            self._by_text: dict[str, str] = {}
            for text, name in texts:
                self._know(text, name)

    def _know(self, text: str, name: str) -> None:
        if name in self._run and self._by_text.setdefault(text, name) != name:
            raise ValueError(
                f"the question {text!r} has two ids, {self._by_text[text]!r} and {name!r}; ask for it by id."
            )

    def _search(self, probes: list[Probe], top_k: int, where: dict[str, Any]) -> list[Candidates]:
        found = [self._find(words_of(probe, self.name)) for probe in probes]
        if self.segments:
            found = self._filter(found, where)
        elif where:
            raise ValueError("given candidates without passages have no metadata; build the index over the passages.")
        return [candidates.top(top_k) for candidates in found]

    def _find(self, words: str) -> Candidates:
        name = self._by_text.get(words, words)
        if name not in self._run:
            raise ValueError(
                f"no candidates are given for {words!r}; {self.options.run} has {len(self._run)} questions "
                "by their ids."
            )
        return self._run[name]

    def _filter(self, found: Sequence[Candidates], where: dict[str, Any]) -> list[Candidates]:
        names = [name for candidates in found for name in candidates.ids]
        fine = np.zeros(len(names), dtype=bool)
        for segment, allowed in zip(self.segments, self.allowed(where)):
            positions = segment.catalog.positions(names)
            fine |= (positions >= 0) & allowed[positions]
        parts = np.split(fine, np.cumsum([len(candidates.ids) for candidates in found])[:-1])
        return [_keep(candidates, part) for candidates, part in zip(found, parts)]

    @classmethod
    def _build(cls, passages: Iterable[Passage], out: Path, options: GivenOptions, overwrite: bool) -> Self:
        kept = dataclasses.replace(options, run=str(Path(options.run).resolve()))
        return super()._build(passages, out, kept, overwrite)

    @classmethod
    def _write_segment(cls, passages: Iterable[Passage], path: Path, options: GivenOptions) -> None:
        catalog = CatalogWriter(path / "catalog.arrow")
        for batch in in_batches(passages, BATCH):
            catalog.write(batch)
        catalog.close()

    @classmethod
    def _merge_segments(cls, segments: Sequence[Segment], path: Path, options: GivenOptions) -> None:
        catalog = CatalogWriter(path / "catalog.arrow")
        for segment in segments:
            catalog.copy(segment.catalog, segment.alive)
        catalog.close()


def read_run(path: str | Path) -> tuple[dict[str, Candidates], list[tuple[str, str]]]:
    """A file of candidates -> ({question id: candidates, best first}, [(question text, id), ...]).

    ValueError names the line that is malformed.
    """
    pairs: dict[str, list[tuple[str, float]]] = {}
    texts: list[tuple[str, str]] = []
    for number, line in enumerate(_lines(Path(path)), start=1):
        parse = _json_row if line.lstrip().startswith("{") else _trec_row
        try:
            name, text, found = parse(line)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number} is not a row of candidates ({error!r}); expected JSON "
                '{"id", "candidates": [{"id", "score"}]} or TREC "question Q0 passage rank score tag".'
            ) from error
        pairs.setdefault(name, []).extend(found)
        if text:
            texts.append((text, name))
    return {name: _best_first(found) for name, found in pairs.items()}, texts


def write_run(
    path: str | Path, questions: Sequence[Question], candidates: Sequence[Candidates], *, name: str = "wellread"
) -> None:
    """Write what was found for questions, best first, so that `read_run` and trec_eval read the same order.

    JSON lines where the path ends in .jsonl, else a TREC run, packed where it ends in .gz; folders are made. Scores
    are rounded to single precision, trec_eval's, and where one is not below the one before it, it is set to the next
    lower number: trec_eval would put equal scores into an order of its own. A question without candidates has no line
    in a TREC run. name: the run's, its last column.
    ValueError where questions share an id, or a name with white space cannot stand in a TREC run.
    """
    path = Path(path)
    rows = list(zip(questions, candidates, strict=True))
    repeated = next((name for name, count in Counter(item.id for item in questions).items() if count > 1), None)
    if repeated is not None:
        raise ValueError(f"two questions have the id {repeated!r}; in a run every question needs an id of its own.")
    as_lines = _json_lines if path.name.removesuffix(".gz").endswith(".jsonl") else _trec_lines
    text = "".join(line + "\n" for question, found in rows for line in as_lines(question, found, name))
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path, "wt") as file:
        file.write(text)


def _json_lines(question: Question, found: Candidates, name: str) -> Iterator[str]:
    pairs = [{"id": id, "score": score} for id, score in zip(found.ids, _falling(found.scores))]
    yield json.dumps({"id": question.id, "question": question.text, "candidates": pairs}, ensure_ascii=False)


def _trec_lines(question: Question, found: Candidates, name: str) -> Iterator[str]:
    for rank, (id, score) in enumerate(zip(found.ids, _falling(found.scores)), start=1):
        fields = (question.id, "Q0", id, str(rank), repr(score), name)
        broken = next((field for field in fields if field.split() != [field]), None)
        if broken is not None:
            raise ValueError(
                f"{broken!r} is empty or holds white space, which a TREC run cannot; write JSON lines (a .jsonl file)."
            )
        yield " ".join(fields)


def _falling(scores: Sequence[float]) -> Iterator[float]:
    """The scores in single precision, each below the one before it."""
    before = np.float32(np.inf)
    for score in scores:
        before = min(np.float32(score), np.nextafter(before, np.float32(-np.inf)))
        yield float(before)


def _opened(path: Path, mode: str) -> Any:
    opener = gzip.open if path.suffix == ".gz" else open
    return opener(path, mode, encoding="utf8")


def _lines(path: Path) -> Iterator[str]:
    with _opened(path, "rt") as file:
        yield from (line for line in file if line.strip())


def _json_row(line: str) -> tuple[str, str, list[tuple[str, float]]]:
    row: Mapping[str, Any] = json.loads(line)
    found = [(str(item["id"]), float(item["score"])) for item in row["candidates"]]
    return str(row["id"]), row.get("question", ""), found


def _trec_row(line: str) -> tuple[str, str, list[tuple[str, float]]]:
    question, _, passage, _, score, _ = line.split()
    return question, "", [(passage, float(score))]


def _best_first(found: Sequence[tuple[str, float]]) -> Candidates:
    ordered = sorted(found, key=lambda pair: -pair[1])
    return Candidates(tuple(name for name, _ in ordered), tuple(score for _, score in ordered))


def _keep(candidates: Candidates, fine: np.ndarray) -> Candidates:
    rows = np.flatnonzero(fine)
    return Candidates(tuple(candidates.ids[row] for row in rows), tuple(candidates.scores[row] for row in rows))
