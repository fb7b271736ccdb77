"""Memory: open what was computed ahead, fetch it by passage id, look after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from wellread.locking import locked
from wellread.memory import rows, table
from wellread.memory.codecs import CODECS, Codec
from wellread.memory.fingerprint import Fingerprint
from wellread.memory.manifest import CODEC_FILE, Manifest, file_sum, writing
from wellread.types import Passage

__all__ = ["Memory", "MemoryRows", "load_codec"]


@dataclass(frozen=True, slots=True)
class MemoryRows:
    """Passages in the order they were asked for, and what the memory holds of each.

    tokens: per passage [tokens] int32. states: per passage [stored, dim], or None where the memory holds no
    states (or none were asked for). keys: [passages, key_dim] float32, or None.
    """

    passages: list[Passage]
    tokens: list[np.ndarray]
    states: list[Tensor] | None
    keys: Tensor | None


@contextmanager
def _reading(directory: Path) -> Iterator[None]:
    """Turn what Lance says to damaged files into a ValueError that says what to do."""
    try:
        yield
    except (OSError, RuntimeError, pa.ArrowInvalid) as error:
        told = str(error).partition(", /")[0]  # a place in Lance's own source follows
        raise ValueError(
            f"memory {directory} cannot be read ({told}); `wellread memory verify {directory}` names what is damaged. "
            "Restore it from a copy or memorize again."
        ) from error


def load_codec(directory: Path, manifest: Manifest) -> Codec | None:
    """The codec a memory was written with; None where it holds no states."""
    if manifest.dim is None:
        return None
    from safetensors.torch import load_file

    path, stored = directory / CODEC_FILE, manifest.files.get(CODEC_FILE)
    if stored is None:
        return CODECS[manifest.codec].from_tensors({}, manifest.dim)
    if not path.is_file():
        raise ValueError(f"{path} is missing; the states cannot be decoded without it. Restore it from a copy.")
    if file_sum(path) != stored:  # one flipped byte of a table would spoil many states without a sign
        raise ValueError(f"{path} is damaged: its checksum differs. Restore it from a copy or memorize again.")
    return CODECS[manifest.codec].from_tensors(load_file(path), manifest.dim)


class Memory:
    """A memory directory, open for reading; the handle to its table stays open.

    Reading sees the version that was current at `open` or at the last `refresh`. Changes go through `delete`,
    `compact`, and `add` and `update` of wellread.memory.edit; one process may change a memory at a time.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Use `Memory.open`."""
        self.path = path
        self.manifest = manifest
        self.codec = load_codec(path, manifest)
        self._dataset = table.open_table(path, manifest.version) if manifest.version else None
        self._rows: dict[str, int] | None = None

    @classmethod
    def open(cls, path: str | Path) -> Memory:
        """Open a memory. ValueError if the directory holds none, or a damaged one."""
        path = Path(path)
        manifest = Manifest.read(path)
        try:
            return cls(path, manifest)
        except ValueError:
            # Another process may have moved on between the two reads and swept the version away.
            again = Manifest.read(path)
            if again == manifest:
                raise
            return cls(path, again)

    def refresh(self) -> bool:
        """Take over what another process, or an edit, has changed since; True if there was something."""
        if Manifest.read(self.path) == self.manifest:
            return False
        fresh = Memory.open(self.path)
        self.manifest, self.codec = fresh.manifest, fresh.codec
        self._dataset, self._rows = fresh._dataset, None
        return True

    @property
    def fingerprint(self) -> Fingerprint:
        """The model this memory was made with; compare with wellread.memory.fingerprint.check."""
        return self.manifest.fingerprint

    @property
    def dim(self) -> int | None:
        """Width of the stored states, None where there are none."""
        return self.manifest.dim

    @property
    def dataset(self) -> lance.LanceDataset:
        """The table itself, for reading. ValueError while the memory holds no rows."""
        if self._dataset is None:
            raise ValueError(f"memory {self.path} holds no passages yet; run `wellread memorize` to the end.")
        return self._dataset

    def __len__(self) -> int:
        return self.manifest.passages

    def __contains__(self, id: object) -> bool:
        return id in self._row_of()

    def __iter__(self) -> Iterator[Passage]:
        """All passages, in the order of `ids`, streamed."""
        columns = list(rows.PASSAGE_COLUMNS)
        for batch in self._dataset.to_batches(columns=columns, batch_size=1024) if self._dataset else ():
            yield from rows.passages_of(batch)

    def ids(self) -> list[str]:
        """All passage ids, in the order of the corpus."""
        return list(self._row_of())

    def _row_of(self) -> dict[str, int]:
        if self._rows is None:
            found: dict[str, int] = {}
            with _reading(self.path):
                for batch in self._dataset.to_batches(columns=["id"]) if self._dataset else ():
                    found.update(zip(batch.column("id").to_pylist(), range(len(found), len(found) + len(batch))))
            self._rows = found
        return self._rows

    def _take(self, ids: Sequence[str], columns: Sequence[str]) -> pa.RecordBatch:
        row_of = self._row_of()
        self._check_known(
            ids,
            "name passages it holds; an index must be of the same passages: bring the older of the two up to date "
            "(`wellread index --sync`, `wellread memory sync`)",
        )
        # Lance answers in the order of the row numbers it is asked for, repeated ones included.
        with _reading(self.path):
            taken = self.dataset.take([row_of[id] for id in ids], columns=list(columns)).combine_chunks()
        return taken.to_batches()[0]

    def _check_known(self, ids: Sequence[str], advice: str) -> None:
        unknown = [id for id in ids if id not in self]
        if unknown:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            named = f"passages {', '.join(map(repr, unknown[:3]))}{more} are not in memory {self.path}"
            raise ValueError(f"{named} ({len(self)} passages); {advice}.")

    def fetch(self, ids: Sequence[str], *, states: bool = True, dtype: torch.dtype = torch.float32) -> MemoryRows:
        """What the memory holds of some passages, in the order asked; an id may be asked for twice.

        states: False leaves them on disk. dtype: of the decoded states. ValueError names unknown ids.
        """
        if not ids:
            return MemoryRows([], [], [] if states and self.codec else None, None)
        wanted = states and self.codec is not None
        columns = [*rows.PASSAGE_COLUMNS, "tokens"]
        columns += ["states"] if wanted else []
        columns += ["keys"] if self.manifest.key_dim is not None else []
        batch = self._take(ids, columns)
        keys = batch.column("keys") if self.manifest.key_dim is not None else None
        return MemoryRows(
            rows.passages_of(batch),
            rows.tokens_of(batch.column("tokens")),
            rows.states_of(batch.column("states"), self.codec, dtype) if wanted else None,
            None if keys is None else torch.from_numpy(rows.keys_of(keys).copy()),
        )

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """Only the texts of some passages, in the order asked."""
        return rows.passages_of(self._take(ids, rows.PASSAGE_COLUMNS)) if ids else []

    def keys(self, batch_size: int = 4096) -> Iterator[Tensor]:
        """The keys of all passages, in the order of `ids`, as blocks [rows, key_dim] float32."""
        if self.manifest.key_dim is None:
            raise ValueError(f"memory {self.path} holds no keys; memorize with a system that makes them.")
        for batch in self.dataset.to_batches(columns=["keys"], batch_size=batch_size):
            yield torch.from_numpy(rows.keys_of(batch.column("keys")).copy())

    def info(self) -> dict[str, Any]:
        """What the memory is and what it takes.

        bytes: on disk, of everything needed to read it. bytes_per_token: of the code of one state, before the
        table's own compression. bytes_per_passage: `bytes` over passages. error: what the codec loses
        (relative_l2, cosine), measured at build time on states it was not fitted on.
        """
        manifest = self.manifest
        return {
            "passages": manifest.passages,
            "tokens": manifest.tokens,
            "bytes": manifest.data_bytes,
            "bytes_per_token": manifest.bytes_per_token,
            "bytes_per_passage": round(manifest.data_bytes / max(1, manifest.passages), 1),
            "codec": manifest.codec,
            "dim": manifest.dim,
            "key_dim": manifest.key_dim,
            "error": dict(manifest.error),
            "cut": manifest.fingerprint.cut,
            "fingerprint": asdict(manifest.fingerprint),
            "complete": manifest.complete,
            "created": manifest.created,
            "changed": manifest.changed,
        }

    def delete(self, ids: Sequence[str]) -> int:
        """Forget passages; returns how many. ValueError, and nothing deleted, if an id is unknown.

        Their bytes stay on disk until `compact`.
        """
        ids = list(dict.fromkeys(ids))
        with locked(self.path), writing(self.path):
            manifest = table.recover(self.path, Manifest.read(self.path))
            self.refresh()
            if ids:
                self._check_known(
                    ids,
                    f"nothing was deleted. `wellread memory list {self.path}` tells the ids, `wellread memory delete "
                    f"{self.path} --where file=FILE` forgets what came from a file, `wellread memory sync` what is no "
                    "longer in a corpus",
                )
                table.commit_removal(self.path, manifest, ids)
        self.refresh()
        return len(ids)

    def compact(self) -> int:
        """Rewrite the table without deleted rows and in large files; returns the bytes that were freed.

        Other processes that have the memory open must `refresh` it: files they may still need are removed.
        """
        with locked(self.path), writing(self.path):
            manifest = table.recover(self.path, Manifest.read(self.path))
            before = manifest.data_bytes
            if manifest.version:
                manifest = table.compact(self.path, manifest)
        self.refresh()
        return before - manifest.data_bytes

    def verify(self) -> dict[str, Any]:
        """Look for damage; see wellread.memory.verify.verify."""
        from wellread.memory.verify import verify

        return verify(self.path)

    def content_hash(self) -> str:
        """A hash of all the memory says: ids, order, texts, tokens, codes, keys, codec tables, options.

        Two builds of the same corpus with the same options agree on it; times, file names and the way rows are
        spread over files are left out. Reads everything.
        """
        digest = blake2b(repr(sorted(self.manifest.logical().items())).encode(), digest_size=16)
        for name, tensor in sorted((self.codec.to_tensors() if self.codec else {}).items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy())
        for batch in self._dataset.to_batches(batch_size=256) if self._dataset else ():
            for row in rows.digests(batch):
                digest.update(row)
        return digest.hexdigest()
