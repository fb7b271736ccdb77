"""Reports of quality and cost."""

from __future__ import annotations

import pytest
from pipeline_pieces import QUESTIONS, ask, same

from wellread.pipeline import Pipeline
from wellread.types import Question

DEV = [
    Question(f"q{index}", text, answers=("old",), positive=(f"p{index}",)) for index, text in enumerate(QUESTIONS)
] + [Question("none", "xylophone", answers=("old",), positive=("p1",))]


def test_a_report_says_quality_and_cost(place, monkeypatch):
    pipeline = place.pipeline("lumen")
    counting, asked = [], Pipeline.ask

    def watched(self, questions, **options):
        counting.append((len(questions), options.get("flops", True)))
        return asked(self, questions, **options)

    monkeypatch.setattr(Pipeline, "ask", watched)
    report, answers = pipeline.evaluate(DEV, top_k=3, batch_size=2, timed=1, recall_at=(1, 2, 50))
    # In batches; then one alone, for its FLOPs, and again for its time, which counting would spoil.
    assert counting == [(2, False), (2, False), (1, False), (1, True), (1, False)]
    told = report.to_json()
    assert told["n"] == len(answers) == 5
    assert {"em", "f1", "recall@1", "recall@2", "recall@kept", "intervals", "flops_per_question"} <= told.keys()
    assert "recall@50" not in told  # only ten passages exist
    assert {"retrieve", "fetch", "read", "generate", "total"} <= told["milliseconds"].keys()
    assert told["milliseconds_per_question"] > 0
    assert told["flops_per_question"] > 0
    settings = told["settings"]
    assert (settings["top_k"], settings["num_beams"], settings["codec"]) == (3, 1, "bf16")
    assert settings["bytes_per_passage"] == pytest.approx(pipeline.memory.info()["bytes"] / 10)
    assert settings["formula_flops"] > 0
    for question, answer in zip(DEV, answers, strict=True):
        same(answer, ask(pipeline, [question], top_k=3)[0])
        assert len(answer.passages) <= 3


def test_a_report_without_memory_recall_or_timing(place):
    report, answers = place.pipeline("fid", memory=False).evaluate(DEV[:2], top_k=2, recall_at=(), timed=0)
    told = report.to_json()
    assert len(answers) == 2
    assert told["flops_per_question"] == 0
    assert "bytes_per_passage" not in told["settings"]
    assert not any(name.startswith("recall@1") for name in told)


def test_a_paper_without_a_formula_is_reported_without_one(place, monkeypatch):
    from wellread.systems.base import System

    pipeline = place.pipeline("fid")
    monkeypatch.setattr(type(pipeline.model.system), "formula", System.formula)
    report, _ = pipeline.evaluate(DEV[:2], top_k=2, timed=1)
    assert "formula_flops" not in report.settings
    assert report.flops_per_question > 0


def test_what_cannot_be_evaluated_is_told(place):
    with pytest.raises(ValueError, match=r"there are no questions to score"):
        place.pipeline("fid").evaluate([])
    with pytest.raises(ValueError, match=r"top_k=0; it must be at least 1"):
        place.pipeline("fid").evaluate(DEV, top_k=0)
