"""The T5 family: the encoder, and the names of the rest (`t5_decoder`, `t5_hub`, `t5_layers`).

Families: T5 v1.0 (relu, tied head), v1.1 and Flan (gated gelu, untied head), mT5, umT5 (a relative bias
table per layer), ByT5. Sources: Raffel et al. 2020 (T5), section 2.1; Shazeer 2020 (gated units); Xue et
al. 2021 (mT5), 2022 (ByT5); Chung et al. 2023 (umT5).

Computes in float32 or bfloat16. T5's states overflow float16, which is therefore refused.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from wellread.nn.attention import (
    ScoreMask,
    attend_masked,
    first_rows,
    merge_heads,
    project_heads,
    score_mask,
    split_heads,
)
from wellread.nn.layers import apply_layer
from wellread.nn.t5_decoder import T5Decoder
from wellread.nn.t5_hub import T5Config, hub_weights, our_weights
from wellread.nn.t5_layers import (
    Attention,
    FeedForward,
    RMSNorm,
    bias_tables,
    compute_dtype,
    relative_bias,
)

__all__ = ["T5Config", "T5Decoder", "T5Encoder", "hub_weights", "our_weights"]


class T5Layer(nn.Module):
    """One encoder layer: self-attention, then feed-forward, each around a residual."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention_norm = RMSNorm(config.dim, config.norm_epsilon)
        self.attention = Attention(config)
        self.feed_norm = RMSNorm(config.dim, config.norm_epsilon)
        self.feed = FeedForward(config)

    def forward(
        self, states: Tensor, joined: ScoreMask, first: int | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """States [batch, tokens, dim] -> the same after the layer; only of the first `first` tokens if given."""
        attention, normed = self.attention, self.attention_norm(states)
        normed = normed if weights is None else normed * weights[..., None]
        key, value = attention.keys_values(normed)
        if first is not None:
            states, normed, joined = states[:, :first], normed[:, :first], first_rows(joined, first)
        query = split_heads(attention.query(normed), attention.heads)
        dropout = self.dropout if self.training else 0.0
        read = attend_masked(query, key, value, joined, dropout=dropout, scale=1.0)
        states = states + functional.dropout(attention.output(merge_heads(read)), dropout)
        return states + functional.dropout(self.feed(self.feed_norm(states)), dropout)


class T5Encoder(nn.Module):
    """A T5 encoder that can be run from any layer to any other.

    `finish(run(embed(tokens), mask))` is the whole encoder; `run(..., stop=j)` followed by
    `run(..., start=j)` gives exactly the same states.
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.dim, self.num_layers, self.vocab_size = config.dim, config.num_layers, config.vocab_size
        self.gradient_checkpointing = False
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.relative_bias = bias_tables(config, config.num_layers)
        self.layers = nn.ModuleList(T5Layer(config) for _ in range(config.num_layers))
        self.final_norm = RMSNorm(config.dim, config.norm_epsilon)

    def embed(self, tokens: Tensor, *, segment: int = 0) -> Tensor:
        """Tokens [batch, tokens] -> states [batch, tokens, dim]. T5 knows no segments."""
        return functional.dropout(self.embed_tokens(tokens), self.config.dropout, self.training)

    def bias(self, num_tokens: int) -> Sequence[Tensor]:
        """Relative bias of every layer for a text of this length: [1, heads, tokens, tokens] each.

        Families with one table give the same tensor for all layers.
        """
        positions = torch.arange(num_tokens, device=self.embed_tokens.weight.device)
        return self.bias_between(positions, positions)

    def bias_between(self, query_positions: Tensor, key_positions: Tensor) -> Sequence[Tensor]:
        """`bias` for chosen positions: [q] and [k] (or [batch, q] and [batch, k]) int64."""
        tables = relative_bias(self.relative_bias, self.config, query_positions, key_positions, both_sides=True)
        return tables if self.config.bias_per_layer else tables * self.num_layers

    def run(
        self,
        states: Tensor,
        mask: Tensor,
        *,
        start: int = 0,
        stop: int | None = None,
        bias: Sequence[Tensor] | None = None,
        first: int | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Pass states [batch, tokens, dim] through layers start to stop - 1.

        mask: [batch, tokens] (keys) or [batch, q, k] bool. bias: one tensor [1 or batch, heads, q, k] per
        layer, indexed by layer; None takes the net's own for this length. first: only the first `first`
        tokens come out of the last of these layers, which costs little more than its keys and values. weights:
        [batch, tokens], by which every layer multiplies the normed states that its attention gets.
        """
        stop = self.num_layers if stop is None else stop
        if not 0 <= start <= stop <= self.num_layers:
            raise ValueError(
                f"start={start}, stop={stop} of {self.num_layers} layers; 0 <= start <= stop <= {self.num_layers}."
            )
        dtype = compute_dtype(states)
        bias = self.bias(states.shape[1]) if bias is None else bias
        table = joined = None
        for index in range(start, stop):
            if joined is None or bias[index] is not table:  # layers that share a table share the masked one
                table = bias[index]
                joined = score_mask(mask, table, dtype=dtype)
            rows = first if index == stop - 1 else None
            states = apply_layer(self, self.layers[index], states, joined, rows, weights)
        return states

    def attention_queries(self, states: Tensor, layer: int, head: int | None = None) -> Tensor:
        """Queries of the self-attention of a layer, [batch, tokens, heads, head_dim], of the states below it.

        Their inner products with `attention_keys` are the scores before softmax and position bias. head: of this one
        alone, [batch, tokens, head_dim].
        """
        above = self.layers[layer]
        return project_heads(above.attention.query, above.attention_norm(states), above.attention.heads, head)

    def attention_keys(self, states: Tensor, layer: int, head: int | None = None) -> Tensor:
        """Keys of the self-attention of a layer; shapes as of `attention_queries`."""
        above = self.layers[layer]
        return project_heads(above.attention.key, above.attention_norm(states), above.attention.heads, head)

    def with_layers(self, start: int, stop: int) -> T5Encoder:
        """A trainable copy that holds layers start..stop-1 only, as its layers 0 and on."""
        kept = copy.deepcopy(self)
        kept.layers = kept.layers[start:stop]
        if self.config.bias_per_layer:
            kept.relative_bias = kept.relative_bias[start:stop]
        kept.num_layers = stop - start
        return kept

    def embedding_modules(self) -> list[nn.Module]:
        """What `embed` uses; T5's relative bias belongs to the layers."""
        return [self.embed_tokens]

    def modules_below(self, layer: int) -> list[nn.Module]:
        """What the states below a layer come from. One table of biases for all layers belongs to those below too."""
        tables = self.relative_bias[:layer] if self.config.bias_per_layer else self.relative_bias[: min(layer, 1)]
        return [*self.embedding_modules(), *tables, *self.layers[:layer]]

    def finish(self, states: Tensor) -> Tensor:
        """The final norm."""
        return functional.dropout(self.final_norm(states), self.config.dropout, self.training)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Tokens [batch, tokens], mask [batch, tokens] bool -> finished states [batch, tokens, dim]."""
        return self.finish(self.run(self.embed(tokens), mask))
