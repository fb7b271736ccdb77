"""Search by token vectors, side by side: every passage scored, ReAtt's two stages, and the compressed index.

command:  python benchmarks/token_search.py
          (writes results/token_search.json and .md; about ten minutes of one core)

The keys are those of a trained ReAtt's head, taken from the states in a memory. Indexes and finished measurements are
kept in runs/token_search; what is there already is not made again.
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
from wellread.token_encoder import ModelTokens, model_encoder
from wellread.types import Candidates, Passage, Probe, Question

RUNS, RESULTS = Path("runs/token_search"), Path("results/token_search")
TOP_K, FAR = 20, 100
FEW = 10  # questions for the ways that take seconds: those that look at all tokens and then at passages, or decode all
SLOW = ("two stages, exact, K' = 2,048", "compressed, every passage")


def chosen_ids(memory: Memory, questions: Sequence[Question], count: int) -> set[str]:
    """The passages that answer the questions, and others at even distances."""
    gold = {name for question in questions for name in question.positive}
    rest = [name for name in memory.ids() if name not in gold]
    places = np.linspace(0, len(rest) - 1, count - len(gold)).astype(int)
    return gold | {rest[place] for place in places}


def indexes(encoder: ModelTokens, questions: Sequence[Question], count: int) -> tuple[TokenRetriever, TokenRetriever]:
    """A plain and a compressed index over `count` passages, built where they are missing."""
    ids = chosen_ids(encoder.memory, questions, count)
    plain, small = RUNS / f"plain-{count}", RUNS / f"compressed-{count}"

    def passages() -> Iterator[Passage]:
        return (passage for passage in encoder.memory if passage.id in ids)

    if not (plain / "index.json").is_file():
        TokenRetriever.build(passages(), plain, encoder=encoder, codec="float32", search="exhaustive")
    if not (small / "index.json").is_file():
        TokenRetriever.build(passages(), small, encoder=encoder)
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
        "compressed, half of the lists": with_options(small, probes=small.segments[0].num_lists // 64),
        "compressed, the 512 nearest tokens": with_options(small, per_token=512),
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
    further = {name: index.search(probes[: len(found[name])], top_k=FAR) for name, index in tried.items()}
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
                f"recall@{TOP_K}": _shared(found[name], found[best]),
                f"recall@{FAR}": _shared(further[name], further[best]),
                "answer@20": 100 * fmean(name in one.ids for (one, _), name in zip(pairs, gold)),
                "n": len(pairs),
            }
        )
    return rows


def _shared(found: Sequence[Candidates], wanted: Sequence[Candidates]) -> float:
    return fmean(len(set(one.ids) & set(two.ids)) / len(two.ids) for one, two in zip(found, wanted))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", default="runs/wiki18/memory")
    parser.add_argument("--model", default="runs/reatt/squad/last", help="a ReAtt whose states the memory holds")
    parser.add_argument("--passages", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--questions", type=Path, default=data_folder() / "qa" / "nq_gold.jsonl.gz")
    parser.add_argument("--limit", type=int, default=60, help="questions, at even distances")
    parser.add_argument("--again", action="store_true", help="measure again what was measured already")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    questions = list(read_questions(chosen.questions))
    questions = questions[:: max(1, len(questions) // chosen.limit)][: chosen.limit]
    model = load_model(chosen.model)
    encoder = model_encoder(model, memory=Memory.open(chosen.memory), name=chosen.model)
    probes = [Probe(vectors=torch.from_numpy(row)) for row in encoder.questions([item.text for item in questions])]
    gold = [question.positive[0] for question in questions]
    about = {"memory": chosen.memory, "model": chosen.model, **model.system.facts(), "hardware": hardware()}

    def measure_all(count: int) -> dict[str, Any]:
        return about | {"rows": rows_of(count, ways(*indexes(encoder, questions, count)), probes, gold)}

    tables = [
        measured(RUNS / f"{count}.json", partial(measure_all, count), again=chosen.again) for count in chosen.passages
    ]
    rows = [row for table in tables for row in table["rows"]]
    RESULTS.with_suffix(".json").write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n", encoding="utf8")
    default = ways_defaults()
    notes = (
        f"Keys of head {model.system.head} of {chosen.model} over the states in {chosen.memory}, questions of "
        f"{chosen.questions.name}. recall@20 and @100: the share of the best of all passages, by keys in float32, "
        "that is found. answer@20: questions whose gold passage is among the 20. ms: processor time of one thread, "
        f"medians of single questions, one way after the other. compressed: {default}."
    )
    write_table(
        RESULTS.with_suffix(".md"),
        rows,
        title="Search by token vectors",
        command="python benchmarks/token_search.py",
        seed=1,
        notes=notes,
    )


def ways_defaults() -> str:
    options = TokenRetriever.Options(encoder="any")
    return (
        f"codec {options.codec}, a thirty-second of the lists looked into per question token, the nearest of its "
        f"tokens, one in 1,024 of all, at most {options.candidates_for(TOP_K):,} passages scored over all their tokens "
        f"(for recall@{FAR} {options.candidates_for(FAR):,}), unless the row says otherwise"
    )


if __name__ == "__main__":
    main()
