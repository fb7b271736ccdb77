"""Scores of candidates -> the few that are read to the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["all_columns", "check_keep", "keep_best"]


def check_keep(keep: int, num_passages: int) -> None:
    """Raise ValueError when more passages are to be kept than were retrieved."""
    if not 1 <= keep <= num_passages:
        raise ValueError(
            f"keep={keep} but {num_passages} passages were retrieved; keep must be between 1 and {num_passages}."
        )


def keep_best(scores: Tensor, exists: Tensor, keep: int) -> Tensor:
    """The columns of the `keep` best candidates, best first: [batch, passages] -> [batch, keep] int64.

    Candidates that do not exist come last; ties keep the retriever's order.
    """
    check_keep(keep, scores.shape[1])
    filled = scores.float().masked_fill(~exists, float("-inf"))
    return filled.argsort(dim=-1, descending=True, stable=True)[:, :keep]


def all_columns(exists: Tensor) -> Tensor:
    """Every column in the retriever's order: [batch, passages] bool -> [batch, passages] int64."""
    return exists.new_ones(exists.shape).long().cumsum(-1) - 1
