"""Find damage in a memory directory: missing files, flipped bytes, rows that do not read back as stored."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa

from wellread.memory import rows, table
from wellread.memory.manifest import TABLE, Manifest, file_sum

__all__ = ["damaged_files", "verify"]

_ROWS = 64  # read at a time
_LISTS = (f"{TABLE}/_versions/", f"{TABLE}/_deletions/")  # what says where the rows are


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
    changed, missing = damaged_files(directory, manifest)
    unpinned = {*changed, *missing}
    damaged: list[str] = []
    # Rows are looked for only where the lists that say where they are can be trusted.
    if manifest.version and not any(name.startswith(_LISTS) for name in unpinned):
        dataset = table.open_table(directory, manifest.version)
        for files, first, stop in _fragments(dataset):
            suspect = files & {*changed, *missing}
            look = _look_apart(directory, first, stop) if suspect else _look(dataset, first, stop)
            bad = [name for _, names in look for name in names]
            damaged += bad
            if bad:
                unpinned -= files
    damaged += sorted(unpinned)
    return {
        "passages": manifest.passages,
        "damaged": damaged,
        "damaged_files": changed,
        "missing_files": missing,
        "ok": not damaged,
    }


def damaged_files(directory: Path, manifest: Manifest) -> tuple[list[str], list[str]]:
    """Files whose bytes differ from what was written, and files that are gone; paths inside the directory."""
    missing = [name for name in manifest.files if not (directory / name).is_file()]
    there = {name: stored for name, stored in manifest.files.items() if name not in missing}
    return [name for name, stored in there.items() if file_sum(directory / name) != stored], missing


def _fragments(dataset: lance.LanceDataset) -> Iterator[tuple[set[str], int, int]]:
    """The data files of each fragment, its first row and the row behind its last, deleted ones not counted."""
    first = 0
    for fragment in dataset.get_fragments():
        stop = first + fragment.count_rows()
        yield {f"{TABLE}/data/{file.path}" for file in fragment.data_files()}, first, stop
        first = stop


def _look(dataset: lance.LanceDataset, first: int, stop: int) -> Iterator[tuple[int, list[str]]]:
    """Runs of rows in [first, stop): the row behind each run, and the names of damaged passages in it."""
    for start in range(first, stop, _ROWS):
        end = min(start + _ROWS, stop)
        yield end, [_name(dataset, row) for row in _halve(dataset, start, end)]


def _look_apart(directory: Path, first: int, stop: int) -> Iterator[tuple[int, list[str]]]:
    """Like `_look` in a process of its own: a flipped length can make Lance ask for so much memory that it
    ends the process. Where that happens, all rows of the run count as lost, and the next run is tried."""
    program = "from wellread.memory.verify import report; import sys; report(*sys.argv[1:])"
    while first < stop:
        command = [sys.executable, "-c", program, str(directory), str(first), str(stop)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            first, names = json.loads(line)
            yield first, names
        if first < stop:
            end = min(first + _ROWS, stop)
            yield end, [f"row {row}" for row in range(first, end)]
            first = end


def report(directory: str, first: str, stop: str) -> None:
    """Write what `_look` finds to standard output as lines of JSON; what `_look_apart` runs."""
    dataset = table.open_table(Path(directory), Manifest.read(directory).version)
    for run in _look(dataset, int(first), int(stop)):
        sys.stdout.write(json.dumps(run) + "\n")
        sys.stdout.flush()


def _halve(dataset: lance.LanceDataset, start: int, stop: int) -> Iterator[int]:
    """Rows that cannot be read or whose checksum differs; halves the run until it finds them."""
    try:
        batch = _read(dataset, range(start, stop), dataset.schema.names)
        pairs = list(zip(rows.checksums(batch), batch.column("checksum").to_pylist()))
    except BaseException as error:
        if not _is_damage(error):
            raise
        if stop - start == 1:
            yield start
            return
        middle = (start + stop) // 2
        yield from _halve(dataset, start, middle)
        yield from _halve(dataset, middle, stop)
        return
    yield from (start + index for index, (found, stored) in enumerate(pairs) if found != stored)


def _read(dataset: lance.LanceDataset, numbers: range, columns: list[str]) -> pa.RecordBatch:
    return dataset.take(list(numbers), columns=columns).combine_chunks().to_batches()[0]


def _name(dataset: lance.LanceDataset, row: int) -> str:
    try:
        return _read(dataset, range(row, row + 1), ["id"]).column("id")[0].as_py()
    except BaseException as error:
        if not _is_damage(error):
            raise
        return f"row {row}"


def _is_damage(error: BaseException) -> bool:
    """Whether an exception is what Lance says to damaged files, its own panics (no Exception) included.

    pyarrow's ArrowInvalid is a ValueError. A panic that is not wrapped arrives as pyo3_runtime.PanicException,
    which no module exports.
    """
    kinds = (OSError, ValueError, RuntimeError, NotImplementedError)
    return isinstance(error, kinds) or type(error).__module__ == "pyo3_runtime"
