"""Rankings judged by trec_eval: recall, nDCG and reciprocal rank per question, with intervals; two runs compared.

The numbers are those of pytrec_eval, the binding of trec_eval (Van Gysel and de Rijke 2018), which BEIR uses too:

    recall@K    the share of all relevant passages that is among the first K
    ndcg@K      sum of grade / log2(rank + 1) over the first K, over the same sum for the best possible ranking
    mrr@K       1 / rank of the first relevant passage, 0 where none is among the first K
    hit@K       1 where a relevant passage is among the first K (what reports on answers call recall@K)

Where a question has one relevant passage, recall@K and hit@K are the same. Passages that nobody judged count as not
relevant. A ranking is judged in the order it is given: trec_eval would sort by score and break ties by id, so ranks
take the place of scores.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wellread.evaluation.metrics import Difference, bootstrap, mean, paired_bootstrap
from wellread.evaluation.provenance import Provenance
from wellread.extras import install_hint
from wellread.types import Candidates, Question

__all__ = [
    "MEASURES",
    "RankingReport",
    "available",
    "check_available",
    "compare",
    "rank_measures",
    "relevance_of",
    "up_to",
    "values_of",
]

MEASURES = ("recall@1", "recall@5", "recall@20", "recall@100", "ndcg@10", "mrr@10")
PERCENT = 100.0
PACKAGE = "pytrec_eval"

Ranking = Sequence[str]
Grades = Mapping[str, int]


@dataclass(frozen=True)
class RankingReport:
    """How well passages were found for a set of questions.

    n: questions with a relevant passage, the ones that count. values: per measure, [questions] from 0 to 1, nan for
    the others. scores: per measure, the mean in percent. intervals: its 95 % bootstrap interval in percent.
    """

    n: int
    values: Mapping[str, np.ndarray]
    scores: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json.dumps` takes: n, one key per measure, intervals."""
        return {
            "n": self.n,
            **{name: round(score, 3) for name, score in self.scores.items()},
            "intervals": {name: [round(bound, 3) for bound in bounds] for name, bounds in self.intervals.items()},
        }


