"""Ranking metrics, accuracy and bootstrap intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wellread.evaluation.metrics import (
    accuracy,
    bootstrap,
    exact_match,
    f1,
    mean,
    normalise,
    paired_bootstrap,
    recall,
    recall_by_answer,
    recall_by_expression,
    regex_match,
)


def test_normalise_follows_squad():
    assert normalise(" The  U.S.A.'s  an-apple\n") == "usas anapple"


def test_the_best_accepted_answer_counts():
    assert exact_match("Paris", ["London", "paris."]) == 1
    assert f1("the red house", ["blue house", "red houses here"]) == pytest.approx(1 / 2)


def test_accuracy_keeps_articles_and_punctuation():
    assert accuracy(" SUPPORTS ", ["supports"]) == 1
    assert accuracy("the supports", ["supports"]) == 0


@pytest.mark.parametrize(("top_k", "expected"), [(1, 0), (2, 0), (3, 1), (9, 1)])
def test_recall_asks_for_one_positive_among_the_first(top_k, expected):
    assert recall(["a", "b", "c"], ["c", "z"], top_k) == expected


def test_recall_by_answer_takes_whole_words():
    texts = ["She saw the Eiffel-Tower", "In 1889, an iron tower was built.", "concatenate"]
    assert recall_by_answer(texts, ["Iron tower"], 1) == 0
    assert recall_by_answer(texts, ["Iron tower"], 2) == 1
    assert recall_by_answer(texts, ["cat"], 3) == 0
    assert recall_by_answer(texts, ["the", "!"], 3) is math.nan
    assert recall_by_answer([], ["cat"], 3) == 0


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("6,168 m", 1),
        ("6 , 168 M", 1),  # as a tokenizer writes it
        (" 6168 m above the sea ", 1),  # from its beginning, not to its end
        ("it is 6,168 m", 0),
        ("6,1680", 0),
        ("", 0),
    ],
)
def test_a_regular_expression_matches_from_the_beginning(said, expected):
    assert regex_match(said, r"6,?168\s*m|20,?320\s*f(oo|ee)t") == expected


def test_a_regular_expression_is_searched_for_in_passages():
    texts = ["Nothing.", "Denali\nrises to 20,320 FEET above"]
    assert recall_by_expression(texts, r"20,?320\s*feet", 1) == 0
    assert recall_by_expression(texts, r"20,?320\s*feet", 2) == 1
    assert recall_by_expression(texts, r"^rises", 2) == 1


def test_unknown_values_are_left_out_of_means():
    assert math.isnan(recall(["a"], [], 1))
    assert mean([1.0, math.nan, 0.0]) == 0.5
    assert math.isnan(mean([math.nan]))
    assert bootstrap([1.0, math.nan, 1.0]) == (1.0, 1.0)
    assert all(map(math.isnan, bootstrap([math.nan])))


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    draw = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        low, high = bootstrap((draw.random(60) < 0.4).astype(float), samples=200, confidence=0.9, seed=trial)
        inside += low <= 0.4 <= high
    # 90 % of 200 trials, give or take four standard errors (2.1 %) and the bootstrap's bias on 60 values.
    assert 0.80 < inside / 200 < 0.98


def test_intervals_are_repeatable_and_shrink_with_more_values():
    values = np.array([0.0, 1.0] * 50)
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(values, seed=3) != bootstrap(values, seed=4)
    low, high = bootstrap(values)
    wide_low, wide_high = bootstrap(values[:20])
    assert high - low < wide_high - wide_low
    assert low < 0.5 < high


def test_the_paired_interval_is_narrower_than_the_systems_own():
    draw = np.random.default_rng(1)
    hard = draw.random(300) < 0.5
    first = hard.astype(float)
    second = first.copy()
    second[:15] = 0
    difference = paired_bootstrap(first, second)
    assert difference.mean == pytest.approx((first - second).mean())
    assert difference.low > 0
    low, high = bootstrap(first)
    assert difference.high - difference.low < (high - low) / 2


def test_the_paired_bootstrap_leaves_out_what_either_does_not_know():
    assert paired_bootstrap([1.0, math.nan, 0.5], [0.0, 1.0, math.nan]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact_match("x", "paris"), "are one text, 'paris'; give a list"),
        (lambda: f1("x", []), "no accepted answers"),
        (lambda: recall(["a"], ["a"], 0), "top_k=0 is too small"),
        (lambda: recall_by_answer(["a"], ["a"], -1), "top_k=-1 is too small"),
        (lambda: recall_by_expression(["a"], "a", 0), "top_k=0 is too small"),
        (lambda: regex_match("x", "("), r"answer_regex='\(' is no regular expression \(missing \)"),
        (lambda: bootstrap([1.0], samples=0), "samples=0 is too small"),
        (lambda: bootstrap([1.0], confidence=95), "confidence=95 is out of range"),
        (lambda: paired_bootstrap([1.0], [1.0, 2.0]), "1 values and 2 values; both systems"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
