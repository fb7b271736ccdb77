"""REALM, pre-trained on masked names and dates and fine-tuned to open questions: with what it finds and without.

command:  python benchmarks/realm_table.py            (writes results/realm.md)
before:   recipes/realm/finetune.toml, and what its header names; and
          wellread memorize runs/realm/articles --model runs/realm/pretrain/last --precision bf16 \
              --out runs/realm/spans-memory

It runs `wellread eval` and nothing else; rows are kept in results/realm/ROW.json with a digest of the weights.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from common import digest, measured_of, wellread

from wellread.evaluation.report import write_table

RUNS, RESULTS = Path("runs/realm"), Path("results/realm")
TOP_K = 5
BLIND = ("null_only=true",)
# row -> (questions, model, memory, options)
ROWS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "held-out names and dates, copying alone": ("heldout", "copy", "articles-memory", ()),
    "held-out names and dates": ("heldout", "pretrain", "spans-memory", ()),
    "held-out names and dates, null passage only": ("heldout", "pretrain", "spans-memory", BLIND),
    "NQ": ("nq_dev", "finetune", "open-memory", ()),
    "WebQuestions": ("webquestions_test", "finetune", "open-memory", ()),
    "CuratedTREC": ("curatedtrec_test", "finetune", "open-memory", ()),
}


def measure(name: str) -> dict[str, Any]:
    questions, model, memory, options = ROWS[name]
    changed = [word for option in options for word in ("--set", option)]
    places = ("--model", RUNS / model / "last", "--memory", RUNS / memory, "--questions", RUNS / f"{questions}.jsonl")
    return wellread("eval", *places, *changed, "--top-k", str(TOP_K), "--precision", "bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    again = parser.parse_args().again
    rows = []
    for number, (name, (_, model, _, options)) in enumerate(ROWS.items()):
        weights = digest(RUNS / model / "last")
        found = measured_of(RESULTS / f"{number}.json", weights, lambda name=name: measure(name), again=again)
        measure_of = "em" if "em" in found else "regex_match"
        low, high = found["intervals"][measure_of]
        row = {"questions": name, "model": model, "right": found[measure_of], "95 %": f"{low:.1f} to {high:.1f}"}
        held = math.nan if options == BLIND else found["answer@kept"]  # no passage is read
        rows.append({**row, "answer in the passages": held, "n": found["n"]})
    notes = (
        f"The {TOP_K} passages that the model's own towers find, and the null passage. Names and dates are those of "
        "sentences whose own passage is hidden, in 2,998 passages of whole articles; questions are searched in 5,000 "
        "passages. A question's answer is a span of a passage, so with the null passage alone there is none. "
        "Right: exact match in per cent; for CuratedTREC a match with the question's expression. copy: before "
        "pre-training, with towers that have learnt nothing here."
    )
    command = "python benchmarks/realm_table.py"
    write_table("results/realm.md", rows, title="REALM with what it finds", command=command, seed=1, notes=notes)


if __name__ == "__main__":
    main()
