"""`index.json`: what every index directory has, how it is read, replaced and cleared away."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wellread.locking import LOCK

__all__ = ["FORMAT", "prepare", "read_manifest", "refuse_finished", "some", "write_manifest"]

FORMAT = 1


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """The contents of an index's `index.json`; ValueError where it is missing, broken or from another version."""
    path = Path(directory) / "index.json"
    if not path.is_file():
        raise ValueError(f"{directory} holds no finished index (no index.json); make one with `wellread index`.")
    try:
        manifest = json.loads(path.read_text(encoding="utf8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); build the index again.") from error
    if manifest.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {manifest.get('format')!r}; this version reads format {FORMAT}: build the index again."
        )
    return manifest


def write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    """Replace `index.json` in one step."""
    draft = directory / "index.json.new"
    draft.write_text(json.dumps({"format": FORMAT, **manifest}, indent=1, ensure_ascii=False), encoding="utf8")
    os.replace(draft, directory / "index.json")


def refuse_finished(out: Path, overwrite: bool) -> None:
    """ValueError where the directory holds a finished index that is not to be replaced."""
    if not overwrite and (out / "index.json").exists():
        raise ValueError(
            f"{out} already holds an index; bring it up to date (--sync), replace it (--overwrite), or give another "
            "directory."
        )


def prepare(out: Path, overwrite: bool, *, expected: Sequence[str] = ()) -> None:
    """Make the directory of a new index, without the index that was there.

    expected: names that an unfinished build of the same kind leaves, besides segments. ValueError where the
    directory holds a finished index and `overwrite` is False, or anything that is no part of an index.
    """
    refuse_finished(out, overwrite)
    if (out / "index.json").exists():
        old = json.loads((out / "index.json").read_text(encoding="utf8"))
        (out / "index.json").unlink()
        parts = [out / name for name in old.get("options", {}).get("parts", ())]
        for path in [*out.glob("segment-*"), *(part for part in parts if (part / "index.json").exists())]:
            shutil.rmtree(path)
    out.mkdir(parents=True, exist_ok=True)
    fine = {*expected, "index.json.new", LOCK}
    others = [path.name for path in out.iterdir() if not (path.name in fine or path.name.startswith("segment-"))]
    if others:
        raise ValueError(f"{out} holds {some(others)} but no index; give an empty directory.")


def some(names: Sequence[str]) -> str:
    """Up to three of the names, for messages."""
    shown = ", ".join(repr(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
