"""Asking: batches, memories, candidates, what an answer says and cost, what cannot be asked."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pipeline_pieces import PASSAGES, QUESTIONS, WORDS, TenEach, ask, same

from wellread.memory.store import Memory
from wellread.reading.spans import find_span
from wellread.types import Candidates, Question


def test_questions_asked_together_are_answered_as_if_alone(place, name):
    pipeline = place.pipeline(name)
    questions = [*QUESTIONS[:2], "xylophone", *QUESTIONS[2:]]  # one of them finds nothing
    together = ask(pipeline, questions)
    counts = [len(answer.passages) for answer in together]
    assert counts[2] == 0
    assert len({count for count in counts if count}) > 1, "unequal numbers of candidates are the point"
    for question, answer in zip(questions, together, strict=True):
        same(answer, ask(pipeline, [question])[0])


def test_most_systems_read_more_than_they_were_trained_with(place):
    model = place.models["fid"]
    trained = replace(model, trained_with=2)
    assert [each.read_at_once(None) for each in (model, trained)] == [20, 20]
    assert trained.read_at_once(3) == 3


def test_answers_come_in_the_order_asked(place):
    pipeline = place.pipeline("lumen")
    found = [{item.id for item in answer.passages} for answer in ask(pipeline, WORDS, top_k=1)]
    many = [
        {item.id for item in answer.passages}
        for answer in pipeline.ask_many(iter(WORDS), batch_size=3, top_k=1, flops=False)
    ]
    expected = [{pipeline.retrieve([word], top_k=1)[0].ids[0]} for word in WORDS]
    assert found == many == expected
    assert len({name for names in found for name in names}) > 5
    assert list(pipeline.ask_many([])) == []


def test_tokens_of_a_memory_are_those_of_its_corpus(place):
    """FiD reads the passages of a LUMEN's memory, whose states it has no use for."""
    asked = (ask(place.pipeline("fid", memory=memory), QUESTIONS) for memory in (True, False))
    for stored, live in zip(*asked, strict=True):
        same(stored, live)


def test_fewer_passages_than_are_kept_are_all_kept(place):
    pipeline = place.pipeline("glimmer")
    assert pipeline.model.system.config.keep == 2
    (answer,) = ask(pipeline, ["moon"], top_k=1)
    assert [item.kept for item in answer.passages] == [True]


@pytest.mark.parametrize("beams", [1, 3])
def test_verbatim_answers_stand_in_what_was_read(place, name, beams):
    free = place.pipeline(name)
    held = replace(free, verbatim=True)
    loose = 0
    for one, other in zip(ask(free, QUESTIONS, num_beams=beams), ask(held, QUESTIONS, num_beams=beams), strict=True):
        template = held.model.frame.config.passage
        read = [template.format(title=item.title, text=item.text) for item in other.passages if item.kept]
        assert other.text
        assert any(find_span(other.text, text) for text in read)
        loose += not any(find_span(one.text, text) for text in read)
        assert math.isfinite(other.log_likelihood)
    assert loose, "untrained readers write what no passage holds"


@pytest.mark.parametrize("name", ["lumen", "glimmer"])
def test_states_of_a_memory_are_those_of_its_corpus(place, name):
    stored, live = (place.pipeline(name, memory=memory) for memory in (True, False))
    for one, other in zip(ask(stored, QUESTIONS), ask(live, QUESTIONS), strict=True):
        # Stored states are bfloat16: 8 bits of states whose likelihoods of five tokens add up to about -25.
        assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=0.05)
        assert {item.id for item in one.passages} == {item.id for item in other.passages}


def test_states_come_from_the_memory_where_they_are_wanted(place, monkeypatch):
    found = [Candidates(("p1", "p0"), (2.0, 1.0)), Candidates(("p1",), (1.0,))]
    rows, passages = place.pipeline("lumen").rows(found)
    assert [[row.id for row in some] for some in rows] == [["p1", "p0"], ["p1"]]
    assert passages == {"p1": PASSAGES[1], "p0": PASSAGES[0]}
    assert rows[0][0].states is rows[1][0].states  # fetched once
    encoded = place.models["lumen"].encode([PASSAGES[1]])[0]
    # bfloat16 keeps 8 bits.
    torch.testing.assert_close(rows[0][0].states, encoded.states, rtol=2**-8, atol=1e-6)
    assert rows[0][0].tokens.tolist() == encoded.tokens.tolist()
    asked, fetch = [], Memory.fetch
    monkeypatch.setattr(Memory, "fetch", lambda self, ids, **more: asked.append(more) or fetch(self, ids, **more))
    rows, _ = place.pipeline("fid").rows(found)
    assert rows[0][0].states is None
    assert asked == [{"states": False}]  # and decoding them for nothing would cost
    rows, _ = place.pipeline("lumen", memory=False).rows(found)
    assert rows[0][0].states is None


def test_cited_passages_are_those_retrieved(place, name):
    pipeline = place.pipeline(name)
    [found] = pipeline.retrieve([QUESTIONS[3]], top_k=4)
    [answer] = ask(pipeline, [QUESTIONS[3]])
    texts = {passage.id: passage for passage in PASSAGES}
    assert sorted(item.id for item in answer.passages) == sorted(found.ids)
    for item in answer.passages:
        assert (item.title, item.text) == (texts[item.id].title, texts[item.id].text)
    kept = [item.kept for item in answer.passages]
    assert kept == [True] * 2 + [False] * 2 if name == "glimmer" else [True] * 4
    shares = [item.share for item in answer.passages]
    # One sum of float32 terms.
    assert sum(shares) == pytest.approx(1.0, abs=1e-5)
    assert shares == sorted(shares, reverse=True)
    own = {item.id: item.score for item in answer.passages}
    if name == "glimmer":
        assert min(own[item.id] for item in answer.passages[:2]) >= max(own[item.id] for item in answer.passages[2:])
        assert list(own.values()) != [found.scores[found.ids.index(item.id)] for item in answer.passages]
    else:
        assert own == dict(zip(found.ids, found.scores, strict=True))


