"""Pages of wiki/entities for REVEAL's memories, and the questions about them that are trained on and asked.

command:  python recipes/reveal/select_entities.py --out runs/reveal/wikipedia
before:   WELLREAD_DATA

some.jsonl    3,000 pages, for training: those of 2,000 training questions, drawn by lot, and 1,000 others
many.jsonl    20,000: those, the pages of 300 dev questions, and others
train.jsonl   the 2,000 questions: templates of kilt/slots_train ("Batman [SEP] year") in words
dev.jsonl     the 300 questions, of kilt/slots_dev
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet

SOME, MANY, TRAIN, DEV = 3_000, 20_000, 2_000, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    data = Path(os.environ["WELLREAD_DATA"])
    pages = {row["id"]: row for row in parquet.read_table(data / "wiki" / "entities.parquet").to_pylist()}
    draw = np.random.default_rng(0)
    train, dev = (_questions(data / "kilt" / f"slots_{name}.jsonl.gz", pages) for name in ("train", "dev"))
    train, dev = (
        [rows[index] for index in draw.permutation(len(rows))[:count]] for rows, count in ((train, TRAIN), (dev, DEV))
    )
    names = list(pages)
    others = [names[index] for index in draw.permutation(len(names))]
    some = _first(SOME, _pages(train), others)
    many = _first(MANY, some, _pages(dev), others)
    for name, ids in (("some", some), ("many", many)):
        _write(out / f"{name}.jsonl", (pages[each] for each in ids))
    for name, rows in (("train", train), ("dev", dev)):
        _write(out / f"{name}.jsonl", rows)


def _questions(file: Path, pages: dict) -> list[dict]:
    rows = []
    with gzip.open(file, "rt", encoding="utf8") as lines:
        for row in map(json.loads, lines):
            subject, relation = row["input"].split(" [SEP] ")
            if row["positive"][0] in pages:
                text = f"{subject}: {relation.replace('_', ' ')}?"
                kept = {key: row[key] for key in ("id", "answers", "positive")}
                rows.append({**kept, "question": text, "type": "page"})
    return rows


def _pages(rows: Iterable[dict]) -> list[str]:
    return [row["positive"][0] for row in rows]


def _first(count: int, *ids: Iterable[str]) -> list[str]:
    """The first `count` of all, each once."""
    return list(dict.fromkeys(each for some in ids for each in some))[:count]


def _write(file: Path, rows: Iterable[dict]) -> None:
    with open(file, "w", encoding="utf8") as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
