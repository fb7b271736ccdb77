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

from wellread.corpus.documents import (
    ID_KEYS,
    TEXT_KEYS,
    TITLE_KEYS,
    Document,
    Problem,
    Row,
    documents_of,
    first_of,
    placed,
)
from wellread.corpus.files import Line, read_lines

__all__ = ["csv_rows", "read_csv"]

Header = tuple[list[str], str]  # names of columns, and what stands between them

HEADER_WITHIN = 100  # lines in which the header must come
DELIMITERS = ("\t", ",", ";")
LOOKED_AT = 8  # lines of a file without a column of text, to see whether one of the first names columns
TITLE_LINES = 3  # of these, lines that may be the header
NOTHING = frozenset({"n/a", "na", "-", "--", "none", "null"})
YEAR = re.compile(r"(19|20)\d\d")
LONGEST_NAME = 40
# What columns are called where nothing below them is a number.
USUAL = re.compile(
    "address|answer|area|author|brand|category|city|code|color|company|contact|country|customer|date|department|"
    "description|email|id|item|key|kind|language|location|manager|model|name|notes?|number|owner|person|phone|place|"
    "price|product|project|question|region|role|status|street|subject|surname|team|topic|type|unit|url|value|vendor|year"
)
NUMBER = re.compile(r"(?=.*\d)[\d\s.,:/%+\-eE$€£¥]+")
SPREAD = 10_000  # lines that one quoted row may spread over before its quote is taken for a mistake


def read_csv(path: Path) -> Iterator[Document | Problem]:
    """The documents of a CSV or TSV file. Where no column is named as one that holds the text, but the first line names
    columns, a row's text is all of them, told in sentences: "The name is value." (readers of prose read them best)."""
    header = _plain_header(path)
    rows = csv_rows(path, wanted=TEXT_KEYS, header=header)
    return placed(documents_of(rows if header is None else _told(rows), str(path)), path)


def _plain_header(path: Path) -> Header | None:
    """The names of columns in one of the first lines, none of which holds the text by its name; None for other files.

    A line of names is told from a line of values by a column that has numbers below it and none in it, or by two names
    that tables commonly have. Of several such lines the one counts that most of the lines below agree with in width.
    """
    lines = (line.text for line in read_lines(path) if isinstance(line, Line) and line.text.strip())
    head = list(islice(lines, LOOKED_AT))
    best: tuple[float, int, Header] | None = None
    for place, line in enumerate(head[:TITLE_LINES]):
        for delimiter in DELIMITERS:
            names = _names(line, delimiter)
            if best is None and any(name in TEXT_KEYS for name in names):
                return None
            below = [_names(other, delimiter) for other in head[place + 1 :]]
            rows = [fields for fields in below if len(fields) == len(names)]
            if rows and _are_columns(names, rows):
                found = (len(rows) / len(below), len(names), (names, delimiter))
                best = max(best or found, found, key=lambda each: each[:2])
    return None if best is None else best[2]


def _are_columns(names: list[str], rows: list[list[str]]) -> bool:
    """Whether these look like names of the columns of these rows."""
    named = [name for name in names if name]
    if len(named) < max(2, len(names) - 1) or len(set(named)) < len(named) or max(map(len, named)) > LONGEST_NAME:
        return False
    if any(name in NOTHING or (NUMBER.fullmatch(name) and not YEAR.fullmatch(name)) for name in named):
        return False
    columns = ([row[column] for row in rows if row[column]] for column in range(len(names)))
    numbered = any(
        name and not NUMBER.fullmatch(name) and values and all(map(NUMBER.fullmatch, values))
        for name, values in zip(names, columns, strict=True)
    )
    usual = (USUAL.fullmatch(name) or YEAR.fullmatch(name) or name in (*ID_KEYS, *TITLE_KEYS) for name in named)
    return numbered or sum(map(bool, usual)) > 1


def _told(rows: Iterator[Row | Problem]) -> Iterator[Row | Problem]:
    """Rows with a text made of all their columns, and a title: their own, else the first value that is neither a number
    nor an id. Ids are those of their table alone, and no names of passages. Empty rows, as spreadsheets leave them, are
    passed over."""
    for row in rows:
        if isinstance(row, Problem):
            yield row
            continue
        said = {name: " ".join(value.split()) for name, value in row.value.items() if name and value.strip()}
        if said:
            kept = {name: value for name, value in said.items() if name not in ID_KEYS}
            title = said.get(first_of(said, TITLE_KEYS), "")
            title = title or next((value for value in kept.values() if not NUMBER.fullmatch(value)), "")
            facts = [f"The {name.replace('_', ' ')} is {value}" for name, value in said.items()]
            text = " ".join(fact if fact.endswith((".", "!", "?")) else f"{fact}." for fact in facts)
            yield replace(row, value={**kept, **({"title": title} if title else {}), "text": text})


def csv_rows(path: Path, *, wanted: tuple[str, ...], header: Header | None = None) -> Iterator[Row | Problem]:
    """Rows of a CSV or TSV file as mappings. The header is the first line that names one of `wanted`, or the line
    that says what `header` does.

    A stray quote does not swallow the rows after it: where a quoted field does not close into a row of the
    right width, its first line is reported and reading goes on with the second.
    """
    waiting: deque[Line | Problem] = deque()
    source = read_lines(path, blank=True)
    names: list[str] | None = None
    delimiter = ","
    early: list[Line] = []
    while (line := waiting.popleft() if waiting else next(source, None)) is not None:
        if isinstance(line, Problem):
            yield line
        elif not line.text.strip():
            continue
        elif names is None:
            if header is None:
                names, delimiter = _header(line.text, wanted)
            elif _names(line.text, header[1]) == header[0]:
                names, delimiter = header
            if names is None:
                early.append(line)
            if len(early) == HEADER_WITHIN:
                break
        else:
            yield _row(line, names, delimiter, waiting, source, str(path))
    for line in early[: None if names else 1]:
        missing = f"names no column {' or '.join(wanted)}; rename the one that holds the text"
        yield Problem(str(path), line.number, "comes before the header" if names else missing)


def _header(text: str, wanted: tuple[str, ...]) -> tuple[list[str] | None, str]:
    for delimiter in DELIMITERS:
        names = _names(text, delimiter)
        if any(name in wanted for name in names):
            return names, delimiter
    return None, ","


def _names(text: str, delimiter: str) -> list[str]:
    try:
        fields = _fields(text, delimiter)
    except ValueError:
        fields = None
    return [name.strip().strip('"').lower() for name in (text.split(delimiter) if fields is None else fields)]


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
