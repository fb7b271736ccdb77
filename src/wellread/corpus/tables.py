"""Parquet and Arrow files and folders saved by the `datasets` library: their rows, and the documents in them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wellread.corpus.documents import Document, Problem, Row, documents_of, placed
from wellread.corpus.files import read_bytes

__all__ = ["read_saved", "read_table", "saved_folders", "saved_rows", "table_rows"]

Found = Iterator[Document | Problem]
Rows = Iterator[Row | Problem]


def read_table(path: Path) -> Found:
    return placed(documents_of(table_rows(path), str(path)), path)


def read_saved(path: Path) -> Found:
    """A folder written by `save_to_disk` of the `datasets` library: all its splits, one after the other."""
    for folder, split in saved_folders(path):
        for row in saved_rows(folder):
            if isinstance(row, Row) and split:
                row = Row({"split": split, **row.value}, row.line, row.repaired)
            yield from documents_of(iter([row]), str(folder))


def saved_folders(path: Path) -> list[tuple[Path, str]]:
    """The folders of a saved DatasetDict with their split names, or the folder itself where it is one
    Dataset."""
    listing = path / "dataset_dict.json"
    if not listing.is_file():
        return [(path, "")]
    return [(path / split, split) for split in _listed(listing, "splits")]


def _listed(path: Path, key: str) -> list[Any]:
    """A list in one of the JSON files that describe a saved Dataset; empty where it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf8")).get(key)
    except (OSError, ValueError, AttributeError):
        return []
    return value if isinstance(value, list) else []


def saved_rows(folder: Path) -> Rows:
    """Rows of one saved Dataset, read through Arrow alone."""
    listed = _listed(folder / "state.json", "_data_files")
    names = [item["filename"] for item in listed if isinstance(item, dict) and "filename" in item]
    names = names or sorted(item.name for item in folder.glob("*.arrow"))
    if not names:
        yield Problem(str(folder), 0, "holds no .arrow files")
    for name in names:
        yield from table_rows(folder / name)


def table_rows(path: Path) -> Rows:
    """Rows of a Parquet or Arrow file, batch by batch. Columns of bytes (pictures) are left out."""
    import pyarrow as pa

    line = 0
    try:
        for batch in _batches(path):
            names = [item.name for item in batch.schema if not _is_bytes(item.type)]
            columns = [_values(batch.column(name)) for name in names]
            for values in zip(*columns) if columns else ():
                line += 1
                repaired = any(value is not None and isinstance(value, _Mended) for value in values)
                yield Row(dict(zip(names, values)), line, repaired)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        yield Problem(str(path), line and line + 1, f"cannot be read as a table: {reason}")


class _Mended(str):
    """Text whose bytes were not UTF-8."""


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _plain(path) as file:
        magic = file.read(6)
        file.seek(0)
        readers: dict[bytes, Callable[[Any], Iterator[Any]]] = {
            b"PAR1": lambda item: _parquet_batches(pq.ParquetFile(item)),
            b"ARROW1": lambda item: _file_batches(pa.ipc.open_file(item)),
        }
        read = next((read for start, read in readers.items() if magic.startswith(start)), pa.ipc.open_stream)
        for batch in read(file):
            for start in range(0, batch.num_rows, 512):
                yield batch.slice(start, 512)


def _parquet_batches(reader: Any) -> Iterator[Any]:
    columns = [item.name for item in reader.schema_arrow if not _is_bytes(item.type)]
    return reader.iter_batches(batch_size=512, columns=columns)


def _file_batches(reader: Any) -> Iterator[Any]:
    return (reader.get_batch(index) for index in range(reader.num_record_batches))


def _plain(path: Path) -> Any:
    """The file opened for jumping about in; a packed one is unpacked into a temporary file first."""
    file = open(path, "rb")  # noqa: SIM115  (handed to the caller, who closes it)
    if not file.read(4).startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
        file.seek(0)
        return file
    file.close()
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115  (the same)
    for part in read_bytes(path):
        if isinstance(part, Problem):
            unpacked.close()
            raise OSError(part.reason)
        unpacked.write(part)
    unpacked.seek(0)
    return unpacked


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):  # `datasets` keeps pictures as {bytes, path}
        return any(_is_bytes(kind.field(index).type) for index in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _values(column: Any) -> list[Any]:
    import pyarrow as pa

    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            return [None] * len(column)
    kind = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
    return [None if raw is None else _text(raw) for raw in column.view(kind).to_pylist()]


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return _Mended(raw.decode("utf-8", "replace"))
