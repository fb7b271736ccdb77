"""Search by token vectors, side by side: every passage scored, ReAtt's two stages, and the compressed index.

command:  python benchmarks/token_search.py --memory runs/wiki18/memory --model wellread-mini
          (writes results/token_search.json and .md; about ten minutes of one core)

Keys are those that one attention head would use: the states in the memory, times the key projection of the first live
layer. Questions go through the question encoder and that layer's query projection. The first and the last token of
every text, which mark its ends, are left out: raw attention goes to them above all, and they are alike in all texts.
Indexes and finished measurements are kept in runs/token_search; what is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from common import data_folder, measured

from wellread.corpus.questions import read_questions
from wellread.evaluation.report import hardware, write_table
from wellread.memory.store import Memory
from wellread.model import load_model
from wellread.retrieval import open_index
from wellread.retrieval.tokens import TokenRetriever
from wellread.types import Candidates, Passage, Probe, Question

RUNS, RESULTS = Path("runs/token_search"), Path("results/token_search")
TOP_K = 20
FEW = 10  # questions for the ways that take seconds: those that look at all tokens and then at passages, or decode all
SLOW = ("two stages, exact, K' = 2,048", "compressed, every passage")


class HeadKeys:
    """Keys and queries of one attention head of the layer that reads on from a memory's states."""

    def __init__(self, model: str, memory: Memory, head: int) -> None:
        self.model, self.memory = load_model(model), memory
        system = self.model.system
        attention = system.reader.encoder.layers[system.cut].attention
        dim = attention.key.out_features // attention.heads
        self.name, rows = f"head {head} of {model}", slice(head * dim, (head + 1) * dim)
        self.key = (attention.key.weight[rows].detach().T, attention.key.bias[rows].detach())
        self.query = tuple(part * dim**-0.5 for part in (attention.query.weight[rows].T, attention.query.bias[rows]))

    def passages(self, passages: Sequence[Passage]) -> list[np.ndarray]:
        states = self.memory.fetch([passage.id for passage in passages]).states
        keys = torch.cat(states) @ self.key[0] + self.key[1]
        return [row[1:-1].numpy() for row in keys.split([len(rows) for rows in states])]

    def questions(self, texts: Sequence[str]) -> list[np.ndarray]:
        inputs = self.model.frame.questions(texts)
        with torch.inference_mode():
            queries = self.model.system.question_states(inputs) @ self.query[0] + self.query[1]
        return [row[real][1:-1].numpy() for row, real in zip(queries, inputs.mask)]


class StoredKeys:
    """The keys of a plain index, so that states are decoded once."""

    def __init__(self, name: str, index: TokenRetriever) -> None:
        self.name, self.segment = name, index.segments[0]

    def passages(self, passages: Sequence[Passage]) -> list[np.ndarray]:
        places = self.segment.catalog.positions([passage.id for passage in passages])
        return [self.segment.keys_of(place[None]) for place in places]


def chosen_ids(memory: Memory, questions: Sequence[Question], count: int) -> set[str]:
    """The passages that answer the questions, and others at even distances."""
    gold = {name for question in questions for name in question.positive}
    rest = [name for name in memory.ids() if name not in gold]
    places = np.linspace(0, len(rest) - 1, count - len(gold)).astype(int)
    return gold | {rest[place] for place in places}


def indexes(encoder: HeadKeys, questions: Sequence[Question], count: int) -> tuple[TokenRetriever, TokenRetriever]:
    """A plain and a compressed index over `count` passages, built where they are missing."""
    ids = chosen_ids(encoder.memory, questions, count)
    plain, small = RUNS / f"plain-{count}", RUNS / f"compressed-{count}"

    def passages() -> Iterator[Passage]:
        return (passage for passage in encoder.memory if passage.id in ids)

    if not (plain / "index.json").is_file():
        TokenRetriever.build(passages(), plain, encoder=encoder, codec="float32", search="exhaustive")
    if not (small / "index.json").is_file():
        TokenRetriever.build(passages(), small, encoder=StoredKeys(encoder.name, open_index(plain)))
    return open_index(plain), open_index(small)


def with_options(index: TokenRetriever, **changed: Any) -> TokenRetriever:
    """The same index, searched another way."""
    manifest = index.manifest | {"options": index.manifest["options"] | changed}
    return TokenRetriever(index.directory, manifest)


