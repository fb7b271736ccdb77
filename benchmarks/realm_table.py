"""REALM on held-out names and dates: with what it finds, with the null passage only, and with any passages.

command:  python benchmarks/realm_table.py --model DIR [--without DIR] [--limit N]    (writes results/realm.md)
before:   `wellread reproduce realm-retrieval-helps` (its runs are the models)

Of every question whose own passage is hidden: the log-probability of the right fill, per token, which tells models
apart long before they are right (how often they are is what the claim counts). Differences are paired, with 95 %
intervals over questions. --without: a model trained without passages. --control: read the passages of others too.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import measured

from wellread.corpus.questions import evenly, read_questions
from wellread.evaluation.metrics import Difference, paired_bootstrap
from wellread.evaluation.report import write_table
from wellread.pipeline import open_pipeline
from wellread.reading.batching import batch_candidates, to_device
from wellread.types import Candidates, Question

QUESTIONS, MEMORY, OUT = Path("runs/realm/heldout.jsonl"), Path("runs/realm/articles-memory"), Path("results/realm")
BATCH = 8


def asked(model: Path, options: Mapping[str, Any], questions: list[Question], *, top_k: int, drawn: bool) -> dict:
    """The log-probability per token of every question's answer. drawn: read passages drawn by lot, found for others."""
    pipeline = open_pipeline(model=model, memory=MEMORY, options=dict(options), precision="bf16")
    found = pipeline.retrieve(questions, top_k=top_k)
    if drawn:  # what was found for the question a third of the list away
        shift = len(found) // 3
        found = [*found[shift:], *found[:shift]]
        found = [each.without(question.hidden) for each, question in zip(found, questions, strict=True)]
    nats: list[float] = []
    for start in range(0, len(questions), BATCH):
        nats += _one_batch(pipeline, questions[start : start + BATCH], found[start : start + BATCH])
    return {"nats": nats, "questions": [question.id for question in questions]}


def _one_batch(pipeline: Any, questions: list[Question], found: list[Candidates]) -> list[float]:
    model = pipeline.model
    frame, system = model.frame, model.system
    rows, _ = pipeline.rows(found)
    candidates = to_device(batch_candidates(rows, frame.tokenizer.pad), model.device)
    inputs = to_device(frame.questions([question.text for question in questions]), model.device)
    target, mask = frame.targets([question.answers[0] for question in questions])
    with torch.inference_mode(), torch.autocast(model.device.type, dtype=torch.bfloat16):
        likely = system.log_likelihood(inputs, candidates, target.to(model.device), mask.to(model.device))
    return (likely.float().cpu() / (mask.sum(1) - 1).clamp_min(1)).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--without", type=Path)
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--top-k", type=int, default=4)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    questions = list(evenly(read_questions(QUESTIONS), chosen.limit))
    blind = {"null_only": True}
    ways = {
        "with retrieval": (chosen.model, {}, False),
        **({"passages found for others": (chosen.model, {}, True)} if chosen.control else {}),
        "the same weights, null passage only": (chosen.model, blind, False),
    }
    if chosen.without is not None:
        ways["trained with the null passage only"] = (chosen.without, blind, False)
    cells = {}
    for name, (model, options, drawn) in ways.items():
        file = OUT / f"{name.replace(' ', '-').replace(',', '')}.json"
        made = {"model": str(model), "limit": len(questions), "top_k": chosen.top_k}
        cells[name] = measured(
            file,
            lambda model=model, options=options, drawn=drawn, made=made: (
                made | asked(model, options, questions, top_k=chosen.top_k, drawn=drawn)
            ),
        )
    _write(cells, chosen)


def _write(cells: Mapping[str, Mapping[str, Any]], chosen: argparse.Namespace) -> None:
    first, rows = cells["with retrieval"], []
    for name, cell in cells.items():
        kept = np.isfinite(first["nats"]) & np.isfinite(cell["nats"])
        row = {
            "read": name,
            "log p per token": f"{np.mean(np.array(cell['nats'])[kept]):.3f}",
        }
        if name != "with retrieval":
            nats = paired_bootstrap(*(np.array(each["nats"])[kept].tolist() for each in (first, cell)))
            row["retrieval is better by"] = _told(nats, 3)
        rows.append(row)
    notes = (
        f"{len(first['nats'])} held-out sentences with a name or a date masked, whose own passage is hidden; 2,998 "
        f"passages of whole articles; {chosen.top_k} passages and the null passage are read. log p: of the right fill, "
        "mean over questions. Differences: retrieval less that row, paired, with 95 % intervals over questions."
    )
    command = f"python benchmarks/realm_table.py --model {chosen.model}"
    command += f" --without {chosen.without}" if chosen.without else ""
    command += " --control" if chosen.control else ""
    command += f" --limit {chosen.limit} --top-k {chosen.top_k}"
    write_table(
        OUT.with_suffix(".md"), rows, title="REALM on held-out names and dates", command=command, seed=0, notes=notes
    )


def _told(found: Difference, digits: int) -> str:
    return f"{found.mean:+.{digits}f} ({found.low:+.{digits}f} to {found.high:+.{digits}f})"


if __name__ == "__main__":
    main()
