"""One memory of all of wiki2018 with squad's and nq_gold's passages, and the default model's answers over it.

command:  python benchmarks/whole_wiki.py            (writes results/whole_wiki.md; about 65 minutes of one core)

It runs `wellread corpus`, `index`, `memorize` and `eval`, and nothing else. A build that was stopped goes on where it
was; tasks that were measured are kept in results/whole_wiki/TASK.json, --again measures them anew.
"""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from functools import partial
from pathlib import Path

from common import data_folder, measured, wellread

from wellread.evaluation.report import hardware, to_markdown, write_table
from wellread.memory.store import Memory

RUNS, RESULTS = Path("runs/wiki18"), Path("results/whole_wiki")
PASSAGES = ("wiki/wiki2018.parquet", "qa/squad_passages.jsonl.gz", "qa/nq_gold_passages.jsonl.gz")
TASKS = {
    "nq_open_dev": "qa/nq_open_dev.jsonl.gz",
    "triviaqa_dev": "qa/triviaqa_dev.jsonl.gz",
    "nq_gold": "qa/nq_gold.jsonl.gz",
    "squad_dev": "qa/squad_dev.jsonl.gz",
}


def build(model: str, codec: str) -> Path:
    """The memory; what is there already stays, what is unfinished goes on."""
    corpus, index, memory = RUNS / "corpus", RUNS / "index", RUNS / "memory"
    if not (corpus / "corpus.json").is_file():
        wellread("corpus", *(data_folder() / name for name in PASSAGES), "--out", corpus)
    if not (index / "index.json").is_file():
        wellread("index", corpus, "--retriever", "lexical", "--out", index)
    if not ((memory / "memory.json").is_file() and Memory.open(memory).manifest.complete):
        reading = ("--model", model, "--codec", codec, "--precision", "bf16", "--retriever", "none")
        wellread("memorize", corpus, *reading, "--out", memory)
    return memory


def ask(task: str, memory: Path, chosen: argparse.Namespace) -> dict:
    where = ("--model", chosen.model, "--memory", memory, "--index", RUNS / "index", "--precision", "bf16")
    which = ("--questions", data_folder() / TASKS[task], "--limit", str(chosen.limit), "--timed", "12")
    return wellread("eval", *where, *which) | {"model": chosen.model, "hardware": hardware()}


def build_row(memory: Path) -> dict:
    """Size of the memory, and the time from its first to its last passage (stops in between count)."""
    manifest = Memory.open(memory).manifest
    begun, ended = (datetime.fromisoformat(text) for text in (manifest.created, manifest.changed))
    size = sum(file.stat().st_size for file in memory.rglob("*") if file.is_file())
    minutes = (ended - begun).total_seconds() / 60
    return {
        "passages": manifest.passages,
        "tokens": manifest.tokens,
        "codec": manifest.codec,
        "minutes": minutes,
        "passages/s": manifest.passages / minutes / 60,
        "GiB": size / 2**30,
        "bytes/token, all": size / manifest.tokens,
        "bytes/passage, all": round(size / manifest.passages),
    }


def task_row(task: str, found: dict) -> dict:
    low, high = found["intervals"]["em"]
    shown = {"answer in 20": "answer@all", "answer kept": "answer@kept", "recall@20": "recall@20", "KILT-EM": "kilt_em"}
    return {
        "task": task,
        "EM": found["em"],
        "95 %": f"{low:.1f} to {high:.1f}",
        "F1": found["f1"],
        **{name: found.get(key, float("nan")) for name, key in shown.items()},
        "ms": found["milliseconds_per_question"],
        "fetch ms": found["milliseconds"]["fetch"],
        "n": found["n"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="wellread-mini")
    parser.add_argument("--codec", default="pq8")
    parser.add_argument("--limit", type=int, default=300, help="questions of a task, at even distances")
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--again", action="store_true", help="ask again what was asked already")
    chosen = parser.parse_args()
    memory = build(chosen.model, chosen.codec)
    for task in chosen.tasks:
        measured(RESULTS / f"{task}.json", partial(ask, task, memory, chosen), again=chosen.again)
    found = {task: RESULTS / f"{task}.json" for task in TASKS if (RESULTS / f"{task}.json").is_file()}
    rows = [task_row(task, json.loads(file.read_text("utf8"))) for task, file in found.items()]
    notes = (
        f"{to_markdown([build_row(memory)]).rstrip()}\n\nThe memory was read by one process with the threads it was "
        "given; its minutes run from the first passage to the last. GiB hold texts, tokens and states. Passages are "
        f"found by BM25 (20, of which {chosen.model} keeps 5). answer in 20: an accepted answer stands in a passage "
        "found; answer kept: in one that is read to the end. Most questions of nq_open_dev are also those of nq_gold, "
        "whose gold passages are in this memory."
    )
    write_table(
        Path("results/whole_wiki.md"),
        rows,
        title="One memory of 265,978 passages",
        command="python benchmarks/whole_wiki.py",
        seed=0,
        notes=notes,
    )


if __name__ == "__main__":
    main()
