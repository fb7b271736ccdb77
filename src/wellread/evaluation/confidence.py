"""How likely an answer is to be right: fitted on questions with known answers, kept beside the model, judged.

What an answer says about itself (FEATURES) goes into a logistic regression. It holds for the system it was fitted
on; another number of passages or another retriever shifts it, so fit it on what will be asked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np

from wellread.config import from_mapping, require, to_mapping
from wellread.evaluation.metrics import exact_match
from wellread.evaluation.reliability import ConfidenceReport, judge
from wellread.nn.checkpoints import read_json, write_json
from wellread.types import Answer, Question

__all__ = ["FEATURES", "Calibration", "Confidence", "calibrate", "fit_confidence", "raw_confidence"]

FILE = "confidence.json"
FORMAT = 1
MOST_STEPS = 100  # of Newton's method; it needs about 6
FARTHEST = 3.0


def raw_confidence(answer: Answer) -> float:
    """What a reader's own probabilities say, uncalibrated: the answer's, per token (their geometric mean).

    0 where nothing was read, so nothing was written.
    """
    return math.exp(_mean_log_likelihood(answer)) if answer.num_tokens else 0.0


def _mean_log_likelihood(answer: Answer) -> float:
    return answer.log_likelihood / max(answer.num_tokens, 1)


def _standing(answer: Answer, rival: Callable[[Sequence[float]], float]) -> float:
    """By how many standard deviations the best passage's score is above a rival's; 0 where all are equal.

    Scores of different retrievers have nothing but this in common. Passages that were not read may have none (-inf).
    """
    scores = sorted((each.score for each in answer.passages if math.isfinite(each.score)), reverse=True)
    spread = pstdev(scores) if len(scores) > 1 else 0.0
    return (scores[0] - rival(scores)) / spread if spread else 0.0


def _supporting(answer: Answer) -> list[float]:
    """The shares of the passages that were read and hold the answer in their text."""
    return [passage.share for passage in answer.passages if passage.kept and passage.span is not None]


FEATURES: dict[str, Callable[[Answer], float]] = {
    "log_likelihood": lambda answer: answer.log_likelihood,
    "mean_log_likelihood": _mean_log_likelihood,
    "num_tokens": lambda answer: float(answer.num_tokens),
    "share": lambda answer: max((passage.share for passage in answer.passages), default=0.0),
    "score_above_second": lambda answer: _standing(answer, lambda scores: scores[1]),
    "score_above_mean": lambda answer: _standing(answer, fmean),
    "supported": lambda answer: float(bool(_supporting(answer))),
    "supported_share": lambda answer: sum(_supporting(answer)),
}
"""What an answer says about itself. `share` is the largest of a passage; scores are the system's own
where it has some; `supported` is whether a passage that was read holds the answer, `supported_share` what such
passages have of it."""


@dataclass(frozen=True)
class Confidence:
    """The probability that an answer is right: a logistic regression over standardised features.

    features: names in FEATURES; weights, means, scales: one for each, in their order. fitted: what it was fitted
    on: system, its options, top_k, the file of questions, n of them, the seed.
    """

    features: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float
    means: tuple[float, ...]
    scales: tuple[float, ...]
    fitted: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = [name for name in self.features if name not in FEATURES]
        require(not unknown, f"features={unknown} are unknown; this version knows: {', '.join(FEATURES)}.")
        counts = {len(each) for each in (self.features, self.weights, self.means, self.scales)}
        require(len(counts) == 1, "features, weights, means and scales differ in number; each feature has one.")
        numbers = (self.bias, *self.weights, *self.means, *self.scales)
        require(all(map(math.isfinite, numbers)), "a weight, mean or scale is not finite; it must be a number.")
        require(all(scale > 0 for scale in self.scales), "a scale is not above 0; it must be.")

    def __call__(self, answer: Answer) -> float:
        """From 0 to 1. Of an answer that says nothing, 0. Nothing speaks louder than FARTHEST scales from its mean: an
        answer from one passage alone is unlike all that was fitted on in some features."""
        if not answer.text.strip():
            return 0.0
        values = np.array([FEATURES[name](answer) for name in self.features])
        return float(_sigmoid(self.bias + _standardised(values, self.means, self.scales) @ np.array(self.weights)))

    def rate(self, answer: Answer, min_confidence: float | None = None) -> Answer:
        """The answer with its confidence; withheld where that is below `min_confidence`."""
        sure = self(answer)
        if min_confidence is None or sure >= min_confidence:
            return replace(answer, confidence=sure)
        return replace(answer, text="", confidence=sure, abstained=True, withheld=answer.text)

    def save(self, folder: str | Path) -> Path:
        """Write confidence.json into a folder, that of the model it belongs to."""
        file = Path(folder) / FILE
        write_json(file, {"format": FORMAT, **to_mapping(self)})
        return file

    @classmethod
    def load(
        cls, folder: str | Path, *, system: str | None = None, options: Mapping[str, Any] | None = None
    ) -> Confidence | None:
        """The confidence in a model's folder; None without one, or where it was fitted on another system, or on other
        options of it."""
        file = Path(folder) / FILE
        if not file.is_file():
            return None
        told = read_json(file)
        if told.pop("format", None) != FORMAT:
            raise ValueError(f"{file} is of another version of wellread; fit it again with `wellread calibrate`.")
        try:
            found = from_mapping(cls, told)
        except ValueError as error:
            raise ValueError(f"{file} is damaged: {error} Fit it again with `wellread calibrate`.") from error
        known = found.fitted.get("options")
        now = None if options is None else json.loads(json.dumps(dict(options)))  # tuples are lists in a file
        same = known is None or now is None or all(now.get(name) == value for name, value in known.items())
        return found if same and system in (None, found.fitted.get("system")) else None


def _standardised(values: np.ndarray, means: Any, scales: Any) -> np.ndarray:
    return np.clip((values - means) / scales, -FARTHEST, FARTHEST)


def fit_confidence(
    answers: Sequence[Answer],
    right: Sequence[float],
    *,
    l2: float = 1.0,
    fitted: Mapping[str, Any] | None = None,
) -> Confidence:
    """The confidence under which these answers, right (1) or wrong (0), are most likely.

    Minimises the sum of the answers' cross-entropies plus l2/2 times the squared weights (not the bias), by Newton's
    method. Answers that say nothing are left out: their confidence is 0. ValueError where all answers are right or
    all are wrong.
    """
    pairs = [(answer, float(good)) for answer, good in zip(answers, right, strict=True) if answer.text.strip()]
    if len({good for _, good in pairs}) < 2:
        said = "right" if any(good for _, good in pairs) else "wrong"
        raise ValueError(
            f"all {len(pairs)} answers to fit a confidence on are {said}; it takes right and wrong ones. "
            "Give more questions, or another reader."
        )
    values = np.array([[feature(answer) for feature in FEATURES.values()] for answer, _ in pairs])
    means, scales = values.mean(0), values.std(0)
    scales[scales < 1e-9] = 1.0  # the same for all answers: no weight can come of it
    weights = _logistic(_standardised(values, means, scales), np.array([good for _, good in pairs]), l2)
    return Confidence(
        features=tuple(FEATURES),
        weights=tuple(weights[:-1].tolist()),
        bias=float(weights[-1]),
        means=tuple(means.tolist()),
        scales=tuple(scales.tolist()),
        fitted=dict(fitted or {}),
    )


def _logistic(values: np.ndarray, right: np.ndarray, l2: float) -> np.ndarray:
    """Weights [features + 1] of values [answers, features], the bias last."""
    values = np.column_stack([values, np.ones(len(values))])
    ridge = np.append(np.full(values.shape[1] - 1, l2), 0.0)

    def loss(weights: np.ndarray) -> float:
        logits = values @ weights
        return float(np.logaddexp(0, logits).sum() - right @ logits + ridge @ weights**2 / 2)

    weights = np.zeros(values.shape[1])
    for _ in range(MOST_STEPS):
        sure = _sigmoid(values @ weights)
        slope = values.T @ (sure - right) + ridge * weights
        step = np.linalg.solve((values.T * (sure * (1 - sure))) @ values + np.diag(ridge), slope)
        while loss(weights - step) > loss(weights) and np.abs(step).max() > 1e-9:
            step /= 2  # far from the minimum a whole step may overshoot
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    return weights


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))


@dataclass(frozen=True)
class Calibration:
    """A confidence and how good it is on questions it was not fitted on.

    right: [n], 1 where an answer is right. raw, sure: [n], the confidence before (`raw_confidence`) and after;
    before, after: what these are worth.
    """

    confidence: Confidence
    right: np.ndarray
    raw: np.ndarray
    sure: np.ndarray
    before: ConfidenceReport
    after: ConfidenceReport

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json.dumps` takes: the figures after, `before` with the same keys, `fitted`."""
        return {**self.after.to_json(), "before": self.before.to_json(), "fitted": dict(self.confidence.fitted)}


def calibrate(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    *,
    fitted: Mapping[str, Any] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Calibration:
    """Fit a confidence on the first, third, ... answer, and judge it on the others. Right is an exact match.

    fitted: facts to keep with it; n and seed are added. samples, seed: of the bootstrap intervals.
    """
    if len(questions) != len(answers):
        raise ValueError(f"{len(questions)} questions and {len(answers)} answers; there must be one of each.")
    if len(questions) < 4:
        raise ValueError(f"{len(questions)} questions are too few to fit a confidence and judge it; give 4 or more.")
    right = [exact_match(answer.text, question.answers) for question, answer in zip(questions, answers)]
    facts = {**(fitted or {}), "n": len(answers[::2]), "seed": seed}
    confidence = fit_confidence(answers[::2], right[::2], fitted=facts)
    good = np.array(right[1::2])
    raw, sure = (np.array([of(answer) for answer in answers[1::2]]) for of in (raw_confidence, confidence))
    before, after = (judge(each, good, samples=samples, seed=seed) for each in (raw, sure))
    return Calibration(confidence, good, raw, sure, before, after)
