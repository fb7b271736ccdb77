"""What the tests of pipelines share: passages, questions, places, comparisons."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from wellread.corpus.store import Corpus
from wellread.evaluation.cost import Stopwatch
from wellread.memory.store import Memory
from wellread.model import Model
from wellread.pipeline import Pipeline
from wellread.retrieval import open_index
from wellread.types import Passage

WORDS = ["moon", "planet", "star", "comet", "river", "ocean", "desert", "island", "forest", "valley"]
PASSAGES = [
    Passage(
        f"p{index}",
        f"The {word} is old. " + f"A {word} and a {WORDS[index - 3]} are far. " * (1 + index % 3),
        title=word.title(),
        metadata={"topic": "sky" if index < 4 else "earth"},
    )
    for index, word in enumerate(WORDS)
]
QUESTIONS = ["Is the moon old?", "How far is a comet or a star from here?", "river", "Which ocean and which desert?"]
OPTIONS = {"glimmer": {"keep": 2, "live_share": 0.5}, "lumen": {"live_share": 0.5, "question_encoder": "shared"}}
# The same float32 sums, some in another order.
CLOSE = {"rel": 1e-4, "abs": 1e-4}


@dataclass(frozen=True)
class Place:
    """Folders of a corpus, an index, and the memory and models of one set of weights."""

    corpus: Path
    index: Path
    memory: Path
    models: dict[str, Model]

    def pipeline(self, name: str, *, memory: bool = True) -> Pipeline:
        kept = Memory.open(self.memory) if memory else None
        return Pipeline(self.models[name], open_index(self.index), memory=kept, corpus=Corpus.open(self.corpus))


def same(one, other) -> None:
    assert one.text == other.text
    assert one.log_likelihood == pytest.approx(other.log_likelihood, **CLOSE)
    assert [item.id for item in one.passages] == [item.id for item in other.passages]
    for left, right in zip(one.passages, other.passages, strict=True):
        assert left.score == pytest.approx(right.score, **CLOSE)
        assert left.share == pytest.approx(right.share, **CLOSE)
        assert replace(left, score=0.0, share=0.0) == replace(right, score=0.0, share=0.0)


def ask(pipeline: Pipeline, questions, **options) -> list:
    """Counting FLOPs would take most of the time of these tests."""
    return pipeline.ask(questions, **{"top_k": 4, "flops": False, **options})


class TenEach(Stopwatch):
    """Ten milliseconds for every stage."""

    def __call__(self, stage: str):
        self.milliseconds[stage] = 10.0
        return nullcontext()
