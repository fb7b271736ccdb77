"""Rankings judged: a small case by hand, the order as given, what is unknown, and two runs compared."""

from __future__ import annotations

import importlib.util
import json
import math

import numpy as np
import pytest

from wellread.evaluation.ranking import (
    MEASURES,
    available,
    check_available,
    compare,
    rank_measures,
    relevance_of,
    up_to,
    values_of,
)
from wellread.types import Candidates, Question

GRADED = Question("q1", "?", positive=("a", "b"), metadata={"relevance": {"a": 3, "b": 1, "c": 0, "d": -1}})
SINGLE = Question("q2", "?", positive=("x",))
UNKNOWN = Question("q3", "?", answers=("yes",))
QUESTIONS = [GRADED, SINGLE, UNKNOWN]
FOUND = [
    Candidates(("d", "b", "c", "e", "f", "a"), (6, 5, 4, 3, 2, 1)),
    Candidates(("x", "y"), (1, 1)),
    Candidates(("x",), (1,)),
]


def test_by_hand():
    report = rank_measures(QUESTIONS, FOUND, measures=(*MEASURES, "hit@1", "hit@5", "mrr@1"))
    assert report.n == 2
    by_hand = {
        "recall@1": [0, 1],
        "recall@5": [1 / 2, 1],
        "recall@20": [1, 1],
        "recall@100": [1, 1],
        # b with grade 1 at rank 2, a with grade 3 at rank 6; at best a is first and b second
        "ndcg@10": [(1 / math.log2(3) + 3 / math.log2(7)) / (3 + 1 / math.log2(3)), 1],
        "mrr@10": [1 / 2, 1],
        "hit@1": [0, 1],
        "hit@5": [1, 1],
        "mrr@1": [0, 1],
    }
    for name, values in by_hand.items():
        assert report.values[name][:2] == pytest.approx(values), name
        assert math.isnan(report.values[name][2]), name
        assert report.scores[name] == pytest.approx(100 * np.mean(values))
        low, high = report.intervals[name]
        assert low <= report.scores[name] <= high
    told = json.loads(json.dumps(report.to_json()))
    assert told["n"] == 2
    assert told["mrr@10"] == 75
    assert told["intervals"]["recall@100"] == [100, 100]


def test_the_order_given_is_judged_not_scores_or_names():
    """trec_eval breaks ties by id, from the last letter on: sorted its way, z would be first."""
    judged = [{"a": 1}]
    tied = Candidates(("a", "m", "z"), (1.0, 1.0, 1.0))
    rising = Candidates(("a", "m", "z"), (1.0, 2.0, 3.0))
    for found in (tied, rising, ["a", "m", "z"]):
        assert rank_measures(judged, [found]).scores["mrr@10"] == 100
    assert rank_measures(judged, [["z", "m", "a"]]).values["mrr@10"][0] == pytest.approx(1 / 3)


def test_many_candidates_keep_their_order():
    names = [f"p{number}" for number in range(3000)]
    report = rank_measures([{"p99": 1}, {"p100": 1}], [names, names])
    assert report.values["recall@100"].tolist() == [1, 0]


def test_a_passage_that_comes_again_takes_no_second_place():
    assert values_of([{"a": 1}], [["b", "b", "a"]], measures=["mrr@10"])["mrr@10"][0] == 1 / 2


def test_a_question_for_which_nothing_was_found_counts_as_missed():
    report = rank_measures([{"a": 1}, {"b": 2}], [Candidates((), ()), Candidates(("b",), (1,))])
    assert report.n == 2
    assert set(report.scores.values()) == {50.0}


def test_grades_of_a_question():
    assert relevance_of(GRADED) == {"a": 3, "b": 1, "c": 0, "d": -1}
    assert relevance_of(SINGLE) == {"x": 1}
    assert relevance_of(UNKNOWN) == {}
    other = Question("q", "?", positive=("a",), metadata={"relevance": "high"})  # a field of somebody's own
    assert relevance_of(other) == {"a": 1}
    with pytest.raises(ValueError, match=r"question 'q' grades 'a' as 0\.5; a grade is a whole number"):
        relevance_of(Question("q", "?", metadata={"relevance": {"a": 0.5}}))


def test_pages_are_judged_where_questions_name_pages():
    question = Question("q", "?", positive=("12",), metadata={"provenance_sets": [["12"]], "provenance_pages": True})
    values = values_of([question], [["7-0", "7-1", "12-3"]], measures=["mrr@10"])
    assert values["mrr@10"][0] == 1 / 2  # two passages of one page are one


def test_measures_by_depth():
    assert up_to(10) == ["recall@1", "recall@5", "ndcg@10", "mrr@10"]
    assert up_to(3, ("ndcg@3", "ndcg@4")) == ["ndcg@3"]


def test_two_rankings_of_the_same_questions():
    judged = [{"a": 1} for _ in range(60)]
    good = [["a", "b"] if number % 3 else ["b", "a"] for number in range(60)]
    bad = [["b", "a"] if number % 2 else ["a", "b"] for number in range(60)]
    first, second = rank_measures(judged, good), rank_measures(judged, bad)
    found = compare(first, second)
    assert list(found) == list(MEASURES)
    mean, low, high = found["recall@1"]
    assert mean == pytest.approx(100 * (40 - 30) / 60)
    assert low < mean < high
    assert found["recall@5"] == (0, 0, 0)  # both find it, however the questions are drawn
    same = compare(first, first)["ndcg@10"]
    assert same == (0, 0, 0)
    better = rank_measures(judged, [["a"]] * 60)
    assert compare(better, second)["recall@1"].low > 0


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match=r"2 questions and 1 rankings; there must be one for each"):
        rank_measures([{"a": 1}, {"b": 1}], [["a"]])
    with pytest.raises(ValueError, match=r"none of the 1 questions has a relevant passage"):
        rank_measures([UNKNOWN], [["a"]])
    for wrong in ("map@10", "ndcg", "recall@0", "recall@-1", "recall@ten"):
        with pytest.raises(ValueError, match=f"measure '{wrong}' is unknown; use recall@K, ndcg@K, mrr@K, hit@K"):
            rank_measures([SINGLE], [["a"]], measures=[wrong])
    first, second = (rank_measures([SINGLE], [["x"]], measures=[name]) for name in ("recall@1", "recall@5"))
    with pytest.raises(ValueError, match=r"the rankings share no measure \(recall@1; recall@5\)"):
        compare(first, second)
    with pytest.raises(ValueError, match="both systems need one for each question"):
        compare(rank_measures([SINGLE, SINGLE], [["x"]] * 2), rank_measures([SINGLE], [["x"]]))
    assert available()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not available()
    missing = r"a package that is missing \(pytrec_eval\); install it with: pip install '\.\[ranking\]'"
    with pytest.raises(ValueError, match=missing):
        check_available()
    with pytest.raises(ValueError, match=missing):
        rank_measures([SINGLE], [["x"]])
