"""What a confidence is worth: whether it is as often right as it says, and whether it knows which answers to trust.

Everywhere `confidence` is [answers] from 0 to 1 and `right` [answers], 1 where the answer is right, else 0. Answers
of equal confidence count as their mean, so that the order they are given in changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wellread.evaluation.metrics import bootstrap
from wellread.evaluation.plots import Line, Panel, panel_plot

__all__ = [
    "ConfidenceReport",
    "accuracy_at_coverage",
    "area_under_risk",
    "brier_score",
    "calibration_error",
    "judge",
    "plot_confidence",
    "reliability",
    "risk_coverage",
]

BINS = 10
COVERAGES = (100, 80, 50)  # percent
THRESHOLDS = (0.25, 0.5, 0.75)
PERCENT = 100.0


def reliability(confidence: np.ndarray, right: np.ndarray, *, bins: int = BINS) -> list[tuple[float, float, int]]:
    """The reliability diagram: (mean confidence, share right, number of answers) per bin, lowest confidence first.

    Bins hold equally many answers, give or take one; there are fewer of them where there are fewer answers.
    """
    sure, good = _ranked(confidence, right)
    pairs = zip(np.array_split(sure[::-1], bins), np.array_split(good[::-1], bins), strict=True)
    return [(float(each.mean()), float(some.mean()), len(each)) for each, some in pairs if len(each)]


def calibration_error(confidence: np.ndarray, right: np.ndarray, *, bins: int = BINS) -> float:
    """Expected calibration error: |mean confidence - share right|, averaged over the answers of all bins; 0 to 1.

    Guo et al. 2017 ("On calibration of modern neural networks", equation 3), with bins of equally many answers
    instead of equal width (Nixon et al. 2019). Chance alone makes it more than 0: the fewer answers, the more.
    """
    rows = reliability(confidence, right, bins=bins)
    return sum(abs(sure - good) * count for sure, good, count in rows) / len(right)


def brier_score(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean squared difference between confidence and outcome, 0 to 1; less is better (Brier 1950)."""
    return float(np.mean((np.asarray(confidence) - np.asarray(right)) ** 2))


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(coverage, risk), [answers] each: the share of answers given, and how many of those are wrong.

    The surest answer alone comes first, all of them last. Geifman and El-Yaniv 2017 ("Selective classification
    for deep neural networks", section 2).
    """
    _, good = _ranked(confidence, right)
    count = np.arange(1, len(good) + 1)
    return count / len(good), 1 - np.cumsum(good) / count


def area_under_risk(confidence: np.ndarray, right: np.ndarray) -> float:
    """AURC, 0 to 1: the mean of the risk over all coverages; less is better (Geifman et al. 2019, section 3)."""
    return float(risk_coverage(confidence, right)[1].mean())


def accuracy_at_coverage(confidence: np.ndarray, right: np.ndarray, coverage: float) -> float:
    """The share of right answers, 0 to 1, among this share of the answers, the surest ones; never of none."""
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage={coverage}; it must be above 0 and at most 1.")
    _, good = _ranked(confidence, right)
    return float(good[: math.ceil(coverage * len(good) - 1e-9)].mean())


def _ranked(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence from high to low, and the mean of `right` over all answers of that confidence."""
    confidence, right = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if confidence.shape != right.shape or not confidence.size:
        raise ValueError(f"{confidence.size} confidences and {right.size} outcomes; give one of each per answer.")
    values, place, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=right) / counts
    return -np.repeat(values, counts), np.repeat(means, counts)


