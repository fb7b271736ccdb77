"""What decoders of all families share that attend to a memory: the cache, and the way through their layers.

Every row of target tokens reads one memory; several rows (beams) may share one without copying it. Where the
targets are few and the memory is long, keys and values of the memory are never computed: their projections
are folded into the target side (`wellread.nn.attention.attend_folded`), with the same result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wellread.nn.attention import DecoderCache, LayerCache, ScoreMask, folding_is_cheaper, score_mask
from wellread.nn.layers import apply_layer

__all__ = ["MemoryDecoder"]

# What `new_cache` expects a short answer to take when nobody says how long it may become.
SHORT_ANSWER_TOKENS = 32


class MemoryDecoder(nn.Module, ABC):
    """A decoder whose layers read a memory of width memory_dim, with `heads` heads of width head_dim.

    A layer has `decode` (states, own mask, memory, its mask, cache, folded or not, with scores or not) and `cross`,
    whose `keys_values` are those of a memory. gradient_checkpointing: set True to recompute layers in the backward pass
    of training.
    """

    memory_dim: int
    heads: int
    head_dim: int
    layers: nn.ModuleList
    gradient_checkpointing = False

    @abstractmethod
    def _begin(self, tokens: Tensor, past: int) -> tuple[Tensor, Sequence[ScoreMask], torch.dtype]:
        """The states of tokens that follow `past` others, the masks of self-attention, which layers take in turn, and
        what attention computes in."""

    def _finish(self, states: Tensor) -> Tensor:
        """States of the last layer -> states that come out."""
        return states

    def new_cache(
        self, memory: Tensor, memory_mask: Tensor, *, target_tokens: int = SHORT_ANSWER_TOKENS
    ) -> DecoderCache:
        """An empty cache for decoding over memory [batch, m, dim] with memory_mask [batch, m] bool.

        target_tokens: how many target tokens will read each memory, beams counted (about max_tokens times
        beams). It decides whether keys and values of the memory are computed now, once, or folded away;
        the result is the same either way.
        """
        self._check_memory(memory, memory_mask)
        fold = self._folds(target_tokens, memory)
        stored = [(None, None) if fold else layer.cross.keys_values(memory) for layer in self.layers]
        layers = [LayerCache(cross_keys=keys, cross_values=values) for keys, values in stored]
        return DecoderCache(memory, memory_mask, layers)

    def forward(
        self,
        tokens: Tensor,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        *,
        cache: DecoderCache | None = None,
        return_attention: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Target tokens [rows, t] -> states [rows, t, dim]; positions count from 0.

        memory: [batch, m, dim], memory_mask: [batch, m] bool; rows is a multiple of batch, the rows of one
        memory adjacent. cache: from `new_cache`; tokens are then only the new ones, the memory is the cache's
        (memory and memory_mask may be left out), and the cache grows in place. Padding may only stand at the right of
        tokens; its states mean nothing. return_attention: also gives the cross-attention scores before the softmax,
        [rows, layers, heads, t, m], unmasked.
        """
        if cache is not None:
            memory, memory_mask = cache.memory, cache.memory_mask
        self._check_memory(memory, memory_mask)
        past, new = (0 if cache is None else cache.length), tokens.shape[1]
        states, own, dtype = self._begin(tokens, past)
        seen = score_mask(memory_mask, None, dtype=dtype)
        fold = self._folds(new * max(1, tokens.shape[0] // memory.shape[0]), memory)
        scores = []
        for index, layer in enumerate(self.layers):
            held = None if cache is None else cache.layers[index]
            folded = fold if held is None else held.cross_keys is None
            inputs = (own[index % len(own)], memory, seen, held, folded, return_attention)
            states, scored = apply_layer(self, layer.decode, states, *inputs)
            scores.append(scored)
        if cache is not None:
            cache.length += new
        states = self._finish(states)
        return (states, torch.stack(scores, dim=1)) if return_attention else states

    def _folds(self, target_tokens: int, memory: Tensor) -> bool:
        """Whether reading this memory folded costs less than projecting it first."""
        sizes = {"heads": self.heads, "head_dim": self.head_dim, "memory_dim": self.memory_dim}
        return folding_is_cheaper(target_tokens, memory.shape[1], **sizes)

    def _check_memory(self, memory: Tensor | None, memory_mask: Tensor | None) -> None:
        if memory is None or memory_mask is None:
            raise ValueError("the decoder got no memory; give memory and memory_mask, or a cache made from them.")
        if memory.dim() != 3 or memory.shape[2] != self.memory_dim or memory_mask.shape != memory.shape[:2]:
            raise ValueError(
                f"memory {tuple(memory.shape)} with mask {tuple(memory_mask.shape)}; "
                f"they must be [batch, m, {self.memory_dim}] and [batch, m]."
            )
