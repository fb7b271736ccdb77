"""The parts that T5's encoder and decoder are built of."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from wellread.nn.attention import split_heads
from wellread.nn.t5_hub import ACTIVATIONS, T5Config

__all__ = [
    "Attention",
    "FeedForward",
    "RMSNorm",
    "bias_tables",
    "compute_dtype",
    "relative_bias",
    "relative_buckets",
]


class RMSNorm(nn.Module):
    """Root mean square norm without mean or bias; torch takes the statistics in float32."""

    def __init__(self, dim: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.epsilon = epsilon

    def forward(self, states: Tensor) -> Tensor:
        weight = self.weight
        return functional.rms_norm(states.to(weight.dtype), weight.shape, weight, self.epsilon)


class Attention(nn.Module):
    """The four projections of one attention; T5 has no biases and does not scale the scores."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        width = config.num_heads * config.head_dim
        self.heads = config.num_heads
        self.query = nn.Linear(config.dim, width, bias=False)
        self.key = nn.Linear(config.dim, width, bias=False)
        self.value = nn.Linear(config.dim, width, bias=False)
        self.output = nn.Linear(width, config.dim, bias=False)
        # T5 leaves the factor head_dim^-0.5 to the initial query weights.
        nn.init.normal_(self.query.weight, std=(config.dim * config.head_dim) ** -0.5)
        nn.init.normal_(self.key.weight, std=config.dim**-0.5)
        nn.init.normal_(self.value.weight, std=config.dim**-0.5)
        nn.init.normal_(self.output.weight, std=width**-0.5)

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, tokens, dim] -> two of [batch, heads, tokens, head_dim]."""
        return split_heads(self.key(states), self.heads), split_heads(self.value(states), self.heads)


class FeedForward(nn.Module):
    """The feed-forward part, gated or plain."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.activation, self.gated = ACTIVATIONS[config.feed_forward]
        self.dropout = config.dropout
        for name in ("gate", "up") if self.gated else ("inner",):
            linear = nn.Linear(config.dim, config.inner_dim, bias=False)
            nn.init.normal_(linear.weight, std=config.dim**-0.5)
            self.add_module(name, linear)
        self.down = nn.Linear(config.inner_dim, config.dim, bias=False)
        nn.init.normal_(self.down.weight, std=config.inner_dim**-0.5)

    def forward(self, states: Tensor) -> Tensor:
        if self.gated:
            states = self.activation(self.gate(states)) * self.up(states)
        else:
            states = self.activation(self.inner(states))
        return self.down(functional.dropout(states, self.dropout, self.training))


def bias_tables(config: T5Config, num_layers: int) -> nn.ModuleList:
    """The learned biases [buckets, heads]: one table, or one per layer."""
    count = num_layers if config.bias_per_layer else 1
    tables = nn.ModuleList(nn.Embedding(config.num_buckets, config.num_heads) for _ in range(count))
    for table in tables:
        nn.init.normal_(table.weight, std=config.dim**-0.5)
    return tables


def relative_bias(
    tables: nn.ModuleList,
    config: T5Config,
    query_positions: Tensor,
    key_positions: Tensor,
    *,
    both_sides: bool,
) -> list[Tensor]:
    """One [1 or batch, heads, q, k] per table. both_sides: keys may lie after the query (encoder)."""
    distance = key_positions[..., None, :] - query_positions[..., :, None]
    buckets = relative_buckets(
        distance, num_buckets=config.num_buckets, max_distance=config.max_distance, both_sides=both_sides
    )
    buckets = buckets if buckets.dim() == 3 else buckets[None]
    return [table(buckets).permute(0, 3, 1, 2) for table in tables]


def relative_buckets(distance: Tensor, *, num_buckets: int, max_distance: int, both_sides: bool) -> Tensor:
    """The bucket of each distance (key position minus query position), int64.

    Near distances have a bucket each, far ones share buckets that grow logarithmically up to max_distance
    (Raffel et al. 2020, section 2.1). With both_sides the upper half of the buckets is for later keys.
    """
    offset: Tensor | int = 0
    if both_sides:
        num_buckets //= 2
        offset = (distance > 0).long() * num_buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = num_buckets // 2
    # The order of these float32 operations decides the bucket at its edges; it is that of the original.
    growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (growth * (num_buckets - exact)).long()).clamp(max=num_buckets - 1)
    return offset + torch.where(distance < exact, distance, far)


def compute_dtype(states: Tensor) -> torch.dtype:
    """The dtype attention computes in; ValueError for float16."""
    device = states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
    if dtype == torch.float16:
        raise ValueError("T5 overflows in float16; use bfloat16 or float32.")
    return dtype
