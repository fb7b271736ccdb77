"""Tasks x systems in one run: answers, provenance, time, FLOPs and bytes. Writes results/tasks.md.

command:  python benchmarks/task_table.py --systems mini-20-5 bm25 smollm2
          python benchmarks/task_table.py --systems glimmer-20-5 lumen-10 memory_fid-20 fid-5     (after recipes/multi)
          (smollm2 needs what benchmarks/requirements.txt says)

Corpora and their BM25 indexes are made in runs/ where they are missing. Every cell is kept in
results/tasks/TASK.SYSTEM.json as soon as it is measured, so the script can be stopped and run again; --tasks and
--systems choose cells, --again measures them anew.

Passages are found among all of a corpus. Those found first for the questions asked are what a reader's memory is made
of: the answers are the same as with a memory of everything, which would take gigabytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from baselines import BASELINES, ask_baseline, evenly_counted
from common import data_folder, make_corpus, measured, open_reader

from wellread.corpus.questions import evenly, read_questions
from wellread.corpus.store import Corpus
from wellread.evaluation.report import Report, can_be_scored, evaluate_answers, hardware, to_markdown, write_table
from wellread.retrieval import open_index
from wellread.types import Probe, Question

RUNS, RESULTS, TABLE = Path("runs/tasks"), Path("results/tasks"), Path("results/tasks.md")
FOUND = 20
"""Passages retrieved per question, of which a system reads its own number."""
COUNTED = 2  # questions of a baseline whose FLOPs are counted


@dataclass(frozen=True)
class Task:
    """questions: a file of the data folder. corpus: a name in CORPORA. metric: what the task is judged by."""

    questions: str
    corpus: str
    metric: str = "em"


@dataclass(frozen=True)
class Reader:
    """A trained reader. run: its folder in --models, or MINI. top_k: passages it gets."""

    run: str
    top_k: int
    options: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None

    def model(self, chosen: argparse.Namespace) -> str | Path:
        """The model's name, or the folder of its weights."""
        return MINI if self.run == MINI else chosen.models / self.run / chosen.weights


MINI, ENTITIES = "wellread-mini", "wiki/entities.parquet"
# name -> (folder with corpus/ and index/, files it is made of)
CORPORA: dict[str, tuple[Path, tuple[str, ...]]] = {
    "squad": (Path("runs/squad"), ("qa/squad_passages.jsonl.gz",)),
    "amazon": (RUNS / "amazon", ("qa/amazon_passages.jsonl.gz",)),
    "nq_gold": (RUNS / "nq_gold", ("qa/nq_gold_passages.jsonl.gz",)),
    "entities": (RUNS / "entities", (ENTITIES,)),
    "open": (
        Path("runs/wiki18"),
        ("wiki/wiki2018.parquet", "qa/squad_passages.jsonl.gz", "qa/nq_gold_passages.jsonl.gz"),
    ),
    "fm2": (RUNS / "fm2", ("kilt/fm2_dev.jsonl.gz",)),
    "fever_symmetric": (RUNS / "fever_symmetric", ("kilt/fever_symmetric_test.jsonl.gz",)),
    "climate_fever": (RUNS / "climate_fever", ("kilt/climate_fever.jsonl.gz",)),
}
TASKS = {
    "squad": Task("qa/squad_dev.jsonl.gz", "squad"),
    "amazon": Task("qa/amazon_test.jsonl.gz", "amazon"),
    "nq_gold": Task("qa/nq_gold.jsonl.gz", "nq_gold"),
    "nq_open": Task("qa/nq_open_dev.jsonl.gz", "open"),
    "triviaqa": Task("qa/triviaqa_dev.jsonl.gz", "open"),
    "webquestions": Task("qa/webquestions_test.jsonl.gz", "open"),
    "curatedtrec": Task("qa/curatedtrec_test.jsonl.gz", "open", "regex_match"),
    "tableqa": Task("qa/tableqa_dev.jsonl.gz", "entities"),
    "slots": Task("kilt/slots_dev.jsonl.gz", "entities"),
    "slots_zeroshot": Task("kilt/slots_zeroshot.jsonl.gz", "entities"),
    "fm2": Task("kilt/fm2_dev.jsonl.gz", "fm2", "accuracy"),
    "fever_symmetric": Task("kilt/fever_symmetric_test.jsonl.gz", "fever_symmetric", "accuracy"),
    "climate_fever": Task("kilt/climate_fever.jsonl.gz", "climate_fever", "accuracy"),
}
READERS = {
    "mini-20-5": Reader(MINI, 20),
    "mini-lumen-10": Reader(MINI, 10, system="lumen"),
    "fid-20": Reader("fid", 20),
    "fid-5": Reader("fid", 5),
    "memory_fid-20": Reader("memory_fid", 20),
    "lumen-20": Reader("lumen", 20),
    "lumen-10": Reader("lumen", 10),
    "glimmer-20-5": Reader("glimmer", 20, {"keep": 5}),
}
SYSTEMS = (*READERS, *BASELINES)


