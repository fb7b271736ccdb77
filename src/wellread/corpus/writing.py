"""Questions -> a file of JSON lines that `read_questions` reads back, plain or packed."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from wellread.types import Question

__all__ = ["write_questions"]


def write_questions(path: str | Path, questions: Iterable[Question], *, overwrite: bool = False) -> int:
    """Write the questions, one JSON object a line, metadata as further fields; how many there were.

    The name ends in .jsonl, .jsonl.gz or .jsonl.zst. The file appears when it is whole; the same questions always
    give the same bytes. ValueError where the path cannot be written to, before the first question is asked for.
    """
    path = Path(path)
    packing = next((make for end, make in _PACKINGS.items() if path.name.endswith(end)), None)
    if packing is None:
        raise ValueError(f"out={path} must end in one of: {', '.join(_PACKINGS)}.")
    if path.is_dir():
        raise ValueError(f"out={path} is a folder; give the name of a file.")
    if path.exists() and not overwrite:
        raise ValueError(f"out={path} exists; give a new file, or --overwrite (overwrite=True) to replace it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting = path.with_name(f".{path.name}.{os.getpid()}.part")
    count = 0
    try:
        with open(waiting, "wb") as raw, packing(raw) as file:
            for question in questions:
                file.write(json.dumps(_row(question), ensure_ascii=False).encode("utf-8") + b"\n")
                count += 1
        os.replace(waiting, path)
    finally:
        waiting.unlink(missing_ok=True)
    return count


def _row(question: Question) -> dict[str, Any]:
    own = {
        "id": question.id,
        "question": question.text,
        "answers": list(question.answers),
        "positive": list(question.positive),
        "task": question.task,
    }
    return {**own, **{key: value for key, value in question.metadata.items() if key not in own}}


def _plain(raw: IO[bytes]) -> IO[bytes]:
    return raw


def _gzip(raw: IO[bytes]) -> Any:
    return gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0)


def _zstd(raw: IO[bytes]) -> Any:
    import zstandard

    return zstandard.ZstdCompressor().stream_writer(raw, closefd=False)


_PACKINGS: dict[str, Callable[[IO[bytes]], Any]] = {".jsonl": _plain, ".jsonl.gz": _gzip, ".jsonl.zst": _zstd}
