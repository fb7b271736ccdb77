"""Reports: every number from answers whose quality and cost are known, and tables."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wellread.evaluation.metrics import paired_bootstrap
from wellread.evaluation.ranking import rank_measures
from wellread.evaluation.report import can_be_scored, evaluate_answers, hardware, to_markdown, write_table
from wellread.types import Answer, Candidates, CitedPassage, Question


def passage(name, text, *, kept=True):
    return CitedPassage(id=name, title="", text=text, score=0.0, kept=kept)


QUESTIONS = [
    Question("q1", "Capital of France?", answers=("Paris",), positive=("p1",)),
    Question("q2", "Largest planet?", answers=("Jupiter", "planet Jupiter"), positive=("p9",)),
    Question("q3", "Red or blue?", answers=("blue",)),
    Question("q4", "Who?", answers=("Ada Lovelace",), positive=("p4",)),
]
ANSWERS = [
    Answer("paris.", (passage("p1", "Paris is big"), passage("p2", "x", kept=False)), 0.0, {"read": 2, "total": 9}, 10),
    Answer("the planet Jupiter!", (passage("p3", "Mars"), passage("p9", "Jupiter", kept=False)), 0.0, {"total": 1}, 30),
    Answer("red", (), 0.0, {"retrieve": 5, "total": 5}, 0),
    Answer("Ada", (passage("p5", "Ada Lovelace"),), 0.0, {"read": 4, "total": 7}, 40),
]
FOUND = [
    Candidates(("p1", "p2"), (2, 1)),
    Candidates(("p3", "p9"), (2, 1)),
    Candidates((), ()),
    Candidates(("p5",), (1,)),
]


@pytest.fixture
def report():
    return evaluate_answers(QUESTIONS, ANSWERS, candidates=FOUND, settings={"system": "lumen"})


def test_quality(report):
    assert report.n == 4
    assert report.scores["em"] == 50
    assert report.scores["f1"] == pytest.approx(100 * (1 + 1 + 0 + 2 / 3) / 4)
    assert report.scores["accuracy"] == 0  # punctuation is not forgiven in labels


def test_recall_before_and_after_reranking(report):
    # q3 has no known passage and is left out of the means.
    assert report.scores["recall@1"] == pytest.approx(100 / 3)
    assert "recall@5" not in report.scores  # no question has five candidates
    two = evaluate_answers(QUESTIONS, ANSWERS, candidates=FOUND, top_k=(2,))
    assert two.scores["recall@2"] == pytest.approx(200 / 3)
    assert report.scores["recall@kept"] == pytest.approx(100 / 3)
    assert report.scores["answer@kept"] == 50
    assert report.scores["answer@all"] == 75


def test_the_order_of_retrieval_is_judged_where_ten_were_retrieved(report, monkeypatch):
    assert not {"ndcg@10", "mrr@10"} & set(report.scores)  # two at most were retrieved
    more = tuple(f"x{number}" for number in range(9))
    deep = [Candidates((*found.ids, *more), (0,) * (len(found.ids) + 9)) for found in FOUND]
    judged = evaluate_answers(QUESTIONS, ANSWERS, candidates=deep)
    # p1 is first, p9 second, p4 missing; q3 has no known passage.
    assert judged.values["mrr@10"][[0, 1, 3]].tolist() == [1, 0.5, 0]
    assert np.isnan(judged.values["mrr@10"][2])
    assert judged.scores["ndcg@10"] == pytest.approx(100 * (1 + 1 / np.log2(3) + 0) / 3)
    assert {"ndcg@10", "mrr@10"} <= set(judged.to_json()["intervals"])
    # Everything else is as it is without them.
    monkeypatch.setattr("wellread.evaluation.report.available", lambda: False)
    without = evaluate_answers(QUESTIONS, ANSWERS, candidates=deep).to_json()
    assert not {"ndcg@10", "mrr@10"} & set(without)
    assert {name: value for name, value in judged.to_json().items() if name in without} | {
        "intervals": without["intervals"]
    } == without


def test_recall_asks_for_one_positive_passage(report):
    """Unlike a ranking's own recall, which is the share of all that are relevant."""
    question = Question("q", "?", answers=("a",), positive=("p1", "p2"))
    ids = ("p1", *(f"x{number}" for number in range(99)))
    found = evaluate_answers([question], [Answer("a")], candidates=[Candidates(ids, (0,) * 100)])
    assert (found.scores["recall@1"], found.scores["recall@100"]) == (100, 100)
    assert rank_measures([question], [Candidates(ids, (0,) * 100)]).scores["recall@100"] == 50


