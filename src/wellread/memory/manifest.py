"""memory.json: what a memory directory holds, and the commit point of everything that changes it.

The file names one version of the Lance table and the checksum of every file of that version. A change writes
its rows first and replaces memory.json last, in one atomic step; whatever lies beyond the version it names was
never finished, and the next change removes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from wellread.config import from_mapping, to_mapping
from wellread.memory.fingerprint import Fingerprint

__all__ = [
    "CODEC_FILE",
    "MANIFEST_FILE",
    "TABLE",
    "BuildOptions",
    "FileSum",
    "Manifest",
    "file_sum",
    "now",
    "write_atomically",
    "writing",
]

FORMAT = 1
MANIFEST_FILE = "memory.json"
CODEC_FILE = "codec.safetensors"
TABLE = "rows.lance"


@dataclass(frozen=True, slots=True)
class FileSum:
    """Size in bytes and blake2b checksum of a file."""

    bytes: int
    blake2b: str


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What decides the last bits of the states: which passages are encoded together, and in what precision.

    precision: None where nobody said, as in memories made before it was kept.
    """

    batch_size: int
    commit_every: int
    sample_tokens: int
    seed: int
    precision: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of memory.json.

    codec: a name in CODECS, or "none" where only tokens (and keys) are stored. dim: width of the states, None
    without states. key_dim: width of the key of a passage, None without keys. error: what the codec loses,
    measured on states it was not fitted on. complete: False while `memorize` still has passages to encode.
    version: of the Lance table; 0 before the first rows. files: path inside the directory -> its checksum.
    """

    codec: str
    bytes_per_token: int
    dim: int | None
    key_dim: int | None
    fingerprint: Fingerprint
    build: BuildOptions
    error: dict[str, float]
    created: str
    changed: str
    passages: int = 0
    tokens: int = 0
    complete: bool = False
    version: int = 0
    files: dict[str, FileSum] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def data_bytes(self) -> int:
        """Bytes on disk of everything the memory needs to be read."""
        return sum(item.bytes for item in self.files.values())

    def logical(self) -> dict[str, Any]:
        """The part that two builds of the same corpus share: no times, versions or file names."""
        mapping = self._mapping()
        for name in ("created", "changed", "version", "files"):
            del mapping[name]
        return mapping

    def text(self) -> str:
        """The file as text; its last key is the checksum of all the others."""
        mapping = self._mapping()
        mapping["checksum"] = _checksum(mapping)
        return json.dumps(mapping, indent=1) + "\n"

    def _mapping(self) -> dict[str, Any]:
        mapping = to_mapping(self)
        if self.build.precision is None:
            del mapping["build"]["precision"]  # the files and hashes of older memories stay as they are
        return mapping

    def write(self, directory: Path) -> Manifest:
        """Replace memory.json; returns what was written, with the time of the change."""
        changed = replace(self, changed=now())
        write_atomically(directory / MANIFEST_FILE, changed.text().encode())
        return changed

    @classmethod
    def read(cls, directory: str | Path) -> Manifest:
        """The manifest of a memory directory.

        ValueError if there is none, if any byte of it was changed, or if a later wellread wrote it.
        """
        path = Path(directory) / MANIFEST_FILE
        if not path.is_file():
            raise ValueError(
                f"{directory} is not a memory (it has no {MANIFEST_FILE}); build one with `wellread memorize`."
            )
        raw = path.read_bytes()
        try:
            mapping = json.loads(raw)
            stored = mapping.pop("checksum")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise _damaged(path) from error
        if stored != _checksum(mapping):
            raise _damaged(path)
        if mapping.get("format") != FORMAT:
            raise ValueError(
                f"{path} has format {mapping.get('format')!r}; this wellread reads format {FORMAT}. "
                "Install the wellread that wrote it, or memorize the corpus again."
            )
        manifest = from_mapping(cls, mapping, where=MANIFEST_FILE)
        if raw != manifest.text().encode():  # a byte that JSON reads over, such as a space
            raise _damaged(path)
        return manifest


def _damaged(path: Path) -> ValueError:
    return ValueError(f"{path} is damaged: its checksum differs. Restore it from a copy or memorize again.")


def _checksum(mapping: Mapping[str, Any]) -> str:
    canonical = json.dumps(mapping, sort_keys=True, separators=(",", ":"))
    return blake2b(canonical.encode(), digest_size=16).hexdigest()


def now() -> str:
    """The time, UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def file_sum(path: Path, *, flush: bool = False) -> FileSum:
    """Size and checksum of a file. flush: also wait until it is on the disk, not only in its cache."""
    digest = blake2b(digest_size=16)
    size = 0
    with open(path, "rb") as file:
        if flush:
            os.fsync(file.fileno())
        while block := file.read(1 << 22):
            digest.update(block)
            size += len(block)
    return FileSum(size, digest.hexdigest())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a restart after a crash, sees the old or the new one, never a part."""
    beside = path.with_name(path.name + ".new")
    with open(beside, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Turn a failed write (disk full, no permission) into an OSError that names the place and what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"writing the memory {directory} failed: {error}. Free space on that disk or allow writing there, "
            "then run the same command again; what was stored is kept."
        ) from error
