"""How much the confidence of a reader's answers is worth: results/confidence.md, .json and .svg.

command:  python benchmarks/confidence.py     (after the corpus and the index of README, "Real questions")

A confidence is fitted on one half of the questions and judged on the other, beside the mean probability of an
answer's tokens; nothing is written into the model's folder (`wellread calibrate` does that, from the same halves).
--model and --memory choose another reader; a memory that does not exist is built first, in bf16.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from common import data_folder

from wellread.corpus.questions import evenly, read_questions
from wellread.corpus.store import Corpus
from wellread.evaluation.confidence import Calibration, calibrate
from wellread.evaluation.reliability import plot_confidence
from wellread.evaluation.report import hardware, write_table
from wellread.pipeline import load_model, memorize_corpus, open_pipeline

RUNS, RESULTS = Path("runs/squad"), Path("results")


def measure(chosen: argparse.Namespace) -> Calibration:
    memory = Path(chosen.memory)
    if not (memory / "memory.json").is_file():
        model = load_model(chosen.model)
        memorize_corpus(Corpus.open(RUNS / "corpus"), model, memory, precision="bf16", retriever="none")
    pipeline = open_pipeline(model=chosen.model, memory=memory, index=RUNS / "index", precision="bf16")
    file = data_folder() / "qa" / "squad_dev.jsonl.gz"
    questions = evenly([question for question in read_questions(file) if question.answers], chosen.limit)
    answers = list(pipeline.ask_many(questions, top_k=chosen.top_k, flops=False, progress=True))
    facts = {
        "questions": file.name,
        "system": pipeline.model.name,
        "top_k": chosen.top_k,
        "num_beams": 1,
        "retriever": pipeline.retriever.name,
    }
    return calibrate(questions, answers, fitted=facts)


def rows(found: Calibration) -> list[dict[str, Any]]:
    """A table row per figure, with its 95 % intervals."""
    sides = {"before": found.before.to_json(), "after": found.after.to_json()}
    names = {"ECE": "ece", "Brier score": "brier", "AURC": "aurc"}
    names |= {f"% right of the surest {share} %": f"accuracy_at_{share}" for share in (100, 80, 50)}
    table = []
    for shown, name in names.items():
        row: dict[str, Any] = {"measure": shown}
        for side, told in sides.items():
            value = told[name] if name in told else told["accuracy_at_coverage"][name.removeprefix("accuracy_at_")]
            low, high = told["intervals"][name]
            row |= {side: value, f"95 % {side}": f"{low:.3g} to {high:.3g}"}
        table.append(row)
    return table


def notes(found: Calibration, model: str) -> str:
    facts, after = found.confidence.fitted, found.after
    told = [
        f"from {least} on, {answered:.0f} % of the questions are answered"
        + (f" and {right:.0f} % of these rightly" if answered else "")
        for least, (answered, right) in after.at_min_confidence.items()
    ]
    return (
        f"Answers of {model} ({facts['system']}, {facts['top_k']} passages found by the {facts['retriever']} index of "
        f"all 3,326) to {after.n} questions of squad_dev; the confidence was fitted on {facts['n']} others. Before: "
        "the geometric mean of the probabilities of an answer's tokens. ECE (ten bins of equally many answers), Brier "
        "score and AURC (area under the risk-coverage curve) are better when smaller; intervals are bootstrapped over "
        "questions, and those of the ECE run high, since chance alone adds to it. With `--min-confidence`: "
        f"{'; '.join(told)}.\n\n![Reliability diagram and risk-coverage curve](confidence.svg)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="wellread-mini", help="folder or name of the model")
    parser.add_argument("--memory", default=str(RUNS / "mini-memory"), help="its memory; built where it is absent")
    parser.add_argument("--top-k", type=int, default=20, help="passages retrieved")
    parser.add_argument("--limit", type=int, default=500, help="dev questions, evenly spaced")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    chosen = parser.parse_args()
    found = measure(chosen)
    chosen.out.mkdir(parents=True, exist_ok=True)
    answers = [
        {"right": int(right), "before": round(raw, 4), "after": round(sure, 4)}
        for right, raw, sure in zip(found.right.tolist(), found.raw.tolist(), found.sure.tolist(), strict=True)
    ]
    told = {"model": chosen.model, **found.to_json(), "hardware": hardware(), "answers": answers}
    (chosen.out / "confidence.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf8")
    plot_confidence(chosen.out / "confidence.svg", {"before": found.raw, "after": found.sure}, found.right)
    write_table(
        chosen.out / "confidence.md",
        rows(found),
        title="How sure a reader is, and how often it is right",
        command=" ".join(["python benchmarks/confidence.py", *sys.argv[1:]]),
        seed=0,
        notes=notes(found, chosen.model),
    )


if __name__ == "__main__":
    main()
