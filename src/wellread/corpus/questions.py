"""Question files of the usual layouts -> Question.

Rows (JSON lines, JSON, CSV, TSV, Parquet, saved `datasets` folders) are understood by the names of their fields
(`question_rows`); SQuAD, BEIR and claims that bring their own evidence have layouts of their own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wellread.corpus.captions import read_captions
from wellread.corpus.csv_files import csv_rows
from wellread.corpus.cutting import content_id
from wellread.corpus.documents import Problem, Row
from wellread.corpus.evidence import evidence_rows
from wellread.corpus.files import peek_text, read_lines
from wellread.corpus.json_files import json_rows, jsonl_rows, squad_paragraphs
from wellread.corpus.question_rows import DESCRIBE, QUESTION_KEYS, question_of
from wellread.corpus.readers import beir_file, parts_of, stem_and_suffix
from wellread.corpus.sources import Sieve, conditions_of
from wellread.corpus.tables import saved_folders, saved_rows, table_rows
from wellread.types import Question

__all__ = ["QUESTION_KEYS", "evenly", "iter_questions", "read_qrels", "read_questions"]


def read_questions(
    path: str | Path,
    *,
    split: str | None = None,
    task: str | None = None,
    problems: list[Problem] | None = None,
) -> list[Question]:
    """All questions of a file or folder, in order; of PATH?FIELD=VALUE&FIELD!=VALUE only those whose rows are so.

    split: only those of this part (a `split` field, a split of a saved dataset, qrels of this name in a BEIR
    folder, files of this name in a folder). task: the task of rows that name none.
    problems: receives what could not be read; without it the first such row raises ValueError, which names
    file and line. ValueError too where nothing comes out.
    """
    questions: list[Question] = []
    met: list[Problem] = []
    place, where = conditions_of(str(path), str(path))
    sieve = Sieve(where, str(path), what="question")
    for item in iter_questions(place, split=split, task=task):
        if isinstance(item, Question):
            if sieve.keeps({"id": item.id, "task": item.task, **item.metadata}):
                questions.append(item)
            continue
        if problems is None:
            raise ValueError(f"{item}. Mend it, or take it out.")
        met.append(item)
    if problems is not None:
        problems.extend(met)
    sieve.check()
    if not questions:
        part = f" with split={split!r}" if split else ""
        reason = f"; the first problem: {met[0]}" if met else ""
        keys = ", ".join(QUESTION_KEYS)
        raise ValueError(f"no question{part} came out of {path}; rows need one of the fields {keys}{reason}.")
    return questions


def iter_questions(
    path: str | Path, *, split: str | None = None, task: str | None = None
) -> Iterator[Question | Problem]:
    """Questions one by one, with a Problem for each row that holds none."""
    seen: Counter[str] = Counter()
    folder = Path(path)
    # Queries and judgements are enough here; as a source of documents such a folder would need its corpus.
    judged = folder.is_dir() and beir_file(folder, "queries") is not None and _qrels_files(folder)
    for part in [(folder, "beir", folder)] if judged else parts_of(path):
        if isinstance(part, Problem):
            yield part
            continue
        place, layout, root = part
        if split and place.is_file() and root == Path(path) and split not in _words(place):
            continue
        for item in _LAYOUTS.get(layout, _unreadable)(place, split, task):
            if isinstance(item, Question) and not item.id:
                yield _named(item, seen)
            else:
                yield item


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Relevance judgements: question id -> passage id -> grade.

    Reads BEIR (query-id, corpus-id, score, with a header) and TREC (query, 0, passage, grade) files.
    """
    judged: dict[str, dict[str, int]] = {}
    for line in read_lines(Path(path)):
        if isinstance(line, Problem):
            raise ValueError(f"{line}.")
        fields = line.text.split("\t") if "\t" in line.text else line.text.split()
        if line.number == 1 and not fields[-1].lstrip("-").isdigit():
            continue  # the header
        if len(fields) not in (3, 4) or not fields[-1].strip().lstrip("-").isdigit():
            raise ValueError(
                f"{path}:{line.number}: {line.text[:80]!r} is no judgement; "
                "a line needs query-id, corpus-id and score (BEIR), or query, 0, passage, grade (TREC)."
            )
        judged.setdefault(fields[0], {})[fields[-2]] = int(fields[-1])
    return judged


# -- rows ------------------------------------------------------------------------------------------------


def _rows_reader(read: Any) -> Any:
    def questions(path: Path, split: str | None, task: str | None) -> Iterator[Question | Problem]:
        carried: set[str] = set()
        for row in read(path):
            if isinstance(row, Problem):
                yield row
                continue
            own = row.value.get("split") if isinstance(row.value, Mapping) else None
            carried.add(str(own))
            if split is None or own == split or (own is None and split in _words(path)):
                yield question_of(row, str(path), task)
        if split and split not in carried and split not in _words(path) and carried:
            found = ", ".join(sorted(carried - {"None"})) or "no split field"
            raise ValueError(f"split={split!r} is not in {path}; it has: {found}.")

    return questions


def _words(path: Path) -> list[str]:
    """The words of a file name: nq_open_dev.jsonl.gz -> nq, open, dev."""
    return re.split(r"[-_.\s]+", stem_and_suffix(path)[0])


def _named(question: Question, seen: Counter[str]) -> Question:
    """A question without an id is named after its text, with a number where the text comes again."""
    base = f"q-{content_id('', question.text)}"
    seen[base] += 1
    return replace(question, id=base if seen[base] == 1 else f"{base}-{seen[base]}")


