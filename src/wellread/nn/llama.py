"""The Llama family's decoder: RMSNorm, rotary positions, grouped-query attention, gated feed-forward.

Touvron et al. 2023 (arXiv 2302.13971; grouped-query attention: Ainslie et al. 2023, arXiv 2305.13245). `run` can start
and stop between any two layers. Its layers can also be run with attention to both sides, as an encoder.
Shapes: states [batch, tokens, dim]; masks are True on real tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from wellread.nn.attention import LayerCache, ScoreMask, attend_masked, merge_heads, score_mask, split_heads
from wellread.nn.checkpoints import load_weights, read_hub, write_hub
from wellread.nn.layers import apply_layer
from wellread.nn.llama_hub import ACTIVATIONS, LlamaConfig, hub_weights, our_weights
from wellread.nn.t5_layers import RMSNorm, compute_dtype

__all__ = ["LlamaCache", "LlamaDecoder", "LlamaLayer", "Rotation", "rotation"]


class Rotation(NamedTuple):
    """Cosine and sine of the rotary angles, each [batch or 1, 1, tokens, head_dim], float32."""

    cosine: Tensor
    sine: Tensor


def rotation(positions: Tensor, head_dim: int, theta: float) -> Rotation:
    """The rotation of every position [batch or 1, tokens]; the two halves of a head turn together, as in the hub's."""
    order = torch.arange(0, head_dim, 2, device=positions.device).float()
    frequency = theta ** -(order / head_dim)
    angle = positions[..., None].float() * frequency
    angle = torch.cat((angle, angle), dim=-1)[:, None]
    return Rotation(angle.cos(), angle.sin())


def rotate(states: Tensor, by: Rotation) -> Tensor:
    """Turn queries or keys [batch, heads, tokens, head_dim] by their positions."""
    first, second = states.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (states * by.cosine + turned * by.sine).to(states.dtype)


@dataclass(slots=True)
class LlamaCache:
    """Keys and values of all layers, and which of the tokens so far are real ([rows, length] bool)."""

    mask: Tensor
    layers: list[LayerCache] = field(default_factory=list)

    def reorder(self, index: Tensor) -> LlamaCache:
        """Continue from the rows in `index` [rows] int64 (which may be more or fewer); gives the cache itself."""
        self.mask = self.mask.index_select(0, index)
        for layer in self.layers:
            layer.reorder(index, cross=False)
        return self


class LlamaAttention(nn.Module):
    """Self-attention with rotary positions; several heads of queries share one of keys and values."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.heads, self.key_heads = config.num_heads, config.num_key_heads
        inner, shared = config.num_heads * config.head_dim, config.num_key_heads * config.head_dim
        self.query = _linear(config.dim, inner, bias=config.attention_bias)
        self.key = _linear(config.dim, shared, bias=config.attention_bias)
        self.value = _linear(config.dim, shared, bias=config.attention_bias)
        self.output = _linear(inner, config.dim, bias=config.attention_bias, scale=_shrink(config))

    def forward(self, states: Tensor, joined: ScoreMask, by: Rotation, cache: LayerCache | None) -> Tensor:
        query = rotate(split_heads(self.query(states), self.heads), by)
        key = rotate(split_heads(self.key(states), self.key_heads), by)
        value = split_heads(self.value(states), self.key_heads)
        if cache is not None:
            key, value = cache.append(key, value)
        if self.key_heads < self.heads:
            key, value = (part.repeat_interleave(self.heads // self.key_heads, dim=1) for part in (key, value))
        return self.output(merge_heads(attend_masked(query, key, value, joined)))


class LlamaFeed(nn.Module):
    """The gated feed-forward part."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.gate = _linear(config.dim, config.inner_dim)
        self.up = _linear(config.dim, config.inner_dim)
        self.down = _linear(config.inner_dim, config.dim, scale=_shrink(config))

    def forward(self, states: Tensor) -> Tensor:
        return self.down(self.activation(self.gate(states)) * self.up(states))


