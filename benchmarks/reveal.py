"""REVEAL on questions about pictures: with and without memory, on countries it never saw, and where the gate looks.

command:  python benchmarks/reveal.py --model runs/reveal/gate/last
          python benchmarks/reveal.py --model runs/reveal/gate/last --many runs/reveal/many-memory
          (the first writes results/reveal.json and .md, the second adds to them)
before:   recipes/reveal/gate.toml; for --many:
          wellread memorize runs/reveal/many --model runs/reveal/gate/last --pictures runs/reveal/pictures \\
              --codec int8 --precision bf16 --out runs/reveal/many-memory

No country of vqa_dev is in vqa_train. The memory of runs/reveal/small is first built without the entries of those
countries and asked, then these entries are added and it is asked again. "without memory" is the same model that reads
the question and the picture alone (fusion = none); `wellread reproduce reveal-memory-helps` trains one so. Intervals
are bootstraps over questions, of differences paired. The commonest training answer of each type of question, always
said, is that of results/vqa_baselines.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from common import data_folder

from wellread.corpus.questions import evenly, read_questions
from wellread.corpus.store import Corpus
from wellread.evaluation.report import hardware, to_markdown
from wellread.evaluation.vision import vqa_accuracy
from wellread.memory.edit import add
from wellread.memory.store import Memory
from wellread.pipeline import Pipeline, load_model, memorize_corpus, open_pipeline
from wellread.retrieval import INDEX_FOLDER, open_index
from wellread.token_encoder import model_encoder
from wellread.types import Passage, Question

RUNS, RESULTS = Path("runs/reveal/bench"), Path("results/reveal")
BASELINES = Path("results/vqa_baselines.json")
PICTURES, CORPUS = Path("runs/reveal/pictures"), Path("runs/reveal/small")
TOP_K, SEEN, TIMED = 4, 400, 12
SOURCE_OF = {"flag": "facts", "map": "facts", "object": "things", "animal": "things", "page": "wikipedia"}
SOURCE_OF |= {"freebase": "freebase", "wordnet": "wordnet", "pair": "questions", "look": "pictures"}
"""Kind of question -> the source that holds its answer."""
OTHERS = ("pages", "freebase", "wordnet", "pairs", "looks")
"""Questions beside vqa_dev, for the memory of all sources: recipes/reveal/choose.py."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--many", type=Path, help="A memory of all sources; without it, that of runs/reveal/small.")
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    dev = list(evenly(read_questions(data_folder() / "images" / "vqa_dev.jsonl.gz"), given.limit))
    part = _many(given, dev) if given.many else _small(given, dev)
    file = RESULTS.with_suffix(".json")
    kept = json.loads(file.read_text(encoding="utf8")) if file.is_file() else {}
    made = {"command": f"python benchmarks/reveal.py {' '.join(sys.argv[1:])}", "hardware": hardware(), "seed": 0}
    kept["many" if given.many else "small"] = {**made, "date": datetime.date.today().isoformat(), **part}
    file.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
    RESULTS.with_suffix(".md").write_text(_page(kept), encoding="utf8")


# -- the small memory --------------------------------------------------------------------------------------


def _small(given: argparse.Namespace, dev: Sequence[Question]) -> dict[str, Any]:
    seen = [each for each in read_questions(data_folder() / "images" / "vqa_train.jsonl.gz") if _kind(each) == "flag"]
    seen = list(evenly(seen, SEEN))
    countries = {name for each in dev for name in each.positive if name.startswith("country-")}
    everything = list(Corpus.open(CORPUS))
    new = [each for each in everything if each.id in countries or each.metadata.get("entity") in countries]
    model = load_model(given.model).with_pictures(PICTURES)
    before = _corpus(RUNS / "before", [each for each in everything if each not in new])
    memorize_corpus(before, model, RUNS / "memory", codec="int8", precision="bf16", pictures=PICTURES, progress=False)
    pipeline = _open(model, RUNS / "memory")
    rows = {"entries of new countries taken out": _asked(pipeline, dev)}
    store = Memory.open(RUNS / "memory")
    encode, fingerprint, _ = model.encoder_for_memory(before.cutting, precision="bf16")
    add(store, _corpus(RUNS / "new", new), encode, fingerprint)
    index = open_index(RUNS / "memory" / INDEX_FOLDER)
    index.use_encoder(model_encoder(model, memory=store, name=index.options.encoder))
    index.add(new)
    pipeline = _open(model, RUNS / "memory")
    rows["with memory"] = _asked(pipeline, dev)
    alone = load_model(given.model, options={"fusion": "none"}).with_pictures(PICTURES)
    rows["without memory"] = _asked(replace(pipeline, model=alone), dev)
    asked_before = _asked(pipeline, seen)
    return {
        "questions": len(dev),
        "entries": len(everything),
        "added": len(new),
        "accuracy": {**{name: _accuracy(dev, right) for name, right in rows.items()}, "commonest answer": _commonest()},
        "difference": {
            "with memory - without": _difference(rows["with memory"], rows["without memory"]),
            "with memory - entries taken out": _difference(
                rows["with memory"], rows["entries of new countries taken out"]
            ),
        },
        "seen countries": {"questions": len(seen), "accuracy": _percent(asked_before)},
        "recall": _recall(pipeline, dev),
        "gate": _gate(pipeline, dev),
        "milliseconds": _times(pipeline, dev),
        "milliseconds with a picture's file": _time_of_files(pipeline, dev),
    }


