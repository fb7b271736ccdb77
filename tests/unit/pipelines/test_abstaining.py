"""Answers that say how sure they are, and are withheld."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pipeline_pieces import QUESTIONS, WORDS, ask, same

from wellread.config import to_mapping
from wellread.evaluation.confidence import Confidence
from wellread.model import save_model
from wellread.pipeline import Pipeline, open_pipeline
from wellread.reading.spans import find_span


def sure_of(pipeline: Pipeline, **weights: float) -> Pipeline:
    """The pipeline with a made-up confidence: features by name with their weights."""
    ones = (1.0,) * len(weights)
    zeros = (0.0,) * len(weights)
    return replace(pipeline, confidence=Confidence(tuple(weights), tuple(weights.values()), 0.0, zeros, ones))


# The tiny readers say something to the first five of these, nothing to the next; the last one finds nothing.
UNSURE = ["star", "comet", "ocean", "forest", "valley", QUESTIONS[0], "xylophone"]


@pytest.fixture
def calibrated(place, name) -> Pipeline:
    return sure_of(place.pipeline(name), mean_log_likelihood=0.5, supported=1.0)


def test_an_answer_says_how_sure_it_is(calibrated):
    answers = ask(calibrated, UNSURE)
    plain = ask(replace(calibrated, confidence=None), UNSURE)
    for answer, without in zip(answers, plain, strict=True):
        same(answer, without)
        assert without.confidence is None
        assert answer.confidence == calibrated.confidence(without)
        assert not answer.abstained
    assert answers[-1].confidence == 0
    assert len({answer.confidence for answer in answers}) > 3


def test_unsure_answers_are_withheld_and_still_cited(calibrated):
    plain = ask(calibrated, UNSURE)
    middle = sorted(answer.confidence for answer in plain if answer.text)[2]
    for least in (0.0, middle, 1.0):
        # The same batch again gives the same sums, so the confidence of the middle one is just enough.
        for answer, given in zip(ask(calibrated, UNSURE, min_confidence=least), plain, strict=True):
            assert answer.confidence == given.confidence
            assert answer.abstained == (given.confidence < least)
            assert (answer.text, answer.withheld) == (("", given.text) if answer.abstained else (given.text, ""))
            assert answer.passages == given.passages
            assert answer.support == given.support
    assert any(answer.text and answer.confidence < middle for answer in plain)


def test_withholding_reaches_every_way_of_asking(place):
    pipeline = sure_of(place.pipeline("lumen"), mean_log_likelihood=1.0)
    [many] = pipeline.ask_many(UNSURE[:1], top_k=4, flops=False, min_confidence=1.0)
    measured = pipeline.ask_measured(UNSURE[0], top_k=4, min_confidence=1.0)
    assert many.abstained
    assert measured.abstained
    assert measured.withheld == many.withheld != ""
    assert measured.flops > 0


def test_answers_name_the_passage_that_supports_them(place, name):
    for answer in ask(place.pipeline(name), [*QUESTIONS, *WORDS]):
        holding = [item for item in answer.passages if item.kept and item.span]
        most = max((item for item in answer.passages if item.kept), key=lambda item: item.share)
        assert answer.support == (holding[0] if holding else most)
        if answer.support.span:
            assert answer.support.span == find_span(answer.text, answer.support.text)


def test_tokens_of_an_answer_are_counted(place):
    pipeline = place.pipeline("fid")
    answers = ask(pipeline, QUESTIONS)
    assert all(1 <= answer.num_tokens <= 5 for answer in answers)  # the frame allows five
    alone = [ask(pipeline, [question])[0] for question in QUESTIONS]
    assert [answer.num_tokens for answer in answers] == [answer.num_tokens for answer in alone]
    assert ask(pipeline, ["xylophone"])[0].num_tokens == 0


@pytest.mark.parametrize("least", [-0.1, 1.5, float("nan")])
def test_a_confidence_is_from_0_to_1(place, least):
    with pytest.raises(ValueError, match=rf"min_confidence={least}; it must be between 0 and 1"):
        sure_of(place.pipeline("fid"), share=1.0).ask(["moon"], min_confidence=least)


def test_without_a_confidence_nothing_can_be_withheld(place, tmp_path):
    message = (
        r"min_confidence=0\.5, but no confidence was fitted for this lumen model as it is set; fit one with "
        "`wellread calibrate`"
    )
    with pytest.raises(ValueError, match=message):
        ask(place.pipeline("lumen"), ["moon"], min_confidence=0.5)
    model = save_model(tmp_path / "model", place.models["glimmer"])
    confidence = replace(sure_of(place.pipeline("fid"), share=1.0).confidence, fitted={"system": "glimmer"})
    confidence.save(model)
    places = {"model": model, "corpus": place.corpus, "index": place.index}
    assert open_pipeline(**places).confidence == confidence
    assert ask(open_pipeline(**places), ["moon"], min_confidence=1)[0].abstained
    options = to_mapping(place.models["glimmer"].system.config)
    fitted = replace(confidence, fitted={"system": "glimmer", "options": options})
    fitted.save(model)
    assert open_pipeline(**places).confidence == fitted
    assert open_pipeline(**places, options={"weigh_alone": 0.5}).confidence is None
    with pytest.raises(ValueError, match=message):  # what was fitted on one system says nothing of another
        ask(open_pipeline(**places, system="lumen"), ["moon"], min_confidence=0.5)
