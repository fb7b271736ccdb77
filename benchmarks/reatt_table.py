"""ReAtt: how well it finds before and after training, beside BM25 and MiniLM, after adapting, and how well it reads.

command:  python benchmarks/reatt_table.py            (writes results/reatt.md)
          the worlds of 265,978 passages were asked with --worlds ... --limit 100 before it
before:   recipes/reatt/squad.toml, recipes/reatt/fid.toml and recipes/reatt/scifact.toml, trained as their headers say,
          the last one for CISI too (--set data.corpus=runs/beir/cisi/corpus and so on, --out runs/reatt/cisi);
          wellread corpus $WELLREAD_DATA/qa/nq_gold_passages.jsonl.gz --out runs/nq_gold/corpus
          wellread index runs/nq_gold/corpus --retriever lexical --out runs/nq_gold/index
          wellread memorize runs/nq_gold/corpus --model wellread-mini --retriever none --precision bf16 \
              --out runs/nq_gold/memory
          benchmarks/whole_wiki.py

It runs `wellread init`, `index`, `rank` and `eval` and nothing else; what was measured is kept in
results/reatt/NAME.json with a digest of the weights, and measured anew for other weights or with --again. Before
training every head of the first live layer searches by itself; the one that finds most for training questions is what
training is compared with.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common import data_folder, digest, measured, measured_of, wellread

from wellread.evaluation.report import hardware, to_markdown, write_table

RUNS, RESULTS = Path("runs/reatt"), Path("results/reatt")
HEADS = 12
READ = 5  # passages a reader reads
CHOSEN_ON = 200  # training questions that the best head is chosen by
OPTIONS = ("live_share=0.5", "mark_matches=true", "train_memory=false", "question_encoder=separate")
MEASURES = ("recall@1", "recall@5", "recall@20", "recall@100", "ndcg@10", "mrr@10")


@dataclass(frozen=True)
class World:
    """questions: a file or BEIR folder of the data. place: where corpus, index and memory lie. memory: its name.

    small: few enough passages to index approximately and exactly, and to encode with MiniLM in fp32, within minutes.
    """

    questions: str
    place: Path
    memory: str = "memory"
    split: str | None = None
    small: bool = True


WORLDS = {
    "squad_dev, 3,326 passages": World("qa/squad_dev.jsonl.gz", Path("runs/squad"), "mini-memory"),
    "nq_gold, 2,193 passages": World("qa/nq_gold.jsonl.gz", Path("runs/nq_gold")),
    "squad_dev, 265,978 passages": World("qa/squad_dev.jsonl.gz", Path("runs/wiki18"), small=False),
    "nq_gold, 265,978 passages": World("qa/nq_gold.jsonl.gz", Path("runs/wiki18"), small=False),
}
ADAPTED = {
    "scifact": World("retrieval/scifact", Path("runs/beir/scifact"), split="test"),
    "cisi": World("retrieval/cisi", Path("runs/beir/cisi"), split="test"),
}


def untrained(head: int) -> Path:
    """The default model as a ReAtt that retrieves with one head, before any training for it."""
    folder = RUNS / "untrained" / str(head)
    if not (folder / "system.json").is_file():
        chosen = [word for option in (*OPTIONS, f"head={head}") for word in ("--set", option)]
        wellread("init", "--system", "reatt", "--from", "wellread-mini", *chosen, "--out", folder)
    return folder


def token_index(model: Path, world: World) -> Path:
    """The index of a model's keys over a world's passages, from its memory."""
    name = f"{world.place.name}-{'-'.join(model.parts[-2:])}"
    folder = RUNS / "indexes" / f"{name}-{digest(model)}"
    if not (folder / "index.json").is_file():
        place = ("--model", model, "--memory", world.place / world.memory, "--out", folder)
        if world.small:
            how = () if world.split else ("--questions", data_folder() / world.questions)
        else:
            how = ("--codec", "float16", "--search", "exhaustive")
        found = wellread("index", world.place / "corpus", "--retriever", "reatt", *place, *how)
        measured(RESULTS / f"index-{name}.json", lambda: found, again=True)
    return folder


def other_index(retriever: str, world: World) -> Path:
    folder = world.place / ("index" if retriever == "lexical" else retriever)
    if not (folder / "index.json").is_file():
        faster = ("--precision", "bf16") if retriever == "dense" and not world.small else ()
        wellread("index", world.place / "corpus", "--retriever", retriever, *faster, "--out", folder)
    return folder


def rank(index: Path, world: World, chosen: argparse.Namespace, *more: str | Path) -> dict[str, Any]:
    limit = () if world.split else ("--limit", str(chosen.limit))
    split = ("--split", world.split) if world.split else ()
    asked = wellread("rank", data_folder() / world.questions, "--index", index, *split, *limit, *more)
    return asked | {"hardware": hardware()}


def best_head() -> int:
    """The head that finds most for training questions over squad's passages."""
    world, found = WORLDS["squad_dev, 3,326 passages"], {}
    for head in range(HEADS):
        index = token_index(untrained(head), world)
        asked = ("rank", data_folder() / "qa/squad_train.jsonl.gz", "--index", index, "--limit", str(CHOSEN_ON))
        row = measured_of(RESULTS / f"head-{head}.json", digest(untrained(head)), partial(wellread, *asked))
        found[head] = row["recall@20"]
    return max(found, key=found.get)


