"""The T5 family's decoder: causal self-attention, cross-attention to the memory, output head.

Every row of target tokens reads one memory; several rows (beams) may share one without copying it. Where the
targets are few and the memory is long, keys and values of the memory are never computed: their projections
are folded into the target side (`wellread.nn.attention.attend_folded`), with the same result.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wellread.nn.attention import (
    DecoderCache,
    LayerCache,
    ScoreMask,
    attend_folded,
    attend_masked,
    causal_mask,
    folding_is_cheaper,
    merge_heads,
    score_mask,
    share_rows,
    split_heads,
    unshare_rows,
)
from wellread.nn.layers import apply_layer, check_memory
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

# What `new_cache` expects a short answer to take when nobody says how long it may become.
SHORT_ANSWER_TOKENS = 32


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

    def forward(
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


class T5Decoder(nn.Module):
    """A T5 decoder with its output head.

    embed_tokens: the encoder's word embedding, which the whole family shares; None makes one of its own.
    """

    def __init__(self, config: T5Config, *, embed_tokens: nn.Embedding | None = None) -> None:
        super().__init__()
        self.config = config
        self.dim, self.memory_dim, self.vocab_size = config.dim, config.dim, config.vocab_size
        self.num_layers: int = config.num_decoder_layers or config.num_layers
        self.start_token, self.end_token, self.pad_token = (
            config.start_token,
            config.end_token,
            config.pad_token,
        )
        self.gradient_checkpointing = False
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim) if embed_tokens is None else embed_tokens
        self.relative_bias = bias_tables(config, self.num_layers)
        self.layers = nn.ModuleList(T5DecoderLayer(config) for _ in range(self.num_layers))
        self.final_norm = RMSNorm(config.dim, config.norm_epsilon)
        if not config.tied_head:
            self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
            nn.init.normal_(self.head.weight, std=config.dim**-0.5)

    def new_cache(
        self, memory: Tensor, memory_mask: Tensor, *, target_tokens: int = SHORT_ANSWER_TOKENS
    ) -> DecoderCache:
        """A cache for decoding over memory [batch, m, dim] with memory_mask [batch, m] bool.

        target_tokens: how many target tokens will read each memory, beams counted (about max_tokens times
        beams). It decides whether keys and values of the memory are computed now, once, or folded away;
        the result is the same either way.
        """
        check_memory(memory, memory_mask, self.memory_dim)
        cache = DecoderCache(memory, memory_mask)
        fold = self._fold(target_tokens, memory)
        for layer in self.layers:
            keys, values = (None, None) if fold else layer.cross.keys_values(memory)
            cache.layers.append(LayerCache(cross_keys=keys, cross_values=values))
        return cache

    def forward(
        self,
        tokens: Tensor,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        *,
        cache: DecoderCache | None = None,
        return_attention: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Target tokens [rows, t] -> states [rows, t, dim] after the final norm.

        memory: [batch, m, dim], memory_mask: [batch, m] bool; rows is a multiple of batch, the rows of one
        memory adjacent. cache: from `new_cache`; tokens are then only the new ones, and the memory is the
        cache's (memory and memory_mask may be left out). Padding may only stand at the right of tokens; its
        states mean nothing. return_attention: also gives the cross-attention scores before the softmax,
        [rows, layers, heads, t, m], unmasked.
        """
        if cache is not None:
            memory, memory_mask = cache.memory, cache.memory_mask
        check_memory(memory, memory_mask, self.memory_dim)
        past, new = (0 if cache is None else cache.length), tokens.shape[1]
        states = functional.dropout(self.embed_tokens(tokens), self.config.dropout, self.training)
        dtype = compute_dtype(states)
        seen = score_mask(memory_mask, None, dtype=dtype)
        own = self._own_masks(past, new, dtype, tokens.device)
        fold = self._fold(new * max(1, tokens.shape[0] // memory.shape[0]), memory)
        scores = []
        for index, layer in enumerate(self.layers):
            held = None if cache is None else cache.layers[index]
            folded = fold if held is None else held.cross_keys is None
            inputs = (own[index % len(own)], memory, seen, held, folded, return_attention)
            states, scored = apply_layer(self, layer, states, *inputs)
            scores.append(scored)
        if cache is not None:
            cache.length += new
        states = functional.dropout(self.final_norm(states), self.config.dropout, self.training)
        return (states, torch.stack(scores, dim=1)) if return_attention else states

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

    def _fold(self, target_tokens: int, memory: Tensor) -> bool:
        """Whether reading this memory folded costs less than projecting it first."""
        config = self.config
        sizes = {"heads": config.num_heads, "head_dim": config.head_dim, "memory_dim": memory.shape[2]}
        return folding_is_cheaper(target_tokens, memory.shape[1], **sizes)
