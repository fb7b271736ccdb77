"""Scores of candidates -> the few that are read to the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["all_columns", "check_keep", "keep_best", "ranks_behind", "scores_behind"]


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


def ranks_behind(found: Tensor, exists: Tensor) -> Tensor:
    """The logarithm of each candidate's rank, from 1, by its score `found`: [batch, passages] float32."""
    found = found.masked_fill(~exists, -torch.inf)
    return torch.log1p((found[:, None, :] > found[:, :, None]).sum(-1).float())


def scores_behind(found: Tensor, exists: Tensor) -> Tensor:
    """How far the score `found` of each candidate is behind its question's best, in standard deviations of those of
    all that exist: [batch, passages] float32; 0 for those that do not exist.

    A deviation is at least a twentieth of the best score: near equals stay near, however few they are. A factor common
    to all scores changes nothing; a constant added to them may.
    """
    real = exists & found.isfinite()
    scores = found.double().masked_fill(~real, 0.0)
    count = real.sum(-1, keepdim=True).clamp_min(1)
    best = scores.masked_fill(~real, -torch.inf).amax(-1, keepdim=True)
    apart = (scores - scores.sum(-1, keepdim=True) / count).masked_fill(~real, 0.0)
    spread = (apart.square().sum(-1, keepdim=True) / count).sqrt()
    spread = torch.maximum(spread, best.abs() / 20).clamp_min(torch.finfo(torch.float32).tiny)
    behind = ((best - found) / spread).masked_fill(~exists | (best == found), 0.0)
    return behind.float()
