"""Knowledge graphs: triples grouped by subject, one entry for each: its name, its description, its relations as text.

Triples come as TSV or JSON lines with the fields subject, relation and object (also head and tail), as three
columns without a header, or as lists [head, relation, tail] of numbers beside NAME_entities and NAME_relations
(FB15k-237). WordNet's nouns ({id, lemmas, gloss, hypernyms}) are a graph of one relation.

A subject's triples may stand anywhere in a file, so all triples of a file are held in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from wellread.corpus.documents import Document, Problem, Row, first_of
from wellread.corpus.files import clean, read_lines
from wellread.corpus.json_files import jsonl_rows

__all__ = ["graph_format", "is_triple_header", "read_triples", "read_wordnet"]

SUBJECT_KEYS = ("subject", "head")
RELATION_KEYS = ("relation", "predicate", "property")
OBJECT_KEYS = ("object", "tail", "value")
DESCRIPTION_KEYS = ("description", "subject_description")
PARTS = ("_train", "_valid", "_test", "_triples", "")
WORDNET_PREFIX = "wordnet-"
"""Keeps WordNet's entries apart from passages that carry synset ids of their own."""


@dataclass
class _Subject:
    """What is known of one subject. facts: relation -> objects, in the order they came."""

    name: str
    description: str = ""
    facts: dict[str, list[str]] = field(default_factory=dict)
    line: int = 0


@dataclass
class _Names:
    """What the numbers of a file of numbered triples stand for."""

    entities: Mapping[str, tuple[str, str, str]]  # number -> id, name, description
    relations: Mapping[str, str]


def graph_format(path: Path) -> str | None:
    """ "triples" or "wordnet" where the first row of a file of JSON lines is one; None else."""
    first = next(jsonl_rows(path), None)
    if first is None or isinstance(first, Problem):
        return None
    value = first.value
    if isinstance(value, list) and len(value) == 3 and all(isinstance(item, (str, int)) for item in value):
        return "triples"
    if not isinstance(value, Mapping):
        return None
    if {"lemmas", "gloss"} <= value.keys():
        return "wordnet"
    return "triples" if all(first_of(value, keys) for keys in (SUBJECT_KEYS, RELATION_KEYS, OBJECT_KEYS)) else None


def is_triple_header(line: str) -> bool:
    """Whether the first line of a TSV or CSV file names the parts of triples."""
    delimiter = "\t" if "\t" in line else ","
    names = {name.strip().strip('"').lower() for name in line.split(delimiter)}
    return all(names.intersection(keys) for keys in (SUBJECT_KEYS, RELATION_KEYS, OBJECT_KEYS))


def read_triples(path: Path) -> Iterator[Document | Problem]:
    """One entry per subject, in the order they first come; a Problem for each row that is no triple."""
    names = _numbered(path)
    subjects: dict[str, _Subject] = {}
    for number, (name, title, description) in names.entities.items() if names else ():
        subjects[number] = _Subject(title or name, description)
    for found in _triples(path):
        if isinstance(found, Problem):
            yield found
            continue
        (head, relation, tail), description, line = found
        known = subjects.setdefault(head, _Subject(head))
        known.description = known.description or description
        known.line = known.line or line
        objects = known.facts.setdefault(names.relations.get(relation, relation) if names else relation, [])
        objects.append(names.entities[tail][1] if names and tail in names.entities else tail)
    for key, subject in subjects.items():
        name = names.entities[key][0] if names and key in names.entities else key
        yield _entry(name, subject, str(path))


def read_wordnet(path: Path) -> Iterator[Document | Problem]:
    """One entry per synset: its words, its gloss, and what it is a kind of."""
    rows: list[tuple[Mapping[str, Any], int]] = []
    for row in jsonl_rows(path):
        if isinstance(row, Problem):
            yield row
        elif isinstance(row.value, Mapping) and row.value.get("lemmas") and row.value.get("id"):
            rows.append((row.value, row.line))
        else:
            yield Problem(str(path), row.line, "is no synset; id, lemmas and gloss are needed")
    first = {str(row["id"]): str(row["lemmas"][0]) for row, _ in rows}
    for row, line in rows:
        words = [str(word) for word in row["lemmas"]]
        kinds = [first[str(name)] for name in row.get("hypernyms") or () if str(name) in first]
        facts = {"also called": words[1:], "a kind of": kinds}
        subject = _Subject(
            words[0], str(row.get("gloss") or ""), {key: value for key, value in facts.items() if value}, line
        )
        kept = {key: row[key] for key in ("domain",) if row.get(key)}
        yield _entry(f"{WORDNET_PREFIX}{row['id']}", subject, str(path), {**kept, "synset": str(row["id"])})


