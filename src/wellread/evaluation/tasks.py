"""Measures that belong to some tasks only, as a table, and scores of each type of question."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from wellread.evaluation.metrics import mean
from wellread.evaluation.vision import CaptionScores, captions_available, cider, corpus_bleu, vqa_accuracy
from wellread.types import Question

__all__ = ["MEASURES", "Measured", "TaskMeasure", "by_type", "commonest_answers", "task_measures"]

PER_TYPE = ("em", "f1", "vqa_accuracy", "recall@1", "recall@5")
"""What is told of each type of question, of the measures there are."""


class Measured(NamedTuple):
    """values: [questions] from 0 to 1, nan where a measure does not apply. score, interval: of all together, where
    they are not the mean of the values and its bootstrap interval."""

    values: np.ndarray
    score: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class TaskMeasure:
    """applies: to which questions. score: those questions and what was said -> their scores. available: whether the
    packages it needs are installed."""

    applies: Callable[[Question], bool]
    score: Callable[[Sequence[Question], Sequence[str]], CaptionScores]
    available: Callable[[], bool] = lambda: True


def _about_pictures(question: Question) -> bool:
    return question.picture is not None and question.task == "qa" and bool(question.answers)


def _captions(question: Question) -> bool:
    return question.task == "caption" and bool(question.answers)


def _vqa(questions: Sequence[Question], said: Sequence[str]) -> CaptionScores:
    pairs = zip(questions, said)
    values = np.array([vqa_accuracy(text, item.answers, item.metadata.get("votes")) for item, text in pairs])
    return CaptionScores(float(values.mean()), values)


MEASURES: dict[str, TaskMeasure] = {
    "vqa_accuracy": TaskMeasure(_about_pictures, _vqa),
    "bleu": TaskMeasure(
        _captions, lambda asked, said: corpus_bleu(said, [item.answers for item in asked]), captions_available
    ),
    "cider": TaskMeasure(
        _captions, lambda asked, said: cider(said, [item.answers for item in asked]), captions_available
    ),
}
"""Measure -> whom it is for. Questions about pictures also have em and f1, captions too."""


def task_measures(questions: Sequence[Question], said: Sequence[str]) -> dict[str, Measured]:
    """The measures of MEASURES that apply to some of the questions and can be computed here."""
    found = {}
    for name, measure in MEASURES.items():
        rows = [row for row, question in enumerate(questions) if measure.applies(question)]
        if not rows or not measure.available():
            continue
        scored = measure.score([questions[row] for row in rows], [said[row] for row in rows])
        values = np.full(len(questions), math.nan)
        values[rows] = scored.values
        if scored.samples is None:
            found[name] = Measured(values)
        else:
            low, high = np.quantile(scored.samples, (0.025, 0.975))
            found[name] = Measured(values, scored.score, (float(low), float(high)))
    return found


def commonest_answers(questions: Iterable[Question]) -> dict[str, str]:
    """Type -> the answer that most questions of the type accept, the first met of those that are equally common.

    Always said, it shows what a type is worth without looking.
    """
    counts: dict[str, Counter[str]] = {}
    for question in questions:
        counts.setdefault(str(question.metadata.get("type", "")), Counter()).update(question.answers)
    return {kind: found.most_common(1)[0][0] for kind, found in counts.items() if found}


def by_type(questions: Sequence[Question], values: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Type (`metadata["type"]`) -> how many questions it has and their scores in percent; nothing without types."""
    rows: dict[str, list[int]] = {}
    for row, question in enumerate(questions):
        if isinstance(kind := question.metadata.get("type"), str):
            rows.setdefault(kind, []).append(row)
    return {
        kind: {
            "n": len(some),
            **{
                name: 100 * mean(values[name][some])
                for name in PER_TYPE
                if name in values and not np.isnan(values[name][some]).all()
            },
        }
        for kind, some in sorted(rows.items())
    }
