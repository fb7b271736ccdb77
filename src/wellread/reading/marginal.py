"""Passages read apart, and the answer's probability summed over them, in log space.

Impossible is -inf. Sums over nothing but impossible terms are -inf again, and have no gradient rather than none that
is a number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from wellread.types import Reading

__all__ = ["Columns", "among_first", "columns_of", "log_sum", "without_end"]

_PARTS = ("states", "mask", "tokens", "copyable")


@dataclass(frozen=True, slots=True)
class Columns:
    """A reading with its pairs apart: states [batch, columns, tokens, dim], the others [batch, columns, tokens].

    passages: how many of the columns are candidates; the null passage stands behind them.
    """

    states: Tensor
    mask: Tensor
    tokens: Tensor
    copyable: Tensor
    passages: int

    @property
    def count(self) -> int:
        """How many pairs each question has."""
        return self.mask.shape[1]

    def of(self, rows: Tensor | slice) -> Columns:
        """Those of some questions."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _PARTS})

    def flat(self) -> Columns:
        """The pairs of all questions one after the other, [batch * columns, tokens, ...]."""
        return replace(self, **{name: getattr(self, name).flatten(0, 1) for name in _PARTS})


def columns_of(reading: Reading, columns: int, passages: int) -> Columns:
    """The pairs of a reading that has `columns` of them per question, one after the other."""
    return Columns(**{name: getattr(reading, name).unflatten(1, (columns, -1)) for name in _PARTS}, passages=passages)


def log_sum(terms: Tensor) -> Tensor:
    """log of the sum of exp along the last axis; -inf, without gradient, where all terms are -inf."""
    impossible = terms.isneginf()
    floor = torch.finfo(terms.dtype).min
    return terms.masked_fill(impossible, floor).logsumexp(-1).masked_fill(impossible.all(-1), -torch.inf)


def among_first(log_probs: Tensor, count: int) -> Tensor:
    """The same probabilities [batch, columns] given that it is one of the first `count`; -inf for the others."""
    total = log_sum(log_probs[:, :count]) if count else log_probs.new_full(log_probs.shape[:1], -torch.inf)
    given = log_probs - total.masked_fill(total.isneginf(), 0.0)[:, None]
    return given.masked_fill(torch.arange(log_probs.shape[1], device=log_probs.device) >= count, -torch.inf)


def without_end(target: Tensor, mask: Tensor, end: int) -> Tensor:
    """The mask [batch, tokens] less an end token that a row ends with."""
    last = mask.sum(1, keepdim=True) - 1
    order = torch.arange(mask.shape[1], device=mask.device)
    return mask & ~((order == last) & (target == end))