def compare(name: str, world: World, trained: Path, before: Path, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one world: before and after training with the paired difference, BM25, MiniLM."""
    run = RESULTS / "runs" / f"{name.replace(', ', '-').replace(' ', '-')}.trec"
    run.parent.mkdir(parents=True, exist_ok=True)
    file = name.replace(", ", "-").replace(" ", "-")
    again = chosen.again
    first = measured_of(
        RESULTS / f"{file}.before.json",
        digest(before),
        lambda: rank(token_index(before, world), world, chosen, "--run-out", run),
        again=again or not run.is_file(),
    )
    after = measured_of(
        RESULTS / f"{file}.after.json",
        f"{digest(before)} {digest(trained)}",
        lambda: rank(token_index(trained, world), world, chosen, "--baseline", run),
        again=again,
    )
    rows = [told(name, "ReAtt before", first), told(name, "ReAtt trained", after)]
    others = {"BM25": "lexical"} | ({} if world.split else {"MiniLM": "dense"})
    for label, retriever in others.items():
        found = measured(
            RESULTS / f"{file}.{retriever}.json",
            lambda retriever=retriever: rank(other_index(retriever, world), world, chosen),
            again=again,
        )
        rows.append(told(name, label, found))
    return rows


def read(name: str, world: World, trained: Path, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one world: answers of ReAtt from its own finds and from BM25's, and of FiD from BM25's."""
    fid, words = RUNS / "fid" / "last", other_index("lexical", world)
    stored = ("--memory", world.place / world.memory)
    readers = {
        "ReAtt, its own finds": (trained, (*stored, "--index", partial(token_index, trained, world))),
        "ReAtt, BM25's": (trained, (*stored, "--index", words)),
        "FiD, BM25's": (fid, ("--corpus", world.place / "corpus", "--index", words)),
    }
    rows = []
    for number, (label, (model, places)) in enumerate(readers.items()):

        def measure(model: Path = model, places: tuple = places) -> dict[str, Any]:
            made = [place() if callable(place) else place for place in places]
            asked = ("--questions", data_folder() / world.questions, "--limit", str(chosen.limit), "--top-k", str(READ))
            return wellread("eval", "--model", model, *made, *asked, "--precision", "bf16")

        file = RESULTS / f"{name.replace(', ', '-').replace(' ', '-')}.read-{number}.json"
        found = measured_of(file, digest(model), measure, again=chosen.again)
        low, high = found["intervals"]["em"]
        row = {"questions": name, "reader": label, "EM": found["em"], "95 %": f"{low:.1f} to {high:.1f}"}
        rows.append({**row, "F1": found["f1"], "n": found["n"]})
    return rows


def told(world: str, label: str, row: Mapping[str, Any]) -> dict[str, Any]:
    key = "ndcg@10" if world in ADAPTED else "recall@20"
    low, high = row["intervals"][key]
    more = row.get("difference", {}).get(key)
    difference = "" if more is None else f"{more['mean']:+.1f} ({more['low']:+.1f} to {more['high']:+.1f})"
    return {
        "questions": world,
        "search": label,
        **{name: row.get(name, float("nan")) for name in MEASURES},
        "95 %": f"{key} {low:.1f} to {high:.1f}",
        "less before": difference,
        "ms": row["milliseconds_per_question"],
        "n": row["n"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=300, help="questions of a set, at even distances")
    parser.add_argument("--worlds", nargs="*", choices=[*WORLDS, *ADAPTED], default=[*WORLDS, *ADAPTED])
    parser.add_argument("--again", action="store_true", help="rank again what was ranked already")
    chosen = parser.parse_args()
    trained, before = RUNS / "squad" / "last", untrained(best_head())
    rows, answers = [], []
    for name in chosen.worlds:
        if name in WORLDS:
            rows += compare(name, WORLDS[name], trained, before, chosen)
            answers += read(name, WORLDS[name], trained, chosen)
        else:
            rows += compare(name, ADAPTED[name], RUNS / name / "last", trained, chosen)
    sizes = [json.loads(file.read_text("utf8")) for file in sorted(RESULTS.glob("index-*.json"))]
    shown = [
        {
            "index": row["out"],
            "passages": row["passages"],
            "seconds": row["seconds"],
            "MiB": row["bytes"] / 2**20,
            "finds of all": row["recall"]["20"] if "recall" in row else "all are scored",
            "asked": row.get("asked", ""),
            "bytes/token plain": row["bytes_per_token"]["plain"],
            "bytes/token stored": row["bytes_per_token"]["stored"],
        }
        for row in sizes
        if "untrained" not in row["out"]
    ]
    notes = (
        f"{to_markdown(answers).rstrip()}\n\n{to_markdown(shown).rstrip()}\n\n"
        "Before: of the 12 heads of the default model's fourth layer, the one that "
        f"finds most for {CHOSEN_ON} training questions; for scifact and cisi, the model trained on squad. Trained: "
        "recipes/reatt/squad.toml, from answers alone; for scifact and cisi recipes/reatt/scifact.toml, from their "
        "documents alone. One memory of the default model serves all. 'less before': the paired difference, 95 % "
        "interval. Over many passages all are scored (float16 keys; asked with --limit 100), and MiniLM reads in bf16. "
        f"Answers are read from the first {READ}; FiD (recipes/reatt/fid.toml) starts from the same weights and is "
        "trained for as many steps of the same questions, with BM25's passages throughout, in all of its layers."
    )
    write_table(
        Path("results/reatt.md"),
        rows,
        title="ReAtt as a retriever",
        command="python benchmarks/reatt_table.py",
        seed=0,
        notes=notes,
    )


if __name__ == "__main__":
    main()
