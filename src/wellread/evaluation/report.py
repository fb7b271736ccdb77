"""Reports: answers to a set of questions -> quality and cost with intervals, as JSON and as tables."""

from __future__ import annotations

import datetime
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from wellread.evaluation.metrics import (
    accuracy,
    bootstrap,
    exact_match,
    f1,
    mean,
    recall,
    recall_by_answer,
    recall_by_expression,
    regex_match,
)
from wellread.evaluation.provenance import Provenance, kilt, kilt_recall, r_precision, ranking
from wellread.evaluation.ranking import available, up_to, values_of
from wellread.evaluation.tasks import by_type, task_measures
from wellread.types import Answer, Candidates, Question

__all__ = ["Report", "can_be_scored", "evaluate_answers", "hardware", "to_markdown", "write_table"]

PERCENT = 100.0
KILT_RECALL = 5
"""The depth at which KILT reports recall."""
RANKED = ("ndcg@10", "mrr@10")
"""Measures of the retrieved order, by trec_eval (see `ranking`)."""
LABEL_TASKS = ("claim",)
"""Tasks whose answers are labels (SUPPORTS, REFUTES): KILT scores them by accuracy, all others by EM and F1."""


@dataclass(frozen=True)
class Report:
    """Quality and cost of one system on one set of questions.

    n: questions. values: per metric, [questions] from 0 to 1 (nan: unknown), for paired comparisons.
    scores: per metric, the mean in percent. intervals: per metric, its bootstrap interval in percent.
    milliseconds: per stage, the median over questions. flops_per_question: mean, counted; flops: by stage.
    settings: what it was run with, as given. types: of each type of question, how many there are and their scores.
    """

    n: int
    values: Mapping[str, np.ndarray]
    scores: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    milliseconds: Mapping[str, float]
    flops_per_question: float
    flops: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    types: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json.dumps` takes: n, one key per metric, milliseconds, flops, intervals, settings.

        Metrics that are unknown for every question (recall without known passages) are left out.
        """
        known = {name: score for name, score in self.scores.items() if not math.isnan(score)}
        return {
            "n": self.n,
            **{name: round(score, 3) for name, score in known.items()},
            "milliseconds_per_question": round(self.milliseconds.get("total", 0.0), 3),
            "milliseconds": {stage: round(value, 3) for stage, value in self.milliseconds.items()},
            "flops_per_question": round(self.flops_per_question),
            "flops": {stage: round(count) for stage, count in self.flops.items()},
            "intervals": {name: [round(bound, 3) for bound in self.intervals[name]] for name in known},
            **({"types": {kind: _rounded(row) for kind, row in self.types.items()}} if self.types else {}),
            **({"settings": dict(self.settings)} if self.settings else {}),
        }

    def to_markdown(self) -> str:
        """A table with one row per metric."""
        known = [(name, score) for name, score in self.scores.items() if not math.isnan(score)]
        rows: list[dict[str, Any]] = [
            {"measure": name, "value": score, "95 % from": self.intervals[name][0], "to": self.intervals[name][1]}
            for name, score in known
        ]
        rows += [{"measure": f"ms {stage} (median)", "value": value} for stage, value in self.milliseconds.items()]
        rows.append({"measure": "GFLOPs per question", "value": self.flops_per_question / 1e9})
        parts = [{"type": kind, **row} for kind, row in self.types.items()]
        return to_markdown(rows) + (f"\n{to_markdown(parts)}" if parts else "")


def evaluate_answers(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    *,
    candidates: Sequence[Candidates] | None = None,
    timed: Sequence[Answer] | None = None,
    top_k: Sequence[int] = (1, 5, 20, 100),
    samples: int = 1000,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Report:
    """Score answers: em, f1, accuracy, recall before and after reranking, provenance, time and FLOPs.

    candidates: what retrieval gave, best first, for recall@K before reranking; K runs over `top_k` up to the
    number of candidates. recall@K asks for one positive passage among the first K, as open-domain question answering
    does (`hit@K` of `ranking`; its own recall@K, the share of all of them, is the same where there is one).
    `ndcg@10` and `mrr@10` judge the same order, where 10 were retrieved and the package for it is installed.
    `recall@kept` and `answer@kept` look at the passages that were read to the end:
    whether a positive passage, or any text with an accepted answer, is among them. `answer@all` is the same
    over all passages, the most that reranking could keep.
    Where questions have positives: `r_precision`, `kilt_recall@5`, and `kilt_accuracy` for claims or `kilt_em` and
    `kilt_f1` for everything else (see `provenance`; the order judged is `provenance.ranking`).
    Questions about pictures have `vqa_accuracy`, captions `bleu` and `cider` (see `tasks.MEASURES`).
    `regex_match` is of questions with an `answer_regex` (CuratedTREC); em, f1 and accuracy of those without answers
    are unknown.
    timed: answers to take time and FLOPs from, such as ones asked one by one; None takes all.
    Errors: ValueError where the lists differ in length, or a question has no accepted answer.
    """
    _check(questions, answers, candidates)
    timed = timed or answers
    proofs = [Provenance.of(question) for question in questions]
    of_tasks = task_measures(questions, [answer.text for answer in answers])
    values = _values(questions, answers) | {name: found.values for name, found in of_tasks.items()}
    values |= _kept(questions, answers, proofs)
    if candidates is not None:
        most = max(len(found.ids) for found in candidates)
        pairs = [(proof.names(found.ids), proof.members) for found, proof in zip(candidates, proofs)]
        for k in sorted({k for k in top_k if k <= most}):
            values[f"recall@{k}"] = np.array([recall(ids, positive, k) for ids, positive in pairs])
        ranked = up_to(most, RANKED)
        if ranked and available():
            values |= values_of(questions, candidates, measures=ranked)
    if any(proof.sets for proof in proofs):
        values |= _proved(questions, answers, candidates, proofs, values)
    scores = {name: PERCENT * mean(each) for name, each in values.items()}
    intervals = {name: _percent(bootstrap(each, samples=samples, seed=seed)) for name, each in values.items()}
    for name, found in of_tasks.items():
        if found.score is not None:
            scores[name], intervals[name] = PERCENT * found.score, _percent(found.interval)
    return Report(
        n=len(questions),
        values=values,
        scores=scores,
        intervals=intervals,
        milliseconds=_medians(timed),
        flops_per_question=sum(answer.flops for answer in timed) / len(timed),
        flops=_mean_flops(timed),
        settings=dict(settings or {}),
        types=by_type(questions, values),
    )


def can_be_scored(question: Question) -> bool:
    """Whether a right answer is known, as texts or as a regular expression."""
    return bool(question.answers or _expression(question))


def _expression(question: Question) -> str | None:
    return question.metadata.get("answer_regex")


def _values(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, np.ndarray]:
    """Metrics of the answers' texts, [questions] each."""
    pairs = list(zip(questions, answers))
    values = {
        name: [metric(answer.text, question.answers) if question.answers else math.nan for question, answer in pairs]
        for name, metric in (("em", exact_match), ("f1", f1), ("accuracy", accuracy))
    }
    if any(_expression(question) for question in questions):
        values["regex_match"] = [
            regex_match(answer.text, _expression(question)) if _expression(question) else math.nan
            for question, answer in pairs
        ]
    return {name: np.array(each) for name, each in values.items()}


def _kept(
    questions: Sequence[Question], answers: Sequence[Answer], proofs: Sequence[Provenance]
) -> dict[str, np.ndarray]:
    """What is among the passages that were read to the end, [questions] each; nothing where none are cited."""
    most = max(len(answer.passages) for answer in answers)
    if not most:
        return {}
    kept = [[passage for passage in answer.passages if passage.kept] for answer in answers]
    ids = [proof.names([passage.id for passage in passages]) for passages, proof in zip(kept, proofs)]
    values = {"recall@kept": [recall(found, proof.members, most) for found, proof in zip(ids, proofs)]}
    for name, found in (("answer@kept", kept), ("answer@all", [answer.passages for answer in answers])):
        texts = [[passage.text for passage in passages] for passages in found]
        values[name] = [_stands_in(row, question) for row, question in zip(texts, questions)]
    return {name: np.array(each) for name, each in values.items()}


def _stands_in(texts: Sequence[str], question: Question) -> float:
    """Whether an accepted answer stands in one of the texts."""
    most = max(len(texts), 1)
    if question.answers:
        return recall_by_answer(texts, question.answers, most)
    return recall_by_expression(texts, _expression(question), most)


def _proved(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    candidates: Sequence[Candidates] | None,
    proofs: Sequence[Provenance],
    values: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """KILT's measures, [questions] each."""
    found = [None] * len(questions) if candidates is None else candidates
    ranked = [proof.names(ranking(*pair)) for proof, *pair in zip(proofs, answers, found)]
    precision = [r_precision(names, proof.sets) for names, proof in zip(ranked, proofs)]
    rows = []
    for index, question in enumerate(questions):
        metrics = ("accuracy",) if question.task in LABEL_TASKS else ("em", "f1")
        rows.append(kilt({name: float(values[name][index]) for name in metrics}, precision[index]))
    kinds = dict.fromkeys(kind for row in rows for kind in row)
    deep = [kilt_recall(names, proof.sets, KILT_RECALL) for names, proof in zip(ranked, proofs)]
    return {
        "r_precision": np.array(precision),
        f"kilt_recall@{KILT_RECALL}": np.array(deep),
        **{kind: np.array([row.get(kind, math.nan) for row in rows]) for kind in kinds},
    }


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows -> a Markdown table. Columns in order of first appearance; numbers to the right."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    numbers = {name for name in columns if all(_is_number(row[name]) for row in rows if name in row)}
    lines = [
        " | ".join(columns),
        " | ".join("---:" if name in numbers else "---" for name in columns),
        *(" | ".join(_cell(row.get(name, "")) for name in columns) for row in rows),
    ]
    return "".join(f"| {line} |\n" for line in lines)


def write_table(
    path: str | Path, rows: Sequence[Mapping[str, Any]], *, title: str, command: str, seed: int, notes: str = ""
) -> None:
    """Write a result as Markdown: title, table, and the command, seed, machine and date it comes from."""
    origin = f"`{command}` (seed {seed}; {hardware()}; {datetime.date.today().isoformat()})"
    parts = [f"# {title}", to_markdown(rows).rstrip(), *([notes] if notes else []), f"Made by {origin}."]
    Path(path).write_text("\n\n".join(parts) + "\n", encoding="utf8")


def hardware() -> str:
    """The machine in words: processor, cores that may be used, GPU."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words = [f"{_processor()}, {cores} cores"]
    if torch.cuda.is_available():
        words.append(torch.cuda.get_device_name())
    return ", ".join(words)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _check(questions: Sequence[Question], answers: Sequence[Answer], candidates: Sequence[Candidates] | None) -> None:
    if not questions:
        raise ValueError("there are no questions to score; give at least one.")
    counts = {"questions": len(questions), "answers": len(answers)}
    if candidates is not None:
        counts["lists of candidates"] = len(candidates)
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(f"{said}; there must be one of each per question.")
    for question in questions:
        if not can_be_scored(question):
            raise ValueError(f"question {question.id!r} has no accepted answers, so it cannot be scored; leave it out.")


def _medians(answers: Sequence[Answer]) -> dict[str, float]:
    stages = dict.fromkeys(stage for answer in answers for stage in answer.milliseconds)
    return {
        stage: median(answer.milliseconds[stage] for answer in answers if stage in answer.milliseconds)
        for stage in stages
    }


def _mean_flops(answers: Sequence[Answer]) -> dict[str, float]:
    stages = dict.fromkeys(stage for answer in answers for stage in answer.flops_by_stage)
    return {stage: sum(answer.flops_by_stage.get(stage, 0) for answer in answers) / len(answers) for stage in stages}


def _rounded(row: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in row.items()}


def _percent(interval: tuple[float, float]) -> tuple[float, float]:
    return PERCENT * interval[0], PERCENT * interval[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    """A value in few characters: three digits for small numbers, thousands separated for large ones."""
    if not _is_number(value):
        return str(value).replace("|", "\\|").replace("\n", " ")
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    if math.isnan(value):
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
