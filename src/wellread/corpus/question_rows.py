"""A row of a question file -> Question, by the names of its fields.

This covers our own files, NQ-open, TriviaQA, WebQuestions, KILT, DPR and fact checking.

Metadata that the evaluation understands: `provenance_sets` (lists of ids that count only together; without it
every positive passage is enough alone), `provenance_pages` (those ids are pages, of which passages were cut; KILT),
`answer_regex` (CuratedTREC: an answer is right where the expression matches it), `type` (scores of each type) and
`votes` (how many annotators gave each answer about a picture). A `picture` or `image` is what is asked about, by id or
by file; rows of pictures and captions ask for the caption.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from wellread.corpus.captions import CAPTION_KEYS, FILE_KEYS
from wellread.corpus.documents import TEXT_KEYS, Problem, Row, first_of
from wellread.corpus.files import clean
from wellread.types import Question

__all__ = ["DESCRIBE", "QUESTION_KEYS", "question_of"]

# field -> the task that a row with this field asks for, unless it says itself
QUESTION_KEYS = {
    "question": "qa",
    "claim": "claim",
    "query": "qa",
    "input": "qa",
    "Question": "qa",
    "utterance": "qa",
    "qText": "qa",
}
CLAIM_LABELS = frozenset(("SUPPORTS", "REFUTES", "NOT ENOUGH INFO", "DISPUTED"))
"""Answers that make a row a claim, by whatever name its text goes (KILT's FEVER has `input`)."""
ANSWER_KEYS = ("answers", "answer", "label", "output", "Answer", "targetValue")
POSITIVE_KEYS = ("positive", "positives", "positive_ids", "positive_ctxs")
QUESTION_ID_KEYS = ("id", "_id", "qid", "question_id", "QuestionId", "qId")
PICTURE_KEYS = ("picture", "image")
PICTURE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"))
DESCRIBE = "Describe this picture."
"""What is asked of a picture that comes with captions and no question."""
INNER_ID_KEYS = ("passage_id", "id", "wikipedia_id", "psg_id")


def question_of(row: Row, file: str, task: str | None) -> Question | Problem:
    """The question that a row of `file` holds, or what is wrong with it. task: of rows that name none."""
    record = row.value
    if not isinstance(record, Mapping):
        return Problem(file, row.line, "is not an object with named fields")
    if _is_caption(record):
        picture, answer = (record[first_of(record, keys)] for keys in (FILE_KEYS, CAPTION_KEYS))
        record = {"question": DESCRIBE, "task": "caption", "answers": answer, "picture": picture, **record}
    key = first_of(record, tuple(QUESTION_KEYS))
    if key is None and "_id" in record:
        key = first_of(record, ("text",))  # BEIR
    text = record.get(key) if key else None
    if isinstance(text, Mapping):  # Natural Questions in its long form
        text = text.get("text")
    if not isinstance(text, str) or not text.strip():
        found = ", ".join(str(name) for name in list(record)[:8]) or "none"
        wanted = ", ".join(QUESTION_KEYS)
        return Problem(file, row.line, f"holds no question (fields: {found}); one of {wanted} is needed")
    answer = first_of(record, ANSWER_KEYS)
    positive = first_of(record, POSITIVE_KEYS)
    name = first_of(record, QUESTION_ID_KEYS)
    kind = record.get("task")
    used = {key, answer, positive, name, "task" if isinstance(kind, str) else None}
    metadata = {str(field): value for field, value in record.items() if field not in used and value is not None}
    output = record[answer] if answer else ()
    given = [clean(item)[0] for item in _answers(output, answer)]
    answers = _unique(given)
    if first_of(record, PICTURE_KEYS) and (len(given) > len(answers) or _of_annotators(output)):
        metadata["votes"] = dict(Counter(item for item in given if item in answers))
    judged = bool(answers) and CLAIM_LABELS.issuperset(answers)
    guessed = "claim" if judged else "slot" if "[SEP]" in text else QUESTION_KEYS.get(key, "qa")
    metadata = _pictured(metadata, file)
    sets = [] if positive else list(_provenance(output))
    if sets:
        metadata |= {"provenance_sets": sets, "provenance_pages": True}
    return Question(
        id=str(record[name]) if name else "",
        text=clean(text)[0].strip(),
        answers=answers,
        positive=_unique(_ids(record[positive]) if positive else chain.from_iterable(sets)),
        task=kind if isinstance(kind, str) and kind else task or guessed,
        metadata=metadata,
    )


def _of_annotators(output: Any) -> bool:
    """Whether answers are one of each annotator, as VQA's files have them: [{"answer": ..., "answer_id": ...}]."""
    return isinstance(output, list) and any(isinstance(item, Mapping) and "answer_id" in item for item in output)


def _is_caption(record: Mapping[str, Any]) -> bool:
    """Whether a row is a picture with its caption: to be described, not asked about."""
    asked = first_of(record, (*QUESTION_KEYS, *TEXT_KEYS))
    return not asked and bool(first_of(record, FILE_KEYS) and first_of(record, CAPTION_KEYS))


def _pictured(metadata: dict[str, Any], file: str) -> dict[str, Any]:
    """The metadata of a question about a picture: a file beside its own by its path, and the entries of that picture
    hidden, by whichever name they have it."""
    key = first_of(metadata, PICTURE_KEYS)
    picture = metadata[key] if key else None
    if not isinstance(picture, str):
        return metadata
    beside = Path(file).parent / picture
    if Path(picture).suffix.lower() in PICTURE_SUFFIXES and beside.is_file():
        metadata = {**metadata, key: str(beside)}
    hidden = _unique([*metadata.get("hidden", ()), picture, metadata[key]])
    return {**metadata, "hidden": list(hidden)}


def _unique(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item for item in items if item.strip()))


def _answers(value: Any, key: str | None) -> Iterator[str]:
    """All answer texts in a field, however it is nested."""
    if isinstance(value, str):
        yield from _listed(value, key)
    elif isinstance(value, (bool, int, float)):
        yield str(value)
    elif isinstance(value, Mapping):
        for inner in ("Value", "value", "answer", "text", "Aliases", "aliases"):
            yield from _answers(value.get(inner), None)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _answers(item, None)


_DESCRIPTION = re.compile(r'\(description (?:"((?:[^"\\]|\\.)*)"|([^()"]+))\)')


def _listed(text: str, key: str | None) -> Iterator[str]:
    """An answer, or a list of them written as text: (list (description "a")) of WebQuestions, ["a"] in CSV."""
    if key == "targetValue":
        yield from (quoted or bare for quoted, bare in _DESCRIPTION.findall(text))
        return
    if key and text.startswith("[") and text.endswith("]"):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            yield from _answers(value, None)
            return
    yield text


def _ids(value: Any) -> Iterator[str]:
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(item, Mapping):
            key = first_of(item, INNER_ID_KEYS)
            item = item[key] if key else None
        if item is not None:
            yield str(item)


def _provenance(output: Any) -> Iterator[list[str]]:
    """KILT: the pages that each of its answers comes from, which count together."""
    for item in output if isinstance(output, list) else []:
        places = (item.get("provenance") or []) if isinstance(item, Mapping) else []
        pages = [place.get("wikipedia_id") for place in places if isinstance(place, Mapping)]
        if found := list(_unique(str(page) for page in pages if page is not None)):
            yield found
