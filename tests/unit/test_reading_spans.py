"""Answers are found in passages however they are spaced, cased and accented; citations come most telling first."""

from __future__ import annotations

import pytest

from wellread.reading.spans import cite, find_span
from wellread.types import Passage


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("Moon", "The moon is far.", "moon"),
        ("the MOON", "See The\n  Moon!", "The\n  Moon"),
        ("3 . 5", "It is 3.5 km.", "3.5"),
        ("3.5", "It is 3 . 5 km.", "3 . 5"),
        ("well-read", "a well - read book", "well - read"),
        ("$ 5", "costs $5", "$5"),
        ("C++", "written in C++.", "C++"),
        ("(new)", "it is ( new ) now", "( new )"),
        ("old", "bold cold old", "old"),
        ("café", "The CAFÉ.", "CAFÉ"),
        ("cafe", "The Café here", "Café"),
        ("cafe", "The Cafe\u0301 here", "Cafe\u0301"),
        ("café", "a plain cafe", "cafe"),
        ("strasse", "die Straße dort", "Straße"),
        ("İstanbul", "in istanbul", "istanbul"),
        ("Москва", "город москва.", "москва"),
        ("é", "é é", "é"),
        (".*", "what? .* indeed", ".*"),
    ],
)
def test_spans_are_found(answer, text, found):
    start, end = find_span(answer, text)
    assert text[start:end] == found


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("", "moon"),
        (" ", "moon moon"),
        ("old", "bold older"),
        ("in land", "inland"),
        ("3.5", "13.55"),
        ("3.5", "3x5"),
        ("moon", ""),
        ("moonlight", "moon light"),
    ],
)
def test_what_does_not_stand_there_has_no_span(answer, text):
    assert find_span(answer, text) is None


def test_the_first_of_several_is_marked():
    assert find_span("old", "bold, old and old") == (6, 9)
    assert find_span("old", "ä bold, old and old") == (8, 11)


def test_a_word_of_the_same_case_comes_before_the_first() -> None:
    assert find_span("US", "He told us that the US won.") == (20, 22)
    assert find_span("us", "He told us that the US won.") == (8, 10)
    assert find_span("may", "It May rain in MAY.") == (3, 6)


def test_citations_are_those_read_to_the_end_then_the_others_by_attention():
    passages = {name: Passage(name, f"The moon of {name}.", title=name.upper()) for name in "abcd"}
    cited = cite("Moon", "abcd", passages, scores=[1, 2, 3, 4], shares=[0.1, 0.0, 0.6, 0.3], kept={0, 1, 3})
    assert [(item.id, item.kept, item.share, item.score) for item in cited] == [
        ("d", True, 0.3, 4.0),
        ("a", True, 0.1, 1.0),
        ("b", True, 0.0, 2.0),
        ("c", False, 0.6, 3.0),
    ]
    assert all(item.text[slice(*item.span)] == "moon" and item.title == item.id.upper() for item in cited)
    assert cite("sun", "a", passages, scores=[1], shares=[1], kept={0})[0].span is None
