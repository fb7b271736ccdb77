"""The almanac: ids, sizes, links between questions and passages, answers that can be read off the text."""

import json
import re
from collections import Counter
from importlib.resources import files

import pytest


def _rows(name: str) -> list[dict]:
    text = files("wellread.data").joinpath("almanac", name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def passages() -> dict[str, dict]:
    return {row["id"]: row for row in _rows("passages.jsonl")}


@pytest.fixture(scope="module")
def questions() -> list[dict]:
    return _rows("questions.jsonl")


def _repeated(values: list[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]


def _stands_in(answer: str, text: str) -> bool:
    """Whether the answer occurs in the text as whole words, whatever the case."""
    return re.search(rf"(?<!\w){re.escape(answer.casefold())}(?!\w)", text.casefold()) is not None


def test_there_is_enough_of_both(passages, questions):
    assert len(passages) >= 200
    assert len(questions) >= 300


def test_ids_are_unique_and_well_formed(questions):
    passage_ids = [row["id"] for row in _rows("passages.jsonl")]
    question_ids = [row["id"] for row in questions]
    assert _repeated(passage_ids) == []
    assert _repeated(question_ids) == []
    assert [name for name in passage_ids if not re.fullmatch(r"almanac-[a-z0-9]+(-[a-z0-9]+)*", name)] == []
    assert [name for name in question_ids if not re.fullmatch(r"almanac-q-\d{3}", name)] == []


def test_passages_have_exactly_the_documented_fields(passages):
    for row in passages.values():
        assert set(row) == {"id", "title", "text", "metadata"}, row["id"]
        assert row["title"].strip(), row["id"]
        assert row["metadata"]["topic"].strip(), row["id"]


def test_titles_and_texts_are_not_repeated(passages):
    assert _repeated([row["title"] for row in passages.values()]) == []
    assert _repeated([row["text"] for row in passages.values()]) == []


def test_passages_keep_the_word_limits(passages):
    lengths = {name: len(row["text"].split()) for name, row in passages.items()}
    assert {name: count for name, count in lengths.items() if not 50 <= count <= 110} == {}


def test_questions_have_exactly_the_documented_fields(questions):
    for row in questions:
        assert set(row) == {"id", "question", "answers", "positive", "split"}, row["id"]
        assert row["question"].endswith("?"), row["id"]
        assert row["split"] in {"train", "dev"}, row["id"]
        assert row["answers"], row["id"]
        assert all(answer == answer.strip() != "" for answer in row["answers"]), row["id"]
        assert _repeated(row["answers"]) == [], row["id"]


def test_no_question_is_asked_twice(questions):
    assert _repeated([" ".join(re.findall(r"\w+", row["question"].casefold())) for row in questions]) == []


def test_no_question_gives_its_answer_away(questions):
    assert [q["id"] for q in questions if any(_stands_in(a, q["question"]) for a in q["answers"])] == []


def test_every_positive_exists_and_every_passage_is_asked_about(passages, questions):
    used = {name for row in questions for name in row["positive"]}
    assert all(row["positive"] for row in questions)
    assert used == set(passages)


def test_first_answers_can_be_read_off_the_positive_passage(passages, questions):
    missing = []
    for row in questions:
        text = " ".join(passages[name]["text"] for name in row["positive"])
        if not _stands_in(row["answers"][0], text):
            missing.append(row["id"])
    # A reader that copies can score at most the share that is found; 3 % is room for inflected forms.
    assert len(missing) <= 0.03 * len(questions), missing


def test_first_answers_are_short(questions):
    # "Short" is up to four words; a few titles and lists are longer.
    long = [row["id"] for row in questions if len(row["answers"][0].split()) > 4]
    assert len(long) <= 0.03 * len(questions), long


def test_splits_share_no_passage_and_dev_is_about_a_hundred(questions):
    train = {name for row in questions if row["split"] == "train" for name in row["positive"]}
    dev = {name for row in questions if row["split"] == "dev" for name in row["positive"]}
    assert train & dev == set()
    assert 80 <= sum(row["split"] == "dev" for row in questions) <= 120


def test_the_readme_states_the_true_counts(passages, questions):
    readme = files("wellread.data").joinpath("almanac", "README.md").read_text(encoding="utf-8")
    splits = Counter(row["split"] for row in questions)
    assert f"| `passages.jsonl` | {len(passages)} |" in readme
    assert f"| `questions.jsonl` | {len(questions)} |" in readme
    assert f"{splits['train']} `train`, {splits['dev']} `dev`" in readme
    for topic, count in Counter(row["metadata"]["topic"] for row in passages.values()).items():
        assert re.search(rf"\b{topic}\b[^,]*(\([^)]*\))? {count}\b", readme), topic
