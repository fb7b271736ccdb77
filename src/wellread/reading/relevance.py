"""How well a passage matches a question, token by token: late interaction by un-normalised inner products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["all_pairs", "relevance"]

# Far below any score; the sum over the tokens of a question stays finite.
NOWHERE = -1e30


def relevance(query: Tensor, query_mask: Tensor, key: Tensor, key_mask: Tensor) -> Tensor:
    """Mean over question tokens of the best passage token's attention before softmax (equation 1).

    query: [batch, q, head_dim]; key: [batch, passages, tokens, head_dim]; masks of the same without the last axis.
    [batch, passages] float32; far below any score where a passage has no tokens.
    """
    best = _best(query, key, key_mask)
    return _mean(best, query_mask)


def _best(query: Tensor, key: Tensor, key_mask: Tensor) -> Tensor:
    """[batch, passages, q] float32: of every question token, the best score in each passage."""
    with torch.autocast(query.device.type, enabled=False):  # an index scores in float32 too
        attention = torch.einsum("bqe,bpte->bpqt", query.float(), key.float())
    return attention.masked_fill(~key_mask[:, :, None], NOWHERE).amax(-1)


def _mean(best: Tensor, query_mask: Tensor) -> Tensor:
    """[batch, passages] of [batch, passages, q]."""
    return best.masked_fill(~query_mask[:, None], 0.0).sum(-1) / query_mask.sum(-1, keepdim=True).clamp_min(1)


def all_pairs(query: Tensor, query_mask: Tensor, key: Tensor, key_mask: Tensor) -> Tensor:
    """`relevance` of every question to every passage: query [questions, q, e], key [passages, tokens, e]."""
    best = _best(query.flatten(0, 1)[None], key[None], key_mask[None])[0]
    return _mean(best.T.unflatten(0, query.shape[:2]).transpose(1, 2), query_mask)
