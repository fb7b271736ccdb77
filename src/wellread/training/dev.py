"""Dev questions, answered greedily while training: by how many exact answers the best weights are chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from wellread.evaluation.metrics import exact_match, f1, recall_by_answer
from wellread.nn.precision import precision_dtype
from wellread.reading.batching import CandidateRow, batch_candidates, to_device
from wellread.training.processes import Processes
from wellread.types import Candidates, Question

if TYPE_CHECKING:
    from wellread.memory.store import Memory
    from wellread.model import Model
    from wellread.training.data import PassageTokens

__all__ = ["DevQuestions"]

METRICS = ("em", "f1", "recall")


class DevQuestions:
    """Calling it with a model gives {"em": percent answered exactly, "f1": ..., "recall": percent of which a candidate
    holds an answer, "n": questions}.

    A question without candidates counts as answered wrongly, one without answers is left out. Several
    processes share the work.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        candidates: Sequence[Candidates],
        passages: PassageTokens,
        *,
        batch_size: int = 8,
        precision: str = "fp32",
        memory: Memory | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.pairs = [pair for pair in zip(questions, candidates, strict=True) if pair[0].answers]
        if not self.pairs:
            raise ValueError(f"none of the {len(questions)} dev questions has an answer; give questions with answers.")
        self.passages, self.batch_size, self.precision, self.memory = passages, batch_size, precision, memory
        self.processes = processes or Processes()

    def __call__(self, model: Model) -> dict[str, float]:
        mine = [pair for pair in self.pairs[self.processes.rank :: self.processes.count] if pair[1].ids]
        # Questions of like length together: less padding, and answers do not depend on their batch.
        mine.sort(key=lambda pair: sum(len(self.passages[name]) for name in pair[1].ids))
        said: list[str] = []
        for start in range(0, len(mine), self.batch_size):
            said += self._answers(model, mine[start : start + self.batch_size])
        names = {name for _, found in mine for name in found.ids}
        texts = {name: model.frame.text(self.passages[name]) for name in names}
        scores = [self._scores(texts, text, *pair) for text, pair in zip(said, mine, strict=True)]
        totals = self.processes.sum(torch.tensor(scores).view(-1, len(METRICS)).sum(0))
        means = (100 * totals / len(self.pairs)).tolist()
        return {**dict(zip(METRICS, means)), "n": len(self.pairs)}

    def _scores(self, texts: Mapping[str, str], said: str, question: Question, found: Candidates) -> list[float]:
        told = recall_by_answer([texts[name] for name in found.ids], question.answers, len(found.ids))
        # nan: of answers without a word
        return [exact_match(said, question.answers), f1(said, question.answers), 0.0 if math.isnan(told) else told]

    def _answers(self, model: Model, pairs: Sequence[tuple[Question, Candidates]]) -> list[str]:
        frame, device = model.frame, model.device
        ids = list(dict.fromkeys(name for _, found in pairs for name in found.ids))
        states = dict(zip(ids, self.memory.fetch(ids).states)) if self.memory is not None else {}
        rows = [
            [
                CandidateRow(id=name, tokens=self.passages[name], score=score, states=states.get(name))
                for name, score in zip(found.ids, found.scores)
            ]
            for _, found in pairs
        ]
        candidates = to_device(batch_candidates(rows, frame.tokenizer.pad), device)
        inputs = model.inputs([question for question, _ in pairs])
        dtype = precision_dtype(self.precision)
        with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            written = model.system.generate(inputs, candidates, max_tokens=frame.config.answer_tokens)
        return [frame.text(row) for row in written.tokens.tolist()]
