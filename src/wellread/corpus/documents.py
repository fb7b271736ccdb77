"""The values inside this step: Document and Problem, and how a row with named fields becomes a Document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wellread.extras import install_hint

__all__ = [
    "ID_KEYS",
    "INSTALL",
    "TEXT_KEYS",
    "TITLE_KEYS",
    "Document",
    "Problem",
    "Row",
    "document_from",
    "documents_of",
    "first_of",
    "placed",
]

# Brings what PDF and Word files are read with.
INSTALL = install_hint("documents")
ID_KEYS = ("id", "_id", "pid", "docid", "doc_id", "passage_id", "wikipedia_id")
TITLE_KEYS = ("title", "wikipedia_title")
TEXT_KEYS = ("text", "passage", "contents", "content", "body", "abstract")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that was read and could not be used. line: from 1; 0 where the whole file is meant."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}" if self.line else f"{self.file}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Document:
    """What a reader gives: a text before it is cut.

    id: the source's own, None where it has none. part: 0, or the number of the section where a very long
    file comes in several Documents. file, line: where it was read. repaired: badly encoded text was mended.
    picture: the bytes of the picture that `metadata["picture"]` names, where they came along.
    """

    text: str
    title: str = ""
    id: str | None = None
    source: str = "text"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    part: int = 0
    file: str = ""
    line: int = 0
    repaired: bool = False
    picture: bytes | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table and where it stood."""

    value: Any
    line: int
    repaired: bool = False


def documents_of(rows: Iterable[Row | Problem], file: str) -> Iterator[Document | Problem]:
    """The documents that rows hold; a Problem for each row that holds none."""
    for row in rows:
        if isinstance(row, Problem):
            yield row
        else:
            yield document_from(row.value, file=file, line=row.line, repaired=row.repaired)


def placed(found: Iterable[Document | Problem], path: Path) -> Iterator[Document | Problem]:
    """Documents that say which file they stand in; what they call `file` themselves is kept as "column file"."""
    for item in found:
        if isinstance(item, Document):
            own = {"column file": item.metadata["file"]} if item.metadata.get("file") else {}
            item = replace(item, metadata={**item.metadata, **own, "file": path.name})
        yield item


def first_of(record: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    """The first of `keys` that the record has with a value, or None."""
    return next((key for key in keys if record.get(key) not in (None, "")), None)


def document_from(record: object, *, file: str, line: int, repaired: bool = False) -> Document | Problem:
    """A row with named fields -> Document; a Problem where it holds no text.

    The text is the first of TEXT_KEYS (a list of paragraphs, as in KILT, is joined by blank lines), the
    title and id likewise; a `source` that is text becomes the passage's source; every other field is kept
    as metadata.
    """
    from wellread.corpus.files import clean

    if not isinstance(record, Mapping):
        return Problem(file, line, f"is {_kind(record)}; a row must be an object with named fields")
    keys = {name: first_of(record, table) for name, table in _TABLES.items()}
    if keys["text"] is None and keys["title"] is None:
        known = next((key for key in TEXT_KEYS if key in record), None)
        found = ", ".join(str(key) for key in list(record)[:8]) or "none"
        reason = f"{known!r} is empty" if known else f"has no text (fields: {found}); one of {_WANTED} is needed"
        return Problem(file, line, reason)
    title = record[keys["title"]] if keys["title"] else ""
    text = record[keys["text"]] if keys["text"] else ""
    if keys["text"] is None and not any(key in record for key in TEXT_KEYS):
        return Problem(file, line, f"has a title but no text; one of {_WANTED} is needed")
    if isinstance(text, list) and all(isinstance(item, str) for item in text):
        text = _paragraphs(text, title)
    for key, value in ((keys["text"], text), (keys["title"], title)):
        if not isinstance(value, str):
            return Problem(file, line, f"{key!r} is {_kind(value)}; it must be text")
    source = record.get("source")
    used = {*keys.values(), *(("source",) if isinstance(source, str) and source else ())}
    cleaned = [clean(value) for value in (text, title, _name(record, keys["id"]), source if "source" in used else "")]
    text, title, name, source = (value for value, _ in cleaned)
    if not text.strip() and not title.strip():
        return Problem(file, line, f"{keys['text']!r} is empty")
    return Document(
        text=text,
        title=title.strip(),
        id=name or None,
        source=source or "text",
        metadata={str(key): value for key, value in record.items() if key not in used and value is not None},
        file=file,
        line=line,
        repaired=repaired or any(changed for _, changed in cleaned),
    )


_TABLES = {"id": ID_KEYS, "title": TITLE_KEYS, "text": TEXT_KEYS}
_WANTED = ", ".join(TEXT_KEYS)
_KINDS = {type(None): "null", bool: "true or false", str: "text", list: "a list", dict: "an object"}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)


def _name(record: Mapping[str, Any], key: str | None) -> str:
    return "" if key is None else str(record[key]).strip()


def _paragraphs(items: list[str], title: object) -> str:
    """KILT pages: the first paragraph repeats the title, headings and bullets carry markers."""
    lines = [item.strip() for item in items]
    if lines and lines[0] == title:
        lines = lines[1:]
    kept = [line.removeprefix("BULLET::::-").strip() for line in lines if not line.startswith("Section::::")]
    return "\n\n".join(line for line in kept if line)
