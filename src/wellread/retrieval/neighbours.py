"""The neighbours of every chunk of a text, found ahead and kept: RETRO trains on these lists (section 2.3).

    neighbours.json   what was asked of which database, and how well the search finds
    numbers.bin       [chunks, k] int64, chunk numbers of the database, nearest first; -1 where there are no more
    distances.bin     [chunks, k] float32, squared L2 distances of the keys; infinity for -1

Neighbours from the document that a chunk is of are left out: a document of the database is known by its id, in
texts of another folder too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wellread.bars import progress_bar
from wellread.config import require
from wellread.locking import locked
from wellread.nn.tokenizers import Tokenizer
from wellread.retrieval.blocks import Blocks, different, read_json, write_json
from wellread.retrieval.chunk_database import PROBES, ChunkDatabase, recalled
from wellread.retrieval.chunk_index import IndexOptions, build_index
from wellread.retrieval.chunk_keys import ChunkEncoder, Keys, write_keys
from wellread.retrieval.chunks import CHUNK_TOKENS, ChunkTexts, Document, write_chunks

__all__ = ["NeighbourOptions", "Neighbours", "build_neighbours", "find_neighbours"]

FOLDER = "neighbours"
MANIFEST = "neighbours.json"
BLOCK = 1 << 14  # chunks between two safe points; so many look into a list together
COMMAND = "wellread chunks neighbours"


@dataclass(frozen=True)
class NeighbourOptions:
    """k: neighbours of a chunk. share: of the database's documents that may be found, drawn with `seed`. limit: only
    chunks with numbers below it, 0 for all. own: whether a chunk may find its own document (never in training).
    probes: lists looked into. sample: chunks whose neighbours are also found exactly, to say how well the search
    finds; 0 for none."""

    k: int = 10
    share: float = 1.0
    limit: int = 0
    seed: int = 0
    own: bool = False
    probes: int = PROBES
    sample: int = 200

    def __post_init__(self) -> None:
        require(self.k >= 1, f"k={self.k} is too small; at least 1 neighbour must be asked for.")
        require(0 < self.share <= 1, f"share={self.share}; it must be above 0 and at most 1 (all documents).")
        require(self.limit >= 0, f"limit={self.limit} is negative; it must be 0 (no limit) or more.")
        require(self.share == 1 or not self.limit, f"share={self.share} and limit={self.limit}; give one of them.")
        require(self.probes >= 1, f"probes={self.probes} is too small; it must be at least 1.")
        require(self.sample >= 0, f"sample={self.sample} is negative; it must be 0 (no check) or more.")

    def of(self, database: ChunkDatabase) -> int | np.ndarray | None:
        """What `ChunkDatabase.search` takes as its limit."""
        return self.limit or database.share(self.share, seed=self.seed)


class Neighbours:
    """Stored neighbour lists of the chunks of one `ChunkTexts`, memory-mapped.

    numbers: [chunks, k] int64 and distances: [chunks, k] float32, by chunk number.
    """

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path, self.info = path, info
        self.database_fingerprint: str = info["database"]
        self.texts_fingerprint: str = info["texts"]
        self.k: int = info["k"]
        self.numbers, self.distances = (
            np.memmap(
                path / f"{name}.bin", info["arrays"][name]["type"], "r", shape=tuple(info["arrays"][name]["shape"])
            )
            for name in ("numbers", "distances")
        )

    @classmethod
    def open(cls, folder: str | Path) -> Neighbours:
        """The lists in a folder. ValueError where there are none or they are damaged."""
        path = Path(folder)
        info = read_json(path / MANIFEST, "neighbours", COMMAND)
        try:
            return cls(path, info)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"neighbours {path} are damaged ({error}); remove them and find them again.") from error

    def __len__(self) -> int:
        return len(self.numbers)

    def of(self, chunks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of chunk numbers [...]: the numbers of their neighbours in the database [..., k] int64, nearest first, -1
        where there are no more, and squared distances [..., k] float32. Of chunk -1 there are none."""
        chunks = np.asarray(chunks, np.int64)
        wrong = chunks[(chunks < -1) | (chunks >= len(self))]
        if wrong.size:
            raise ValueError(f"chunk={wrong.flat[0]}; {self.path} has chunks 0 to {len(self) - 1} (-1 for none).")
        none = (chunks < 0)[..., None]
        return np.where(none, -1, self.numbers[chunks]), np.where(none, np.float32(np.inf), self.distances[chunks])

    def check(self, *, texts: ChunkTexts | None = None, database: ChunkDatabase | None = None) -> None:
        """ValueError where these are not the neighbours of `texts`, or not chunks of `database`."""
        pairs = []
        if texts is not None:
            pairs.append(("text", texts.path, self.texts_fingerprint, texts.fingerprint))
        if database is not None:
            pairs.append(("database", database.texts.path, self.database_fingerprint, database.fingerprint))
        for name, path, there, given in pairs:
            require(
                there == given,
                f"neighbours {self.path} belong to another {name} ({there}) than {path} ({given}); "
                f"find them again with `{COMMAND}`.",
            )


