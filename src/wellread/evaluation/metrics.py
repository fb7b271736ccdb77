"""Metrics of answers and rankings, one value from 0 to 1 per question, and bootstrap intervals of their mean.

Exact match and F1 follow the official SQuAD v1.1 script: texts are lower-cased, punctuation and the articles a,
an, the are removed, the best of the accepted answers counts (Rajpurkar et al. 2016).
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

__all__ = [
    "Difference",
    "accuracy",
    "bootstrap",
    "exact_match",
    "f1",
    "mean",
    "normalise",
    "paired_bootstrap",
    "recall",
    "recall_by_answer",
    "recall_by_expression",
    "regex_match",
]

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PARTED = re.compile(r"\s*([^\w\s])\s*")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """A text as SQuAD compares it: lower case, no ASCII punctuation, no articles, single spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 where the prediction equals one of the accepted answers after `normalise`, else 0."""
    return _best(prediction, answers, lambda said, right: float(normalise(said) == normalise(right)))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Overlap of words between the prediction and the closest accepted answer, 0 to 1.

    Harmonic mean of precision and recall over words, repetitions counted; 0 where no word is shared, even if
    both are empty (as in the official script).
    """
    return _best(prediction, answers, _word_f1)


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """1 where the prediction is an accepted answer but for case and outer spaces, else 0. For labels."""
    return _best(prediction, answers, lambda said, right: float(said.strip().lower() == right.strip().lower()))


def recall(ids: Sequence[str], positive: Collection[str], top_k: int) -> float:
    """1 where one of the positive passages is among the first `top_k` candidates, else 0; nan without positives.

    ids: the candidates, best first. This is the recall@k of open-domain question answering, which asks for one
    good passage.
    """
    _at_least_one(top_k)
    return float(not set(positive).isdisjoint(ids[:top_k])) if positive else math.nan


def recall_by_answer(texts: Sequence[str], answers: Sequence[str], top_k: int) -> float:
    """1 where an accepted answer stands, in whole words, in one of the first `top_k` texts, else 0.

    Both are compared after `normalise`. An answer that is nothing but articles and punctuation is skipped;
    nan where no answer is left.
    """
    _at_least_one(top_k)
    wanted = [f" {answer} " for answer in map(normalise, answers) if answer]
    if not wanted:
        return math.nan
    return float(any(answer in f" {normalise(text)} " for text in texts[:top_k] for answer in wanted))


def regex_match(prediction: str, expression: str) -> float:
    """1 where a regular expression matches the prediction from its beginning, else 0 (CuratedTREC).

    Case does not matter, as in DrQA's and ORQA's evaluation. Tokenizers part punctuation from words ("6 , 168 m"),
    so the prediction without spaces around punctuation may match as well.
    """
    compiled = _compiled(expression)
    said = prediction.strip()
    return float(any(compiled.match(text) for text in (said, _PARTED.sub(r"\1", said))))


def recall_by_expression(texts: Sequence[str], expression: str, top_k: int) -> float:
    """1 where a regular expression matches somewhere in one of the first `top_k` texts, else 0."""
    _at_least_one(top_k)
    compiled = _compiled(expression)
    return float(any(compiled.search(text) for text in texts[:top_k]))


def mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean of the values that are known (not nan); nan where none is."""
    known = _known(values)
    return float(known.mean()) if len(known) else math.nan


def bootstrap(
    values: Sequence[float] | np.ndarray, *, samples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """The interval of the mean: percentiles of the means of `samples` draws with replacement.

    Unknown values (nan) are left out; (nan, nan) where none is known.
    """
    _check_bootstrap(samples, confidence)
    known = _known(values)
    if not len(known):
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    means = [known[generator.integers(len(known), size=len(known))].mean() for _ in range(samples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


class Difference(NamedTuple):
    """mean: of first - second. low, high: its interval; a difference is clear where it does not hold 0."""

    mean: float
    low: float
    high: float


def paired_bootstrap(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    *,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """How much better the first of two systems is on the same questions.

    Questions are drawn, and both systems are taken on the same draw, so what makes a question hard for both
    does not widen the interval. Questions unknown to either (nan) are left out.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values and {len(second)} values; both systems need one for each question.")
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    low, high = bootstrap(differences, samples=samples, confidence=confidence, seed=seed)
    return Difference(mean(differences), low, high)


@lru_cache(maxsize=4096)
def _compiled(expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression, re.IGNORECASE | re.MULTILINE)
    except re.error as error:
        raise ValueError(f"answer_regex={expression!r} is no regular expression ({error}); mend it.") from error


def _best(prediction: str, answers: Sequence[str], score: Callable[[str, str], float]) -> float:
    if isinstance(answers, str):
        raise ValueError(f"the accepted answers are one text, {answers!r}; give a list of texts.")
    if not answers:
        raise ValueError("there are no accepted answers to compare with; leave the question out.")
    return max(score(prediction, right) for right in answers)


def _word_f1(said: str, right: str) -> float:
    words, wanted = normalise(said).split(), normalise(right).split()
    shared = sum((Counter(words) & Counter(wanted)).values())
    # 2PR / (P + R) with P = shared / |words| and R = shared / |wanted|
    return 2 * shared / (len(words) + len(wanted)) if shared else 0.0


def _known(values: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    return values[~np.isnan(values)]


def _at_least_one(top_k: int) -> None:
    if top_k < 1:
        raise ValueError(f"top_k={top_k} is too small; it must be at least 1.")


def _check_bootstrap(samples: int, confidence: float) -> None:
    if samples < 1:
        raise ValueError(f"samples={samples} is too small; it must be at least 1 (1000 is usual).")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is out of range; it must lie between 0 and 1 (0.95 is usual).")
