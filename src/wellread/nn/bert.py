"""BERT: an encoder that can be cut between any two layers, and a small decoder made of its layers.

Devlin et al. 2019 (post-norm layers, learnt absolute positions, token types). Encoder and decoder share the
word embeddings; the decoder's output head is the word embeddings plus one bias per word.
Shapes: states [batch, tokens, dim]; masks are True on real tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wellread.config import require
from wellread.nn import attention
from wellread.nn.attention import LayerCache, ScoreMask, score_mask
from wellread.nn.bert_hub import ACTIVATIONS, BertConfig, hub_weights, our_weights
from wellread.nn.checkpoints import load_weights, read_hub, write_hub
from wellread.nn.layers import apply_layer
from wellread.nn.memory_decoder import MemoryDecoder

__all__ = ["BertConfig", "BertDecoder", "BertEncoder", "decoder_from_encoder", "hub_weights", "our_weights"]


def _linear(config: BertConfig, inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=config.initializer_range)
    nn.init.zeros_(layer.bias)
    return layer


def _embedding(config: BertConfig, entries: int) -> nn.Embedding:
    layer = nn.Embedding(entries, config.dim)
    nn.init.normal_(layer.weight, std=config.initializer_range)
    return layer


class _Placing(nn.Module):
    """Adds position and token type to word states, then LayerNorm and dropout."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.positions = _embedding(config, config.max_positions)
        self.segments = _embedding(config, config.num_segments)
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, words: Tensor, *, start: int = 0, segment: int | Tensor = 0) -> Tensor:
        end, limit, kinds = (
            start + words.shape[1],
            self.positions.num_embeddings,
            self.segments.num_embeddings,
        )
        if end > limit:
            raise ValueError(f"{end} tokens in a row, but the net knows positions for {limit}; use shorter texts.")
        if isinstance(segment, int) and not 0 <= segment < kinds:
            raise ValueError(f"segment={segment}; it must be between 0 and {kinds - 1}.")
        # The order of the additions is that of the published nets, so that results agree to the last digits.
        states = words + self.segments.weight[segment] + self.positions.weight[start:end]
        return self.dropout(self.norm(states))


