"""Claims made of answered questions: their wording, their labels, and where wrong answers come from."""

from __future__ import annotations

import pytest

from wellread.corpus.statements import LABELS, StatementsReport, as_statement, shape, statements
from wellread.types import Question


@pytest.mark.parametrize(
    ("question", "answer", "said"),
    [
        ("Who wrote Emma?", "Jane Austen", "Jane Austen wrote Emma."),
        ("Which river flows through Prague?", "The Vltava", "The Vltava flows through Prague."),
        ("What is the capital of Peru?", "Lima", "The capital of Peru is Lima."),
        ("Which team did Pele join?", "Santos", "Pele join did Santos."),
        ("In what year was Tesla born?", "1856", "Tesla born was 1856."),
        ("When did the war end?", "1945", "The war end did 1945."),
        ("Whose army was it?", "Napoleon", "It was Napoleon."),
        ("Batman [SEP] year", "1989", "The year of Batman is 1989."),
        ("Name the largest moon of Saturn", "Titan", None),
        ("Why?", "because", None),
    ],
)
def test_a_question_and_its_answer_become_a_sentence(question, answer, said):
    assert as_statement(question, answer) == said


@pytest.mark.parametrize(
    ("answer", "form"), [("10 July 1856", "year"), ("4,350", "number"), ("Lima", "name"), ("rust", "word")]
)
def test_answers_of_a_shape_can_stand_for_each_other(answer, form):
    assert shape(answer) == form


def asked(count: int, passages: int) -> list[Question]:
    """Questions with different answers of one shape, each about one of the passages."""
    return [
        Question(id=f"q{row}", text=f"What is item {row}?", answers=(f"Name{row}.",), positive=(f"p{row % passages}",))
        for row in range(count)
    ]


def test_half_of_the_claims_are_false_and_no_false_one_says_the_right_answer():
    questions = asked(400, passages=40)
    report = StatementsReport()
    made = list(statements(questions, report=report))
    right = {f"statement-{question.id}": question.answers[0] for question in questions}
    assert {item.task for item in made} == {"claim"}
    assert {item.answers[0] for item in made} == set(LABELS)
    true = [item for item in made if item.answers == ("SUPPORTS",)]
    assert 160 < len(true) < 240
    for item in made:
        assert item.text.endswith(f" is {right[item.id]}.") == (item.answers == ("SUPPORTS",))
    assert (report.questions, report.passages, report.skipped) == (400, 40, 0)


def test_wrong_answers_come_mostly_from_the_same_passage():
    questions = asked(400, passages=40)
    passage_of = {question.answers[0]: question.positive[0] for question in questions}
    false = [item for item in statements(questions) if item.answers == ("REFUTES",)]
    same = [passage_of[item.text.split(" is ")[1][:-1]] == item.positive[0] for item in false]
    assert 0.7 < sum(same) / len(same) < 0.92  # four in five, and one in ten of the others by chance


def test_a_longer_way_to_say_the_answer_is_not_taken_for_a_wrong_one():
    questions = [
        Question(id=f"q{row}", text="Who wrote it?", answers=(answer,), positive=("p",))
        for row, answer in enumerate(("Austen", "Jane Austen", "Austen, Jane"))
    ]
    with pytest.raises(
        ValueError, match=r"none of 1 questions became a statement; give questions with short answers\."
    ):
        list(statements(questions[:1], seed=_false_seed("q0")))
    texts = [item.text for item in statements(questions, seed=_false_seed("q0")) if item.id == "statement-q0"]
    assert texts == []  # neither of the others is wrong


def _false_seed(name: str) -> int:
    """A seed with which the question of this id is to become a false claim."""
    from wellread.corpus.salient import drawn

    return next(seed for seed in range(100) if drawn("label", seed, name) < 0.5)


def test_the_same_seed_says_the_same_and_another_something_else():
    questions = asked(60, passages=6)
    first, again, other = (list(statements(questions, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert [item.text for item in first] != [item.text for item in other]


def test_a_limit_takes_questions_from_all_over():
    made = list(statements(asked(100, passages=10), limit=10))
    assert [item.id for item in made] == [f"statement-q{row}" for row in range(0, 100, 10)]


def test_long_answers_are_skipped_and_a_limit_below_one_is_refused():
    long = Question(id="q", text="What is it?", answers=("a " * 9 + "b",), positive=("p",))
    report = StatementsReport()
    assert len(list(statements([long, *asked(50, passages=5)], report=report))) == 50
    assert report.skipped == 1
    with pytest.raises(ValueError, match=r"limit=0; it must be at least 1, or None\."):
        list(statements([long], limit=0))
