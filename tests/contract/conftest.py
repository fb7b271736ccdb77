"""Signature systems around tiny nets, and tiny values to run them on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from wellread.reading.batching import CandidateRow, batch_candidates
from wellread.systems.realm import Realm, RealmConfig
from wellread.types import CandidateBatch, Inputs

VOCAB, DIM = 20, 8


# -- tiny nets --------------------------------------------------------------------------------------------------


def mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real tokens, [rows, dim]."""
    return states.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


class Embed(nn.Module):
    """(tokens, mask) -> states, each token's own and the mean of all."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCAB, DIM)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        states = self.table(tokens)
        return states + mean(states, mask)[:, None]


class Pool(Embed):
    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return mean(self.table(tokens), mask)


class Mix(nn.Module):
    """(states, mask) -> states, every one with the mean of all."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(DIM, DIM)

    def forward(self, states: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
        states = states if weights is None else states * weights[..., None]
        return (self.linear(states) + mean(states, mask)[:, None]).tanh()


class Vector(nn.Module):
    """(states, mask) -> [rows, size]."""

    def __init__(self, size: int = DIM) -> None:
        super().__init__()
        self.linear = nn.Linear(DIM, size)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return self.linear(mean(states, mask))


class Head(Vector):
    """(states, mask, target) -> log p of every target token."""

    def __init__(self) -> None:
        super().__init__(VOCAB)

    def forward(self, states: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        return super().forward(states, mask).log_softmax(-1).gather(1, target)


def realm(null: tuple[int, ...] = (2, 1)) -> Realm:
    torch.manual_seed(0)
    return Realm(RealmConfig(null), question_encoder=Pool(), key_encoder=Pool(), reader=Embed(), head=Head())


SYSTEMS = {"REALM": realm}

# -- tiny values ------------------------------------------------------------------------------------------------

PASSAGES = [[[3, 4, 5, 6, 7], [8, 9], [10, 11, 12]], [[13, 14, 15, 16], [17, 5]]]


def questions() -> Inputs:
    return Inputs(torch.tensor([[3, 9, 12, 0], [4, 5, 6, 7]]), torch.tensor([[True] * 3 + [False], [True] * 4]))


def target() -> tuple[Tensor, Tensor]:
    return torch.tensor([[4, 1, 0], [6, 7, 1]]), torch.tensor([[True, True, False], [True] * 3])


def passages() -> tuple[Tensor, Tensor]:
    """All passages one after the other, as `remember` gets them."""
    flat = [tokens for rows in PASSAGES for tokens in rows]
    out = torch.zeros(len(flat), 5, dtype=torch.int64)
    for row, tokens in enumerate(flat):
        out[row, : len(tokens)] = torch.tensor(tokens)
    return out, out > 0


def candidates(*, states=None, keys=None) -> CandidateBatch:
    """The passages collated; states: per passage [stored, dim], keys: per passage [dim], as a memory gives them."""
    number, questions = 0, []
    for rows in PASSAGES:
        questions.append([])
        for tokens in rows:
            stored = {
                "states": None if states is None else states[number],
                "key": None if keys is None else keys[number],
            }
            questions[-1].append(CandidateRow(f"p{number}", tokens, source=number % 2, **stored))
            number += 1
    return batch_candidates(questions, pad=0)


@pytest.fixture(scope="session")
def sig() -> SimpleNamespace:
    """The factories above, for tests that cannot import a conftest."""
    names = ("VOCAB", "DIM", "PASSAGES", "SYSTEMS", "Head", "realm")
    names += ("questions", "target", "passages", "candidates")
    return SimpleNamespace(**{name: globals()[name] for name in names})