# -- layouts ---------------------------------------------------------------------------------------------


def _csv_questions(path: Path) -> Iterator[Row | Problem]:
    """CSV and TSV with a header; DPR's files of two columns have none."""
    first = peek_text(path).split("\n", 1)[0].rstrip()
    if "\t" in first and first.partition("\t")[2].startswith(("[", '"[')):
        for line in read_lines(path):
            if isinstance(line, Problem):
                yield line
                continue
            text, _, answers = line.text.partition("\t")
            if answers.startswith('"') and answers.endswith('"'):
                answers = answers[1:-1].replace('""', '"')
            yield Row({"question": text, "answers": answers}, line.number, line.repaired)
    else:
        yield from csv_rows(path, wanted=tuple(QUESTION_KEYS))


def _squad(path: Path, split: str | None, task: str | None) -> Iterator[Question | Problem]:
    for found in squad_paragraphs(path):
        if isinstance(found, Problem):
            yield found
            continue
        title, text, questions, repaired = found
        for number, question in enumerate(questions, start=1):
            made = question_of(Row(question, 0, repaired), str(path), task)
            if isinstance(made, Problem):
                yield Problem(str(path), 0, f"question {number} of a paragraph of {title!r} {made.reason}")
                continue
            metadata = {key: value for key, value in made.metadata.items() if key != "plausible_answers"}
            yield Question(
                made.id, made.text, made.answers, (content_id(title, text),), made.task, {**metadata, "title": title}
            )


def _beir(path: Path, split: str | None, task: str | None) -> Iterator[Question | Problem]:
    """Queries with their judged passages; `metadata["relevance"]` holds the grades, where a positive grade
    makes a passage positive. With a split, only the queries that it judges."""
    file = beir_file(path, "queries")
    if file is None:
        yield Problem(str(path), 0, "is a BEIR folder without queries.jsonl")
        return
    files = _qrels_files(path)
    if split is not None and split not in files:
        raise ValueError(f"split={split!r} is not in {path}; it has: {', '.join(sorted(files)) or 'no qrels'}.")
    judged: dict[str, dict[str, int]] = {}
    for name in [split] if split else sorted(files):
        for query, grades in read_qrels(files[name]).items():
            judged.setdefault(query, {}).update(grades)
    for row in jsonl_rows(file):
        made = row if isinstance(row, Problem) else question_of(row, str(file), task)
        if isinstance(made, Problem):
            yield made
        elif made.id in judged or split is None:
            grades = judged.get(made.id, {})
            positive = tuple(name for name, grade in grades.items() if grade > 0)
            metadata = {**made.metadata, "relevance": grades}
            yield Question(made.id, made.text, made.answers, positive, made.task, metadata)


def _qrels_files(folder: Path) -> dict[str, Path]:
    """The judgements of a BEIR folder by split: qrels/SPLIT.tsv or qrels_SPLIT.tsv, plain or packed."""
    found = (*sorted(folder.glob("qrels/*.tsv*")), *sorted(folder.glob("qrels_*.tsv*")))
    named = ((*stem_and_suffix(file), file) for file in found)
    return {stem.removeprefix("qrels_"): file for stem, suffix, file in named if suffix == ".tsv"}


def _saved(path: Path, split: str | None, task: str | None) -> Iterator[Question | Problem]:
    folders = saved_folders(path)
    names = [name for _, name in folders if name]
    if split is not None and split not in names:
        raise ValueError(f"split={split!r} is not in {path}; it has: {', '.join(names) or 'no splits'}.")
    for folder, name in folders:
        for row in saved_rows(folder) if split in (None, name) else ():
            yield row if isinstance(row, Problem) else question_of(row, str(folder), task)


def _captions(path: Path, split: str | None, task: str | None) -> Iterator[Question | Problem]:
    """Captioned pictures, each to be described; right is what is known of the thing that a picture shows."""
    for found in read_captions(path):
        if isinstance(found, Problem):
            yield found
        elif split in (None, found.metadata.get("split")) and found.metadata.get("caption"):
            kept = {key: value for key, value in found.metadata.items() if key not in ("caption", "hidden")}
            answers = (found.metadata["caption"],)
            entity = found.metadata.get("entity")
            yield Question(
                found.id,
                DESCRIBE,
                answers,
                positive=(str(entity),) if entity else (),
                task=task or "caption",
                metadata={**kept, "hidden": [found.id]},
            )


def _unreadable(path: Path, split: str | None, task: str | None) -> Iterator[Question | Problem]:
    yield Problem(str(path), 0, "is no question file; give JSON lines, JSON, CSV, TSV, Parquet, SQuAD or BEIR")


_LAYOUTS = {
    "jsonl": _rows_reader(jsonl_rows),
    "evidence": _rows_reader(evidence_rows),
    "json": _rows_reader(json_rows),
    "csv": _rows_reader(_csv_questions),
    "tsv": _rows_reader(_csv_questions),
    "text": _rows_reader(_csv_questions),
    "parquet": _rows_reader(table_rows),
    "arrow": _rows_reader(table_rows),
    "squad": _squad,
    "beir": _beir,
    "datasets": _saved,
    "pictures": _captions,
}


def evenly(items: Sequence[Any], count: int | None) -> Sequence[Any]:
    """`count` of the items at even distances, since files are often in the order of their articles; None for all."""
    if count is None or count >= len(items):
        return items
    return [items[index * len(items) // count] for index in range(count)]
