"""Two small parts of wiki18: articles to pre-train on, and passages in which questions can be answered.

command:  python recipes/realm/select_passages.py --corpus runs/wiki18/corpus --index runs/wiki18/index --out runs/realm
before:   what results/reatt.md says about runs/wiki18; WELLREAD_DATA

OUT/articles: whole articles of 15 passages or more, drawn by lot until there are 3,000 passages; what one passage
names, others of its article often name too.

OUT/corpus: per dev or test question the first 5 passages of BM25, and the passages before and after the first one;
nothing looks at the answers of these questions. Per training question the first passage of ten that holds an answer,
and the first two; questions without one are left out, and CuratedTREC's, which have an expression instead of answers,
get what it matches. Then passages drawn by lot until there are 5,000.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import click

from wellread.corpus.questions import evenly, read_questions
from wellread.corpus.salient import drawn
from wellread.corpus.store import Corpus
from wellread.evaluation.metrics import normalise
from wellread.retrieval import open_index
from wellread.types import Passage, Probe, Question

ARTICLES, LONG = 3_000, 15
PASSAGES = 5_000
SEED = 0
# name -> (file, questions, passages of each)
TESTS = {
    "nq_dev": ("nq_open_dev", 150, 5),
    "webquestions_test": ("webquestions_test", 150, 5),
    "curatedtrec_test": ("curatedtrec_test", 150, 5),
}
TRAINS = {
    "nq_train": ("nq_open_train", 1500, 10),
    "webquestions_train": ("webquestions_train", 1000, 10),
    "curatedtrec_train": ("curatedtrec_train", 430, 10),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("corpus", "index", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    places = parser.parse_args()
    corpus, index = Corpus.open(places.corpus), open_index(places.index)
    places.out.mkdir(parents=True, exist_ok=True)
    names = corpus.ids()
    _write_articles(corpus, names, places.out / "articles")
    row = {name: number for number, name in enumerate(names)}
    chosen: dict[str, None] = {}
    for name, (file, limit, top_k) in (TESTS | TRAINS).items():
        questions = _asked(file, limit)
        found = [each.ids for each in index.search([Probe(words=each.text) for each in questions], top_k=top_k)]
        texts = {item.id: item for item in corpus.get(list({name for ids in found for name in ids}))}
        rows = []
        for question, ids in zip(questions, found, strict=True):
            if name in TESTS:
                rows.append(_plain(question))
                chosen.update(dict.fromkeys([*ids, *_neighbours(ids[:1], names, row)]))
            elif made := _answered(question, ids, texts):
                rows.append(made[0])
                chosen.update(dict.fromkeys([*ids[:2], made[1]]))
        _write(places.out / f"{name}.jsonl", rows)
        click.echo(f"{name}: {len(questions)} questions, {len(rows)} kept; {len(chosen)} passages")
    lots = sorted(names, key=lambda each: drawn("realm", SEED, each))
    for each in lots:
        if len(chosen) >= PASSAGES:
            break
        chosen.setdefault(each)
    rows = sorted(row[each] for each in chosen)
    Corpus.write(_passages(corpus, rows), places.out / "corpus")
    click.echo(f"{len(rows)} passages in {places.out / 'corpus'}")


def _write_articles(corpus: Corpus, names: list[str], out: Path) -> None:
    articles: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        articles.setdefault(name.rpartition("-")[0], []).append(number)
    rows: list[int] = []
    for article in sorted(articles, key=lambda each: drawn("article", SEED, each)):
        if len(articles[article]) >= LONG and len(rows) + len(articles[article]) <= ARTICLES:
            rows += articles[article]
    Corpus.write(_passages(corpus, sorted(rows)), out)
    click.echo(f"{len(rows)} passages in {out}")


def _asked(file: str, limit: int) -> list[Question]:
    folder = Path(os.environ["WELLREAD_DATA"]) / "qa"
    return list(evenly(read_questions(folder / f"{file}.jsonl.gz"), limit))


def _neighbours(ids: Iterable[str], names: list[str], row: dict[str, int]) -> Iterable[str]:
    """The passages before and after, of the same article."""
    for each in ids:
        article = each.rpartition("-")[0]
        for place in (row[each] - 1, row[each] + 1):
            if 0 <= place < len(names) and names[place].rpartition("-")[0] == article:
                yield names[place]


def _plain(question: Question) -> dict:
    told = {"id": question.id, "question": question.text}
    expression = question.metadata.get("answer_regex")
    return told | ({"answers": list(question.answers)} if expression is None else {"answer_regex": expression})


def _answered(question: Question, ids: Iterable[str], texts: dict[str, Passage]) -> tuple[dict, str] | None:
    """A training question with those answers that the first passage with any holds, and that passage."""
    expression = question.metadata.get("answer_regex")
    for each in ids:
        text = texts[each].text
        if expression is None:
            held = f" {normalise(text)} "
            said = [answer for answer in question.answers if f" {normalise(answer)} " in held]
        else:
            matches = (match.group().strip() for match in re.finditer(expression, text, re.IGNORECASE))
            said = [match for match in dict.fromkeys(matches) if match][:5]
        if said:
            return {"id": question.id, "question": question.text, "answers": said}, each
    return None


def _write(file: Path, rows: Iterable[dict]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf8")


def _passages(corpus: Corpus, rows: list[int]) -> Iterable[Passage]:
    for start in range(0, len(rows), 1024):
        yield from corpus.at(rows[start : start + 1024])


if __name__ == "__main__":
    main()