class _Attention(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.rate = config.attention_dropout
        self.query = _linear(config, config.dim, config.dim)
        self.key = _linear(config, config.dim, config.dim)
        self.value = _linear(config, config.dim, config.dim)
        self.output = _linear(config, config.dim, config.dim)

    @property
    def dropout_now(self) -> float:
        return self.rate if self.training else 0.0

    def split_query(self, states: Tensor) -> Tensor:
        return attention.split_heads(self.query(states), self.heads)

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        split = attention.split_heads
        return split(self.key(states), self.heads), split(self.value(states), self.heads)

    def forward(
        self, states: Tensor, joined: ScoreMask, cache: LayerCache | None = None, first: int | None = None
    ) -> Tensor:
        """Self-attention of states [batch, tokens, dim], over the cached tokens too."""
        keys, values = self.keys_values(states)
        if cache is not None:
            keys, values = cache.append(keys, values)
        query = self.split_query(states if first is None else states[:, :first])
        read = attention.attend_masked(query, keys, values, joined, dropout=self.dropout_now)
        return self.output(attention.merge_heads(read))

    def over(
        self, states: Tensor, memory: Tensor, joined: ScoreMask, cache: LayerCache | None, *, fold: bool
    ) -> Tensor:
        """Cross-attention of states [rows, t, dim] over memory [batch, m, dim]; fold: as in attend_folded."""
        batch, rows = memory.shape[0], states.shape[0] // memory.shape[0]
        query = attention.share_rows(self.split_query(states), batch)
        if fold:
            dtype = query.dtype
            weights = (self.key.weight.to(dtype), self.value.weight.to(dtype))
            rest = {"value_bias": self.value.bias.to(dtype), "dropout": self.dropout_now}
            read = attention.attend_folded(query, memory.to(dtype), *weights, joined, **rest)
        else:
            stored = cache is not None and cache.cross_keys is not None
            keys, values = (cache.cross_keys, cache.cross_values) if stored else self.keys_values(memory)
            read = attention.attend_masked(query, keys, values, joined, dropout=self.dropout_now)
        return self.output(attention.merge_heads(attention.unshare_rows(read, rows)))

    def scores(self, states: Tensor, memory: Tensor) -> Tensor:
        """Scores before the softmax, [rows, heads, t, m]."""
        keys = attention.split_heads(self.key(memory), self.heads)
        query = attention.share_rows(self.split_query(states), memory.shape[0])
        scores = query @ keys.transpose(2, 3) * query.shape[-1] ** -0.5
        return attention.unshare_rows(scores, states.shape[0] // memory.shape[0])


class _Layer(nn.Module):
    """Self-attention, cross-attention (decoder only), feed-forward; each added to its input and normed."""

    def __init__(self, config: BertConfig, *, cross: bool = False) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.attention_norm = nn.LayerNorm(config.dim, eps=config.norm_epsilon)
        if cross:
            self.cross = _Attention(config)
            self.cross_norm = nn.LayerNorm(config.dim, eps=config.norm_epsilon)
        self.expand = _linear(config, config.dim, config.ffn_dim)
        self.contract = _linear(config, config.ffn_dim, config.dim)
        self.ffn_norm = nn.LayerNorm(config.dim, eps=config.norm_epsilon)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, states: Tensor, joined: ScoreMask, first: int | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """One encoder layer; only the states of the first `first` tokens come out where that is given."""
        joined = joined if first is None else attention.first_rows(joined, first)
        return self._think(self._read_own(states, joined, None, first, weights))

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
        """One decoder layer; with `scored` also the cross-attention scores [rows, heads, t, m]."""
        states = self._read_own(states, joined, cache)
        scores = self.cross.scores(states, memory) if scored else None
        read = self.cross.over(states, memory, seen, cache, fold=fold)
        return self._think(self.cross_norm(states + self.dropout(read))), scores

    def _read_own(
        self,
        states: Tensor,
        joined: ScoreMask,
        cache: LayerCache | None,
        first: int | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        read = self.attention(states if weights is None else states * weights[..., None], joined, cache, first)
        return self.attention_norm(states[:, :first] + self.dropout(read))

    def _think(self, states: Tensor) -> Tensor:
        return self.ffn_norm(states + self.dropout(self.contract(self.activation(self.expand(states)))))


class BertEncoder(nn.Module):
    """A BERT encoder; `run` can start and stop between any two layers.

    max_tokens: the longest row of tokens that it has positions for (T5's relative ones have no end).
    gradient_checkpointing: set True to recompute layers in the backward pass of training.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.dim, self.num_layers, self.vocab_size = config.dim, config.num_layers, config.vocab_size
        self.max_tokens = config.max_positions
        self.gradient_checkpointing = False
        self.embed_tokens = _embedding(config, config.vocab_size)
        self.placing = _Placing(config)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))

    @classmethod
    def from_hub(cls, path: str | Path, **changes: Any) -> BertEncoder:
        """The encoder of a hub folder (config.json + model.safetensors). changes: fields of its BertConfig."""
        config, weights = read_hub(path)
        encoder = cls(replace(BertConfig.from_hub(config), **changes))
        load_weights(encoder, our_weights(weights))
        return encoder

    def to_hub(self, path: str | Path) -> None:
        """Write config.json and model.safetensors."""
        write_hub(path, self.config.to_hub(), hub_weights(self.state_dict()))

    def embed(self, tokens: Tensor, *, segment: int | Tensor = 0) -> Tensor:
        """Token ids [batch, tokens] -> states [batch, tokens, dim]; positions count from 0. segment: the token type, of
        all tokens or of each, [batch, tokens]."""
        return self.placing(self.embed_tokens(tokens), segment=segment)

    def bias(self, num_tokens: int) -> None:
        """None: positions are in the states, the attention scores get no bias."""

    def bias_between(self, query_positions: Tensor, key_positions: Tensor) -> None:
        """None, as `bias`."""

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
        """Layers start..stop-1. mask: [batch, tokens] bool, or [batch, q, k]. bias: per layer
        [1, heads, q, k], added to the scores; BERT has none of its own. first: only the first `first` tokens
        come out of the last of these layers, which costs little more than its keys and values. weights:
        [batch, tokens], by which every layer multiplies the normed states that its attention gets."""
        stop = self.num_layers if stop is None else stop
        if not 0 <= start <= stop <= self.num_layers:
            raise ValueError(
                f"layers start={start} to stop={stop}; they must satisfy 0 <= start <= stop <= {self.num_layers}."
            )
        joined = score_mask(mask, None, dtype=states.dtype)
        for index in range(start, stop):
            if bias is not None:
                joined = score_mask(mask, bias[index], dtype=states.dtype)
            states = apply_layer(
                self, self.layers[index], states, joined, first if index == stop - 1 else None, weights
            )
        return states

    def attention_queries(self, states: Tensor, layer: int, head: int | None = None) -> Tensor:
        """Queries of the self-attention of a layer, [batch, tokens, heads, head_dim], of the states below it.

        Their inner products with `attention_keys` are the scores before the softmax, less BERT's factor
        head_dim^-0.5. head: of this one alone, [batch, tokens, head_dim].
        """
        attending = self.layers[layer].attention
        return attention.project_heads(attending.query, states, attending.heads, head)

    def attention_keys(self, states: Tensor, layer: int, head: int | None = None) -> Tensor:
        """Keys of the self-attention of a layer; shapes as of `attention_queries`."""
        attending = self.layers[layer].attention
        return attention.project_heads(attending.key, states, attending.heads, head)

    def with_layers(self, start: int, stop: int) -> BertEncoder:
        """A trainable copy that holds layers start..stop-1 only, as its layers 0 and on."""
        kept = copy.deepcopy(self)
        kept.layers = kept.layers[start:stop]
        kept.num_layers = stop - start
        return kept

    def embedding_modules(self) -> list[nn.Module]:
        """What `embed` uses."""
        return [self.embed_tokens, self.placing]

    def modules_below(self, layer: int) -> list[nn.Module]:
        """What the states below a layer come from."""
        return [*self.embedding_modules(), *self.layers[:layer]]

    def finish(self, states: Tensor) -> Tensor:
        """The states themselves: BERT's layers end with a norm."""
        return states

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token ids and mask [batch, tokens] -> states [batch, tokens, dim]."""
        return self.finish(self.run(self.embed(tokens), mask))


class BertDecoder(MemoryDecoder):
    """Causal BERT layers with cross-attention; head tied to the word embeddings, with a bias per word.

    embed_tokens: word embeddings to share, such as the encoder's; new ones when None.
    """

    def __init__(self, config: BertConfig, *, embed_tokens: nn.Embedding | None = None) -> None:
        super().__init__()
        for name in ("start_token", "end_token", "pad_token"):
            token = getattr(config, name)
            require(
                0 <= token < config.vocab_size,
                f"{name}={token}, but the vocabulary has {config.vocab_size} entries; give a token inside it.",
            )
            setattr(self, name, token)
        self.config = config
        self.dim, self.num_layers, self.vocab_size = config.dim, config.num_layers, config.vocab_size
        self.max_tokens = config.max_positions
        self.memory_dim, self.heads, self.head_dim = config.dim, config.num_heads, config.dim // config.num_heads
        self.embed_tokens = _embedding(config, config.vocab_size) if embed_tokens is None else embed_tokens
        self.placing = _Placing(config)
        self.layers = nn.ModuleList(_Layer(config, cross=True) for _ in range(config.num_layers))
        self.head_bias = nn.Parameter(torch.zeros(config.vocab_size))

    def _begin(self, tokens: Tensor, past: int) -> tuple[Tensor, list[ScoreMask], torch.dtype]:
        states = self.placing(self.embed_tokens(tokens), start=past)
        allowed = attention.causal_mask(tokens.shape[1], past, device=tokens.device)
        return states, [score_mask(allowed, None, dtype=states.dtype)], states.dtype

    def logits(self, states: Tensor) -> Tensor:
        """Scores of every word, [..., dim] -> [..., vocab]."""
        return functional.linear(states, self.embed_tokens.weight, self.head_bias)


def decoder_from_encoder(encoder: BertEncoder, layers: Sequence[int] = (1, 3, 5)) -> BertDecoder:
    """A decoder whose layers start as copies of encoder layers (counted from 0).

    Cross-attention starts from the layer's self-attention; the word embeddings are shared, not copied.
    """
    wrong = [index for index in layers if not 0 <= index < encoder.num_layers]
    if wrong or not layers:
        raise ValueError(
            f"layers={tuple(layers)}; they must be one or more numbers between 0 and {encoder.num_layers - 1}."
        )
    config = replace(encoder.config, num_layers=len(layers))
    decoder = BertDecoder(config, embed_tokens=encoder.embed_tokens)
    decoder.placing.load_state_dict(encoder.placing.state_dict())
    for new, index in zip(decoder.layers, layers):
        weights = encoder.layers[index].state_dict()
        crossed = {name.replace("attention", "cross", 1): value for name, value in weights.items()}
        new.load_state_dict(weights | crossed)
    return decoder
