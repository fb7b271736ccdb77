"""The Lance table of a memory: commit, roll back, sweep. Only the owner of the lock calls these."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.compute as pc

from wellread.memory.manifest import CODEC_FILE, TABLE, FileSum, Manifest, file_sum

__all__ = ["commit", "commit_removal", "compact", "open_table", "recover", "remove", "sweep"]

_IDS_PER_FILTER = 500  # ids named in one delete expression; Lance parses each as text
_FRAGMENT_BYTES = 256 << 20


def open_table(directory: Path, version: int) -> lance.LanceDataset:
    """The table as the manifest names it. ValueError if it cannot be opened."""
    try:
        return lance.dataset(directory / TABLE, version=version)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the table of memory {directory} cannot be opened at version {version}: {_first_line(error)}. "
            "`wellread memory verify` lists what is damaged or missing; restore those files from a copy."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")


def recover(directory: Path, manifest: Manifest) -> Manifest:
    """Remove whatever a killed change left beyond the commit point, and return the manifest that then holds."""
    table = directory / TABLE
    if manifest.version == 0:
        shutil.rmtree(table, ignore_errors=True)
        return manifest
    open_table(directory, manifest.version)  # before anything is swept: a damaged table must stay as it is
    latest = lance.dataset(table)
    if latest.version != manifest.version:
        latest.checkout_version(manifest.version).restore()
        manifest = _record(directory, manifest, lance.dataset(table))
    sweep(directory)
    return manifest


def sweep(directory: Path) -> None:
    """Delete the files that only earlier versions or a killed change still name."""
    lance.dataset(directory / TABLE).cleanup_old_versions(timedelta(0), delete_unverified=True)


def commit(
    directory: Path,
    manifest: Manifest,
    batches: Sequence[pa.RecordBatch],
    *,
    remove_ids: Sequence[str] = (),
    complete: bool | None = None,
) -> Manifest:
    """Append rows, after removing those with `remove_ids`, as one step; returns the new manifest."""
    dropped = remove(directory, manifest, remove_ids) if remove_ids else (0, 0)
    mode = "append" if manifest.version else "create"
    dataset = lance.write_dataset(
        pa.Table.from_batches(batches),
        directory / TABLE,
        mode=mode,
        # One fragment per commit, whatever its size: the same rows give the same fragments.
        max_rows_per_file=1 << 30,
    )
    added = sum(batch.num_rows for batch in batches)
    tokens = sum(pc.sum(batch.column("num_tokens")).as_py() for batch in batches)
    manifest = replace(
        manifest,
        passages=manifest.passages + added - dropped[0],
        tokens=manifest.tokens + tokens - dropped[1],
        complete=manifest.complete if complete is None else complete,
    )
    return _record(directory, manifest, dataset)


def remove(directory: Path, manifest: Manifest, ids: Sequence[str]) -> tuple[int, int]:
    """Mark the rows of ids as deleted, without touching the manifest: (passages, tokens) that are gone."""
    dataset = lance.dataset(directory / TABLE)
    passages = tokens = 0
    for start in range(0, len(ids), _IDS_PER_FILTER):
        names = ", ".join("'" + name.replace("'", "''") + "'" for name in ids[start : start + _IDS_PER_FILTER])
        rows = dataset.to_table(columns=["num_tokens"], filter=f"id IN ({names})")
        passages += rows.num_rows
        tokens += pc.sum(rows["num_tokens"]).as_py() or 0
        dataset.delete(f"id IN ({names})")
    return passages, tokens


def commit_removal(directory: Path, manifest: Manifest, ids: Sequence[str]) -> Manifest:
    """Remove rows as one step; returns the new manifest."""
    passages, tokens = remove(directory, manifest, ids)
    manifest = replace(manifest, passages=manifest.passages - passages, tokens=manifest.tokens - tokens)
    return _record(directory, manifest, lance.dataset(directory / TABLE))


def compact(directory: Path, manifest: Manifest) -> Manifest:
    """Rewrite small fragments and those with deleted rows; the order of the rows stays."""
    dataset = lance.dataset(directory / TABLE)
    row = max(1, manifest.data_bytes // max(1, manifest.passages))
    dataset.optimize.compact_files(
        target_rows_per_fragment=max(1, _FRAGMENT_BYTES // row),
        materialize_deletions_threshold=0.0,
        num_threads=1,
        batch_size=256,  # rows held while copying
    )
    manifest = _record(directory, manifest, lance.dataset(directory / TABLE))
    sweep(directory)
    return manifest


def _record(directory: Path, manifest: Manifest, dataset: lance.LanceDataset) -> Manifest:
    """Write the manifest that names this version of the table and its files: the commit point."""
    files = _file_sums(directory, _paths(dataset), known=manifest.files)
    return replace(manifest, version=dataset.version, files=files).write(directory)


def _paths(dataset: lance.LanceDataset) -> list[str]:
    """The files of this version of the table, relative to the memory directory."""
    tracked = dataset.tracked_files(min_version=dataset.version).read_all().to_pylist()
    return sorted({f"{TABLE}/{item['path']}" for item in tracked if item["version"] == dataset.version})


def _file_sums(directory: Path, paths: Iterable[str], known: dict[str, FileSum]) -> dict[str, FileSum]:
    """Checksums of files. Files of the table never change once written, so known ones are not read again."""
    codec = {CODEC_FILE: known[CODEC_FILE]} if CODEC_FILE in known else {}
    fresh = {path: known.get(path) or file_sum(directory / path, flush=True) for path in paths}
    return codec | fresh
