"""Spans of passages as answers: which there are, which are the answer, and the best one over all passages.

A span is (start, length): `[rows, tokens, longest]` is one value per span that starts at a token and is 1, 2, ...
tokens long. Everything is in log space.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["best_text", "log_shares", "matching", "spans_within", "text_runs"]


def spans_within(allowed: Tensor, longest: int) -> Tensor:
    """Which spans lie on allowed tokens alone: [rows, tokens] bool -> [rows, tokens, longest] bool."""
    return text_runs(allowed, longest).cummin(-1).values.bool()


def text_runs(tokens: Tensor, longest: int) -> Tensor:
    """The tokens from every one on, zeros behind the end: [rows, tokens] -> [rows, tokens, longest] int64."""
    return functional.pad(tokens.long(), (0, longest - 1)).unfold(1, longest, 1)


def matching(tokens: Tensor, target: Tensor, target_mask: Tensor, longest: int) -> Tensor:
    """Which spans read as the target does: [rows, tokens, longest] bool.

    tokens: [rows, tokens] int64. target: [rows, n] int64, target_mask: [rows, n] bool, real tokens first. A target
    without tokens, or of more than `longest`, is matched by no span.
    """
    length = target_mask.sum(1)
    wanted = functional.pad(target.masked_fill(~target_mask, -1), (0, longest), value=-1)[:, None, :longest]
    same = ((text_runs(tokens, longest) == wanted) | (wanted < 0)).all(-1)
    sizes = torch.arange(1, longest + 1, device=tokens.device)
    return same[..., None] & (sizes == length[:, None])[:, None]


def log_shares(scores: Tensor, exists: Tensor) -> Tensor:
    """Log-softmax over the spans of each row that exist, [rows, tokens, longest] float32; -inf for the others.

    A row without any span is -inf throughout.
    """
    flat, real = scores.float().flatten(1), exists.flatten(1)
    filled = flat.masked_fill(~real, torch.finfo(torch.float32).min)
    return filled.log_softmax(1).masked_fill(~real, -torch.inf).view(scores.shape)


def best_text(tokens: Tensor, log_joint: Tensor) -> tuple[Tensor, float]:
    """The likeliest text of one question, spans that read alike taken together: (its tokens, log p).

    tokens: [passages, tokens] int64. log_joint: [passages, tokens, longest], log p of every span; -inf where there is
    none. No tokens and -inf where there is no span at all.
    """
    longest = log_joint.shape[-1]
    real = torch.isfinite(log_joint)
    if not bool(real.any()):
        return tokens.new_zeros(0), -torch.inf
    runs = text_runs(tokens, longest)[:, :, None].expand(*log_joint.shape, longest)
    sizes = torch.arange(1, longest + 1, device=tokens.device)
    texts = torch.where(torch.arange(longest, device=tokens.device) < sizes[:, None], runs, -1)[real]
    unique, which = texts.unique(dim=0, return_inverse=True)
    shares = log_joint[real].double().exp()
    total = shares.new_zeros(len(unique)).index_add_(0, which, shares)
    best = int(total.argmax())
    text = unique[best]
    return text[text >= 0], float(total[best].log())