def find_neighbours(
    texts: ChunkTexts, database: ChunkDatabase, out: str | Path, options: NeighbourOptions | None = None
) -> Neighbours:
    """Find the neighbours of every chunk of texts whose keys are made, in bounded memory; goes on after a kill.

    ValueError where the keys are of another encoder than the database's, or where `out` holds other lists.
    """
    options, out = options or NeighbourOptions(), Path(out)
    keys = Keys.open(texts.path)
    _check_keys(keys, texts, database)
    made_with = {"database": database.fingerprint, "texts": texts.fingerprint, "k": options.k, "share": options.share}
    made_with |= {"limit": options.limit, "seed": options.seed, "own": options.own, "probes": options.probes}
    made_with |= {"index": database.index.info["code"], "lists": database.index.lists}
    with locked(out, make=True):
        if (out / MANIFEST).is_file():
            info = read_json(out / MANIFEST, "neighbours", COMMAND)
            there = {name: info.get(name) for name in made_with}
            require(
                there == made_with, f"{out} holds neighbours of {different(there, made_with)}; give another folder."
            )
            return Neighbours.open(out)
        blocks = Blocks(out, made_with, ("numbers", "distances"), suffix="bin", fixed=True)
        seconds = _fill(blocks, texts, keys, database, options)
        info = {**made_with, "seconds": round(seconds, 1), "arrays": blocks.described()}
        if options.sample:
            recall = _recall(blocks, texts, keys, database, options)
            info |= {"recall": round(recall, 4), "recall_sample": min(options.sample, texts.num_chunks)}
        write_json(out / MANIFEST, info)
        blocks.record.unlink()
    return Neighbours.open(out)


def _check_keys(keys: Keys, texts: ChunkTexts, database: ChunkDatabase) -> None:
    require(
        keys.info["texts"] == texts.fingerprint,
        f"the keys in {keys.path} are of other chunks; remove that folder and run `wellread chunks index` again.",
    )
    names = ("encoder", "layers", "rarity", "unit", "precision", "encoder_fingerprint")
    there, given = ({name: item.info[name] for name in names} for item in (keys, database.keys))
    require(
        there == given,
        f"the keys of {texts.path} and of the database {database.texts.path} are not comparable: "
        f"{different(there, given)}; make them with the same encoder.",
    )


def _fill(blocks: Blocks, texts: ChunkTexts, keys: Keys, database: ChunkDatabase, options: NeighbourOptions) -> float:
    """Find the lists that are not there yet; returns the seconds it took."""
    limit, same = options.of(database), database.texts.documents_like(texts)
    start, before = time.perf_counter(), blocks.rows("numbers")
    with progress_bar(desc="neighbours", unit=" chunks", total=texts.num_chunks, initial=before) as bar:
        for first in range(before, texts.num_chunks, BLOCK):
            rows = np.arange(first, min(first + BLOCK, texts.num_chunks))
            own = None if options.own else same[texts.documents(rows)]
            numbers, distances = database.search_many(keys[rows], options.k, own, limit, probes=options.probes)
            blocks.append(str(first), numbers=numbers, distances=distances)
            bar.update(len(rows))
    return time.perf_counter() - start


def _recall(blocks: Blocks, texts: ChunkTexts, keys: Keys, database: ChunkDatabase, options: NeighbourOptions) -> float:
    """Share of the exactly nearest chunks that were found, over a seeded sample of the chunks."""
    draw = np.random.default_rng(options.seed)
    rows = np.sort(draw.choice(texts.num_chunks, min(options.sample, texts.num_chunks), replace=False))
    own = None if options.own else database.texts.documents_like(texts)[texts.documents(rows)]
    _, right = database.search(keys[rows], options.k, own, options.of(database), exact=True)
    return recalled(blocks.array("distances")[rows], right)


def build_neighbours(
    open_documents: Callable[[Sequence[str]], Iterable[Document]],
    out: str | Path,
    *,
    tokenizer: Tokenizer,
    database: Sequence[str] = (),
    others: Sequence[str] = (),
    encoder: ChunkEncoder | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
    storage: str = "float16",
    index: IndexOptions | None = None,
    options: NeighbourOptions | None = None,
    made_of: dict[str, Any] | None = None,
) -> dict[str, Neighbours]:
    """Everything from documents to neighbour lists; called again after a kill, it goes on where it was.

    open_documents: splits -> their documents from the start. database: splits whose chunks are found, () for all
    documents; others: further splits whose chunks look for neighbours. Writes out/database with the lists of its own
    chunks in out/database/neighbours, and out/SPLIT with out/SPLIT/neighbours. Returns the lists by folder name.
    """
    out, encoder = Path(out), encoder or ChunkEncoder()
    parts = {"database": tuple(database), **{split: (split,) for split in others}}
    texts = {}
    for name, splits in parts.items():
        texts[name] = write_chunks(
            lambda splits=splits: open_documents(splits),
            tokenizer,
            out / name,
            chunk_tokens=chunk_tokens,
            made_of={"splits": list(splits), **(made_of or {})},
        )
    encoder.fit(texts["database"])
    for part in reversed(texts.values()):  # the small ones first: what is wrong with the encoder shows at once
        write_keys(part, encoder, storage=storage)
    build_index(Keys.open(out / "database"), out / "database", index)
    opened = ChunkDatabase.open(out / "database")
    found = {name: out / name / FOLDER for name in reversed(texts)}
    return {name: find_neighbours(texts[name], opened, folder, options) for name, folder in found.items()}