def test_cost(report):
    assert report.milliseconds == {"read": 3, "total": 6, "retrieve": 5}
    assert report.flops_per_question == 20


def test_intervals_hold_the_scores_and_values_can_be_compared(report):
    for name, score in report.scores.items():
        low, high = report.intervals[name]
        assert low <= score <= high
    assert paired_bootstrap(report.values["f1"], report.values["em"]).mean == pytest.approx(1 / 6)
    assert report.values["recall@1"][[0, 1, 3]].tolist() == [1, 0, 0]
    assert np.isnan(report.values["recall@1"][2])


def test_json_has_the_promised_keys(report):
    result = json.loads(json.dumps(report.to_json()))
    assert {"em", "f1", "recall@1", "milliseconds_per_question", "flops_per_question", "n"} <= set(result)
    assert result["em"] == 50
    assert result["milliseconds_per_question"] == 6
    assert result["flops_per_question"] == 20
    assert result["intervals"]["em"] == list(report.intervals["em"])
    assert result["settings"] == {"system": "lumen"}


def test_what_nobody_knows_is_left_out():
    unknown = evaluate_answers(QUESTIONS[2:3], ANSWERS[2:3], candidates=[Candidates(("p",), (1,))])
    result = unknown.to_json()
    assert "recall@1" not in result
    assert "answer@kept" not in result
    assert result["em"] == 0
    assert "recall" not in unknown.to_markdown()
    json.dumps(result, allow_nan=False)


def test_the_markdown_of_a_report_has_a_row_per_measure(report):
    lines = report.to_markdown().splitlines()
    assert lines[0] == "| measure | value | 95 % from | to |"
    assert any(line.startswith("| em | 50.0 |") for line in lines)
    assert any(line.startswith("| ms read (median) | 3 |") for line in lines)


def cited(name, score, *, share=0.0, kept=True):
    return CitedPassage(id=name, title="", text="", score=score, kept=kept, share=share)


def test_an_answer_counts_for_kilt_only_where_its_proof_is_first():
    proved = Answer("Paris", (cited("p1", 2.0), cited("p2", 1.0, share=1.0)))
    unproved = Answer("Jupiter", (cited("p9", 1.0, share=1.0), cited("p3", 2.0)))
    wrong = Answer("Bob", (cited("p4", 1.0),))
    unknown = Answer("blue", (cited("p4", 1.0),))
    questions = [QUESTIONS[0], QUESTIONS[1], QUESTIONS[3], QUESTIONS[2]]
    report = evaluate_answers(questions, [proved, unproved, wrong, unknown])
    assert report.scores["r_precision"] == pytest.approx(200 / 3)  # by score, not by share of attention
    assert report.scores["kilt_recall@5"] == 100
    assert report.scores["em"] == 75
    assert report.scores["kilt_em"] == pytest.approx(100 / 3)
    assert report.scores["kilt_f1"] == pytest.approx(100 / 3)
    assert report.values["kilt_em"][:3].tolist() == [1, 0, 0]
    assert np.isnan(report.values["kilt_em"][3])
    assert "kilt_accuracy" not in report.scores
    low, high = report.to_json()["intervals"]["kilt_em"]
    assert low <= report.scores["kilt_em"] <= high


