"""JSON lines, JSON and SQuAD files: their rows, and the documents in them.

Readers give what they find in the order of the file and go on after a bad row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wellread.corpus.documents import TEXT_KEYS, Document, Problem, Row, documents_of, placed
from wellread.corpus.files import clean, peek_text, read_lines, read_text

__all__ = ["json_rows", "jsonl_rows", "read_json", "read_jsonl", "read_squad", "squad_paragraphs"]

Found = Iterator[Document | Problem]
Rows = Iterator[Row | Problem]


def parse_json(text: str) -> Any:
    """json.loads that takes raw control characters inside strings; ValueError for everything unreadable."""
    try:
        return json.loads(text, strict=False)
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None


def jsonl_rows(path: Path) -> Rows:
    """One JSON value a line."""
    for line in read_lines(path):
        if isinstance(line, Problem):
            yield line
            continue
        try:
            value = parse_json(line.text)
        except ValueError as error:
            yield Problem(str(path), line.number, f"is not JSON: {error}")
            continue
        yield Row(value, line.number, line.repaired)


def json_rows(path: Path) -> Rows:
    """The rows of a JSON file: a list, an object that holds one list of rows, JSON lines by another name."""
    if _is_json_lines(path):
        yield from jsonl_rows(path)
        return
    for item in _whole_json(path):
        if isinstance(item, Problem):
            yield item
            continue
        for number, value in enumerate(_list_in(item.value), start=1):
            yield Row(value, number, item.repaired)


def _is_json_lines(path: Path) -> bool:
    head = peek_text(path, 1 << 16)
    lines = [line for line in head.splitlines()[:-1] if line.strip()][:2]
    try:
        return len(lines) == 2 and all(isinstance(parse_json(line), dict) for line in lines)
    except ValueError:
        return False


def _whole_json(path: Path) -> Rows:
    for line in read_text(path):
        if isinstance(line, Problem):
            yield line
            continue
        try:
            value = parse_json(line.text)
        except ValueError as error:
            yield Problem(str(path), getattr(error, "lineno", 0), f"is not JSON: {error}")
            continue
        yield Row(value, 1, line.repaired)


def _list_in(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
        if len(lists) == 1 and not any(key in value for key in TEXT_KEYS):
            return lists[0]
    return [value]


def read_jsonl(path: Path) -> Found:
    return placed(documents_of(jsonl_rows(path), str(path)), path)


def read_json(path: Path) -> Found:
    return placed(documents_of(json_rows(path), str(path)), path)


def squad_paragraphs(path: Path) -> Iterator[tuple[str, str, list[Any], bool] | Problem]:
    """(title, context, questions, repaired) of every paragraph of a SQuAD file: data > paragraphs > qas."""
    for item in _whole_json(path):
        if isinstance(item, Problem):
            yield item
            continue
        articles = item.value.get("data") if isinstance(item.value, dict) else None
        if not isinstance(articles, list):
            yield Problem(str(path), 0, "is not SQuAD: it has no list named data")
            continue
        for number, article in enumerate(articles):
            paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
            if not isinstance(paragraphs, list):
                yield Problem(str(path), 0, f"data[{number}] has no list named paragraphs")
                continue
            for place, paragraph in enumerate(paragraphs):
                context = paragraph.get("context") if isinstance(paragraph, dict) else None
                if not isinstance(context, str) or not context.strip():
                    yield Problem(str(path), 0, f"data[{number}].paragraphs[{place}] has no context")
                    continue
                title = str(article.get("title") or "").replace("_", " ")
                yield clean(title)[0], clean(context)[0], paragraph.get("qas") or [], item.repaired


def read_squad(path: Path) -> Found:
    """Paragraphs as documents; their ids come from their content, the same that `read_questions` names."""
    from wellread.corpus.cutting import content_id

    for found in squad_paragraphs(path):
        if isinstance(found, Problem):
            yield found
            continue
        title, text, _, repaired = found
        name = content_id(title, text)
        yield Document(text, title=title, id=name, file=str(path), repaired=repaired)
