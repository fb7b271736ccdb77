"""Pairs of one question -> the flat sequence its decoder attends to (Fusion-in-Decoder)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from wellread.types import Reading

if TYPE_CHECKING:
    from torch import Tensor

    from wellread.reading.pairing import Pairs

__all__ = ["fuse"]


def fuse(
    pairs: Pairs,
    kept: Tensor,
    *,
    exists: Tensor,
    scores: Tensor | None = None,
    question: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Reading:
    """Concatenate the pairs of every question, padding squeezed out.

    pairs: [batch, keep, tokens, dim], the pairs of the columns `kept` [batch, keep]. exists: [batch, passages]
    over all candidates; pairs of candidates that do not exist are masked. question: states [batch, q, dim],
    mask and tokens [batch, q] put before the passages where the decoder is given the question too.
    """
    batch, keep, length = pairs.mask.shape
    real = exists.gather(1, kept)[..., None] & pairs.mask
    column = kept[..., None].expand(batch, keep, length)
    states, mask = pairs.states.flatten(1, 2), real.flatten(1, 2)
    tokens, copyable = pairs.tokens.flatten(1, 2), (pairs.from_passage & real).flatten(1, 2)
    passage = column.flatten(1, 2)
    if question is not None:
        q_states, q_mask, q_tokens = question
        states = torch.cat([q_states, states], dim=1)
        mask = torch.cat([q_mask, mask], dim=1)
        tokens = torch.cat([q_tokens, tokens], dim=1)
        copyable = torch.cat([torch.zeros_like(q_mask), copyable], dim=1)
        passage = torch.cat([torch.full_like(q_tokens, -1), passage], dim=1)
    passage = passage.masked_fill(~mask, -1)
    longest = max(int(mask.sum(-1).max()), 1)
    if longest < mask.shape[1]:
        order = torch.argsort((~mask).to(torch.uint8), dim=-1, stable=True)[:, :longest]
        states = states.gather(1, order[..., None].expand(*order.shape, states.shape[-1]))
        mask, tokens, copyable, passage = (part.gather(1, order) for part in (mask, tokens, copyable, passage))
    return Reading(states, mask, tokens, copyable, passage, scores, kept)
