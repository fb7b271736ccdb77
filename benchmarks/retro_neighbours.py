"""Keys of chunks side by side: what they cost, and what the neighbours they find say of the chunk that comes next.

command:  python benchmarks/retro_neighbours.py --chunks runs/retro/wiki18
          (writes results/retro_neighbours/*.json and .md; about six minutes of one core)

Chunks of some documents, drawn with seed 0, are each other's database, and their keys are compared exactly.
  said by k  share of the rare tokens (in under 2 % of the chunks) of the chunk that comes next which stand in the k
             nearest chunks of other documents and what follows these, [N, F]
  document   share of the 10 nearest chunks of all that are of its own document
The second table is about all lists of neighbours that `wellread chunks` wrote below the folder.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import measured

from wellread.evaluation.overlap import overlap_shares
from wellread.evaluation.report import to_markdown, write_table
from wellread.retrieval.chunk_keys import ChunkEncoder
from wellread.retrieval.chunks import ChunkTexts
from wellread.retrieval.neighbours import Neighbours

RESULTS = Path("results/retro_neighbours")
RARE = 0.02
MOST = 20000
WAYS: dict[str, dict[str, Any]] = {
    "6 layers, length 1": {},
    "6 layers, plain means": {"unit": False},
    "6 layers, rare tokens": {"rarity": 1e-4},
    "3 layers, length 1": {"layers": 3},
    "2 layers, length 1": {"layers": 2},
    "word states, length 1": {"layers": 0},
    "word states, rare tokens": {"layers": 0, "rarity": 1e-4},
}


class Sample:
    """Some documents of chunks, and the chunks among them that are asked for.

    rows: their chunk numbers. asked: places in rows. coming: per asked chunk, the rare tokens of the next one.
    """

    def __init__(self, texts: ChunkTexts, documents: int, asked: int) -> None:
        draw = np.random.default_rng(0)
        chosen = np.sort(draw.permutation(texts.num_documents)[:documents])
        first = texts.first_chunks
        self.rows = np.concatenate([np.arange(first[item], first[item + 1]) for item in chosen])
        self.texts, self.documents = texts, texts.documents(self.rows)
        values, mask = texts.values(self.rows)
        size = texts.chunk_tokens
        self.says = np.zeros((len(self.rows), texts.tokenizer.vocab_size), bool)
        own = np.zeros_like(self.says)
        for row, (tokens, real) in enumerate(zip(values, mask)):
            self.says[row, tokens[real]] = True
            own[row, tokens[:size][real[:size]]] = True
        rare = own.mean(0) < RARE
        coming = [np.unique(tokens[size:][real[size:]]) for tokens, real in zip(values, mask)]
        coming = [tokens[rare[tokens]] for tokens in coming]
        places = [place for place in draw.permutation(len(self.rows)) if len(coming[place]) >= 5][:asked]
        self.asked, self.coming = np.array(places), [coming[place] for place in places]

    def said(self, nearest: np.ndarray) -> float:
        """nearest: [asked, k] places in rows."""
        return float(np.mean([self.says[row].any(0)[next_].mean() for row, next_ in zip(nearest, self.coming)]))


def nearest(sample: Sample, keys: np.ndarray, k: int, *, own: bool) -> np.ndarray:
    asked = keys[sample.asked]
    far = (keys**2).sum(1) - 2 * asked @ keys.T
    far[np.arange(len(asked)), sample.asked] = np.inf
    if not own:
        far[sample.documents[sample.asked][:, None] == sample.documents] = np.inf
    return np.argsort(far, axis=1, kind="stable")[:, :k]


def measure(sample: Sample, **options: Any) -> dict[str, float]:
    encoder = ChunkEncoder(**options).fit(sample.texts)
    texts = [sample.texts.chunk_text(int(row)) for row in sample.rows]
    start = time.process_time()
    keys = encoder.encode(texts)
    seconds = time.process_time() - start
    inside = nearest(sample, keys, 10, own=True)
    same = sample.documents[inside] == sample.documents[sample.asked][:, None]
    other = nearest(sample, keys, 4, own=False)
    return {
        "chunks": len(texts),
        "asked": len(sample.asked),
        "chunks/s": len(texts) / seconds,
        **{f"said by {k}": 100 * sample.said(other[:, :k]) for k in (1, 2, 4)},
        "document": 100 * float(same.mean()),
    }


def at_random(sample: Sample) -> dict[str, float]:
    drawn = np.random.default_rng(1).integers(0, len(sample.rows), (len(sample.asked), 4))
    return {"chunks/s": float("nan")} | {f"said by {k}": 100 * sample.said(drawn[:, :k]) for k in (1, 2, 4)}


def whole(folder: Path) -> list[dict[str, Any]]:
    """Every list of neighbours in the database: of which share of it, how it was found, what it says and gives away."""
    database = ChunkTexts.open(folder / "database")
    files = sorted(folder.glob("*/neighbours*/neighbours.json"))
    lists = sorted((Neighbours.open(file.parent) for file in files), key=lambda item: item.info["share"])
    rows = []
    for found in lists:
        texts = ChunkTexts.open(found.path.parent)
        some = np.linspace(0, texts.num_chunks - 1, min(texts.num_chunks, MOST)).astype(np.int64)
        tokens, mask = texts.values(some, parts=1)
        values, real = database.values(found.of(some)[0][:, :2])
        shares = overlap_shares(tokens, mask.sum(-1), values, real.sum(-1))
        said = said_by(texts, some, values, real)
        rows.append(
            {
                "chunks of": found.path.parent.name,
                "chunks": texts.num_chunks,
                "of the database": f"{found.info['share']:g}",
                "lists looked into": found.info["probes"],
                "search, s": found.info["seconds"],
                "recall@10": 100 * found.info["recall"],
                "said by 2": 100 * said,
                "mean overlap": 100 * float(shares.mean()),
                "overlap <= 1/8": 100 * float((shares <= 1 / 8).mean()),
            }
        )
    return sorted(rows, key=lambda row: row["chunks of"])


def said_by(texts: ChunkTexts, chunks: np.ndarray, values: np.ndarray, real: np.ndarray) -> float:
    """As `Sample.said`, for [N, F] of the neighbours of chunks: [chunks, k, 2 m] tokens and which are real."""
    tokens, mask = texts.values(chunks)
    size = texts.chunk_tokens
    seen = np.zeros(texts.tokenizer.vocab_size)
    for row, there in zip(tokens[:, :size], mask[:, :size]):
        seen[np.unique(row[there])] += 1
    rare = seen < RARE * len(chunks)
    coming = [np.unique(row[there]) for row, there in zip(tokens[:, size:], mask[:, size:])]
    shares = [
        np.isin(wanted[rare[wanted]], row[there]).mean()
        for wanted, row, there in zip(coming, values, real)
        if rare[wanted].sum() >= 5
    ]
    return float(np.mean(shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=Path, default=Path("runs/retro/wiki18"), help="what `chunks build` wrote")
    parser.add_argument("--documents", type=int, default=220)
    parser.add_argument("--asked", type=int, default=2500)
    parser.add_argument("--notes", default="", help="said below the tables: time and memory of the whole run")
    parser.add_argument("--again", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    database = ChunkTexts.open(chosen.chunks / "database")
    sample = Sample(database, chosen.documents, chosen.asked)
    rows = []
    for name, options in WAYS.items():
        file = RESULTS / f"{name.replace(' ', '-').replace(',', '')}.json"
        rows.append({"keys": name, **measured(file, partial(measure, sample, **options), again=chosen.again)})
    drawn = at_random(sample)
    rows.append({"keys": "at random", **dict.fromkeys(rows[0], float("nan")), **drawn} | {"keys": "at random"})
    shown = [{key: value for key, value in row.items() if key not in ("chunks", "asked")} for row in rows]
    notes = (
        f"{len(sample.rows):,} chunks of {chosen.documents} documents, {len(sample.asked):,} of them asked for. "
        "chunks/s: of processor time, one core, bf16. said by k: share (%) of the rare tokens of the chunk that comes "
        "next which stand in the k nearest chunks of other documents and what follows these. document: share (%) of "
        "the 10 nearest chunks of all that are of the same document.\n\nThe whole, with word states and rare tokens "
        f"(database: {database.num_documents:,} documents, {database.num_tokens:,} tokens):"
        f"\n\n{to_markdown(whole(chosen.chunks)).rstrip()}\n\n"
        "Recall: of the 10 exactly nearest, over 200 chunks. Overlap: longest run of tokens shared with the 2 nearest, "
        f"as a share (%) of the chunk. Said and overlap over at most {MOST:,} chunks. {chosen.notes}"
    )
    write_table(
        RESULTS.with_suffix(".md"),
        shown,
        title="Neighbours of chunks",
        command="python benchmarks/retro_neighbours.py",
        seed=0,
        notes=notes.rstrip(),
    )


if __name__ == "__main__":
    main()
