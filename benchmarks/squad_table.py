"""Quality and cost of the four readers trained by recipes/squad, in one table: results/squad.md.

command:  python benchmarks/squad_table.py            (after the four recipes; see README, "Real questions")

Every row is kept in results/squad/ROW.json as soon as it is measured, so the script can be stopped and run again;
--only NAME measures chosen rows, --again measures them anew.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from common import data_folder, measured, open_reader

from wellread.corpus.questions import evenly, read_questions
from wellread.evaluation.report import hardware, write_table

RUNS, RESULTS = Path("runs/squad"), Path("results/squad")
# row -> (run, options, top_k, codec)
ROWS = {
    "fid-20": ("fid", {}, 20, "bf16"),
    "fid-5": ("fid", {}, 5, "bf16"),
    "memory_fid-20": ("memory_fid", {}, 20, "bf16"),
    "lumen-20": ("lumen", {}, 20, "bf16"),
    "lumen-10": ("lumen", {}, 10, "bf16"),
    "lumen-5": ("lumen", {}, 5, "bf16"),
    "glimmer-20-5": ("glimmer", {"keep": 5}, 20, "bf16"),
    "glimmer-5-5": ("glimmer", {"keep": 5}, 5, "bf16"),
    "lumen-10-int8": ("lumen", {}, 10, "int8"),
    "lumen-10-pq8": ("lumen", {}, 10, "pq8"),
    "lumen-10-pq16": ("lumen", {}, 10, "pq16"),
}
COMMAND = "python benchmarks/squad_table.py"


def measure(name: str, questions: list, timed: int) -> dict:
    run, options, top_k, codec = ROWS[name]
    pipeline = open_reader(
        RUNS / run / "last",
        options=options,
        corpus=RUNS / "corpus",
        index=RUNS / "index",
        # LUMEN and GLIMMER read the memory their start was taught over.
        memories=RUNS / run if run in ("fid", "memory_fid") else RUNS,
        codec=codec,
    )
    report, _ = pipeline.evaluate(questions, top_k=top_k, timed=timed, progress=True)
    return {"row": name, "system": run, "options": options, **report.to_json(), "hardware": hardware()}


def shown(found: dict) -> dict:
    low, high = found["intervals"]["em"]
    settings, spent = found["settings"], found["milliseconds"]
    return {
        "system": found["row"],
        "EM": found["em"],
        "95 %": f"{low:.1f} to {high:.1f}",
        "F1": found["f1"],
        **{f"recall@{k}": found[f"recall@{k}"] for k in (1, 5, 20)},
        "answer kept": found["answer@kept"],
        "ms fetch": spent["fetch"],
        "ms read": spent["read"],
        "ms write": spent["generate"],
        "ms total": found["milliseconds_per_question"],
        "GFLOPs read": found["flops"]["read"] / 1e9,
        "GFLOPs": found["flops_per_question"] / 1e9,
        "by formula": settings["formula_flops"] / 1e9,
        "bytes/passage": round(settings["bytes_per_passage"]),
        "n": found["n"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=300, help="dev questions, evenly spaced")
    parser.add_argument("--timed", type=int, default=12, help="questions asked one by one for time and FLOPs")
    parser.add_argument("--only", nargs="*", choices=list(ROWS), help="rows to measure")
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    chosen = parser.parse_args()
    questions = evenly(read_questions(data_folder() / "qa" / "squad_dev.jsonl.gz"), chosen.limit)
    for name in ROWS if chosen.only is None else chosen.only:
        measured(RESULTS / f"{name}.json", partial(measure, name, questions, chosen.timed), again=chosen.again)
    files = [file for name in ROWS if (file := RESULTS / f"{name}.json").is_file()]
    rows = [json.loads(file.read_text("utf8")) for file in files]
    notes = (
        "Readers as they were after the 1,228 steps of their common start and 320 of their own (recipes/squad). LUMEN "
        "and GLIMMER mark the tokens that question and passage share (mark_matches). Questions of squad_dev, answered "
        "from all 3,326 passages found by BM25. The number in a row's name is the passages retrieved (GLIMMER: "
        "retrieved-kept). FLOPs are per question, counted while it was answered; 'by formula' is the paper's formula "
        "for the same sizes, twice its unit (which is multiply-adds), without attention scores, output layer and copy "
        "head. Milliseconds are medians of single questions, read in bf16."
    )
    write_table(
        "results/squad.md",
        [shown(row) for row in rows],
        title="Four readers on squad_dev",
        command=COMMAND,
        seed=0,
        notes=notes,
    )


if __name__ == "__main__":
    main()
