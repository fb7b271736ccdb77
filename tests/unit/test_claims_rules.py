"""What decides a claim, on made-up answers: rules that hold, that do not, and that cannot tell."""

from __future__ import annotations

import numpy as np
import pytest

from wellread.claims.rules import (
    FAILS,
    HOLDS,
    MEDIAN,
    UNDECIDED,
    Above,
    Best,
    Closer,
    Cost,
    Judgement,
    Measured,
    Near,
    interval,
    verdict,
)

QUESTIONS = 200


def right(share: float, *, seeds: int = 2, first: int = 0) -> np.ndarray:
    """[seeds, questions]: a share of the questions answered, the same ones by every seed, from number `first` on."""
    one = np.zeros(QUESTIONS)
    one[first : first + round(share * QUESTIONS)] = 1
    return np.tile(one, (seeds, 1))


def measured(**shares: float) -> dict[str, Measured]:
    return {name: Measured(right(share)) for name, share in shares.items()}


@pytest.mark.parametrize(
    ("better", "worse", "found"), [(0.6, 0.3, HOLDS), (0.3, 0.6, FAILS), (0.40, 0.39, UNDECIDED), (0.4, 0.4, UNDECIDED)]
)
def test_above(better, worse, found):
    judged = Above("it is better", {"a": 1, "b": -1}).judge(measured(a=better, b=worse))
    assert judged.verdict == found
    assert judged.value == pytest.approx(100 * (better - worse))
    assert judged.low <= judged.value <= judged.high


def test_at_most_so_much_worse():
    rule = Above("at most 5 points below", {"a": 1, "b": -1}, -5.0)
    assert rule.judge(measured(a=0.40, b=0.41)).verdict == HOLDS
    assert rule.judge(measured(a=0.20, b=0.40)).verdict == FAILS
    assert rule.judge(measured(a=0.35, b=0.40)).verdict == UNDECIDED


def test_a_gain_larger_than_another():
    rule = Above("it helps a more than b", {"a after": 1, "a": -1, "b after": -1, "b": 1})
    told = {"a": 0.2, "a after": 0.5, "b": 0.4}
    assert rule.judge(measured(**told, **{"b after": 0.42})).verdict == HOLDS
    assert rule.judge(measured(**told, **{"b after": 0.95})).verdict == FAILS


@pytest.mark.parametrize(("a", "b", "found"), [(0.4, 0.405, HOLDS), (0.2, 0.5, FAILS), (0.5, 0.2, FAILS)])
def test_near(a, b, found):
    assert Near("about as good", {"a": 1, "b": -1}, 5.0).judge(measured(a=a, b=b)).verdict == found


def test_near_cannot_tell_from_few_questions():
    few = {name: Measured(right(0.5, first=first)[:, ::20]) for name, first in (("a", 0), ("b", 100))}
    assert Near("about as good", {"a": 1, "b": -1}, 5.0).judge(few).verdict == UNDECIDED


def closer(**shares: float) -> Judgement:
    rule = Closer("more of the gap", ("low", "middle", "high"), ("low2", "middle2", "high2"))
    return rule.judge(measured(**shares))


def test_the_share_of_a_gap_that_is_closed():
    second = {"low2": 0.1, "middle2": 0.2, "high2": 0.5}
    large = closer(low=0.1, middle=0.45, high=0.5, **second)
    assert large.value == pytest.approx(100 * (0.35 / 0.4 - 0.1 / 0.4))
    assert large.verdict == HOLDS
    assert closer(low=0.1, middle=0.11, high=0.5, low2=0.1, middle2=0.45, high2=0.5).verdict == FAILS
    assert closer(low=0.1, middle=0.2, high=0.5, **second).verdict == UNDECIDED


def test_without_a_gap_no_share_of_it_is_closed():
    nothing = closer(low=0.3, middle=0.3, high=0.3, low2=0.1, middle2=0.2, high2=0.5)
    assert nothing.verdict == UNDECIDED
    assert np.isnan(nothing.value)
    assert np.isnan(nothing.low)


def test_the_best_of_many_that_are_alike_is_not_better_than_their_middle():
    """It is chosen by other questions than it is judged by: luck alone does not make it the best."""
    generator = np.random.default_rng(1)
    noise = {f"n{number}": Measured((generator.random((1, 200)) < 0.3).astype(float)) for number in range(12)}
    found = Best("one is better", tuple(noise), MEDIAN).judge(noise)
    assert found.low < 0 < found.high
    assert found.verdict == UNDECIDED
    one = {**noise, "n3": Measured((generator.random((1, 200)) < 0.6).astype(float))}
    assert Best("one is better", tuple(one), MEDIAN).judge(one).verdict == HOLDS


def test_the_best_of_some_below_another():
    those = measured(a=0.2, b=0.4, other=0.8)
    below = Best("below", ("a", "b"), "other", below=True)
    assert below.names == {"a", "b", "other"}
    assert below.judge(those).verdict == HOLDS
    assert below.judge(those).value == pytest.approx(40, abs=3)
    assert Best("above", ("a", "b"), "other").judge(those).verdict == FAILS


def test_cost():
    costs = {"a": Measured(right(0.5), gflops=1.0), "b": Measured(right(0.5), gflops=2.0)}
    assert Cost("half", "a", "b", 0.5).judge(costs).verdict == HOLDS
    assert Cost("less than half", "a", "b", 0.4).judge(costs).verdict == FAILS
    assert costs["b"].samples_per_tflop == 500
    assert Cost("half", "a", "b").names == {"a", "b"}


def test_a_claim_needs_all_its_rules():
    def judged(*found: str) -> str:
        return verdict([Judgement("", each, 0, 0, 0) for each in found])

    assert judged(HOLDS, HOLDS) == HOLDS
    assert judged(HOLDS, UNDECIDED) == UNDECIDED
    assert judged(UNDECIDED, FAILS, HOLDS) == FAILS


def test_what_is_hard_for_both_does_not_widen_the_interval():
    generator = np.random.default_rng(0)
    hard = (generator.random(QUESTIONS) < 0.5).astype(float)
    better = np.maximum(hard, generator.random(QUESTIONS) < 0.1)
    paired = {"a": Measured(np.tile(better, (2, 1))), "b": Measured(np.tile(hard, (2, 1)))}
    judged = Above("better", {"a": 1, "b": -1}).judge(paired)
    low, high = interval(paired["a"])
    assert judged.high - judged.low < (high - low) / 1.5


def test_seeds_that_disagree_widen_the_interval():
    agreeing = interval(Measured(np.concatenate([right(0.5, seeds=1)] * 2)))
    disagreeing = interval(Measured(np.concatenate([right(0.2, seeds=1), right(0.8, seeds=1)])))
    assert disagreeing[1] - disagreeing[0] > 2 * (agreeing[1] - agreeing[0])


def test_the_same_answers_give_the_same_interval():
    told = measured(a=0.5, b=0.3)
    rule = Above("better", {"a": 1, "b": -1})
    assert rule.judge(told) == rule.judge(told)


def test_variants_asked_differently_are_refused():
    told = {"a": Measured(right(0.5)), "b": Measured(right(0.5)[:, :10])}
    with pytest.raises(ValueError, match=r"\[\(2, 10\), \(2, 200\)\] seeds and questions; all need the same"):
        Above("better", {"a": 1, "b": -1}).judge(told)
