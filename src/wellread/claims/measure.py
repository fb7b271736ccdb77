"""A trained reader, asked the dev questions: which it answers exactly, and what a question costs it.

Stored states are read or made before the counter runs, so that FLOPs are those of a question, as in the papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from wellread.corpus.questions import evenly, read_questions
from wellread.corpus.store import Corpus
from wellread.evaluation.flops import count_flops
from wellread.evaluation.metrics import exact_match
from wellread.memory.fingerprint import check
from wellread.memory.store import Memory
from wellread.model import Model
from wellread.nn.precision import precision_dtype
from wellread.reading.batching import CandidateRow, batch_candidates, to_device
from wellread.training.candidates import Finder
from wellread.training.config import DevConfig
from wellread.types import CandidateBatch, Candidates, Question

__all__ = ["Asked", "ask_all", "dev_questions", "with_gold"]

BATCH = 8
# Questions that FLOPs are counted over; they differ little from question to question.
COUNTED = 8


@dataclass(frozen=True)
class Asked:
    """em: 1 where the answer was right, per question. kept: 1 where a right passage was read to the end; None where
    none is known. flops: a question's, mean over the first few."""

    em: list[float]
    kept: list[float | None]
    flops: float


def dev_questions(config: DevConfig, *, answered: bool = True) -> list[Question]:
    """The dev questions with answers (answered=False: with right passages), `limit` of them at even distances."""
    everything = read_questions(config.questions, split=config.split)
    questions = [question for question in everything if (question.answers if answered else question.positive)]
    if not questions:
        wanted = "answers" if answered else "right passages (positive)"
        raise ValueError(f"{config.questions} holds no questions with {wanted}; give a file that does.")
    return list(evenly(questions, config.limit))


def with_gold(
    questions: Sequence[Question], finder: Finder, corpus: Corpus, *, top_k: int, gold: bool
) -> list[Candidates]:
    """What retrieval finds; with `gold` a right passage takes the last place where it was not found."""
    found = finder.find(questions, top_k=top_k, name="claims")
    return [_golden(*pair, corpus, top_k) if gold else pair[1] for pair in zip(questions, found, strict=True)]


def _golden(question: Question, found: Candidates, corpus: Corpus, top_k: int) -> Candidates:
    known = [name for name in question.positive if name in corpus]
    if not known or set(known) & set(found.ids):
        return found
    kept = found.top(top_k - 1)
    return Candidates((*kept.ids, known[0]), (*kept.scores, found.scores[-1] if found.scores else 0.0))


def ask_all(
    model: Model,
    questions: Sequence[Question],
    candidates: Sequence[Candidates],
    *,
    corpus: Corpus,
    memory: Memory | None = None,
    precision: str = "fp32",
) -> Asked:
    """Ask every question. memory: where the states of the passages are read; without one they are made now."""
    if memory is not None:
        check(memory.fingerprint, model.fingerprint(), model.system.bound_to)
    model.system.eval()
    places = [index for index, found in enumerate(candidates) if found.ids]
    em: list[float] = [0.0] * len(questions)
    kept: list[float | None] = [None] * len(questions)
    for start in range(0, len(places), BATCH):
        some = places[start : start + BATCH]
        batch = _batch(model, [candidates[index] for index in some], corpus, memory, precision)
        said, read = _answers(model, [questions[index] for index in some], batch, precision)
        for row, index in enumerate(some):
            em[index] = exact_match(said[row], questions[index].answers)
            if questions[index].positive:
                kept[index] = float(not read[row].isdisjoint(questions[index].positive))
    counted = [
        _flops(model, questions[index], _batch(model, [candidates[index]], corpus, memory, precision), precision)
        for index in places[:COUNTED]
    ]
    return Asked(em, kept, sum(counted) / max(len(counted), 1))


def _batch(
    model: Model, found: Sequence[Candidates], corpus: Corpus, memory: Memory | None, precision: str
) -> CandidateBatch:
    ids = list(dict.fromkeys(name for candidates in found for name in candidates.ids))
    if memory is not None:
        stored = memory.fetch(ids)
        passages, tokens, states, keys = stored.passages, stored.tokens, stored.states, stored.keys
    else:
        passages = corpus.get(ids)
        encoded = model.encode(passages, precision=precision)
        tokens, states, keys = ([getattr(row, part) for row in encoded] for part in ("tokens", "states", "keys"))
    nothing = [None] * len(ids)
    states, keys = nothing if states is None else states, nothing if keys is None else keys
    known = {
        passage.id: {
            "id": passage.id,
            "source": model.system.source_of(passage),
            "tokens": own,
            "states": of,
            "key": key,
        }
        for passage, own, of, key in zip(passages, tokens, states, keys, strict=True)
    }
    rows = [
        [CandidateRow(score=score, **known[name]) for name, score in zip(candidates.ids, candidates.scores)]
        for candidates in found
    ]
    return to_device(batch_candidates(rows, model.frame.tokenizer.pad), model.device)


def _answers(
    model: Model, questions: Sequence[Question], candidates: CandidateBatch, precision: str
) -> tuple[list[str], list[set[str]]]:
    """What is said, and the ids of the passages that were read to the end."""
    inputs = model.inputs(questions)
    dtype = precision_dtype(precision)
    with torch.inference_mode(), torch.autocast(model.device.type, dtype=dtype, enabled=dtype is not None):
        reading = model.system.read(inputs, candidates)
        tokens = model.frame.config.answer_tokens
        written = model.system.generate(inputs, candidates, max_tokens=tokens, reading=reading)
    said = [model.frame.text(row) for row in written.tokens.tolist()]
    read = [
        {ids[column] for column in columns if 0 <= column < len(ids)}
        for ids, columns in zip(candidates.ids, reading.kept.tolist(), strict=True)
    ]
    return said, read


def _flops(model: Model, question: Question, candidates: CandidateBatch, precision: str) -> int:
    with count_flops() as counter:
        _answers(model, [question], candidates, precision)
    return counter.total