def test_an_answer_that_stands_in_a_passage_is_marked(place):
    answers = ask(place.pipeline("fid"), [*QUESTIONS, *WORDS], num_beams=2)
    spans = [(answer, item) for answer in answers for item in answer.passages]
    assert all(item.span == find_span(answer.text, item.text) for answer, item in spans)
    assert any(item.span for _, item in spans), "no answer stands in a passage: ask for something else"


def test_only_matching_passages_are_read(place):
    pipeline = place.pipeline("lumen")
    for topic, ids in (("sky", {"p0", "p1", "p2", "p3"}), ("earth", {"p4", "p5", "p6", "p7", "p8", "p9"})):
        [answer] = ask(pipeline, ["old moon ocean far"], top_k=9, where={"topic": topic})
        assert {item.id for item in answer.passages} == ids


def test_candidates_may_be_given(place):
    pipeline = place.pipeline("fid")
    given = [Candidates(("p3", "p1", "p2"), (3.0, 2.0, 1.0)), Candidates((), ())]
    read, nothing = ask(pipeline, QUESTIONS[:2], candidates=given, top_k=2)
    assert {item.id for item in read.passages} == {"p3", "p1"}
    assert (nothing.text, nothing.passages) == ("", ())
    many = list(pipeline.ask_many(QUESTIONS[:2], candidates=given, top_k=2, batch_size=1, flops=False))
    same(many[0], read)


def test_milliseconds_and_flops_are_shares_of_the_batch(place, monkeypatch):
    monkeypatch.setattr("wellread.pipeline.Stopwatch", TenEach)
    pipeline = place.pipeline("lumen")
    answered, nothing = pipeline.ask([QUESTIONS[1], "xylophone"], top_k=4)
    stages = ["retrieve", "fetch", "read", "generate", "explain", "total"]
    # Two questions were looked up, one was read.
    assert answered.milliseconds == dict(zip(stages, [5.0, 10.0, 10.0, 10.0, 10.0, 45.0], strict=True))
    assert nothing.milliseconds == {"retrieve": 5.0, "total": 5.0}
    assert (nothing.flops, nothing.text, nothing.passages) == (0, "", ())
    one, two = (pipeline.ask([QUESTIONS[1]] * count, top_k=4)[0] for count in (1, 2))
    assert list(one.flops_by_stage) == ["read", "generate"]
    assert one.flops == sum(one.flops_by_stage.values())
    # Shares are rounded down, so they may be one short of the whole.
    assert two.flops == pytest.approx(sum(two.flops_by_stage.values()), abs=1)
    assert two.flops_by_stage["read"] == one.flops_by_stage["read"]
    assert pipeline.ask([QUESTIONS[1]], top_k=4, flops=False)[0].flops == 0


def test_a_memory_saves_the_reading(place):
    """The same weights: FiD reads all layers live, LUMEN half of them, GLIMMER half of them for two of four."""
    read = {name: place.pipeline(name).ask([QUESTIONS[1]], top_k=4)[0].flops_by_stage["read"] for name in place.models}
    # Half the encoder's layers and all of the question: somewhat above a half.
    assert 0.4 * read["fid"] < read["lumen"] < 0.75 * read["fid"]
    assert read["glimmer"] < read["lumen"]
    live = place.pipeline("lumen", memory=False).ask([QUESTIONS[1]], top_k=4)[0].flops_by_stage["read"]
    assert live > read["lumen"]


def test_answers_are_without_dropout(place):
    model = place.models["lumen"]
    plain = ask(place.pipeline("lumen"), QUESTIONS[:1])[0]
    model.system.train()
    same(ask(place.pipeline("lumen"), QUESTIONS[:1])[0], plain)


def test_a_question_object_is_asked_by_its_text(place):
    pipeline = place.pipeline("fid")
    same(ask(pipeline, [Question("q", QUESTIONS[0])], top_k=2)[0], ask(pipeline, [QUESTIONS[0]], top_k=2)[0])


@pytest.mark.parametrize(
    ("questions", "options", "message"),
    [
        ([], {}, r"the question is empty; ask something"),
        (["moon", " \n"], {}, r"the question is empty; ask something"),
        ("moon", {}, r"questions is a single question; give a list of questions"),
        (Question("q", "moon"), {}, r"questions is a single question; give a list of questions"),
        (["moon"], {"top_k": 0}, r"top_k=0; it must be at least 1"),
        (["moon"], {"num_beams": 0}, r"num_beams=0; it must be at least 1"),
        (["moon"], {"where": {"colour": "red"}}, r"colour"),
        (["moon", "star"], {"candidates": [Candidates((), ())]}, r"1 lists of candidates for 2 questions; give one"),
        (["moon"], {"candidates": [Candidates(("p77",) * 2, (1.0,) * 2)]}, r"p77"),
    ],
)
def test_what_cannot_be_asked_is_told(place, questions, options, message):
    with pytest.raises(ValueError, match=message):
        place.pipeline("glimmer").ask(questions, **{"top_k": 4, **options})


def test_many_questions_need_a_list_and_a_batch(place):
    pipeline = place.pipeline("fid")
    with pytest.raises(ValueError, match=r"batch_size=0; it must be at least 1"):
        list(pipeline.ask_many(["moon"], batch_size=0))
    with pytest.raises(ValueError, match=r"questions is a single question; give a list"):
        list(pipeline.ask_many("moon"))