@dataclass(frozen=True)
class ConfidenceReport:
    """n: answers. ece, brier, aurc: 0 to 1, less is better. accuracy_at_coverage: percent of right answers among
    the surest so many percent. at_min_confidence: percent answered and percent of those right (nan: none answered).
    intervals: of the figures of the same names, 95 %; the ECE of resampled answers runs high, and so does its interval.
    """

    n: int
    ece: float
    brier: float
    aurc: float
    accuracy_at_coverage: Mapping[int, float]
    at_min_confidence: Mapping[float, tuple[float, float]]
    intervals: Mapping[str, tuple[float, float]]

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json.dumps` takes."""
        known = {least: (some, None if math.isnan(good) else good) for least, (some, good) in self._at()}
        return {
            "n": self.n,
            "ece": round(self.ece, 4),
            "brier": round(self.brier, 4),
            "aurc": round(self.aurc, 4),
            "accuracy_at_coverage": {str(key): round(value, 2) for key, value in self.accuracy_at_coverage.items()},
            "at_min_confidence": {
                str(least): {"answered": some, "right": good} for least, (some, good) in known.items()
            },
            "intervals": {name: [round(bound, 4) for bound in each] for name, each in self.intervals.items()},
        }

    def _at(self) -> list[tuple[float, tuple[float, float]]]:
        return [(least, (round(some, 2), round(good, 2))) for least, (some, good) in self.at_min_confidence.items()]


def judge(confidence: np.ndarray, right: np.ndarray, *, samples: int = 1000, seed: int = 0) -> ConfidenceReport:
    """All figures about a confidence, with percentile bootstrap intervals over answers."""
    figures: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "ece": calibration_error,
        "brier": brier_score,
        "aurc": area_under_risk,
    }
    figures |= {f"accuracy_at_{share}": _accuracy_at(share) for share in COVERAGES}
    found = {name: figure(confidence, right) for name, figure in figures.items()}
    return ConfidenceReport(
        n=len(right),
        **{name: found[name] for name in ("ece", "brier", "aurc")},
        accuracy_at_coverage={share: found[f"accuracy_at_{share}"] for share in COVERAGES},
        at_min_confidence={least: _answered(confidence, right, least) for least in THRESHOLDS},
        intervals=_intervals(figures, confidence, right, samples, seed),
    )


def _accuracy_at(share: int) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda confidence, right: PERCENT * accuracy_at_coverage(confidence, right, share / 100)


def _answered(confidence: np.ndarray, right: np.ndarray, least: float) -> tuple[float, float]:
    """Percent of answers that are at least so sure, and percent right of these."""
    given = confidence >= least
    return PERCENT * float(given.mean()), PERCENT * float(right[given].mean()) if given.any() else math.nan


def _intervals(
    figures: Mapping[str, Callable], confidence: np.ndarray, right: np.ndarray, samples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """As `metrics.bootstrap`, with the same draws, for figures that are no means."""
    generator = np.random.default_rng(seed)
    draws = [generator.integers(len(right), size=len(right)) for _ in range(samples)]
    found = {name: [figure(confidence[draw], right[draw]) for draw in draws] for name, figure in figures.items()}
    return {name: tuple(np.quantile(each, [0.025, 0.975]).tolist()) for name, each in found.items()}


def plot_confidence(path: str | Path, confidences: Mapping[str, np.ndarray], right: np.ndarray) -> Path:
    """Draw, side by side, the reliability diagram and the risk-coverage curve of some confidences by name."""
    diagram = {"as sure as right": Line([0, 1], [0, 1], style="dashed")}
    curves = {"best possible": _curve(right, right, "dashed")}
    for name, confidence in confidences.items():
        diagram[name] = _diagram(confidence, right)
        curves[name] = _curve(confidence, right, "plain")
    square = {"x_range": (0, 1), "y_range": (0, 1)}
    reliable = Panel(diagram, title="Reliability", x_label="confidence", y_label="share right", **square)
    risk = Panel(curves, title="Risk and coverage", x_label="% answered", y_label="% wrong", x_range=(0, 100))
    return panel_plot(path, [reliable, risk])


def _curve(confidence: np.ndarray, right: np.ndarray, style: str) -> Line:
    coverage, risk = risk_coverage(confidence, right)
    return Line((PERCENT * coverage).tolist(), (PERCENT * risk).tolist(), style=style)


def _diagram(confidence: np.ndarray, right: np.ndarray) -> Line:
    """The reliability diagram with the interval of each bin's share of right answers."""
    rows = reliability(confidence, right)
    order = np.argsort(confidence, kind="stable")
    bounds = [bootstrap(right[some]) for some in np.array_split(order, BINS) if len(some)]
    lows, highs = zip(*bounds, strict=True)
    return Line([sure for sure, _, _ in rows], [good for _, good, _ in rows], lows, highs)