def _corpus(folder: Path, passages: Sequence[Passage]) -> Corpus:
    return Corpus.write(passages, folder, overwrite=True)


def _open(model: Any, memory: Path) -> Pipeline:
    return open_pipeline(model=model, memory=memory, precision="bf16")


# -- the memory of all sources -----------------------------------------------------------------------------


def _many(given: argparse.Namespace, dev: Sequence[Question]) -> dict[str, Any]:
    model = load_model(given.model).with_pictures(PICTURES)
    pipeline = _open(model, given.many)
    others = [each for name in OTHERS for each in read_questions(Path(f"runs/reveal/chosen/{name}-dev.jsonl"))]
    everything = [*dev, *others]
    info = pipeline.memory.info()
    return {
        "questions": len(dev),
        "entries": info["passages"],
        "bytes": info["bytes"],
        "accuracy": {"with memory": _accuracy(dev, _asked(pipeline, dev)), "commonest answer": _commonest()},
        "others": {"questions": len(others), **_by_kind(others, _asked(pipeline, others))},
        "recall": _recall(pipeline, everything),
        "gate": _gate(pipeline, everything),
        "milliseconds": _times(pipeline, dev),
        "milliseconds with a picture's file": _time_of_files(pipeline, dev),
    }


# -- measures ----------------------------------------------------------------------------------------------


def _asked(pipeline: Pipeline, questions: Sequence[Question]) -> np.ndarray:
    """VQA accuracy of each answer: 1 where it is one of the accepted ones."""
    answers = pipeline.ask_many(questions, batch_size=16, top_k=TOP_K, flops=False)
    pairs = zip(questions, answers, strict=True)
    return np.array([vqa_accuracy(said.text, asked.answers, asked.metadata.get("votes")) for asked, said in pairs])


def _commonest() -> dict[str, Any]:
    """The same of the commonest answer, by kind of question."""
    told = json.loads(BASELINES.read_text(encoding="utf8"))["commonest"]
    right: dict[str, list[float]] = {}
    for name, row in told["types"].items():
        right.setdefault(name.split("-")[0], []).extend([row["vqa_accuracy"]] * row["n"])
    whole = [told["vqa_accuracy"], *told["intervals"]["vqa_accuracy"]]
    return {"all": [round(each, 1) for each in whole], **{name: round(mean(each), 1) for name, each in right.items()}}


def _kind(question: Question) -> str:
    return str(question.metadata["type"]).split("-")[0]


def _by_kind(questions: Sequence[Question], values: np.ndarray) -> dict[str, float]:
    kinds = np.array([_kind(each) for each in questions])
    return {kind: round(100 * float(values[kinds == kind].mean()), 1) for kind in dict.fromkeys(kinds.tolist())}


def _accuracy(questions: Sequence[Question], right: np.ndarray) -> dict[str, Any]:
    return {"all": _percent(right), **_by_kind(questions, right)}


def _percent(values: np.ndarray) -> list[float]:
    """Mean in per cent and its interval."""
    draw = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.percentile(values[draw].mean(1), [2.5, 97.5])
    return [round(100 * float(each), 1) for each in (values.mean(), low, high)]