def test_claims_are_scored_by_accuracy():
    sets = {"provenance_sets": [["p1", "p2"]]}
    claims = [Question(f"c{n}", "x", ("SUPPORTS",), ("p1", "p2"), "claim", sets) for n in range(3)]
    both = (cited("p1", 2.0), cited("p2", 1.0))
    one = (cited("p1", 2.0), cited("p3", 1.0))
    report = evaluate_answers(claims, [Answer("supports", both), Answer("supports", one), Answer("refutes", both)])
    assert report.values["r_precision"].tolist() == [1, 0.5, 1]
    assert report.values["kilt_accuracy"].tolist() == [1, 0, 0]
    assert report.scores["accuracy"] == pytest.approx(200 / 3)
    assert "kilt_em" not in report.scores
    mixed = evaluate_answers([claims[0], QUESTIONS[0]], [Answer("supports", both), Answer("Paris", both)])
    assert (mixed.scores["kilt_accuracy"], mixed.scores["kilt_em"]) == (100, 100)


def test_pages_are_judged_where_the_questions_name_pages():
    metadata = {"provenance_sets": [["7"], ["8"]], "provenance_pages": True}
    question = Question("k", "?", ("x",), ("7", "8"), metadata=metadata)
    answer = Answer("x", (cited("7-3", 3.0), cited("7-1", 2.0)))
    found = [Candidates(("7-3", "7-1", "9-0", "8-2"), (4, 3, 2, 1))]
    report = evaluate_answers([question], [answer], candidates=found, top_k=(1, 4))
    for name in ("recall@1", "recall@kept", "r_precision", "kilt_recall@5", "kilt_em"):
        assert report.scores[name] == 100, name


def test_questions_with_an_expression_need_no_answers():
    tall = Question("t", "How tall?", metadata={"answer_regex": r"6,?168\s*m"})
    answer = Answer("6,168 m", (passage("p", "Denali is 6168 m high."),))
    result = evaluate_answers([tall, QUESTIONS[0]], [answer, ANSWERS[0]]).to_json()
    assert (result["regex_match"], result["em"], result["answer@kept"]) == (100, 100, 100)
    alone = evaluate_answers([tall], [answer]).to_json()
    assert "em" not in alone
    assert "kilt_em" not in alone
    assert can_be_scored(tall)
    assert not can_be_scored(Question("q", "?"))


def test_a_table_takes_columns_as_they_come_and_aligns_numbers():
    rows = [
        {"system": "fid", "em": 41.234, "bytes": 1234567},
        {"system": "a|b", "em": 0.5, "note": None, "share": float("nan")},
        {"system": "x", "em": 12345.6, "share": 0.00123},
    ]
    assert to_markdown(rows).splitlines() == [
        "| system | em | bytes | note | share |",
        "| --- | ---: | ---: | --- | ---: |",
        "| fid | 41.2 | 1,234,567 |  |  |",
        "| a\\|b | 0.5 |  | None | - |",
        "| x | 12,346 |  |  | 0.00123 |",
    ]


def test_a_written_table_says_where_it_comes_from(tmp_path):
    write_table(tmp_path / "t.md", [{"a": 1}], title="Speed", command="wellread bench x", seed=7, notes="One run.")
    text = (tmp_path / "t.md").read_text(encoding="utf8")
    assert text.startswith("# Speed\n\n| a |\n| ---: |\n| 1 |\n\nOne run.\n\nMade by `wellread bench x` (seed 7; ")
    assert hardware() in text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluate_answers([], []), "no questions to score"),
        (lambda: evaluate_answers(QUESTIONS, ANSWERS[:1]), "4 questions, 1 answers; there must be one of each"),
        (lambda: evaluate_answers(QUESTIONS, ANSWERS, candidates=FOUND[:2]), "2 lists of candidates"),
        (lambda: evaluate_answers([Question("q9", "?")], ANSWERS[:1]), "question 'q9' has no accepted answers"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