def ways(plain: TokenRetriever, small: TokenRetriever) -> dict[str, TokenRetriever]:
    return {
        "every passage": plain,
        SLOW[0]: with_options(plain, search="exact", per_token=2048, candidates=0),
        SLOW[1]: with_options(small, search="exhaustive"),
        "compressed, a quarter of the lists": with_options(small, probes=small.segments[0].num_lists // 64),
        "compressed, half of the lists": with_options(small, probes=small.segments[0].num_lists // 32),
        "compressed, 400 passages": with_options(small, candidates=400),
        "compressed": small,
    }


def measure(
    tried: Mapping[str, TokenRetriever], probes: Sequence[Probe]
) -> tuple[dict[str, list[Candidates]], dict[str, list[float]]]:
    """What every way finds, and its milliseconds of processor time; question by question, one way after the other."""
    found: dict[str, list[Candidates]] = {name: [] for name in tried}
    spent: dict[str, list[float]] = {name: [] for name in tried}
    for index in tried.values():
        index.search(probes[:1], top_k=TOP_K)  # compiles, and brings the file into memory
    for number, probe in enumerate(probes):
        for name, index in tried.items():
            if name in SLOW and number >= FEW:
                continue
            begun = time.thread_time()
            found[name] += index.search([probe], top_k=TOP_K)
            spent[name].append(1000 * (time.thread_time() - begun))
    return found, spent


def rows_of(count: int, tried: Mapping[str, TokenRetriever], probes: Sequence[Probe], gold: Sequence[str]) -> list:
    found, spent = measure(tried, probes)
    best = "every passage"
    rows = []
    for name, index in tried.items():
        pairs = list(zip(found[name], found[best]))
        rows.append(
            {
                "passages": count,
                "tokens": index.num_tokens,
                "way": name,
                "lists": index.segments[0].num_lists,
                "looked into": index.options.probes_for(index.segments[0].num_lists),
                "bytes/token": index.bytes_per_token()["stored"],
                "ms": median(spent[name]),
                "of every passage": median(spent[name]) / median(spent[best][: len(spent[name])]),
                "recall@20": fmean(len(set(one.ids) & set(two.ids)) / TOP_K for one, two in pairs),
                "answer@20": 100 * fmean(name in one.ids for (one, _), name in zip(pairs, gold)),
                "n": len(pairs),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", default="runs/wiki18/memory")
    parser.add_argument("--model", default="wellread-mini")
    parser.add_argument("--head", type=int, default=3, help="3 of 0 to 11 finds most gold passages of nq_gold")
    parser.add_argument("--passages", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--questions", type=Path, default=data_folder() / "qa" / "nq_gold.jsonl.gz")
    parser.add_argument("--limit", type=int, default=60, help="questions, at even distances")
    parser.add_argument("--again", action="store_true", help="measure again what was measured already")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    questions = list(read_questions(chosen.questions))
    questions = questions[:: max(1, len(questions) // chosen.limit)][: chosen.limit]
    encoder = HeadKeys(chosen.model, Memory.open(chosen.memory), chosen.head)
    probes = [Probe(vectors=torch.from_numpy(row)) for row in encoder.questions([item.text for item in questions])]
    gold = [question.positive[0] for question in questions]
    about = {"memory": chosen.memory, "model": chosen.model, "head": chosen.head, "hardware": hardware()}

    def measure_all(count: int) -> dict[str, Any]:
        return about | {"rows": rows_of(count, ways(*indexes(encoder, questions, count)), probes, gold)}

    tables = [
        measured(RUNS / f"{count}.json", partial(measure_all, count), again=chosen.again) for count in chosen.passages
    ]
    rows = [row for table in tables for row in table["rows"]]
    RESULTS.with_suffix(".json").write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n", encoding="utf8")
    default = ways_defaults()
    notes = (
        f"Keys of head {chosen.head} (untrained for search) over the states in a memory of Wikipedia, questions of "
        f"{chosen.questions.name}. recall@20: the share of the 20 best of all passages, by keys in float32, that is "
        "found. answer@20: questions whose gold passage is among the 20. ms: processor time of one thread, medians of "
        f"single questions, one way after the other. compressed: {default}."
    )
    write_table(
        RESULTS.with_suffix(".md"),
        rows,
        title="Search by token vectors",
        command="python benchmarks/token_search.py --memory runs/wiki18/memory --model wellread-mini",
        seed=1,
        notes=notes,
    )


def ways_defaults() -> str:
    options = TokenRetriever.Options(encoder="any")
    return (
        f"codec {options.codec}, a sixteenth of the lists looked into per question token, its {options.per_token} "
        f"nearest tokens, at most {options.candidates} passages scored over all their tokens, unless the row says "
        "otherwise"
    )


if __name__ == "__main__":
    main()