def _difference(one: np.ndarray, other: np.ndarray) -> list[float]:
    return _percent(one - other)


def _recall(pipeline: Pipeline, questions: Sequence[Question]) -> dict[str, dict[str, float]]:
    found = [pipeline.retrieve(questions[at : at + 32], top_k=20) for at in range(0, len(questions), 32)]
    ranks = np.array(
        [
            next((rank for rank, name in enumerate(row.ids, 1) if name in asked.positive), 1_000)
            for asked, row in zip(questions, (row for rows in found for row in rows), strict=True)
        ]
    )
    return {f"@{depth}": _by_kind(questions, ranks <= depth) for depth in (1, 5, 20)}


def _gate(pipeline: Pipeline, questions: Sequence[Question]) -> dict[str, float]:
    """How many questions of each kind the gate gives its largest weight to the right source, in per cent."""
    model, right = pipeline.model, []
    for at in range(0, len(questions), 32):
        some = questions[at : at + 32]
        with torch.inference_mode():
            sought = model.system.seek(model.inputs(some))
        best = [model.system.sources[int(rows.norm(dim=-1).argmax())] for rows in sought]
        right += [name == SOURCE_OF[_kind(asked)] for name, asked in zip(best, some)]
    return _by_kind(questions, np.array(right))


def _times(pipeline: Pipeline, questions: Sequence[Question]) -> dict[str, float]:
    """Milliseconds of one question by itself, by stage: the median of a few."""
    answers = [pipeline.ask([asked], top_k=TOP_K, flops=False)[0] for asked in evenly(questions, TIMED)]
    return {stage: round(median(each.milliseconds[stage] for each in answers), 1) for stage in answers[0].milliseconds}


def _time_of_files(pipeline: Pipeline, questions: Sequence[Question]) -> float:
    """Milliseconds of `wellread ask --image FILE` once all is loaded, what encodes the picture included: the median."""
    folder = RUNS / "asked"
    folder.mkdir(parents=True, exist_ok=True)
    took = []
    for asked in evenly(questions, TIMED):
        file = folder / asked.picture
        file.write_bytes(pipeline.model.pictures.store.bytes(asked.picture))
        by_file = replace(asked, metadata={**asked.metadata, "picture": str(file)})
        begun = perf_counter()
        pipeline.ask([by_file], top_k=TOP_K, flops=False)
        took.append(1000 * (perf_counter() - begun))
    return round(median(took[1:]), 1)  # the first one loads the image encoder


# -- the page ----------------------------------------------------------------------------------------------


def _page(parts: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "# REVEAL on questions about pictures, pages, facts and words",
        "",
        "Made by benchmarks/reveal.py. VQA accuracy: the answer is an accepted one; per cent and 95 % intervals. "
        f"The best {TOP_K} entries are read (--top-k {TOP_K}), in bf16. others: what "
        "recipes/reveal/choose.py keeps apart, asked of the memory of all sources.",
        "",
    ]
    for part in parts.values():
        told = ", ".join(part[key] for key in ("hardware", "date"))
        lines += [
            f"## {part['entries']:,} entries, {part['questions']:,} questions",
            "",
            f"`{part['command']}`: {told}, seed {part['seed']}",
            "",
        ]
        rows = [
            {"": name, **{key: _cell(value) for key, value in row.items()}} for name, row in part["accuracy"].items()
        ]
        lines += [to_markdown(rows), ""]
        rows = [{"": f"right entry {name}", **row} for name, row in part["recall"].items()]
        rows.append({"": "gate on the right source", **part["gate"]})
        lines += [to_markdown(rows), ""]
        for name in ("difference", "seen countries", "others"):
            if name in part:
                lines += [f"{name}: " + "; ".join(f"{key} {_cell(value)}" for key, value in part[name].items()), ""]
        lines += [
            "milliseconds of a question: " + ", ".join(f"{key} {value}" for key, value in part["milliseconds"].items()),
            "",
        ]
        name = "milliseconds with a picture's file"
        if name in part:
            lines += [f"the same by `ask --image FILE`, with the encoding of the picture: total {part[name]}", ""]
    return "\n".join(lines)


def _cell(value: Any) -> Any:
    return f"{value[0]} ({value[1]} to {value[2]})" if isinstance(value, list) else value


if __name__ == "__main__":
    main()
