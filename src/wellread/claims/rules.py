"""What decides a claim: differences of exact match with intervals over questions and seeds, and counted costs.

Intervals are paired bootstraps: one draw of questions and one of seeds is used for all variants, so that what makes a
question hard for all of them, or an order of training questions lucky, does not widen the interval. A difference
whose interval holds the value asked for decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

__all__ = [
    "FAILS",
    "HOLDS",
    "MEDIAN",
    "UNDECIDED",
    "Above",
    "Best",
    "Closer",
    "Cost",
    "Judgement",
    "Measured",
    "Near",
    "Rule",
    "interval",
    "verdict",
]

MEDIAN = "median"
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
SAMPLES = 2000
CONFIDENCE = 0.95
# The most draws that may have no gap to close before a share of it means nothing.
SPOILT = (1 - CONFIDENCE) / 2
PERCENT = 100.0


@dataclass(frozen=True)
class Measured:
    """em: [seeds, questions], 1 where the answer was right. gflops: counted per question."""

    em: np.ndarray
    gflops: float = 0.0

    @property
    def mean(self) -> float:
        """Exact match in percent."""
        return PERCENT * float(self.em.mean())

    @property
    def samples_per_tflop(self) -> float:
        """Questions answered with 10^12 FLOPs."""
        return 1000 / self.gflops if self.gflops else float("nan")


@dataclass(frozen=True)
class Judgement:
    """What a rule found. value, low, high: of what it compares, in points of EM unless the rule says otherwise."""

    says: str
    verdict: str
    value: float
    low: float
    high: float


class Rule(Protocol):
    """Part of a claim that can be true or false. `names`: the variants it looks at."""

    says: str

    @property
    def names(self) -> set[str]: ...

    def judge(self, measured: Mapping[str, Measured]) -> Judgement: ...


@dataclass(frozen=True)
class Above:
    """A sum of weighted EMs, such as {"lumen": 1, "memory": -1}, lies above `least` points."""

    says: str
    weights: Mapping[str, float]
    least: float = 0.0

    @property
    def names(self) -> set[str]:
        return set(self.weights)

    def judge(self, measured: Mapping[str, Measured]) -> Judgement:
        value, low, high = _spread(measured, self.names, lambda em: _sum(self.weights, em))
        found = HOLDS if low > self.least else FAILS if high < self.least else UNDECIDED
        return Judgement(self.says, found, value, low, high)


@dataclass(frozen=True)
class Best:
    """The best of some variants lies above another by more than `least` points, or with `below` under it.

    against: a variant, or "median" for the middle one of the same variants. In every draw of questions the best is
    chosen by the questions that were not drawn, so that it is not the luckiest one.
    """

    says: str
    among: tuple[str, ...]
    against: str
    least: float = 0.0
    below: bool = False

    @property
    def names(self) -> set[str]:
        return {*self.among, *([] if self.against == MEDIAN else [self.against])}

    def judge(self, measured: Mapping[str, Measured]) -> Judgement:
        generator, sign = np.random.default_rng(0), -1 if self.below else 1
        those = np.stack([PERCENT * measured[name].em.mean(0) for name in self.among])
        other = None if self.against == MEDIAN else PERCENT * measured[self.against].em.mean(0)
        values = []
        for _ in range(SAMPLES):
            drawn = generator.integers(those.shape[1], size=those.shape[1])
            rest = np.setdiff1d(np.arange(those.shape[1]), drawn)
            best = those[those[:, rest].mean(1).argmax(), drawn].mean()
            against = np.median(those[:, drawn].mean(1)) if other is None else other[drawn].mean()
            values.append(sign * (best - against))
        low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        found = HOLDS if low > self.least else FAILS if high < self.least else UNDECIDED
        return Judgement(self.says, found, float(np.mean(values)), float(low), float(high))


@dataclass(frozen=True)
class Near:
    """A sum of weighted EMs lies within `within` points of 0: two variants are about as good."""

    says: str
    weights: Mapping[str, float]
    within: float

    @property
    def names(self) -> set[str]:
        return set(self.weights)

    def judge(self, measured: Mapping[str, Measured]) -> Judgement:
        value, low, high = _spread(measured, self.names, lambda em: _sum(self.weights, em))
        inside, outside = -self.within < low and high < self.within, low > self.within or high < -self.within
        return Judgement(self.says, HOLDS if inside else FAILS if outside else UNDECIDED, value, low, high)


@dataclass(frozen=True)
class Closer:
    """(middle - low) / (high - low), the share of a gap that is closed, is larger in one triple than in another.

    first, second: names of low, middle, high. The values are in percent of the gap. Undecided where the gap itself is
    not sure to be there.
    """

    says: str
    first: tuple[str, str, str]
    second: tuple[str, str, str]

    @property
    def names(self) -> set[str]:
        return {*self.first, *self.second}

    def judge(self, measured: Mapping[str, Measured]) -> Judgement:
        def more(em: Mapping[str, float]) -> float:
            return PERCENT * (_closed(*(em[name] for name in self.first)) - _closed(*(em[n] for n in self.second)))

        value, low, high = _spread(measured, self.names, more)
        found = HOLDS if low > 0 else FAILS if high < 0 else UNDECIDED  # comparisons with nan are false
        return Judgement(self.says, found, value, low, high)


@dataclass(frozen=True)
class Cost:
    """A question costs `first` at most `most` times the counted FLOPs it costs `second`."""

    says: str
    first: str
    second: str
    most: float = 1.0
    names: set[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", {self.first, self.second})

    def judge(self, measured: Mapping[str, Measured]) -> Judgement:
        ratio = measured[self.first].gflops / measured[self.second].gflops
        return Judgement(self.says, HOLDS if ratio <= self.most else FAILS, ratio, ratio, ratio)


def verdict(judgements: Sequence[Judgement]) -> str:
    """Of a claim: it holds where all its rules do, and does not where one of them does not."""
    found = {each.verdict for each in judgements}
    return FAILS if FAILS in found else UNDECIDED if UNDECIDED in found else HOLDS


def interval(measured: Measured) -> tuple[float, float]:
    """The interval of one variant's EM, in percent."""
    _, low, high = _spread({"it": measured}, {"it"}, lambda em: em["it"])
    return low, high


