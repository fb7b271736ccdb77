"""Measures of answers about pictures, from answers whose worth is known, and against the libraries themselves."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wellread.corpus import read_questions
from wellread.evaluation.report import evaluate_answers
from wellread.evaluation.tasks import MEASURES, by_type, commonest_answers, task_measures
from wellread.evaluation.vision import cider, corpus_bleu, vqa_accuracy, vqa_normalise
from wellread.types import Answer, Question

SAID = ["a frog on a leaf", "the red car", "Flag of Chile!"]
RIGHT = [["A frog.", "The frog is on a leaf."], ["A red car."], ["The flag of Peru.", "A flag of Peru."]]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("The Two  dogs!", "2 dogs"),
        (".am", "am"),
        ("1,000 km", "1000 km"),
        ("mother-in-law", "mother in law"),
        ("don't", "dont"),
        ("3.5", "3.5"),
        ("None", "0"),
        ("a\tcat\n", "cat"),
        ("U.S.A.", "usa"),
        ("red / blue", "red blue"),
        ("An", ""),
    ],
)
def test_texts_are_compared_as_by_the_vqa_evaluation(text, same):
    assert vqa_normalise(text) == same


@pytest.mark.parametrize(("votes", "worth"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_annotators_vote(votes, worth):
    """Of ten annotators, one left out at a time: what the official script gives, 30 percent for each of the first."""
    counts = {"red": votes, "blue": 10 - votes}
    assert vqa_accuracy("Red.", ["red", "blue"], counts) == pytest.approx(worth)


def test_without_votes_answers_are_alternatives():
    assert vqa_accuracy("the Dutch", ["Papiamento", "Dutch"]) == 1
    assert vqa_accuracy("German", ["Papiamento", "Dutch", "English"]) == 0
    assert vqa_accuracy("red", ["red"], {"red": 2}) == 1  # two annotators are too few to vote
    with pytest.raises(ValueError, match="there are no accepted answers to compare with"):
        vqa_accuracy("red", [])


def test_bleu_is_that_of_sacrebleu():
    library = pytest.importorskip("sacrebleu.metrics", reason="needs the extra `captions`")
    found = corpus_bleu(SAID, RIGHT, samples=50)
    references = [[row[0] for row in RIGHT], [row[1] if len(row) > 1 else None for row in RIGHT]]
    whole = library.BLEU(lowercase=True).corpus_score(SAID, references).score / 100
    assert found.score == pytest.approx(whole, abs=1e-12)
    assert found.values.shape == (3,)
    assert found.values.max() <= 1
    assert found.samples.min() < found.score < found.samples.max()
    assert np.array_equal(found.samples, corpus_bleu(SAID, RIGHT, samples=50).samples)
    perfect = corpus_bleu(["a red car on the road"], [["A red car on the road"]], samples=2)
    assert perfect.score == pytest.approx(1)


def test_cider_is_that_of_the_coco_evaluation():
    library = pytest.importorskip("pycocoevalcap.cider.cider", reason="needs the extra `captions`")
    found = cider(SAID, RIGHT)
    words = {0: ["a frog on a leaf"], 1: ["the red car"], 2: ["flag of chile"]}
    right = {0: ["a frog", "the frog is on a leaf"], 1: ["a red car"], 2: ["the flag of peru", "a flag of peru"]}
    score, values = library.Cider().compute_score(right, words)
    assert found.score == pytest.approx(score)
    assert np.array_equal(found.values, values)
    assert cider([row[0] for row in RIGHT], RIGHT).score > 1.5 * found.score


def test_missing_packages_and_lists_of_other_lengths_are_told(monkeypatch):
    if all(measure.available() for measure in MEASURES.values()):
        with pytest.raises(ValueError, match="1 captions and 2 lists of references"):
            cider(["x"], [["x"], ["y"]])
    monkeypatch.setattr("wellread.evaluation.vision.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"need packages that are missing; .*\.\[captions\]"):
        corpus_bleu(["x"], [["x"]])
    assert "bleu" not in task_measures([Question("c", "Describe", ("x",), task="caption")], ["x"])


def test_reports_have_the_measures_of_their_tasks():
    asked = [
        Question("v1", "What?", ("red",), metadata={"image": "i", "type": "name", "votes": {"red": 2, "blue": 8}}),
        Question("v2", "What?", ("two dogs",), metadata={"image": "i", "type": "count"}),
        Question("t", "Why?", ("because",)),
    ]
    report = evaluate_answers(asked, [Answer(text) for text in ("red", "2 dogs", "no")])
    assert report.scores["vqa_accuracy"] == pytest.approx(80)
    assert np.isnan(report.values["vqa_accuracy"][2])
    assert report.types == {
        "count": {"n": 1, "em": 0, "f1": 50, "vqa_accuracy": 100},
        "name": {"n": 1, "em": 100, "f1": 100, "vqa_accuracy": pytest.approx(60)},
    }
    assert report.to_json()["types"]["name"]["vqa_accuracy"] == 60
    assert "| name | 1 |" in report.to_markdown()
    plain = evaluate_answers(asked[2:], [Answer("no")])
    assert "vqa_accuracy" not in plain.scores
    assert "types" not in plain.to_json()


def test_captions_are_scored_together():
    pytest.importorskip("sacrebleu", reason="needs the extra `captions`")
    asked = [Question(str(row), "Describe", tuple(right), task="caption") for row, right in enumerate(RIGHT)]
    report = evaluate_answers(asked, [Answer(text) for text in SAID], samples=20)
    assert report.scores["bleu"] == pytest.approx(100 * corpus_bleu(SAID, RIGHT, samples=1).score)
    assert report.scores["cider"] == pytest.approx(100 * cider(SAID, RIGHT).score)
    low, high = report.intervals["bleu"]
    assert low < report.scores["bleu"] < high


def test_types_without_known_values_have_none():
    asked = [Question("a", "x", metadata={"type": "k"})]
    assert by_type(asked, {"em": np.array([np.nan])}) == {"k": {"n": 1}}


def test_repeated_answers_about_a_picture_are_votes(tmp_path):
    rows = [
        {"question": "What?", "image": "i", "answers": ["red", "red", "blue"]},
        {"question": "Why?", "answers": ["a", "a"]},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen, plain = read_questions(tmp_path / "q.jsonl")
    assert (seen.answers, seen.metadata["votes"]) == (("red", "blue"), {"red": 2, "blue": 1})
    assert "votes" not in plain.metadata


def test_annotators_who_all_disagree_vote_too(tmp_path):
    said = [{"answer": f"colour {number}", "answer_id": number} for number in range(10)]
    row = {"question": "What?", "image": "i", "answers": said}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    asked = read_questions(tmp_path / "q.jsonl")
    report = evaluate_answers(asked, [Answer("colour 3")])
    assert report.scores["vqa_accuracy"] == pytest.approx(30)


def test_the_commonest_answer_of_each_type():
    rows = [("k", ("a", "b")), ("k", ("b",)), ("k", ("c",)), ("l", ("d",)), (None, ("e",))]
    known = [
        Question(str(row), "x", right, metadata={"type": kind} if kind else {})
        for row, (kind, right) in enumerate(rows)
    ]
    assert commonest_answers(known) == {"k": "b", "l": "d", "": "e"}


def test_always_the_commonest_answer_is_worth_little(shared_data):
    """9.3 is what the data's own description says."""
    said = commonest_answers(read_questions(shared_data / "images/vqa_train.jsonl.gz"))
    asked = read_questions(shared_data / "images/vqa_dev.jsonl.gz")
    worth = [vqa_accuracy(said[item.metadata["type"]], item.answers) for item in asked]
    assert 100 * np.mean(worth) == pytest.approx(9.3, abs=0.1)