class LlamaLayer(nn.Module):
    """Self-attention and feed-forward, each after a norm and around a residual."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_epsilon)
        self.attention = LlamaAttention(config)
        self.feed_norm = RMSNorm(config.dim, config.norm_epsilon)
        self.feed = LlamaFeed(config)
        self.dropout = nn.Dropout(config.dropout)

    def read_own(self, states: Tensor, joined: ScoreMask, by: Rotation, cache: LayerCache | None = None) -> Tensor:
        """The first half: what the tokens read of each other is added."""
        return states + self.dropout(self.attention(self.attention_norm(states), joined, by, cache))

    def think(self, states: Tensor) -> Tensor:
        """The second half."""
        return states + self.dropout(self.feed(self.feed_norm(states)))

    def forward(self, states: Tensor, joined: ScoreMask, by: Rotation, cache: LayerCache | None = None) -> Tensor:
        return self.think(self.read_own(states, joined, by, cache))


class LlamaDecoder(nn.Module):
    """A causal language model; `run` can start and stop between any two layers.

    gradient_checkpointing: set True to recompute layers in the backward pass of training.
    """

    kind = "decoder"

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.dim, self.num_layers, self.vocab_size = config.dim, config.num_layers, config.vocab_size
        self.start_token, self.end_token, self.pad_token = config.start_token, config.end_token, config.pad_token
        self.gradient_checkpointing = False
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        nn.init.normal_(self.embed_tokens.weight, std=config.initializer_range)
        self.layers = nn.ModuleList(LlamaLayer(config) for _ in range(config.num_layers))
        self.final_norm = RMSNorm(config.dim, config.norm_epsilon)
        if not config.tied_head:
            self.head = _linear(config.dim, config.vocab_size)

    @classmethod
    def from_hub(cls, path: str | Path) -> LlamaDecoder:
        """The decoder of a hub folder (config.json + model.safetensors)."""
        mapping, weights = read_hub(path)
        decoder = cls(LlamaConfig.from_hub(mapping))
        load_weights(decoder, our_weights(weights, tied_head=decoder.config.tied_head))
        return decoder

    def to_hub(self, path: str | Path) -> None:
        """Write config.json and model.safetensors."""
        write_hub(path, self.config.to_hub(), hub_weights(self.state_dict()))

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids [batch, tokens] -> states [batch, tokens, dim]."""
        return self.embed_tokens(tokens)

    def rotation(self, positions: Tensor) -> Rotation:
        """The rotation of positions [batch or 1, tokens], which all layers share."""
        return rotation(positions, self.config.head_dim, self.config.rope_theta)

    def new_cache(self, rows: int) -> LlamaCache:
        """An empty cache for texts that grow."""
        mask = torch.zeros(rows, 0, dtype=torch.bool, device=self.embed_tokens.weight.device)
        return LlamaCache(mask, [LayerCache() for _ in self.layers])

    def joined(self, states: Tensor, mask: Tensor) -> ScoreMask:
        """The causal mask of new tokens over all tokens so far. mask: [batch, past + new]."""
        new, past = states.shape[1], mask.shape[1] - states.shape[1]
        allowed = torch.ones(new, past + new, dtype=torch.bool, device=mask.device).tril(past)
        return score_mask(mask[:, None] & allowed[None], None, dtype=compute_dtype(states))

    def run(
        self,
        states: Tensor,
        joined: ScoreMask,
        by: Rotation,
        *,
        start: int = 0,
        stop: int | None = None,
        cache: LlamaCache | None = None,
    ) -> Tensor:
        """Layers start..stop-1. joined, by: from `joined` and `rotation`. cache: grown by the layers that run; its mask
        is the caller's to grow, once for all layers."""
        stop = self.num_layers if stop is None else stop
        if not 0 <= start <= stop <= self.num_layers:
            raise ValueError(
                f"layers start={start} to stop={stop}; they must satisfy 0 <= start <= stop <= {self.num_layers}."
            )
        for index in range(start, stop):
            held = None if cache is None else cache.layers[index]
            states = apply_layer(self, self.layers[index], states, joined, by, held)
        return states

    def finish(self, states: Tensor) -> Tensor:
        """The norm after the last layer."""
        return self.final_norm(states)

    def logits(self, states: Tensor) -> Tensor:
        """Finished states [..., dim] -> logits [..., vocab], in the states' dtype."""
        return functional.linear(states, self.embed_tokens.weight if self.config.tied_head else self.head.weight)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token ids and mask [batch, tokens], padded on either side -> finished states [batch, tokens, dim]."""
        states = self.embed(tokens)
        positions = (mask.long().cumsum(1) - 1).clamp_min(0)
        return self.finish(self.run(states, self.joined(states, mask), self.rotation(positions)))


def _shrink(config: LlamaConfig) -> float:
    """What is added to the states starts small, so that all layers together do not drown the words (GPT-2)."""
    return (2 * config.num_layers) ** -0.5


def _linear(inputs: int, outputs: int, *, bias: bool = False, scale: float = 1.0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=scale * inputs**-0.5)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
