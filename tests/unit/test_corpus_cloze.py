"""Inverse cloze questions: a sentence, and its passage without it."""

from __future__ import annotations

import pytest

from wellread.corpus.cloze import ClozeReport, cloze_questions
from wellread.corpus.store import Corpus
from wellread.types import Passage

TEXT = "The moon Io has four hundred volcanoes. It was found in January 1610 by Galileo Galilei. Nothing else is known."
PASSAGES = [
    *(Passage(f"p{number}", TEXT.replace("four", str(number)), f"Moon {number}") for number in range(30)),
    Passage("short", "There is one sentence here and no other."),
]


@pytest.fixture
def corpus(tmp_path):
    Corpus.write(PASSAGES, tmp_path)
    return Corpus.open(tmp_path)


def test_the_place_that_is_left_out_is_the_sentence(corpus):
    report = ClozeReport()
    questions = list(cloze_questions(corpus, report=report))
    assert (report.passages, report.questions, report.skipped) == (31, 30, 1)
    texts = {passage.id: passage.text for passage in PASSAGES}
    left_out = [question for question in questions if "cut_out" in question.metadata]
    for question in left_out:
        start, end = question.metadata["cut_out"]
        assert texts[question.positive[0]][start:end] == question.text
    assert 0 < len(questions) - len(left_out) < 10  # one in ten is read whole
    assert {question.task for question in questions} == {"cloze"}
    assert len({question.text.split()[0] for question in questions}) > 1


def test_they_depend_on_the_passage_and_the_seed_alone(corpus):
    everything = {question.id: question for question in cloze_questions(corpus)}
    few = list(cloze_questions(corpus, limit=5))
    assert len(few) == 5
    assert all(everything[question.id] == question for question in few)
    assert {q.id: q.text for q in cloze_questions(corpus, seed=1)} != {i: q.text for i, q in everything.items()}


def test_what_cannot_be(corpus, tmp_path):
    with pytest.raises(ValueError, match="limit=0; it must be at least 1, or None"):
        list(cloze_questions(corpus, limit=0))
    with pytest.raises(ValueError, match=r"kept_share=1.5; it must be between 0 and 1"):
        list(cloze_questions(corpus, kept_share=1.5))
    Corpus.write(PASSAGES[-1:], tmp_path / "short")
    with pytest.raises(ValueError, match="none of the 1 passages has two sentences; give passages of several"):
        list(cloze_questions(Corpus.open(tmp_path / "short")))
