"""Attention shared by all nets: one call of torch's scaled dot product, masks without NaN, decoder caches.

Shapes: query, key and value are [batch, heads, tokens, head_dim]. A `mask` is True on keys that may be seen.
A query row that may see no key at all gets zeros, never NaN, and passes no gradient.

Folded cross-attention. A decoder that writes a short answer over a long memory spends most of its time on
projecting the memory to keys and values. Because  q . (W_k x) = (W_k^T q) . x  and
sum_i p_i (W_v x_i) = W_v (sum_i p_i x_i), the projections may be moved to the few target tokens:
`attend_folded` does so and gives the same result; `folding_is_cheaper` counts which way costs less.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "DecoderCache",
    "LayerCache",
    "ScoreMask",
    "attend",
    "attend_folded",
    "attend_masked",
    "causal_mask",
    "first_rows",
    "folding_is_cheaper",
    "merge_heads",
    "project_heads",
    "score_mask",
    "share_rows",
    "split_heads",
    "unshare_rows",
]


# The dtype attention runs in where another one than the states' is faster: torch's fused kernel for CPUs takes a
# third of the time in float32, forward and backward together (8 x 12 heads x 215 tokens x 32: 36 against 108 ms).
FASTEST = {("cpu", torch.bfloat16): torch.float32}


class ScoreMask(NamedTuple):
    """What is added to the scores, ready for use in several layers.

    added: [batch or 1, heads or 1, q or 1, k], in the compute dtype, hugely negative on masked keys; or None.
    empty: [batch, 1, q or 1, 1] bool, True on query rows that may see no key; or None.
    """

    added: Tensor | None
    empty: Tensor | None


def project_heads(projection: nn.Linear, states: Tensor, heads: int, head: int | None = None) -> Tensor:
    """Queries, keys or values of every head, [..., heads, head_dim], of states [..., dim]; of one, [..., head_dim]."""
    if head is None:
        return projection(states).unflatten(-1, (heads, -1))
    width = projection.out_features // heads
    rows = slice(head * width, (head + 1) * width)
    return functional.linear(
        states, projection.weight[rows], None if projection.bias is None else projection.bias[rows]
    )


def score_mask(mask: Tensor | None, bias: Tensor | None, *, dtype: torch.dtype) -> ScoreMask:
    """Join a mask and an additive bias.

    mask: [batch, k], [batch, q, k] or [batch, 1, q or 1, k] bool. bias: [1 or batch, heads, q, k].
    """
    bias = None if bias is None else bias.to(dtype)
    if mask is None:
        return ScoreMask(bias, None)
    mask = _four_axes(mask)
    # A quarter of the smallest number: far below any score, yet kernels that work in powers of two
    # (which multiply by log2 e) do not reach -inf with it, so that no -inf - -inf can arise.
    never = torch.finfo(dtype).min / 4
    base = torch.zeros((), dtype=dtype, device=mask.device) if bias is None else bias
    return ScoreMask(torch.where(mask, base, never), ~mask.any(dim=-1, keepdim=True))


def first_rows(joined: ScoreMask, count: int) -> ScoreMask:
    """The same mask for the first `count` query rows only."""
    added, empty = joined
    added = added if added is None or added.shape[-2] == 1 else added[..., :count, :]
    empty = empty if empty is None or empty.shape[-2] == 1 else empty[..., :count, :]
    return ScoreMask(added, empty)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """Attention output [batch, heads, q, head_dim].

    mask, bias: as for `score_mask`. dropout: rate on the attention weights (pass 0 outside training).
    scale: factor on the scores; None is head_dim^-0.5, T5 uses 1.
    """
    joined = score_mask(mask, bias, dtype=query.dtype)
    return attend_masked(query, key, value, joined, dropout=dropout, scale=scale)


def attend_masked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    joined: ScoreMask,
    *,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """`attend` with a mask and bias that were joined before, so that layers can share the work."""
    dtype = query.dtype
    fastest = FASTEST.get((query.device.type, dtype), dtype)
    # Autocast would cast back what was chosen here.
    with torch.autocast(query.device.type, enabled=False):
        query, key, value = (part.to(fastest) for part in (query, key, value))
        added = None if joined.added is None else joined.added.to(fastest)
        states = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=added, dropout_p=dropout, scale=scale
        ).to(dtype)
    return states if joined.empty is None else states.masked_fill(joined.empty, 0.0)


def causal_mask(new: int, past: int, *, device: torch.device) -> Tensor | None:
    """[1, 1, new, past + new] bool: token i sees all of the past and new tokens up to i.

    None when there is one new token, which sees everything.
    """
    if new == 1:
        return None
    allowed = torch.ones(new, past + new, dtype=torch.bool, device=device).tril(past)
    return allowed[None, None]


def split_heads(states: Tensor, heads: int) -> Tensor:
    """[batch, tokens, heads * head_dim] -> [batch, heads, tokens, head_dim]."""
    batch, tokens, width = states.shape
    return states.view(batch, tokens, heads, width // heads).transpose(1, 2)


def merge_heads(states: Tensor) -> Tensor:
    """[batch, heads, tokens, head_dim] -> [batch, tokens, heads * head_dim]."""
    return states.transpose(1, 2).flatten(2)


def share_rows(query: Tensor, batch: int) -> Tensor:
    """Lay the queries of rows that read the same memory (beams) side by side.

    [batch * rows, heads, t, head_dim] -> [batch, heads, rows * t, head_dim]; rows of one memory are adjacent.
    The memory is then read once for all of them instead of being copied.
    """
    rows = query.shape[0] // batch
    if rows * batch != query.shape[0]:
        raise ValueError(
            f"{query.shape[0]} rows of target tokens for {batch} memories; "
            "the rows must be a multiple of the memories, those of one memory adjacent."
        )
    if rows == 1:
        return query
    return query.unflatten(0, (batch, rows)).transpose(1, 2).flatten(2, 3)


def unshare_rows(states: Tensor, rows: int) -> Tensor:
    """Undo `share_rows`: [batch, heads, rows * t, width] -> [batch * rows, heads, t, width]."""
    if rows == 1:
        return states
    return states.unflatten(2, (rows, -1)).transpose(1, 2).flatten(0, 1)


def folding_is_cheaper(target_tokens: int, memory_tokens: int, *, heads: int, head_dim: int, memory_dim: int) -> bool:
    """Whether folding the projections into the query costs fewer multiplications for one memory.

    target_tokens: all target tokens that will read this memory (tokens times beams).
    Projecting costs 2 m D hd for keys and values and 2 T m hd for scores and sums (hd = heads * head_dim);
    folded, scores and sums cost 2 T heads m D and the projections of the target side 2 T hd D.
    """
    width = heads * head_dim
    projected = 2 * memory_tokens * memory_dim * width + 2 * target_tokens * memory_tokens * width
    folded = 2 * target_tokens * heads * memory_tokens * memory_dim + 2 * target_tokens * width * memory_dim
    return folded < projected


def attend_folded(
    query: Tensor,
    memory: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    joined: ScoreMask,
    *,
    value_bias: Tensor | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """Cross-attention on unprojected memory; equal to projecting it first.

    query: [batch, heads, t, head_dim]. memory: [batch, m, memory_dim]. key_weight, value_weight:
    [heads * head_dim, memory_dim] as in nn.Linear. joined: the memory's mask, from `score_mask(mask, None)`.
    value_bias: [heads * head_dim]; a bias of the keys moves all scores of a query alike and drops out of
    the softmax, so it is not asked for. Gives [batch, heads, t, head_dim].
    """
    batch, heads, tokens, head_dim = query.shape
    scale = head_dim**-0.5 if scale is None else scale
    keys = key_weight.view(heads, head_dim, -1)
    values = value_weight.view(heads, head_dim, -1)
    folded = (query @ keys).reshape(batch, 1, heads * tokens, -1)
    memory = memory.unsqueeze(1)
    read = attend_masked(folded, memory, memory, joined, dropout=dropout, scale=scale)
    states = read.view(batch, heads, tokens, -1) @ values.transpose(1, 2)
    if value_bias is not None:
        states = states + value_bias.view(heads, 1, head_dim)
        states = states if joined.empty is None else states.masked_fill(joined.empty, 0.0)
    return states


@dataclass(slots=True)
class LayerCache:
    """Keys and values of one decoder layer.

    keys, values: [rows, heads, length, head_dim], of the target tokens so far; None before the first.
    cross_keys, cross_values: [batch, heads, m, head_dim], of the memory; None where the projections are
    folded into the query (`attend_folded`).
    """

    keys: Tensor | None = None
    values: Tensor | None = None
    cross_keys: Tensor | None = None
    cross_values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens; gives those of all tokens so far."""
        if self.keys is not None:
            keys = torch.cat((self.keys, keys), dim=2)
            values = torch.cat((self.values, values), dim=2)
        self.keys, self.values = keys, values
        return keys, values

    def reorder(self, index: Tensor, *, cross: bool) -> None:
        """Keep the rows in `index`, in its order; the memory's rows too with `cross`."""
        names = ("keys", "values", "cross_keys", "cross_values") if cross else ("keys", "values")
        for name in names:
            held = getattr(self, name)
            if held is not None:
                setattr(self, name, held.index_select(0, index))


