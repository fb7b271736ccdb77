"""A Perceiver: a few learnt vectors that read a sequence of any length and stand for it afterwards.

Jaegle et al. 2021, as REVEAL uses it (Hu et al. 2023, appendix E.1, algorithm 1): layers of a decoder, with the norm
before every part, whose input is learnt and which may look both ways.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wellread.nn.attention import ScoreMask, attend_masked, merge_heads, score_mask, split_heads

__all__ = ["Perceiver"]

# The mean size of an entry of a BERT encoder's states: latents start where the states they will stand beside are.
LATENT_SIZE = 0.3


class _Reading(nn.Module):
    """Attention of some states over others."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, states: Tensor, seen: Tensor, joined: ScoreMask) -> Tensor:
        query, key, value = (
            split_heads(part, self.heads) for part in (self.query(states), self.key(seen), self.value(seen))
        )
        return self.output(merge_heads(attend_masked(query, key, value, joined)))


class _Layer(nn.Module):
    """Algorithm 1, one turn of its loop."""

    def __init__(self, dim: int, heads: int, inner_dim: int) -> None:
        super().__init__()
        self.cross_norm, self.own_norm, self.feed_norm = (nn.LayerNorm(dim) for _ in range(3))
        self.cross, self.own = _Reading(dim, heads), _Reading(dim, heads)
        self.expand, self.contract = nn.Linear(dim, inner_dim), nn.Linear(inner_dim, dim)

    def forward(self, latents: Tensor, states: Tensor, joined: ScoreMask) -> Tensor:
        latents = latents + self.cross(self.cross_norm(latents), states, joined)
        normed = self.own_norm(latents)
        latents = latents + self.own(normed, normed, ScoreMask(None, None))
        return latents + self.contract(functional.gelu(self.expand(self.feed_norm(latents))))


class Perceiver(nn.Module):
    """(states [rows, tokens, dim], mask [rows, tokens] bool) -> [rows, num_latents, dim].

    What comes out is not normalised, as in algorithm 1. torch's current random state decides the first weights.
    """

    def __init__(self, dim: int, *, num_latents: int, layers: int = 1, heads: int = 4) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(num_latents, dim) * LATENT_SIZE)
        self.norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(_Layer(dim, heads, 4 * dim) for _ in range(layers))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        states = self.norm(states)
        joined = score_mask(mask, None, dtype=states.dtype)
        # Copied: what counts FLOPs cannot follow a view of a weight that was made without gradients.
        latents = self.latents.expand(states.shape[0], -1, -1).clone()
        for layer in self.layers:
            latents = layer(latents, states, joined)
        return latents