def questions_of(task: str, limit: int) -> list[Question]:
    """`limit` of the task's questions that can be scored, at even distances."""
    every = read_questions(data_folder() / TASKS[task].questions)
    return evenly([question for question in every if can_be_scored(question)], limit)


def corpus_of(task: str) -> tuple[Corpus, Path]:
    """The corpus that a task is answered from and the folder of its index."""
    folder, sources = CORPORA[TASKS[task].corpus]
    return make_corpus(folder, [data_folder() / source for source in sources]), folder / "index"


def pool(task: str, questions: Sequence[Question], corpus: Corpus, index: Path) -> Path:
    """A folder whose corpus/ holds what retrieval finds first for the questions, all of it that a reader can see."""
    found = open_index(index).search([Probe(words=question.text) for question in questions], top_k=FOUND)
    ids = list(dict.fromkeys(name for candidates in found for name in candidates.ids))
    digest = hashlib.blake2b("\n".join(ids).encode(), digest_size=4).hexdigest()
    folder = RUNS / "pools" / f"{task}-{digest}"
    if not (folder / "corpus" / "corpus.json").is_file():
        Corpus.write(corpus.get(ids), folder / "corpus", cutting=corpus.cutting, overwrite=True)
    return folder


def measure_reader(name: str, task: str, chosen: argparse.Namespace) -> dict[str, Any]:
    row, questions = READERS[name], questions_of(task, chosen.limit)
    model = row.model(chosen)
    corpus, index = corpus_of(task)
    folder = pool(task, questions, corpus, index)
    pipeline = open_reader(
        model,
        system=row.system,
        options=row.options,
        corpus=folder / "corpus",
        index=index,
        memories=folder / row.run,
        codec=chosen.codec,
        mark=True,
    )
    report, _ = pipeline.evaluate(
        questions, top_k=row.top_k, timed=chosen.timed, recall_at=(1, 5, FOUND), progress=True
    )
    return cell(name, task, report, model=str(model), command=chosen.command)


