"""`wellread questions`: what it prints, and a training on the questions it makes."""

from __future__ import annotations

import json
import math

import pytest

from wellread.corpus import read_questions

MASKED = "questions masked corpus --finder rules --out masked.jsonl.gz"


@pytest.fixture
def place(world, tmp_path, monkeypatch):
    for name in ("corpus", "index", "passages.jsonl", "recipe.toml"):
        (tmp_path / name).symlink_to(world / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def judged(place):
    """A BEIR folder of the passages, of which two are judged for one query."""
    folder = place / "judged"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_bytes((place / "passages.jsonl").read_bytes())
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "Which planet?"}\n', encoding="utf8")
    rows = "query-id\tcorpus-id\tscore\nq\tmars\t1\nq\tvenus\t2\n"
    (folder / "qrels" / "train.tsv").write_text(rows, encoding="utf8")
    return folder


def test_masked_prints_counts_and_writes_questions(place, wellread):
    answer = wellread(f"{MASKED} --json").json
    assert {name: answer[name] for name in ("questions", "passages", "skipped", "finder", "out")} == {
        "questions": 4,  # the sentences about Jupiter and Venus have five words
        "passages": 6,
        "skipped": 2,
        "finder": "rules",
        "out": "masked.jsonl.gz",
    }
    assert answer["seconds"] > 0
    questions = read_questions("masked.jsonl.gz")
    texts = {question.answers[0]: question.text for question in questions}
    assert texts["Titan"] == "The moon [MASK] has lakes of methane."
    assert {question.positive[0] for question in questions} == {"io", "titan", "mars", "saturn"}


def test_options_reach_the_questions(place, wellread):
    options = "--limit 2 --per-passage 1 --mask '<extra_id_0>' --hide-own --most-words 30 --seed 4 --overwrite"
    said = wellread(f"{MASKED} {options}")
    assert said.code == 0, said.err
    assert said.out.startswith("2 questions from ")
    assert "finder rules" in said.out
    assert " a second)" in said.out
    for question in read_questions("masked.jsonl.gz"):
        assert "<extra_id_0>" in question.text
        assert question.metadata["hidden"]


def test_labels_print_counts_and_write_questions(judged, wellread):
    answer = wellread("questions labels judged --document-words 4 --out labels.jsonl --json").json
    assert [answer[name] for name in ("questions", "passages", "skipped")] == [1, 2, 0]
    (question,) = read_questions("labels.jsonl")
    assert question.answers == ("relevance: 1. Mars. The planet Mars", "relevance: 2. Venus. The planet Venus")


def test_a_reader_is_trained_on_both(judged, place, wellread):
    for line in (MASKED, "questions labels judged --out labels.jsonl"):
        assert wellread(line).code == 0
    recipe = (place / "recipe.toml").read_text(encoding="utf8").replace("questions.jsonl", "masked.jsonl.gz")
    recipe = recipe.replace("[training]", '[tasks.labels]\nquestions = "labels.jsonl"\ntarget = "sample"\n[training]')
    (place / "both.toml").write_text(recipe.replace("steps = 1", "steps = 2\nlog_every = 1"), encoding="utf8")
    answer = wellread("train both.toml --out run --json").json
    assert answer["steps"] == 2
    steps = rows_of(place / "run" / "log.jsonl")
    assert [step["step"] for step in steps] == [1, 2]
    assert all(math.isfinite(step["nll"]) for step in steps)
    # Candidates were looked for by every question of both files.
    for task, file in (("planets", "masked.jsonl.gz"), ("labels", "labels.jsonl")):
        (found,) = (place / "run").glob(f"candidates-{task}-*.jsonl")
        assert {row["id"] for row in rows_of(found)} == {question.id for question in read_questions(file)}


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]


def test_statements_are_claims_that_can_be_trained_on(place, wellread):
    rows = [
        {"id": f"q{row}", "question": f"Which planet has moon {row}?", "answers": [name], "positive": ["mars"]}
        for row, name in enumerate(("Mars", "Saturn", "Jupiter", "Venus", "Earth", "Neptune"))
    ]
    (place / "questions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf8")
    said = wellread("questions statements questions.jsonl --out claims.jsonl --json").json
    assert {name: said[name] for name in ("questions", "passages", "skipped", "out")} == {
        "questions": 6,
        "passages": 1,
        "skipped": 0,
        "out": "claims.jsonl",
    }
    made = read_questions("claims.jsonl")
    assert {question.task for question in made} == {"claim"}
    assert {question.answers[0] for question in made} == {"SUPPORTS", "REFUTES"}
    assert wellread("questions statements questions.jsonl --out claims.jsonl").code == 2