def _entry(name: str, subject: _Subject, file: str, metadata: Mapping[str, Any] | None = None) -> Document:
    described = [f"{subject.name}: {subject.description.rstrip('.')}." if subject.description else f"{subject.name}."]
    facts = [f"{relation}: {', '.join(dict.fromkeys(objects))}." for relation, objects in subject.facts.items()]
    text, changed = clean(" ".join(described + facts))
    return Document(
        text=text,
        title=clean(subject.name)[0],
        id=clean(name)[0],
        source="triples",
        metadata=dict(metadata or {}),
        file=file,
        line=subject.line,
        repaired=changed,
    )


def _triples(path: Path) -> Iterator[tuple[tuple[str, str, str], str, int] | Problem]:
    """((subject, relation, object), description of the subject, line)."""
    for row in _rows(path):
        if isinstance(row, Problem):
            yield row
            continue
        value, description = row.value, ""
        if isinstance(value, Mapping):
            keys = [first_of(value, keys) for keys in (SUBJECT_KEYS, RELATION_KEYS, OBJECT_KEYS)]
            described = first_of(value, DESCRIPTION_KEYS)
            description = str(value[described]) if described else ""
            value = [value[key] for key in keys] if all(keys) else None
        if not isinstance(value, list) or len(value) != 3 or not all(str(item).strip() for item in value):
            yield Problem(str(path), row.line, "is no triple; subject, relation and object are needed")
            continue
        head, relation, tail = (str(item).strip() for item in value)
        yield (head, relation if relation.isdigit() else _words(relation), tail), description.strip(), row.line


def _rows(path: Path) -> Iterator[Row | Problem]:
    from wellread.corpus.readers import stem_and_suffix

    if stem_and_suffix(path)[1] not in (".tsv", ".csv", ".txt"):
        yield from jsonl_rows(path)
        return
    lines = read_lines(path)
    head = list(islice(lines, 1))
    if head and not isinstance(head[0], Problem) and is_triple_header(head[0].text):
        from wellread.corpus.csv_files import csv_rows

        yield from csv_rows(path, wanted=SUBJECT_KEYS)
        return
    for line in _chained(head, lines):
        yield line if isinstance(line, Problem) else Row(line.text.split("\t"), line.number, line.repaired)


def _chained(head: list[Any], lines: Iterable[Any]) -> Iterator[Any]:
    yield from head
    yield from lines


def _numbered(path: Path) -> _Names | None:
    """The names behind the numbers of a file, where NAME_entities and NAME_relations lie beside it."""
    from wellread.corpus.readers import PACKED, stem_and_suffix

    stem, suffix = stem_and_suffix(path)
    prefix = next(stem.removesuffix(part) for part in PARTS if stem.endswith(part))

    def beside(kind: str) -> list[Mapping[str, Any]] | None:
        files = (path.parent / f"{prefix}_{kind}{suffix}{packed}" for packed in ("", *PACKED))
        file = next((item for item in files if item.is_file()), None)
        rows = jsonl_rows(file) if file else ()
        return [row.value for row in rows if isinstance(row, Row) and isinstance(row.value, Mapping)] or None

    entities, relations = beside("entities"), beside("relations")
    if entities is None or relations is None:
        return None
    return _Names(
        {
            str(row.get("id")): (
                str(row.get("entity") or row.get("id")),
                str(row.get("name") or row.get("entity") or ""),
                str(row.get("description") or ""),
            )
            for row in entities
        },
        {str(row.get("id")): _words(str(row.get("relation") or "")) for row in relations},
    )


def _words(relation: str) -> str:
    """The name of a relation as words: of Freebase's paths the last part."""
    return relation.rstrip("/").rpartition("/")[2].replace("_", " ").strip() or relation
