"""Captioned pictures: tables with a column of picture bytes, and folders of picture files with their captions.

One picture is one entry: its text is the caption (and the keywords, where there are any), its id names the picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wellread.corpus.documents import ID_KEYS, TEXT_KEYS, Document, Problem, first_of
from wellread.corpus.files import clean
from wellread.corpus.json_files import jsonl_rows

__all__ = ["CAPTIONS", "CAPTION_KEYS", "captions_file", "holds_pictures", "read_captions"]

CAPTION_KEYS = ("caption", "captions", "text", "description")
FILE_KEYS = ("file_name", "image", "picture", "file")
CAPTIONS = ("captions.jsonl", "metadata.jsonl")
"""What the captions of a folder are called; the second is the hub's layout of picture folders."""
QUESTION_FIELDS = ("question", "query")


def captions_file(folder: Path) -> Path | None:
    """The captions of a folder of pictures, plain or packed; None where it is no such folder."""
    names = (folder / f"{name}{packed}" for name in CAPTIONS for packed in ("", ".gz", ".zst"))
    file = next((path for path in names if path.is_file()), None)
    first = next(jsonl_rows(file), None) if file else None
    named = first is not None and not isinstance(first, Problem) and isinstance(first.value, Mapping)
    return file if named and first_of(first.value, FILE_KEYS) and first_of(first.value, CAPTION_KEYS) else None


def holds_pictures(path: Path) -> bool:
    """Whether a Parquet file holds captioned pictures: bytes and a caption, no passages and no questions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return False
    names = set(schema.names)
    if names & {*TEXT_KEYS, *QUESTION_FIELDS} or not names & set(CAPTION_KEYS):
        return False
    return _bytes_column(schema) is not None


def read_captions(path: Path) -> Iterator[Document | Problem]:
    """The pictures of a table or of a folder, each with its caption; a Problem for each that cannot be read."""
    yield from _folder(path) if path.is_dir() else _table(path)


def _table(path: Path) -> Iterator[Document | Problem]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    line = 0
    try:
        with pq.ParquetFile(path) as file:
            column = _bytes_column(file.schema_arrow)
            if column is None:
                yield Problem(str(path), 0, "has no column of picture bytes")
                return
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    line += 1
                    value = row.pop(column)
                    data = value.get("bytes") if isinstance(value, dict) else value
                    yield _entry(row, data, str(path), line)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        yield Problem(str(path), line and line + 1, f"cannot be read as a table: {reason}")


def _folder(path: Path) -> Iterator[Document | Problem]:
    file = captions_file(path)
    if file is None:
        yield Problem(str(path), 0, f"is no folder of pictures: it has no {' or '.join(CAPTIONS)} with file names")
        return
    for row in jsonl_rows(file):
        if isinstance(row, Problem):
            yield row
            continue
        if not isinstance(row.value, Mapping) or not (key := first_of(row.value, FILE_KEYS)):
            yield Problem(str(file), row.line, f"names no picture; one of {', '.join(FILE_KEYS)} is needed")
            continue
        name = str(row.value[key])
        picture = path / name
        if not picture.is_file():
            yield Problem(str(file), row.line, f"names {name!r}, which is not in the folder")
            continue
        fields = {field: value for field, value in row.value.items() if field != key}
        yield _entry({"id": name, **fields}, picture.read_bytes(), str(file), row.line)


def _entry(row: Mapping[str, Any], data: bytes | None, file: str, line: int) -> Document | Problem:
    """A row and the bytes of its picture -> an entry."""
    from wellread.pictures.store import open_image

    if not data:
        return Problem(file, line, "has no picture")
    id_key, caption_key = first_of(row, ID_KEYS), first_of(row, CAPTION_KEYS)
    caption = row[caption_key] if caption_key else ""
    caption = " ".join(map(str, caption)) if isinstance(caption, list) else str(caption)
    name = str(row[id_key]) if id_key else f"picture-{hashlib.sha256(data).hexdigest()[:16]}"
    try:
        open_image(data, name=name)
    except ValueError as error:
        return Problem(file, line, str(error).rstrip("."))
    keywords = row.get("keywords")
    keywords = ", ".join(map(str, keywords)) if isinstance(keywords, list) else str(keywords or "")
    text, changed = clean(f"{caption.strip()} ({keywords.strip()})" if keywords.strip() else caption.strip())
    used = {id_key, caption_key, "source", "keywords"}
    metadata = {str(key): value for key, value in row.items() if key not in used and value is not None}
    collection = {"collection": row["source"]} if row.get("source") else {}
    return Document(
        text=text,
        id=name,
        source="pictures",
        metadata={**metadata, **collection, "caption": caption.strip(), "picture": name},
        file=file,
        line=line,
        repaired=changed,
        picture=data,
    )


def _bytes_column(schema: Any) -> str | None:
    """The column that holds picture bytes, plain or as the struct {bytes, path} of the `datasets` library."""
    import pyarrow as pa

    def holds(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0 and holds(kind.field("bytes").type)
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    return next((field.name for field in schema if holds(field.type)), None)
