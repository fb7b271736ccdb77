"""CSV and TSV files: their rows, and the documents in them."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from wellread.corpus.documents import TEXT_KEYS, Document, Problem, Row, documents_of
from wellread.corpus.files import Line, read_lines

__all__ = ["csv_rows", "read_csv"]

HEADER_WITHIN = 100  # lines in which the header must come
DELIMITERS = ("\t", ",", ";")
COLUMN = re.compile(r"(?=.*[^\W\d_])[\w %()/#&+.-]{1,40}")  # what the name of a column looks like: words, no sentence
NUMBER = re.compile(r"[\d\s.,:/%+-]+")
SPREAD = 10_000  # lines that one quoted row may spread over before its quote is taken for a mistake


def read_csv(path: Path) -> Iterator[Document | Problem]:
    """The documents of a CSV or TSV file. Where no column holds the text, a row's text is all of its columns, told as
    "name: value; name: value", and its title the first value that is no number."""
    first = _first_of_plain_columns(path)
    if first is None:
        return documents_of(csv_rows(path, wanted=TEXT_KEYS), str(path))
    return documents_of(map(_told, csv_rows(path, wanted=(first,))), str(path))


def _first_of_plain_columns(path: Path) -> str | None:
    """The first column of a table whose header is its first line and names no text; None for other files."""
    lines = (line.text for line in read_lines(path) if isinstance(line, Line) and line.text.strip())
    head = list(islice(lines, HEADER_WITHIN))
    if not head or any(_header(line, TEXT_KEYS)[0] for line in head):
        return None
    names = max((_names(head[0], delimiter) for delimiter in DELIMITERS), key=len)
    plain = len(names) > 1 and len(set(names)) == len(names) and all(map(COLUMN.fullmatch, names))
    return names[0] if plain and len(head) > 1 else None


def _told(row: Row | Problem) -> Row | Problem:
    if isinstance(row, Problem):
        return row
    said = {name: " ".join(value.split()) for name, value in row.value.items() if value.strip()}
    title = next((value for value in said.values() if not NUMBER.fullmatch(value)), "")
    text = "; ".join(f"{name}: {value}" for name, value in said.items())
    return replace(row, value={"title": title, **row.value, "text": text})


def csv_rows(path: Path, *, wanted: tuple[str, ...]) -> Iterator[Row | Problem]:
    """Rows of a CSV or TSV file as mappings. The header is the first line that names one of `wanted`.

    A stray quote does not swallow the rows after it: where a quoted field does not close into a row of the
    right width, its first line is reported and reading goes on with the second.
    """
    waiting: deque[Line | Problem] = deque()
    source = read_lines(path, blank=True)
    header: list[str] | None = None
    delimiter = ","
    early: list[Line] = []
    while (line := waiting.popleft() if waiting else next(source, None)) is not None:
        if isinstance(line, Problem):
            yield line
        elif not line.text.strip():
            continue
        elif header is None:
            header, delimiter = _header(line.text, wanted)
            if header is None:
                early.append(line)
            if len(early) == HEADER_WITHIN:
                break
        else:
            yield _row(line, header, delimiter, waiting, source, str(path))
    for line in early[: None if header else 1]:
        missing = f"names no column {' or '.join(wanted)}; rename the one that holds the text"
        yield Problem(str(path), line.number, "comes before the header" if header else missing)


def _header(text: str, wanted: tuple[str, ...]) -> tuple[list[str] | None, str]:
    for delimiter in DELIMITERS:
        names = _names(text, delimiter)
        if any(name in wanted for name in names):
            return names, delimiter
    return None, ","


def _names(text: str, delimiter: str) -> list[str]:
    return [name.strip().strip('"').lower() for name in text.split(delimiter)]


def _fields(text: str, delimiter: str) -> list[str] | None:
    """The fields of one row; None where a quoted field is still open; ValueError where quotes are misused."""
    # The limit is the process's own; the default of 128 Ki would turn long documents into errors.
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 30))
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            return None
        if (
            delimiter == "\t" and "\n" not in text
        ):  # TSV is often written without quoting, so a quote may be just a letter
            return text.split("\t")
        raise ValueError(str(error)) from None


def _row(
    line: Line,
    header: list[str],
    delimiter: str,
    waiting: deque[Line | Problem],
    source: Iterator[Line | Problem],
    file: str,
) -> Row | Problem:
    fields, taken, reason = _gather(line, header, delimiter, waiting, source)
    if fields is None:
        waiting.extendleft(reversed(taken))
        return Problem(file, line.number, reason)
    repaired = line.repaired or any(item.repaired for item in taken)
    return Row(dict(zip(header, fields)), line.number, repaired)


def _gather(
    line: Line, header: list[str], delimiter: str, waiting: deque, source: Iterator
) -> tuple[list[str] | None, list[Any], str]:
    """The fields of the row that starts at `line`, the lines taken after it, and why it is no row."""
    taken: list[Line | Problem] = []
    text = line.text
    pieces = [text]
    while True:
        try:
            fields = _fields(text, delimiter)
        except ValueError as error:
            return None, taken, f"is not CSV: {error}"
        if fields is not None and len(fields) == len(header):
            return fields, taken, ""
        if fields is not None:
            return None, taken, f"has {len(fields)} columns; the header has {len(header)}"
        if delimiter == "\t" and text.count("\t") == len(header) - 1 and not taken:
            return text.split("\t"), taken, ""
        while True:  # only a line with a quote can close the field, so only such lines are worth a new try
            extra = waiting.popleft() if waiting else next(source, None)
            if extra is None or isinstance(extra, Problem) or len(taken) >= SPREAD:
                taken.extend([extra] if extra is not None else [])
                return None, taken, "opens a quote that is never closed"
            taken.append(extra)
            pieces.append(extra.text)
            if '"' in extra.text:
                break
        text = "\n".join(pieces)