def measure_baseline(name: str, task: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Every question is asked alone; the FLOPs are those of the first few, asked again."""
    baseline = BASELINES[name]()
    questions = questions_of(task, chosen.smol_limit if name == "smollm2" else chosen.limit)
    corpus, index = corpus_of(task)
    retriever = open_index(index)
    found = retriever.search([Probe(words=question.text) for question in questions], top_k=FOUND)
    ask = partial(ask_baseline, baseline, retriever=retriever, corpus=corpus)
    # The counted ones go first, so that loading weights and first touches are on nobody's clock.
    counted = [ask(question, flops=baseline.counted) for question in questions[:COUNTED]]
    answers = evenly_counted([ask(question) for question in questions], counted)
    ids = list(dict.fromkeys(id for candidates in found for id in candidates.ids))
    settings = {
        "top_k": baseline.top_k,
        "bytes_per_passage": fmean(len(item.text.encode()) for item in corpus.get(ids)),
    }
    report = evaluate_answers(questions, answers, candidates=found, top_k=(1, 5, FOUND), settings=settings)
    return cell(name, task, report, command=chosen.command)


def cell(name: str, task: str, report: Report, **more: Any) -> dict[str, Any]:
    return {
        "system": name,
        "task": task,
        "metric": TASKS[task].metric,
        **report.to_json(),
        **more,
        "hardware": hardware(),
    }


def right_per_second(found: Mapping[str, Any]) -> float:
    """Questions answered rightly in a second of single questions, by the task's own metric."""
    return found[found["metric"]] / 100 / (found["milliseconds_per_question"] / 1000)


def shown(found: Mapping[str, Any]) -> dict[str, Any]:
    """A cell as a row of the long table. What a task has no measure of is empty."""
    metric = found["metric"]
    low, high = found["intervals"][metric]
    columns = {
        "F1": "f1",
        "R-prec": "r_precision",
        "KILT": f"kilt_{metric}",
        "KILT-F1": "kilt_f1",
        "recall@1": "recall@1",
        "recall@5": "recall@5",
        "recall@20": "recall@20",
        "answer found": "answer@all",
    }
    skipped = {"F1", "KILT-F1", "answer found"} if metric == "accuracy" else set()  # labels stand in no passage
    return {
        "task": found["task"],
        "system": found["system"],
        "metric": metric,
        "score": found[metric],
        "95 %": f"{low:.1f} to {high:.1f}",
        **{column: found.get(key, float("nan")) for column, key in columns.items() if column not in skipped},
        "ms": found["milliseconds_per_question"],
        "GFLOPs": found["flops_per_question"] / 1e9,
        "bytes/passage": round(found["settings"]["bytes_per_passage"]),
        "right per second": right_per_second(found),
        "n": found["n"],
    }


def grid(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per system, a column per task, each with the task's own score."""
    scores = {(found["system"], found["task"]): found[found["metric"]] for found in cells}
    tasks = [task for task in TASKS if any(task == found["task"] for found in cells)]
    systems = [name for name in SYSTEMS if any(name == found["system"] for found in cells)]
    return [{"system": name, **{task: scores.get((name, task), float("nan")) for task in tasks}} for name in systems]


def write(cells: Sequence[Mapping[str, Any]], command: str) -> None:
    notes = (
        "Score by the task's own metric: exact match, accuracy of labels (fact checking), or a match of the regular "
        "expression (curatedtrec). Passages are found by BM25 among the whole corpus of the task. R-prec: a whole "
        "provenance set is first (its share, where sets are larger); KILT and KILT-F1: the answer is right and R-prec "
        "is 1. recall@K: a passage known to hold the answer is among the first K that BM25 found; answer found: an "
        "accepted answer stands in a passage that the system was given. ms: median of single questions; readers in "
        "bf16. Right per second: the score as a share, divided by these seconds. bytes/passage: of the memory; of the "
        "text alone for bm25 (which copies from the first passage by rule) and smollm2 (SmolLM2-135M-Instruct, the "
        "first five passages in its prompt, two examples, greedy). Systems with fewer n were asked fewer questions. "
        "mini: the default model. The other four readers were trained alike, 120 steps on six tasks from an earlier "
        "default model (recipes/multi), whose cut LUMEN and GLIMMER share; FiD and MemoryFiD have to learn in these "
        "steps what their layers never did. Each file in results/tasks holds the command of its own cell; times of "
        "different commands were taken under different load and are not to be compared."
    )
    table = to_markdown([shown(found) for found in cells]).rstrip()
    write_table(TABLE, grid(cells), title="Tasks and systems", command=command, seed=0, notes=f"{table}\n\n{notes}")


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path("runs/multi"), help="folder of the trained readers' runs")
    parser.add_argument("--weights", default="last", help="which weights of a run: best or last")
    parser.add_argument("--codec", default="int8", help="codec of the memories")
    parser.add_argument("--limit", type=int, default=250, help="questions of a task, at even distances")
    parser.add_argument("--smol-limit", type=int, default=24, help="questions for smollm2, which is slow")
    parser.add_argument("--timed", type=int, default=12, help="questions asked one by one for time and FLOPs")
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--systems", nargs="*", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--again", action="store_true", help="measure cells that are there already")
    chosen = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    chosen.command = shlex.join(["python", "benchmarks/task_table.py", *given])
    return chosen


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = parsed(arguments)
    for task in chosen.tasks:
        for name in chosen.systems:
            measure = measure_reader if name in READERS else measure_baseline
            measured(RESULTS / f"{task}.{name}.json", partial(measure, name, task, chosen), again=chosen.again)
    files = [RESULTS / f"{task}.{name}.json" for task in TASKS for name in SYSTEMS]
    write([json.loads(file.read_text("utf8")) for file in files if file.is_file()], chosen.command)


if __name__ == "__main__":
    main()
