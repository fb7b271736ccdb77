"""How an answer is told to people."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from wellread.cli.ask import as_mapping, as_text
from wellread.cli.output import emit
from wellread.types import Answer, CitedPassage

PASSAGE = CitedPassage(
    "c1",
    "Contract",
    "Signed in\nSão\nPaulo, 2019.",
    1.5,
    share=1.0,
    span=(10, 19),
    metadata={"file": "legal/contract.pdf", "page": 3},
)


def test_the_answer_is_told_in_the_words_of_its_passage_and_the_passage_by_its_file():
    lines = as_text("Where?", Answer("sao paulo", (PASSAGE,), confidence=0.9), 3).splitlines()
    assert lines[1] == "A: São Paulo [1]  (confidence 0.90)"
    assert lines[2] == "   [1] 100% score 1.50  Contract  (legal/contract.pdf, page 3, c1)"
    assert lines[3] == "       Signed in [São Paulo], 2019."


def test_an_answer_that_no_passage_holds_is_told_as_it_was_written():
    loose = CitedPassage("c2", "", "Signed in Rio.", 1.5, share=1.0)
    lines = as_text("Where?", Answer("sao paulo", (loose,)), 3).splitlines()
    assert lines[1] == "A: sao paulo [1]"
    assert lines[2] == "   [1] 100% score 1.50  c2  (c2)"


def test_an_answer_of_the_weights_is_told_as_such_and_no_passage_is_quoted_for_it():
    little, unread = replace(PASSAGE, share=0.1), replace(PASSAGE, share=0.0, score=-math.inf, kept=False)
    for passage, score in ((little, " 10% score 1.50"), (unread, "  0% not read")):
        lines = as_text("Where?", Answer("sao paulo", (passage,), confidence=0.9), 3).splitlines()
        assert lines[1] == "A: sao paulo (from the model's weights)  (confidence 0.90)"
        assert lines[2] == f"   [1] {score}  Contract  (legal/contract.pdf, page 3, c1)"
        assert lines[3] == "       Signed in São Paulo, 2019."
        row = as_mapping("Where?", Answer("sao paulo", (passage,)))
        assert (row["support"], row["quote"]) == (None, None)


def test_json_has_null_where_a_number_is_none_that_json_can_write(capsys):
    emit({"score": -math.inf, "rows": [{"values": (math.nan, 1.5, 2)}], "text": "é"}, True, "")
    told = capsys.readouterr().out
    assert json.loads(told, parse_constant=lambda name: name) == {
        "score": None,
        "rows": [{"values": [None, 1.5, 2]}],
        "text": "é",
    }
    assert "é" in told


def test_json_holds_what_was_written_and_how_the_passage_writes_it():
    row = as_mapping("Where?", Answer("sao paulo", (PASSAGE,)))
    assert (row["answer"], row["quote"]) == ("sao paulo", "São Paulo")
    assert row["passages"][0]["metadata"] == {"file": "legal/contract.pdf", "page": 3}
    assert as_mapping("Where?", Answer("", (PASSAGE,), abstained=True, withheld="sao paulo"))["quote"] is None
