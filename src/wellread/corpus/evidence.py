"""Rows that bring their own passages: claims with evidence (and candidates) as lists of {title, text}.

Fool Me Twice, FEVER Symmetric and Climate-FEVER have no corpus file: what a claim is judged by stands in its row.
Here the sentences of all rows of a file become passages, and each claim learns the ids of those it rests on.
`ingest` and `read_questions` both come here, so that the ids agree.

Sentences under one title are joined in the order in which the file first shows them, up to `JOINED_WORDS` words
(a title that says nothing joins nothing). A passage is named after its content, so train and dev parts can be read
into one corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from wellread.corpus.cutting import content_id, num_words
from wellread.corpus.documents import TEXT_KEYS, Document, Problem, Row, first_of
from wellread.corpus.files import clean
from wellread.corpus.json_files import jsonl_rows

__all__ = ["EVIDENCE_FIELDS", "Evidence", "brings_passages", "evidence_rows", "is_evidence_row", "read_evidence"]

EVIDENCE_FIELDS = ("evidence", "candidates")
"""Fields with sentences: those the claim rests on, and others that a search found."""
STATEMENT_FIELDS = ("claim", "question", "query", "input")
JOINED_WORDS = 100
UNDECIDED = "NOT ENOUGH INFO"
"""The label of a sentence that says nothing about its claim (Climate-FEVER)."""
LOOK_AHEAD = 20  # rows that decide whether a file brings its passages

Sentence = tuple[str, str]


def is_evidence_row(record: object) -> bool:
    """Whether a row states something and brings sentences of its own, and is no passage itself."""
    if not isinstance(record, Mapping) or first_of(record, TEXT_KEYS) or not first_of(record, STATEMENT_FIELDS):
        return False
    return any(_sentence(item) for name in EVIDENCE_FIELDS for item in _list(record.get(name)))


def brings_passages(path: Path) -> bool:
    """Whether the first rows of a file of JSON lines bring their own passages."""
    head = islice(jsonl_rows(path), LOOK_AHEAD)
    return any(isinstance(row, Row) and is_evidence_row(row.value) for row in head)


@dataclass(frozen=True)
class Evidence:
    """The passages that the rows of one file bring.

    passages: id -> (title, text), in the order of the file. place: the passage that each sentence went into.
    lines: id -> the line of the row that first brought it.
    """

    passages: Mapping[str, Sentence]
    place: Mapping[Sentence, str]
    lines: Mapping[str, int]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Evidence:
        """Join the sentences of all rows. A sentence that comes again is not repeated."""
        seen: set[Sentence] = set()
        groups: list[_Group] = []
        open_groups: dict[str, _Group] = {}
        for row in rows:
            for sentence in _sentences(row.value):
                if sentence in seen:
                    continue
                seen.add(sentence)
                title, text = sentence
                size = num_words(text)
                group = open_groups.get(title) if title else None
                if group is None or group.words + size > JOINED_WORDS:
                    group = open_groups[title] = _Group(title, row.line)
                    groups.append(group)
                group.texts.append(text)
                group.words += size
        passages, place, lines = {}, {}, {}
        for group in groups:
            joined = " ".join(group.texts)
            name = content_id(group.title, joined)
            passages[name], lines[name] = (group.title, joined), group.line
            place.update(((group.title, text), name) for text in group.texts)
        return cls(passages, place, lines)

    def sets(self, record: Mapping[str, Any]) -> list[list[str]]:
        """Which passages a row rests on: sets of ids, of which one whole set is enough.

        Evidence without labels of its own counts together, as one set. Where each sentence has a label, each
        stands alone, and those that say nothing about the claim are left out.
        """
        items = [item for item in _list(record.get(EVIDENCE_FIELDS[0])) if _sentence(item)]
        ids = [(self.place[_sentence(item)], item.get("label")) for item in items]
        together = list(dict.fromkeys(name for name, label in ids if label is None))
        alone = dict.fromkeys(name for name, label in ids if label not in (None, UNDECIDED))
        return [*([together] if together else []), *([name] for name in alone if [name] != together)]


@dataclass
class _Group:
    """Sentences under one title that will be one passage."""

    title: str
    line: int
    texts: list[str] = field(default_factory=list)
    words: int = 0


def read_evidence(path: Path) -> Iterator[Document | Problem]:
    """The passages of a file of claims as documents. The sentences of the whole file are held in memory."""
    rows: list[Row] = []
    for row in jsonl_rows(path):
        if isinstance(row, Problem):
            yield row
        elif not is_evidence_row(row.value):
            yield Problem(str(path), row.line, f"brings no passage; {' or '.join(EVIDENCE_FIELDS)} must hold texts")
        else:
            rows.append(row)
    found = Evidence.of(rows)
    for name, (title, text) in found.passages.items():
        yield Document(text, title=title, id=name, file=str(path), line=found.lines[name])


def evidence_rows(path: Path) -> Iterator[Row | Problem]:
    """The rows of such a file with the ids of passages in the place of texts.

    `positive`: the ids a row rests on; `provenance_sets`: the same as sets (see `Evidence.sets`).
    """
    evidence = Evidence.of(row for row in jsonl_rows(path) if isinstance(row, Row) and is_evidence_row(row.value))
    for row in jsonl_rows(path):
        if isinstance(row, Problem) or not is_evidence_row(row.value):
            yield row
            continue
        sets = evidence.sets(row.value)
        kept = {key: value for key, value in row.value.items() if key not in EVIDENCE_FIELDS}
        positive = list(dict.fromkeys(chain.from_iterable(sets)))
        yield replace(row, value={**kept, "positive": positive, "provenance_sets": sets})


def _sentences(record: Mapping[str, Any]) -> Iterator[Sentence]:
    """The sentences of a row, those it rests on first."""
    for name in EVIDENCE_FIELDS:
        yield from (sentence for item in _list(record.get(name)) if (sentence := _sentence(item)))


def _sentence(item: object) -> Sentence | None:
    """(title, text) of an item of evidence, None where it holds no text."""
    text = item.get("text") if isinstance(item, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        return None
    title = item.get("title")
    return clean(title)[0].strip() if isinstance(title, str) else "", clean(text)[0].strip()


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
