"""What REVEAL's recipes are taught with: entries of every source, and questions that each source answers.

command:  python recipes/reveal/choose.py --out runs/reveal/chosen
before:   WELLREAD_DATA

Entries, NAME.jsonl:
pages          3,000 pages of wiki/entities: those of 2,000 training questions, drawn by lot, and others
pages-many     20,000: those, the pages of 300 dev questions, and others
freebase       3,000 subjects of kg/fb15k237_train, those of the training questions and others
wordnet        3,000 synsets of kg/wordnet_nouns that images/knowledge has not, likewise
pairs          questions with answers: 1,500 of qa/webquestions_train, 1,500 of images/vqa_train

Questions, NAME-train.jsonl and NAME-dev.jsonl, about different subjects:
pages          of kilt/slots in words: "Batman: year?"
freebase       "What is the currency of Aruba?"
wordnet        "Which word means: a ship that fishes?"
pairs          of qa/webquestions_train, with a quarter of the words left out: the pair answers that was asked in full
looks          pictures of things that another picture shows too, to be described
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet

from wellread.corpus.documents import Document
from wellread.corpus.graphs import read_triples, read_wordnet

Rows = list[dict]

SOME, MANY = 3_000, 20_000  # pages
TRAIN, DEV = 2_000, 300  # questions about pages
FEW, ASKED = 1_000, 200  # training and dev questions of every other kind
RELATIONS = ("award", "cinematography", "citytown", "country", "currency", "form of government", "genre", "language")
RELATIONS += ("music", "nationality", "origin", "place of birth", "place of death", "position", "produced by")
RELATIONS += ("profession", "religion", "sport", "spouse", "student", "written by")
BEGINNING = 300  # characters of an entry that are surely read
KEPT = 0.75  # of the words of a question that is asked again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    data, draw = Path(os.environ["WELLREAD_DATA"]), np.random.default_rng(0)
    written = {**_pages(data, draw), **_freebase(data, draw), **_wordnet(data, draw), **_pairs(data, draw)}
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in {**written, **_looks(data, draw)}.items():
        with open(out / f"{name}.jsonl", "w", encoding="utf8") as lines:
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _pages(data: Path, draw: np.random.Generator) -> dict[str, Rows]:
    pages = {row["id"]: row for row in parquet.read_table(data / "wiki" / "entities.parquet").to_pylist()}

    def questions(part: str, count: int) -> Rows:
        rows = []
        for row in _lines(data / "kilt" / f"slots_{part}.jsonl.gz"):
            subject, relation = row["input"].split(" [SEP] ")
            if row["positive"][0] in pages:
                text = f"{subject}: {relation.replace('_', ' ')}?"
                rows.append(_question(row["id"], text, row["answers"], row["positive"], "page"))
        return _drawn(rows, draw)[:count]

    train, dev = questions("train", TRAIN), questions("dev", DEV)
    others = _drawn(list(pages), draw)
    some = _first(SOME, _right(train), others)
    many = _first(MANY, some, _right(dev), others)
    entries = {"pages": [pages[name] for name in some], "pages-many": [pages[name] for name in many]}
    return {**entries, "pages-train": train, "pages-dev": dev}


def _freebase(data: Path, draw: np.random.Generator) -> dict[str, Rows]:
    def questions(entry: Document) -> Iterator[dict]:
        facts = re.findall(r"(?<=\. )([a-z ]+): ([^.:]+)\.", entry.text[:BEGINNING])
        for relation, answers in facts:
            if relation in RELATIONS and answers.count(", ") < 3:
                text = f"What is the {relation} of {entry.title}?"
                yield _question(f"{entry.id}-{relation}", text, answers.split(", "), [entry.id], "freebase")

    entries = _drawn([each for each in read_triples(data / "kg" / "fb15k237_train.jsonl.gz") if each.text], draw)
    return _parts("freebase", entries, questions)


def _wordnet(data: Path, draw: np.random.Generator) -> dict[str, Rows]:
    known = {row["id"] for row in _lines(data / "images" / "knowledge.jsonl.gz")}
    words = {f"wordnet-{row['id']}": row for row in _lines(data / "kg" / "wordnet_nouns.jsonl.gz")}

    def questions(entry: Document) -> Iterator[dict]:
        row = words[entry.id]
        text = f"Which word means: {row['gloss'].split(';')[0]}?"
        yield _question(f"{entry.id}-word", text, row["lemmas"], [entry.id], "wordnet")

    everything = read_wordnet(data / "kg" / "wordnet_nouns.jsonl.gz")
    entries = _drawn([each for each in everything if each.metadata["synset"] not in known], draw)
    return _parts("wordnet", entries, questions)


def _parts(name: str, entries: Sequence[Document], questions) -> dict[str, Rows]:
    """One question of an entry; the first entries are trained with, those that dev questions are about are others."""
    asked = [(entry, found[0]) for entry in entries if (found := list(questions(entry)))][: FEW + ASKED]
    right = [entry for entry, _ in asked[:FEW]]
    dev = {entry.id for entry, _ in asked[FEW:]}
    others = [entry for entry in entries if entry.id not in dev]
    kept = list({entry.id: entry for entry in (*right, *others)}.values())[:SOME]
    return {
        name: [{"id": each.id, "title": each.title, "text": each.text} for each in kept],
        f"{name}-train": [question for _, question in asked[:FEW]],
        f"{name}-dev": [question for _, question in asked[FEW:]],
    }


def _pairs(data: Path, draw: np.random.Generator) -> dict[str, Rows]:
    def again(row: dict) -> dict:
        words = np.array(row["question"].rstrip("?").split())
        kept = np.sort(draw.permutation(len(words))[: max(2, round(KEPT * len(words)))])
        return _question(f"{row['id']}-again", " ".join(words[kept]) + "?", row["answers"], [row["id"]], "pair")

    words = _drawn(list(_lines(data / "qa" / "webquestions_train.jsonl.gz")), draw)
    pictures = _drawn(list(_lines(data / "images" / "vqa_train.jsonl.gz")), draw)
    train, dev = words[:FEW], words[-ASKED:]
    return {
        "pairs": [*words[: SOME // 2], *pictures[: SOME // 2]],
        "pairs-train": [again(row) for row in train],
        "pairs-dev": [again(row) for row in dev],
    }


def _looks(data: Path, draw: np.random.Generator) -> dict[str, Rows]:
    columns = ["id", "style", "entity", "split", "caption"]
    pictures = parquet.read_table(data / "images" / "images.parquet", columns=columns).to_pylist()
    kept = defaultdict(list)  # thing -> the pictures of it that are entries
    for row in pictures:
        if row["entity"] and (row["split"] == "train" or row["style"] == "reference"):
            kept[row["entity"]].append(row["id"])
    rows: dict[str, Rows] = {"train": [], "dev": []}
    for row in pictures:
        others = [name for name in kept[row["entity"]] if name != row["id"]] if row["entity"] else []
        if others and row["style"] != "reference":
            asked = _question(f"{row['id']}-look", "Describe this picture.", [row["caption"]], others, "look")
            rows[row["split"]].append({**asked, "image": row["id"]})
    return {f"looks-{part}": _drawn(rows[part], draw)[:count] for part, count in (("train", FEW), ("dev", ASKED))}


def _question(name: str, text: str, answers: Sequence[str], right: Sequence[str], kind: str) -> dict:
    return {"id": name, "question": text, "answers": list(answers), "positive": list(right), "type": kind}


def _right(rows: Iterable[dict]) -> list[str]:
    return [row["positive"][0] for row in rows]


def _drawn(rows: list, draw: np.random.Generator) -> list:
    return [rows[index] for index in draw.permutation(len(rows))]


def _first(count: int, *ids: Iterable[str]) -> list[str]:
    """The first `count` of all, each once."""
    return list(dict.fromkeys(each for some in ids for each in some))[:count]


def _lines(file: Path) -> Iterator[dict]:
    with gzip.open(file, "rt", encoding="utf8") as lines:
        yield from map(json.loads, lines)


if __name__ == "__main__":
    main()
