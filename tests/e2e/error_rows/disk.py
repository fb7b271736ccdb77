"""What the operating system refuses."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from error_rows.kit import SCRATCH, Place, Row

FULL = OSError(errno.ENOSPC, "No space left on device")  # pyarrow and lance name no file


def full_disk(place: Place, target: str, error: Exception) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise error

    place.patch.setattr(target, refuse)


def full_for_weights(place: Place) -> None:
    from safetensors import SafetensorError

    told = "Error while serializing: I/O error: No space left on device (os error 28)"
    full_disk(place, "wellread.nn.checkpoints.save_file", SafetensorError(told))


def forbidden(place: Place) -> None:
    """As if no folder might be made here; root, whom nothing is forbidden, may run the tests."""

    def refuse(path: Path, *arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    place.patch.setattr(Path, "mkdir", refuse)


TOPICS: dict[str, list[Row]] = {
    "Disk": [
        Row(
            "memorize-full",
            "a disk that is full while memorizing",
            "memorize corpus --model model --out new",
            r"writing the memory new failed: .*No space left on device\. Free space on that disk or allow writing "
            r"there, then run the same command again; what was stored is kept\.",
            lambda place: full_disk(place, "lance.write_dataset", FULL),
        ),
        Row(
            "corpus-full",
            "a disk that is full while a corpus is written",
            "corpus passages.jsonl --out new",
            r"new: No space left on device; free space on that disk, then run the same command again; .*",
            lambda place: full_disk(place, "wellread.corpus.store.CorpusWriter._flush", FULL),
        ),
        Row(
            "weights-full",
            "a disk that is full while weights are written",
            SCRATCH,
            r"new-model/model\.safetensors: No space left on device; free space on that disk, then .*",
            full_for_weights,
        ),
        Row(
            "forbidden",
            "a folder where writing is not allowed",
            SCRATCH,
            r"new-model: Permission denied; there is no permission for it; allow it, or choose another folder "
            r"\(--out\)\.",
            forbidden,
        ),
        Row(
            "memorize-forbidden",
            "a folder where writing is not allowed",
            "memorize corpus --model model --out new",
            r"writing the memory new failed: .*Permission denied.*\. Free space on that disk or allow writing there, "
            r"then run the same command again; what was stored is kept\.",
            forbidden,
        ),
        Row(
            "below-a-file",
            "a folder below a file",
            "corpus passages.jsonl --out recipe.toml/corpus",
            r"out=recipe\.toml/corpus cannot be made: recipe\.toml is a file; give another folder\.",
        ),
        Row(
            "over-a-file",
            "a file where a folder is to be",
            "train recipe.toml --out questions.jsonl",
            r"questions\.jsonl: File exists; a file stands where a folder is needed, or a folder where a file is; "
            r"choose another path \(--out\)\.",
        ),
    ],
}