@dataclass(slots=True)
class DecoderCache:
    """What a decoder keeps between steps; owned by the caller, grown in place by the decoder.

    memory: [batch, m, dim], memory_mask: [batch, m] bool. There may be several rows of target tokens per
    memory (beams): rows of one memory are adjacent and share it, nothing is copied.
    length: number of target tokens so far.
    """

    memory: Tensor
    memory_mask: Tensor
    layers: list[LayerCache] = field(default_factory=list)
    length: int = 0

    def reorder(self, index: Tensor) -> DecoderCache:
        """Continue from the rows in `index` [rows] int64; gives the cache itself.

        Where rows share memories, a row may only be replaced by one that reads the same memory, which is
        what beam search does.
        """
        own_memory = index.shape[0] == self.memory.shape[0]
        for layer in self.layers:
            layer.reorder(index, cross=own_memory)
        if own_memory:
            self.memory = self.memory.index_select(0, index)
            self.memory_mask = self.memory_mask.index_select(0, index)
        return self


def _four_axes(mask: Tensor) -> Tensor:
    """[batch, k] or [batch, q, k] -> [batch, 1, q or 1, k]."""
    if mask.dtype != torch.bool:
        raise ValueError(f"mask has dtype {mask.dtype}; it must be bool, True on real tokens.")
    if mask.dim() == 2:
        return mask[:, None, None, :]
    if mask.dim() == 3:
        return mask[:, None]
    if mask.dim() != 4:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}; it must be [batch, k], [batch, q, k] or [batch, 1, q, k]."
        )
    return mask
