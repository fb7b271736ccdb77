"""A corpus: a folder of passages that can be read in order and looked up by id, whatever its size.

passages.arrow  Arrow IPC, memory-mapped: id, title, text, source, metadata (JSON)
ids.npy         [2, passages] uint64: hashes of the ids in order, and the row of each
corpus.json     counts, sources, cutting rule, fingerprint, version
pictures/       the pictures of its passages, where any came along (see `wellread.pictures`)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wellread.corpus.cutting import Cutting, cutting_from
from wellread.corpus.documents import Problem
from wellread.locking import LOCK
from wellread.types import Passage

if TYPE_CHECKING:
    from wellread.pictures.store import PictureWriter

__all__ = ["Corpus", "CorpusWriter", "check_output"]

BATCH_ROWS = 1024
BATCH_LETTERS = 1 << 22
LAYOUT = 1
COLUMNS = ("id", "title", "text", "source", "metadata")
PICTURES = "pictures"


class Corpus:
    """Passages on disk. `Corpus.open(folder)` opens what `ingest` or a CorpusWriter wrote."""

    def __init__(self, path: Path, info: Mapping[str, Any], reader: Any, index: Any) -> None:
        self.path = path
        self.info = info
        self._reader = reader
        self._index = index
        self._starts = info["batches"]

    @classmethod
    def open(cls, path: str | Path) -> Corpus:
        """The corpus in a folder. ValueError where there is none or it is damaged."""
        import numpy as np
        import pyarrow as pa

        path = Path(path)
        if not (path / "corpus.json").is_file():
            raise ValueError(f"corpus {path} has no corpus.json; build one with wellread corpus SOURCE --out {path}.")
        try:
            info = json.loads((path / "corpus.json").read_text(encoding="utf8"))
            reader = pa.ipc.open_file(pa.memory_map(str(path / "passages.arrow")))
            index = np.load(path / "ids.npy", mmap_mode="r")
            whole = index.shape == (2, info["passages"]) and reader.num_record_batches == len(info["batches"])
        except (OSError, EOFError, ValueError, KeyError) as error:
            raise ValueError(f"corpus {path} is damaged ({error}); build it again with --overwrite.") from error
        if not whole:
            raise ValueError(f"corpus {path} is damaged (parts are missing); build it again with --overwrite.")
        return cls(path, info, reader, index)

    @classmethod
    def write(
        cls, passages: Iterable[Passage], path: str | Path, *, cutting: Cutting | None = None, overwrite: bool = False
    ) -> Corpus:
        """A corpus of passages that are at hand. ValueError where two have one id and different content."""
        with CorpusWriter(path, cutting=cutting, overwrite=overwrite) as writer:
            for passage in passages:
                writer.add(passage)
            corpus_path = writer.finish()
        if writer.problems:
            shutil.rmtree(corpus_path)
            raise ValueError(str(writer.problems[0]))
        return cls.open(corpus_path)

    def __len__(self) -> int:
        return self.info["passages"]

    def __iter__(self) -> Iterator[Passage]:
        for batch in self._arrow_batches():
            yield from _passages(batch)

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and self._row(id) is not None

    def __repr__(self) -> str:
        return f"Corpus({str(self.path)!r}, passages={len(self):,})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Corpus.open, (self.path,)

    @property
    def cutting(self) -> Cutting:
        """The rule that its documents were cut with."""
        return cutting_from(self.info["cutting"])

    @property
    def fingerprint(self) -> str:
        """Hash of ids, titles, texts and sources in order; the same passages always have the same."""
        return self.info["fingerprint"]

    @property
    def by_source(self) -> dict[str, int]:
        """How many passages each source has."""
        return dict(self.info.get("by_source", {}))

    @property
    def pictures(self) -> Path | None:
        """The folder with the pictures of its passages; None where none came along."""
        folder = self.path / PICTURES
        return folder if folder.is_dir() else None

    def ids(self) -> list[str]:
        """All ids, in the order of the corpus."""
        return [name for batch in self._arrow_batches() for name in batch.column("id").to_pylist()]

    def batches(self, size: int) -> Iterator[list[Passage]]:
        """The passages in lists of `size` (the last one may be shorter)."""
        if size < 1:
            raise ValueError(f"size={size} is too small; a batch needs at least 1 passage.")
        held: list[Passage] = []
        for passage in self:
            held.append(passage)
            if len(held) == size:
                yield held
                held = []
        if held:
            yield held

    def get(self, ids: Sequence[str]) -> list[Passage]:
        """The passages of these ids, in the order asked. ValueError names the ids that are missing."""
        rows = [self._row(name) for name in ids]
        missing = [name for name, row in zip(ids, rows) if row is None]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise ValueError(
                f"ids {', '.join(map(repr, missing[:5]))}{more} are not in corpus {self.path} "
                f"({len(self)} passages); ask for ids of this corpus, as Corpus.ids() lists them."
            )
        return self.at(rows)

    def at(self, rows: Sequence[int]) -> list[Passage]:
        """The passages in these rows (0 to len - 1), in the order asked."""
        found = []
        for row in rows:
            if not 0 <= row < len(self):
                raise ValueError(f"row {row} is not in corpus {self.path}; rows go from 0 to {len(self) - 1}.")
            number = bisect_right(self._starts, row) - 1
            batch = self._reader.get_batch(number).slice(row - self._starts[number], 1)
            found.extend(_passages(batch))
        return found

    def _arrow_batches(self) -> Iterator[Any]:
        return (self._reader.get_batch(number) for number in range(self._reader.num_record_batches))

    def _row(self, name: str) -> int | None:
        import numpy as np

        hashes, rows = self._index
        wanted = np.uint64(_hash64(name))
        place = int(np.searchsorted(hashes, wanted))
        while place < len(hashes) and hashes[place] == wanted:  # different ids may share a hash
            row = int(rows[place])
            number = bisect_right(self._starts, row) - 1
            if self._reader.get_batch(number).column("id")[row - self._starts[number]].as_py() == name:
                return row
            place += 1
        return None


class CorpusWriter:
    """Writes a corpus passage by passage, in bounded memory; the folder appears only when it is finished.

    A passage whose id is there already is dropped: counted in `duplicates` where title, text and source are
    the same, put into `problems` where they differ.
    """

    def __init__(self, path: str | Path, *, cutting: Cutting | None = None, overwrite: bool = False) -> None:
        self.path = check_output(path, overwrite=overwrite)
        self.cutting = cutting or Cutting("none")
        self.passages = 0
        self.duplicates = 0
        self.problems: list[Problem] = []
        self._work = self.path.parent / f".{self.path.name}.partial-{os.getpid()}"
        self._seen = _Seen()
        self._held: dict[str, tuple[Passage, bytes]] = {}
        self._letters = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._starts: list[int] = []
        self._sources: Counter[str] = Counter()
        self._pictures: PictureWriter | None = None
        self._file: Any = None

    def __enter__(self) -> CorpusWriter:
        import pyarrow as pa

        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        schema = pa.schema([(name, pa.string()) for name in COLUMNS])
        self._file = pa.ipc.new_file(str(self._work / "passages.arrow"), schema)
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._close_pictures()
        shutil.rmtree(self._work, ignore_errors=True)

    @property
    def pending(self) -> int:
        """Passages that were added and are not on disk yet."""
        return len(self._held)

    @property
    def by_source(self) -> dict[str, int]:
        """How many passages of each source are on disk, in the order they first came."""
        return dict(self._sources)

    def add_picture(self, name: str, data: bytes) -> None:
        """Keep a picture that passages name. ValueError where another one has its id."""
        if self._pictures is None:
            from wellread.pictures.store import PictureWriter

            self._pictures = PictureWriter(self._work / PICTURES).__enter__()
        self._pictures.add(name, data)

    def add(self, passage: Passage, *, file: str = "", line: int = 0) -> None:
        """Add a passage. file, line: where it was read, for a report when its id is taken."""
        content = _digest(passage)
        known = self._held.get(passage.id)
        if known is not None:
            self._taken(passage.id, same=known[1] == content, file=file, line=line)
            return
        found = self._seen.get(_hash64(passage.id))
        if found is not None:
            self._taken(passage.id, same=found == int.from_bytes(content[:8], "little"), file=file, line=line)
            return
        self._held[passage.id] = (passage, content)
        self._letters += len(passage.text) + len(passage.title)
        if len(self._held) >= BATCH_ROWS or self._letters >= BATCH_LETTERS:
            self._flush()

    def finish(self, **info: Any) -> Path:
        """Write what is left and put the folder in its place. info: what else corpus.json should say."""
        import numpy as np

        self._flush()
        self._file.close()
        self._file = None
        self._close_pictures()
        np.save(self._work / "ids.npy", self._seen.index())
        record = {
            "layout": LAYOUT,
            "version": _version(),
            "passages": self.passages,
            "duplicates": self.duplicates,
            "by_source": self.by_source,
            "fingerprint": self._digest.hexdigest(),
            "cutting": asdict(self.cutting),
            "batches": self._starts,
            **info,
        }
        (self._work / "corpus.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf8")
        # The old corpus is moved aside and not removed first, so that a crash leaves one of the two.
        aside = self._work.with_name(f".{self.path.name}.old-{os.getpid()}")
        if self.path.exists():
            self.path.rename(aside)
        self._work.rename(self.path)
        shutil.rmtree(aside, ignore_errors=True)
        return self.path

    def _close_pictures(self) -> None:
        if self._pictures is not None:
            self._pictures.__exit__(None, None, None)
            self._pictures = None

    def _taken(self, name: str, *, same: bool, file: str, line: int) -> None:
        if same:
            self.duplicates += 1
        else:
            reason = f"id {name!r} is taken by a passage with other content; ids must be different"
            self.problems.append(Problem(file or str(self.path), line, reason))

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._held:
            return
        kept = [passage for passage, _ in self._held.values()]
        columns = [[getattr(passage, name) for passage in kept] for name in COLUMNS[:-1]]
        columns.append([json.dumps(dict(item.metadata), default=str) if item.metadata else "" for item in kept])
        self._file.write_batch(pa.record_batch([pa.array(column, pa.string()) for column in columns], COLUMNS))
        self._starts.append(self.passages)
        self._seen.add([_hash64(name) for name in self._held], [item for _, item in self._held.values()])
        for _, content in self._held.values():
            self._digest.update(content)
        self.passages += len(kept)
        self._sources.update(item.source for item in kept)
        self._held.clear()
        self._letters = 0


class _Seen:
    """Hashes of ids, content and rows, 24 bytes a passage: sorted runs that are merged when they grow alike.

    A dict would need seven times the memory, which matters for the 21 million passages of Wikipedia.
    """

    def __init__(self) -> None:
        self._runs: list[Any] = []
        self._rows = 0

    def get(self, name: int) -> int | None:
        """The content hash of an id hash, or None."""
        import numpy as np

        wanted = np.uint64(name)
        for run in self._runs:
            place = int(run[0].searchsorted(wanted))
            if place < run.shape[1] and run[0, place] == wanted:
                return int(run[1, place])
        return None

    def add(self, names: list[int], contents: list[bytes]) -> None:
        import numpy as np

        run = np.empty((3, len(names)), np.uint64)
        run[0] = names
        run[1] = np.frombuffer(b"".join(item[:8] for item in contents), "<u8")
        run[2] = np.arange(self._rows, self._rows + len(names))
        self._rows += len(names)
        self._runs.append(run[:, np.argsort(run[0], kind="stable")])
        while len(self._runs) > 1 and self._runs[-2].shape[1] <= 2 * self._runs[-1].shape[1]:
            self._merge()

    def index(self) -> Any:
        """[2, passages] uint64: id hashes in order and the row of each."""
        import numpy as np

        while len(self._runs) > 1:
            self._merge()
        return self._runs[0][[0, 2]] if self._runs else np.empty((2, 0), np.uint64)

    def _merge(self) -> None:
        import numpy as np

        run = np.concatenate([self._runs.pop(-2), self._runs.pop()], axis=1)
        self._runs.append(run[:, np.argsort(run[0], kind="stable")])


def check_output(path: str | Path, *, overwrite: bool = False) -> Path:
    """The folder to write to. ValueError where something is there that must not be replaced."""
    path = Path(path)
    above = next((item for item in path.parents if item.exists()), Path())
    if not above.is_dir():
        raise ValueError(f"out={path} cannot be made: {above} is a file; give another folder.")
    if not path.exists() or (path.is_dir() and not any(item.name != LOCK for item in path.iterdir())):
        return path
    if not (path / "corpus.json").is_file():
        raise ValueError(f"out={path} exists and is not a corpus; give a new folder.")
    if not overwrite:
        raise ValueError(f"out={path} exists; give a new folder, or --overwrite (overwrite=True) to replace it.")
    return path


def _passages(batch: Any) -> Iterator[Passage]:
    for name, title, text, source, metadata in zip(*(batch.column(key).to_pylist() for key in COLUMNS)):
        yield Passage(name, text, title=title, source=source, metadata=json.loads(metadata) if metadata else {})


def _hash64(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest(), "little")


def _digest(passage: Passage) -> bytes:
    """Hash of what a passage says. The lengths keep ("ab", "c") and ("a", "bc") apart."""
    digest = hashlib.blake2b(digest_size=16)
    picture = (passage.picture,) if passage.picture else ()
    for value in (passage.id, passage.title, passage.text, passage.source, *picture):
        raw = value.encode("utf-8")
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.digest()


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("wellread")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
