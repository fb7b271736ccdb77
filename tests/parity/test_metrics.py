"""EM and F1 against the official SQuAD v1.1 script: its results on tricky texts, and torchmetrics' port of it."""

from __future__ import annotations

import random

import pytest

from wellread.evaluation.metrics import exact_match, f1, normalise

# What the official evaluate-v1.1.py gives (sha256 of the script: f5a673dbbd17...): said, accepted, EM, F1.
OFFICIAL = [
    ("The Eiffel Tower", ["eiffel tower"], 1, 1),
    ("an apple a day", ["apple day"], 1, 1),
    ("", [""], 1, 0),
    ("the", ["a"], 1, 0),
    ("...", ["!"], 1, 0),
    ("", ["Paris"], 0, 0),
    ("Paris, France", ["Paris", "France"], 0, 0.666666666667),
    ("paris france", ["Paris, France"], 1, 1),
    ("co-operate", ["cooperate"], 1, 1),
    ("co operate", ["co-operate"], 0, 0),
    ("3.5", ["35"], 1, 1),
    ("$1,000", ["1000"], 1, 1),
    ("the the cat", ["cat"], 1, 1),
    ("cat cat dog", ["cat dog dog"], 0, 0.666666666667),
    ("theatre", ["the atre"], 0, 0),
    ("A.", ["a"], 1, 0),
    ("U.S.A.", ["usa"], 1, 1),
    ("the U.S.", ["us"], 1, 1),
    ("naïve", ["naive"], 0, 0),
    ("Straße", ["STRASSE"], 0, 0),
    ("“quoted”", ["quoted"], 0, 0),
    ("rock ’n’ roll", ["rock 'n' roll"], 0, 0.666666666667),
    ("New\u00a0York", ["New York"], 1, 1),
    ("tab\tseparated\nlines", ["tab separated lines"], 1, 1),
    ("the-end", ["end"], 0, 0),
    ("an_the_a", ["anthea"], 1, 1),
    ("İstanbul", ["i̇stanbul"], 1, 1),
    ("one two three four", ["two four six", "one two three"], 0, 0.857142857143),
    ("42", ["forty two", "42 ."], 1, 1),
    ("AAA a aa", ["aaa aa"], 1, 1),
    ("year 1999–2000", ["1999-2000"], 0, 0),
    ("日本 東京", ["東京 日本"], 0, 1),
]

# Sums that it gives over the 2,000 texts of draws(7, 2000).
OFFICIAL_EM, OFFICIAL_F1 = 397, 127.45079365079383


def draws(seed, count):
    """Random texts of articles, punctuation and words in odd spacing, with one to three accepted answers."""
    draw = random.Random(seed)
    words = ["the", "a", "an", "The", "AN", "Cat", "cat", "dog-house", "U.S.", "3,000", "it's", "--", "\t", "é"]
    words += ["naïve", "theory", "ant", *"$,.'-"]

    def text():
        return draw.choice([" ", "", "  "]).join(draw.choices(words, k=draw.randint(0, 5)))

    return [(text(), [text() for _ in range(draw.randint(1, 3))]) for _ in range(count)]


@pytest.mark.parametrize(("said", "accepted", "em", "overlap"), OFFICIAL)
def test_the_official_script_agrees_on_tricky_texts(said, accepted, em, overlap):
    assert exact_match(said, accepted) == em
    # The script's results were written with twelve digits.
    assert f1(said, accepted) == pytest.approx(overlap, abs=1e-11)


def test_the_official_script_agrees_on_two_thousand_random_texts():
    cases = draws(7, 2000)
    assert sum(exact_match(said, accepted) for said, accepted in cases) == OFFICIAL_EM
    # The order of additions differs, nothing else.
    assert sum(f1(said, accepted) for said, accepted in cases) == pytest.approx(OFFICIAL_F1, abs=1e-9)


def test_torchmetrics_agrees_question_by_question():
    squad = pytest.importorskip("torchmetrics.functional.text.squad", reason="needs torchmetrics").squad
    for said, accepted in [*((said, accepted) for said, accepted, *_ in OFFICIAL), *draws(8, 300)]:
        if not normalise(said):
            continue  # there it follows version 2.0, which gives two empty texts an F1 of 1 where 1.1 gives 0
        starts = [0] * len(accepted)
        theirs = squad(
            [{"prediction_text": said, "id": "q"}],
            [{"answers": {"answer_start": starts, "text": accepted}, "id": "q"}],
        )
        assert 100 * exact_match(said, accepted) == float(theirs["exact_match"])
        # torchmetrics computes in float32
        assert 100 * f1(said, accepted) == pytest.approx(float(theirs["f1"]), abs=1e-4)