def _sum(weights: Mapping[str, float], em: Mapping[str, float]) -> float:
    return sum(weight * em[name] for name, weight in weights.items())


def _closed(low: float, middle: float, high: float) -> float:
    return (middle - low) / (high - low) if high > low else float("nan")


def _spread(
    measured: Mapping[str, Measured], names: set[str], value: Callable[[Mapping[str, float]], float]
) -> tuple[float, float, float]:
    """A function of the variants' EMs in percent: its value, and its interval. nan where too many draws have none."""
    chosen = {name: measured[name].em for name in sorted(names)}
    shapes = {em.shape for em in chosen.values()}
    if len(shapes) > 1:
        raise ValueError(f"variants were measured on {sorted(shapes)} seeds and questions; all need the same.")
    whole = value({name: PERCENT * float(em.mean()) for name, em in chosen.items()})
    drawn = np.array([value(em) for em in _draws(chosen, shapes.pop())])
    if np.isnan(drawn).mean() > SPOILT:
        return whole, float("nan"), float("nan")
    low, high = np.nanquantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return whole, float(low), float(high)


def _draws(chosen: Mapping[str, np.ndarray], shape: tuple[int, int]) -> Iterator[dict[str, float]]:
    generator = np.random.default_rng(0)
    for _ in range(SAMPLES):
        seeds, questions = (generator.integers(count, size=count) for count in shape)
        yield {name: PERCENT * float(em[np.ix_(seeds, questions)].mean()) for name, em in chosen.items()}
