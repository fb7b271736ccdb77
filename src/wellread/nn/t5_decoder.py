"""The T5 family's decoder: causal self-attention, cross-attention to the memory, output head.

How a memory is read without copying it, and often without projecting it: `memory_decoder`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wellread.nn.attention import (
    LayerCache,
    ScoreMask,
    attend_folded,
    attend_masked,
    causal_mask,
    merge_heads,
    score_mask,
    share_rows,
    split_heads,
    unshare_rows,
)
from wellread.nn.memory_decoder import MemoryDecoder
from wellread.nn.t5_hub import T5Config
from wellread.nn.t5_layers import (
    Attention,
    FeedForward,
    RMSNorm,
    bias_tables,
    compute_dtype,
    relative_bias,
)

__all__ = ["T5Decoder"]


class T5DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward, each around a residual."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention_norm = RMSNorm(config.dim, config.norm_epsilon)
        self.attention = Attention(config)
        self.cross_norm = RMSNorm(config.dim, config.norm_epsilon)
        self.cross = Attention(config)
        self.feed_norm = RMSNorm(config.dim, config.norm_epsilon)
        self.feed = FeedForward(config)

    def decode(
        self,
        states: Tensor,
        joined: ScoreMask,
        memory: Tensor,
        seen: ScoreMask,
        cache: LayerCache | None,
        fold: bool,
        scored: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """New states, and with `scored` the cross-attention scores [rows, heads, t, m] before the softmax."""
        dropout = self.dropout if self.training else 0.0
        own = self._read_own(self.attention_norm(states), joined, cache, dropout)
        states = states + functional.dropout(own, dropout)
        normed = self.cross_norm(states)
        read, scores = self._read_memory(normed, memory, seen, cache, dropout=dropout, fold=fold, scored=scored)
        states = states + functional.dropout(read, dropout)
        return states + functional.dropout(self.feed(self.feed_norm(states)), dropout), scores

    def _read_own(self, normed: Tensor, joined: ScoreMask, cache: LayerCache | None, dropout: float) -> Tensor:
        attention = self.attention
        query = split_heads(attention.query(normed), attention.heads)
        key, value = attention.keys_values(normed)
        if cache is not None:
            key, value = cache.append(key, value)
        read = attend_masked(query, key, value, joined, dropout=dropout, scale=1.0)
        return attention.output(merge_heads(read))

    def _read_memory(
        self,
        normed: Tensor,
        memory: Tensor,
        seen: ScoreMask,
        cache: LayerCache | None,
        *,
        dropout: float,
        fold: bool,
        scored: bool,
    ) -> tuple[Tensor, Tensor | None]:
        cross, batch = self.cross, memory.shape[0]
        query = share_rows(split_heads(cross.query(normed), cross.heads), batch)
        rows = normed.shape[0] // batch
        scores = None
        if scored:
            keys = split_heads(cross.key(memory), cross.heads)
            scores = unshare_rows(query @ keys.transpose(2, 3), rows)
        if fold:
            weights = (cross.key.weight.to(query.dtype), cross.value.weight.to(query.dtype))
            read = attend_folded(query, memory.to(query.dtype), *weights, seen, dropout=dropout, scale=1.0)
        else:
            stored = cache is not None and cache.cross_keys is not None
            key, value = (cache.cross_keys, cache.cross_values) if stored else cross.keys_values(memory)
            read = attend_masked(query, key, value, seen, dropout=dropout, scale=1.0)
        return cross.output(merge_heads(unshare_rows(read, rows))), scores


class T5Decoder(MemoryDecoder):
    """A T5 decoder with its output head.

    embed_tokens: the encoder's word embedding, which the whole family shares; None makes one of its own.
    """

    def __init__(self, config: T5Config, *, embed_tokens: nn.Embedding | None = None) -> None:
        super().__init__()
        self.config = config
        self.dim, self.memory_dim, self.vocab_size = config.dim, config.dim, config.vocab_size
        self.heads, self.head_dim = config.num_heads, config.head_dim
        self.num_layers: int = config.num_decoder_layers or config.num_layers
        self.start_token, self.end_token, self.pad_token = (
            config.start_token,
            config.end_token,
            config.pad_token,
        )
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim) if embed_tokens is None else embed_tokens
        self.relative_bias = bias_tables(config, self.num_layers)
        self.layers = nn.ModuleList(T5DecoderLayer(config) for _ in range(self.num_layers))
        self.final_norm = RMSNorm(config.dim, config.norm_epsilon)
        if not config.tied_head:
            self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
            nn.init.normal_(self.head.weight, std=config.dim**-0.5)

    def _begin(self, tokens: Tensor, past: int) -> tuple[Tensor, list[ScoreMask], torch.dtype]:
        states = functional.dropout(self.embed_tokens(tokens), self.config.dropout, self.training)
        dtype = compute_dtype(states)
        return states, self._own_masks(past, tokens.shape[1], dtype, tokens.device), dtype

    def _finish(self, states: Tensor) -> Tensor:
        return functional.dropout(self.final_norm(states), self.config.dropout, self.training)

    def logits(self, states: Tensor) -> Tensor:
        """States [rows, t, dim] -> logits [rows, t, vocab], in the states' dtype."""
        if self.config.scale_head:
            states = states * self.dim**-0.5
        weight = self.embed_tokens.weight if self.config.tied_head else self.head.weight
        return functional.linear(states, weight)

    def _own_masks(self, past: int, new: int, dtype: torch.dtype, device: torch.device) -> list[ScoreMask]:
        """Causal mask and relative bias, one per bias table."""
        positions = torch.arange(past + new, device=device)
        tables = relative_bias(self.relative_bias, self.config, positions[past:], positions, both_sides=False)
        allowed = causal_mask(new, past, device=device)
        return [score_mask(allowed, table, dtype=dtype) for table in tables]
