"""Find damage in a memory directory: missing files, flipped bytes, rows that do not read back as stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa

from wellread.memory import rows, table
from wellread.memory.manifest import TABLE, Manifest, file_sum

__all__ = ["verify"]

_ROWS = 64


def verify(directory: str | Path) -> dict[str, Any]:
    """Read everything and compare it with what was written.

    Two nets: every file against its checksum in memory.json, and every row, as the table gives it, against the
    checksum taken when it was encoded. Returns
      passages: how many the memory should hold; damaged_files, missing_files: paths inside the directory;
      damaged: ids of the passages that no longer read as stored ("row N" where even the id is lost). A damaged
        or missing file that cannot be pinned to passages stands here itself;
      ok: nothing of all this was found.
    ValueError if memory.json itself is damaged or missing.
    """
    directory = Path(directory)
    manifest = Manifest.read(directory)
    missing = [name for name in manifest.files if not (directory / name).is_file()]
    changed = [
        name for name, stored in manifest.files.items() if name not in missing and file_sum(directory / name) != stored
    ]
    damaged: list[str] = []
    unpinned = set(missing) | set(changed)
    if manifest.version:
        try:
            dataset = table.open_table(directory, manifest.version)
        except ValueError:
            unpinned.add(f"{TABLE} (cannot be opened)")
        else:
            for fragment, first, stop in _fragments(dataset):
                bad = list(_damaged_rows(dataset, first, stop))
                damaged += [_label(dataset, row) for row in bad]
                if bad:
                    unpinned -= {f"{TABLE}/data/{file.path}" for file in fragment.data_files()}
    damaged += sorted(unpinned)
    return {
        "passages": manifest.passages,
        "damaged": damaged,
        "damaged_files": changed,
        "missing_files": missing,
        "ok": not damaged,
    }


# What Lance raises on damaged files: pyarrow's ArrowInvalid is a ValueError, a panic inside it arrives as one
# of these too.
_LOST = (OSError, ValueError, RuntimeError, NotImplementedError)


def _fragments(dataset: lance.LanceDataset) -> Iterator[tuple[lance.LanceFragment, int, int]]:
    """Each fragment with its first row and the row behind its last, counting rows that are not deleted."""
    first = 0
    for fragment in dataset.get_fragments():
        stop = first + fragment.count_rows()
        yield fragment, first, stop
        first = stop


def _damaged_rows(dataset: lance.LanceDataset, first: int, stop: int) -> Iterator[int]:
    """Rows in [first, stop) that cannot be read or whose checksum differs; halves until it finds them."""
    for start in range(first, stop, _ROWS):
        yield from _halve(dataset, start, min(start + _ROWS, stop))


def _halve(dataset: lance.LanceDataset, start: int, stop: int) -> Iterator[int]:
    try:
        batch = _read(dataset, range(start, stop), dataset.schema.names)
        expected = batch.column("checksum").to_pylist()
        found = rows.checksums(batch)
    except _LOST:
        if stop - start == 1:
            yield start
        else:
            middle = (start + stop) // 2
            yield from _halve(dataset, start, middle)
            yield from _halve(dataset, middle, stop)
        return
    yield from (start + index for index, pair in enumerate(zip(found, expected)) if pair[0] != pair[1])


def _read(dataset: lance.LanceDataset, numbers: range, columns: list[str]) -> pa.RecordBatch:
    return dataset.take(list(numbers), columns=columns).combine_chunks().to_batches()[0]


def _label(dataset: lance.LanceDataset, row: int) -> str:
    try:
        return _read(dataset, range(row, row + 1), ["id"]).column("id")[0].as_py()
    except _LOST:
        return f"row {row}"