def available() -> bool:
    """Whether the package that judges rankings is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def check_available() -> None:
    """Raise ValueError, which says what to install, where the package that judges rankings is missing."""
    if not available():
        raise ValueError(
            f"rankings are judged by a package that is missing ({PACKAGE}); install it with: {install_hint('ranking')}."
        )


def up_to(depth: int, measures: Sequence[str] = MEASURES) -> list[str]:
    """The measures that look at no more than the first `depth` of a ranking."""
    return [name for name in measures if _parsed(name)[1] <= depth]


def rank_measures(
    questions: Sequence[Question | Grades],
    candidates: Sequence[Candidates | Ranking],
    *,
    measures: Sequence[str] = MEASURES,
    samples: int = 1000,
    seed: int = 0,
) -> RankingReport:
    """Judge the rankings of a set of questions.

    questions: with known passages (see `relevance_of`), or per question the grades themselves, id -> grade; above 0
    is relevant. candidates: per question, what was found, best first; an id that comes again is dropped.
    Errors: ValueError where the lists differ in length, no question has a relevant passage, a measure is unknown, or
    the package is missing.
    """
    values = values_of(questions, candidates, measures=measures)
    known = max((int((~np.isnan(each)).sum()) for each in values.values()), default=0)
    if not known:
        raise ValueError(
            f"none of the {len(questions)} questions has a relevant passage; give questions with `positive` or grades."
        )
    intervals = {name: bootstrap(each, samples=samples, seed=seed) for name, each in values.items()}
    return RankingReport(
        n=known,
        values=values,
        scores={name: PERCENT * mean(each) for name, each in values.items()},
        intervals={name: (PERCENT * low, PERCENT * high) for name, (low, high) in intervals.items()},
    )


def values_of(
    questions: Sequence[Question | Grades],
    candidates: Sequence[Candidates | Ranking],
    *,
    measures: Sequence[str] = MEASURES,
) -> dict[str, np.ndarray]:
    """Per measure, one value from 0 to 1 per question, nan where it has no relevant passage. See `rank_measures`."""
    if len(questions) != len(candidates):
        raise ValueError(f"{len(questions)} questions and {len(candidates)} rankings; there must be one for each.")
    wanted = {name: _parsed(name) for name in measures}
    judged = [_judged(*pair) for pair in zip(questions, candidates)]
    known = {number: pair for number, pair in enumerate(judged) if any(grade > 0 for grade in pair[0].values())}
    values = {name: np.full(len(questions), math.nan) for name in wanted}
    for name, (kind, depth) in wanted.items():
        for number, value in _KINDS[kind](known, depth).items():
            values[name][number] = value
    return values


def compare(
    first: RankingReport, second: RankingReport, *, samples: int = 1000, seed: int = 0
) -> dict[str, Difference]:
    """Per measure, how much better the first of two rankings of the same questions is, in percentage points.

    Questions are drawn in pairs (see `metrics.paired_bootstrap`); a difference is clear where its interval does not
    hold 0. ValueError where the two judge different numbers of questions or share no measure.
    """
    shared = [name for name in first.values if name in second.values]
    if not shared:
        raise ValueError(
            f"the rankings share no measure ({', '.join(first.values)}; {', '.join(second.values)}); "
            "judge both by the same ones."
        )
    found = {
        name: paired_bootstrap(first.values[name], second.values[name], samples=samples, seed=seed) for name in shared
    }
    return {name: Difference(*(PERCENT * number for number in each)) for name, each in found.items()}


def relevance_of(question: Question) -> dict[str, int]:
    """The grades of a question's passages, id -> grade; above 0 is relevant.

    They are its metadata `relevance` where it has grades there (BEIR); every other passage it names as positive has
    grade 1. Where its ids are pages (KILT, see `provenance`), so are these.
    """
    proof = Provenance.of(question)
    given = question.metadata.get("relevance")
    grades = dict(given) if isinstance(given, Mapping) else {}
    wrong = next((name for name, grade in grades.items() if isinstance(grade, bool) or not _is_whole(grade)), None)
    if wrong is not None:
        raise ValueError(
            f"question {question.id!r} grades {wrong!r} as {grades[wrong]!r}; a grade is a whole number, "
            "0 for what is not relevant."
        )
    named = dict(zip(proof.names(list(grades)), grades.values()))
    return {**dict.fromkeys(sorted(proof.members), 1), **named}


def _is_whole(grade: object) -> bool:
    return isinstance(grade, (int, np.integer))


def _judged(question: Question | Grades, found: Candidates | Ranking) -> tuple[dict[str, int], list[str]]:
    """(grades, ranking) with names of the same kind, without repetitions."""
    ids = found.ids if isinstance(found, Candidates) else found
    if not isinstance(question, Question):
        return {name: int(grade) for name, grade in question.items()}, list(dict.fromkeys(ids))
    grades = {name: int(grade) for name, grade in relevance_of(question).items()}
    return grades, list(dict.fromkeys(Provenance.of(question).names(ids)))


Known = Mapping[int, tuple[dict[str, int], list[str]]]


def _trec(known: Known, measure: str, *, depth: int | None = None) -> dict[int, float]:
    """One of trec_eval's measures for questions by number. depth: judge no more than the first of each ranking."""
    check_available()
    import pytrec_eval

    judge = pytrec_eval.RelevanceEvaluator({str(number): grades for number, (grades, _) in known.items()}, {measure})
    # Counting down from the length keeps the order, whatever the scores were.
    runs = {str(number): _counting_down(ids[:depth]) for number, (_, ids) in known.items()}
    key = measure.replace(".", "_")
    return {int(number): found[key] for number, found in judge.evaluate(runs).items()}


def _counting_down(ids: Iterable[str]) -> dict[str, float]:
    names = list(ids)
    return {name: float(len(names) - place) for place, name in enumerate(names)}


_KINDS: dict[str, Callable[[Known, int], dict[int, float]]] = {
    "recall": lambda known, depth: _trec(known, f"recall.{depth}"),
    "ndcg": lambda known, depth: _trec(known, f"ndcg_cut.{depth}"),
    "mrr": lambda known, depth: _trec(known, "recip_rank", depth=depth),
    "hit": lambda known, depth: _trec(known, f"success.{depth}"),
}


def _parsed(measure: str) -> tuple[str, int]:
    kind, _, depth = measure.partition("@")
    if kind not in _KINDS or not depth.isdecimal() or int(depth) < 1:
        forms = ", ".join(f"{name}@K" for name in _KINDS)
        raise ValueError(f"measure {measure!r} is unknown; use {forms}, with K of at least 1 (ndcg@10).")
    return kind, int(depth)
