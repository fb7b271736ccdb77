"""KILT's measures by hand, and against a second statement of the official script on random rankings."""

from __future__ import annotations

import math
import random

import pytest

from wellread.evaluation.provenance import Provenance, kilt, kilt_recall, page_of, r_precision, ranking
from wellread.types import Answer, Candidates, CitedPassage, Question


@pytest.mark.parametrize(
    ("ids", "sets", "expected"),
    [
        (["a", "x"], [["a"]], 1),
        (["x", "a"], [["a"]], 0),
        (["x", "a"], [["a"], ["x"]], 1),  # alternatives: one is enough
        (["a", "x", "b"], [["a", "b"]], 1 / 2),
        (["b", "a", "x"], [["a", "b"]], 1),
        (["a", "a", "b"], [["a", "b"]], 1),  # the same page again takes no place
        (["a", "x", "c"], [["a", "b", "c"], ["x", "y"]], 2 / 3),
        ([], [["a"]], 0),
        (["a"], [["a"], []], 1),
    ],
)
def test_r_precision(ids, sets, expected):
    assert r_precision(ids, sets) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ids", "sets", "top_k", "expected"),
    [
        (["x", "a"], [["a"]], 1, 0),
        (["x", "a"], [["a"]], 2, 1),
        (["a", "x", "b"], [["a"], ["b"]], 1, 1 / 2),
        (["a", "x", "b"], [["a"], ["b"]], 3, 1),
        # A set of two takes one place, that of its last member: x, {a, b}, y.
        (["a", "x", "b", "y"], [["a", "b"]], 1, 0),
        (["a", "x", "b", "y"], [["a", "b"]], 2, 1),
        # An incomplete set takes a place too: {a, b} in part, then c.
        (["a", "c"], [["a", "b"], ["c"]], 1, 0),
        (["a", "c"], [["a", "b"], ["c"]], 2, 1 / 2),
        (["a"], [["a"], ["a"]], 1, 1),  # the same set twice is one
        ([], [["a"]], 5, 0),
    ],
)
def test_recall_counts_complete_sets(ids, sets, top_k, expected):
    assert kilt_recall(ids, sets, top_k) == expected


def test_scores_count_only_where_the_proof_is_first():
    assert kilt({"em": 1.0, "f1": 0.5}, 1.0) == {"kilt_em": 1, "kilt_f1": 0.5}
    assert kilt({"em": 1.0, "f1": 0.5}, 0.5) == {"kilt_em": 0, "kilt_f1": 0}
    assert math.isnan(kilt({"em": 1.0}, math.nan)["kilt_em"])
    assert math.isnan(kilt({"em": math.nan}, 1.0)["kilt_em"])


def test_what_nobody_knows_stays_unknown():
    assert math.isnan(r_precision(["a"], []))
    assert math.isnan(kilt_recall(["a"], [[]], 5))
    with pytest.raises(ValueError, match="top_k=0 is too small; it must be at least 1"):
        kilt_recall(["a"], [["a"]], 0)


def official_r_precision(guess, gold):
    """The official script: how many of the first R pages are in a set, the best set counts."""
    values = []
    for pages in gold:
        size = len(pages)
        hits = sum(1 for page in guess[:size] if page in pages)
        values.append(hits / size if size > 0 else 0)
    return max(values)


def official_recall(guess, gold, k):
    """The official script: walk down the pages, and move the entry of a set to where its newest page stands."""
    open_sets, seen = [], []
    for pages in gold:
        if set(pages) not in seen:
            seen.append(set(pages))
            open_sets.append(set(pages))
    walked = []
    for page in guess:
        known = False
        for number, left in enumerate(open_sets):
            if page in left:
                known = True
                if number in walked:
                    walked.remove(number)
                left.discard(page)
                walked.append(number if left else "complete")
        if not known:
            walked.append("other")
    return walked[:k].count("complete") / len(seen)


def test_random_rankings_score_as_in_the_official_script():
    draw = random.Random(0)
    partial = 0
    for _ in range(2000):
        names = [f"p{n}" for n in range(draw.randint(1, 12))]
        gold = [draw.sample(names, draw.randint(1, min(4, len(names)))) for _ in range(draw.randint(1, 4))]
        guess = draw.sample(names, draw.randint(0, len(names)))
        k = draw.randint(1, 6)
        assert r_precision(guess, gold) == official_r_precision(guess, gold)
        assert kilt_recall(guess, gold, k) == pytest.approx(official_recall(guess, gold, k)), (guess, gold, k)
        partial += 0 < kilt_recall(guess, gold, k) < 1
    assert partial > 200  # the comparison is about more than zeros and ones


def test_pages_are_the_ids_without_their_number():
    assert [page_of(name) for name in ("12-0", "w18-316-24", "12", "/wiki/Doha")] == [
        "12",
        "w18-316",
        "12",
        "/wiki/Doha",
    ]


def test_sets_come_from_metadata_else_every_positive_is_an_alternative():
    plain = Provenance.of(Question("q", "?", positive=("a-1", "a-2")))
    assert plain.sets == (frozenset({"a-1"}), frozenset({"a-2"}))
    assert plain.names(["a-1"]) == ["a-1"]
    metadata = {"provenance_sets": [["a-1", "b"], ["b", "a-1"], [], ["c"]], "provenance_pages": True}
    pages = Provenance.of(Question("q", "?", positive=("a-1", "b", "c"), metadata=metadata))
    assert pages.sets == (frozenset({"a", "b"}), frozenset({"c"}))
    assert pages.members == {"a", "b", "c"}
    assert pages.names(["a-7", "c-0", "a-1"]) == ["a", "c", "a"]
    assert Provenance.of(Question("q", "?")).sets == ()


def test_passages_are_ranked_by_score_then_by_retrieval():
    def cited(name, score, share=0.0):
        return CitedPassage(id=name, title="", text="", score=score, share=share)

    answer = Answer("x", (cited("c", 1.0, share=0.9), cited("b", 2.0), cited("a", 2.0)))
    assert ranking(answer) == ["b", "a", "c"]
    found = Candidates(("a", "b", "c", "d", "e"), (5, 4, 3, 2, 1))
    assert ranking(answer, found) == ["a", "b", "c", "d", "e"]  # a tie is decided by retrieval
    assert ranking(Answer(""), found) == ["a", "b", "c", "d", "e"]
    assert ranking(Answer("")) == []
