"""Text-level values are checked where they are made."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from wellread.types import Answer, CandidateBatch, Candidates, CitedPassage, Inputs, Passage, Probe, Question, Reading


def test_a_passage_has_an_id_and_texts():
    passage = Passage("p1", "The moon is far.")
    assert (passage.id, passage.text, passage.title, passage.source) == ("p1", "The moon is far.", "", "text")
    assert passage.metadata == {}
    with pytest.raises(FrozenInstanceError):
        passage.text = "near"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": 7, "text": "a"}, r"passage id=7 is int; it must be text"),
        ({"id": "p", "text": None}, r"passage text=None is NoneType; it must be text"),
        ({"id": "p", "text": "a", "title": 3.5}, r"passage title=3.5 is float; it must be text"),
        ({"id": "p", "text": "a", "source": b"x"}, r"passage source=b'x' is bytes; it must be text"),
        ({"id": "", "text": "a"}, r"passage id='' is empty; every passage needs an id of its own"),
    ],
)
def test_bad_passages_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Passage(**fields)


def test_a_passage_without_text_is_one():
    assert Passage("p1", "").text == ""  # a table row may hold a title only


def test_lists_of_a_question_become_tuples():
    question = Question("q", "why?", answers=["a", "b"], positive=iter(["p1"]))
    assert question.answers == ("a", "b")
    assert question.positive == ("p1",)
    assert Question("q", "why?").answers == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": 1, "text": "why?"}, r"question id=1 is int; it must be text"),
        ({"id": "q", "text": ["why?"]}, r"question text=\['why\?'\] is list; it must be text"),
        ({"id": "q", "text": "why?", "task": None}, r"question task=None is NoneType"),
        (
            {"id": "q", "text": "why?", "answers": "Paris"},
            r"question answers='Paris' is a single text; give a list: \['Paris'\]",
        ),
        ({"id": "q", "text": "why?", "positive": "p1"}, r"question positive='p1' is a single text"),
        ({"id": "q", "text": "why?", "answers": [1969]}, r"one of question answers=1969 is int; it must be text"),
    ],
)
def test_bad_questions_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Question(**fields)


def test_a_probe_has_words_or_vectors():
    assert Probe(words="moon").vectors is None
    assert Probe(vectors=torch.zeros(0, 4)).words is None  # a question may ask nothing
    assert Probe(words="").words == ""
    with pytest.raises(ValueError, match=r"the probe is empty; give words, vectors, or both"):
        Probe()
    with pytest.raises(ValueError, match=r"probe vectors have shape \(4,\); they must be \[probes, dim\]"):
        Probe(vectors=torch.zeros(4))


def test_candidates_are_tuples_of_one_length():
    found = Candidates(["a", "b", "c"], torch.tensor([3, 2, 1]), group=[1, 0, 0])
    assert found == Candidates(("a", "b", "c"), (3.0, 2.0, 1.0), (1, 0, 0))
    assert all(type(score) is float for score in found.scores)
    assert Candidates(("a",), (1.0,)).group == (0,)
    assert Candidates((), ()).group == ()
    assert len({found, Candidates(("a", "b", "c"), (3.0, 2.0, 1.0), (1, 0, 0))}) == 1


@pytest.mark.parametrize("parts", [(("a", "b"), (1.0,)), (("a",), (1.0, 2.0)), (("a", "b"), (1.0, 2.0), (0,))])
def test_candidates_of_unequal_length_are_refused(parts):
    with pytest.raises(ValueError, match=r"\d ids, \d scores and \d groups; candidates need one of each"):
        Candidates(*parts)


def test_top_keeps_the_first_and_their_groups():
    found = Candidates(("a", "b", "c"), (3.0, 2.0, 1.0), (1, 0, 2))
    assert found.top(2) == Candidates(("a", "b"), (3.0, 2.0), (1, 0))
    assert found.top(9) == found
    assert found.top(0) == Candidates((), ())


def test_an_answer_is_supported_by_a_passage_that_holds_it():
    most, holding, dropped = (
        CitedPassage("most", "", "The sun.", 1.0, share=0.7),
        CitedPassage("holding", "", "The moon.", 1.0, share=0.3, span=(4, 8)),
        CitedPassage("dropped", "", "The moon.", 1.0, share=0.9, span=(4, 8), kept=False),
    )
    assert Answer("moon", (most, holding, dropped)).support is holding
    assert Answer("moon", (most, replace(most, id="less", share=0.1), dropped)).support is most
    assert Answer("moon", (holding, replace(holding, id="second"), most)).support is holding  # the first cited
    assert Answer("moon", (dropped,)).support is None
    assert Answer("").support is None


def test_no_passage_stands_for_an_answer_that_the_weights_gave():
    holding = CitedPassage("holding", "", "The moon.", 1.0, share=0.3, span=(4, 8))
    assert Answer("moon", (holding,)).support is None
    assert Answer("moon", (holding,)).quote is None
    assert Answer("moon", (holding, CitedPassage("other", "", "The sun.", 1.0, share=0.2))).support is holding


def test_an_answer_is_quoted_as_its_passage_writes_it():
    holding = CitedPassage("holding", "", "The Moon's crust.", 1.0, share=1.0, span=(4, 10))
    assert Answer("moon ' s", (holding,)).quote == "Moon's"
    assert Answer("sun", (replace(holding, span=None),)).quote is None
    assert Answer("", (holding,), abstained=True, withheld="moon ' s").quote is None
    assert Answer("").quote is None


def test_an_answer_is_given_unless_said_otherwise():
    answer = Answer("moon")
    assert (answer.confidence, answer.abstained, answer.withheld, answer.num_tokens) == (None, False, "", 0)


def test_sizes_of_tensor_values():
    tokens = torch.zeros(2, 3, 5, dtype=torch.int64)
    assert Inputs(tokens[:, 0], tokens[:, 0].bool()).batch == 2
    batch = CandidateBatch(tokens, tokens.bool(), tokens[..., 0].bool(), torch.zeros(2, 3))
    assert batch.num_passages == 3


def test_extras_are_added_to_a_new_reading():
    nothing = torch.zeros(1, 1)
    reading = Reading(nothing, nothing, nothing, nothing, nothing, None, nothing, extras={"a": 1})
    more = reading.with_extras(b=2)
    assert more.extras == {"a": 1, "b": 2}
    assert reading.extras == {"a": 1}
    assert more.states is reading.states


def test_pictures_are_named_in_the_metadata():
    assert Passage("a", "x", metadata={"picture": "p", "image": "i"}).picture == "p"
    assert Passage("a", "x", metadata={"image": "i"}).picture is None
    assert Question("q", "x", metadata={"image": "i"}).picture == "i"
    assert Question("q", "x", metadata={"image": {"bytes": b""}}).picture is None
    assert Probe(picture="p").words is None


def test_candidates_without_some_keep_their_order():
    found = Candidates(("a", "b", "c"), (3, 2, 1), (0, 1, 0))
    assert found.without(("b", "z")) == Candidates(("a", "c"), (3, 1), (0, 0))
    assert found.without(()) is found
