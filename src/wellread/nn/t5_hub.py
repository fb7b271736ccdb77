"""What the hub says about a T5: its config.json and the names of its weights, there and here.

Weights by name: `hub_weights` and `our_weights` translate; an unknown name is never dropped in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ACTIVATIONS", "FAMILIES", "T5Config", "hub_weights", "our_weights"]

_gelu_tanh = partial(functional.gelu, approximate="tanh")
# feed_forward_proj of the hub -> (activation, gated). The hub's "gated-gelu" means the tanh approximation.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "relu": (functional.relu, False),
    "gelu": (functional.gelu, False),
    "silu": (functional.silu, False),
    "gated-relu": (functional.relu, True),
    "gated-gelu": (_gelu_tanh, True),
    "gated-silu": (functional.silu, True),
}
# model_type -> (hub class, head tied by default, bias table per layer, head scaled where it is tied)
FAMILIES: dict[str, tuple[str, bool, bool, bool]] = {
    "t5": ("T5ForConditionalGeneration", True, False, True),
    "mt5": ("MT5ForConditionalGeneration", False, False, False),
    "umt5": ("UMT5ForConditionalGeneration", True, True, True),
}
# our field -> key in the hub's config.json
_HUB_KEYS = {
    "model_type": "model_type",
    "vocab_size": "vocab_size",
    "dim": "d_model",
    "head_dim": "d_kv",
    "inner_dim": "d_ff",
    "num_heads": "num_heads",
    "num_layers": "num_layers",
    "num_decoder_layers": "num_decoder_layers",
    "num_buckets": "relative_attention_num_buckets",
    "max_distance": "relative_attention_max_distance",
    "dropout": "dropout_rate",
    "norm_epsilon": "layer_norm_epsilon",
    "feed_forward": "feed_forward_proj",
    "pad_token": "pad_token_id",
    "end_token": "eos_token_id",
    "start_token": "decoder_start_token_id",
}
_REQUIRED = ("vocab_size", "dim", "head_dim", "inner_dim", "num_heads", "num_layers")


@dataclass(frozen=True)
class T5Config:
    """Sizes and switches of a T5.

    dim: width of the states. head_dim: width of one head (heads times head_dim need not be dim).
    inner_dim: width of the feed-forward part. num_decoder_layers: None is num_layers. num_buckets,
    max_distance: of the relative positions. dropout: applied in train() only. feed_forward: a key of
    ACTIVATIONS. tied_head: the output head is the word embedding. scale_head: multiply the decoder's
    states by dim^-0.5 before the head.
    """

    vocab_size: int
    dim: int
    head_dim: int
    inner_dim: int
    num_heads: int
    num_layers: int
    num_decoder_layers: int | None = None
    model_type: str = "t5"
    num_buckets: int = 32
    max_distance: int = 128
    dropout: float = 0.1
    norm_epsilon: float = 1e-6
    feed_forward: str = "relu"
    tied_head: bool = True
    scale_head: bool = True
    pad_token: int = 0
    end_token: int = 1
    start_token: int = 0

    def __post_init__(self) -> None:
        if self.model_type not in FAMILIES:
            raise ValueError(f"model_type={self.model_type!r} is no T5; use one of: {', '.join(FAMILIES)}.")
        if self.feed_forward not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"feed_forward_proj={self.feed_forward!r} is unknown; use one of: {known}.")
        if self.num_decoder_layers is None:
            object.__setattr__(self, "num_decoder_layers", self.num_layers)
        sizes = (*_REQUIRED, "num_decoder_layers", "num_buckets", "max_distance")
        wrong = [f"{name}={getattr(self, name)!r}" for name in sizes if not _positive(getattr(self, name))]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} in a T5 config; each must be a positive whole number.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout_rate={self.dropout}; it must be at least 0 and below 1.")

    @property
    def bias_per_layer(self) -> bool:
        """Whether every layer has a relative bias table of its own (umT5)."""
        return FAMILIES[self.model_type][2]

    @classmethod
    def from_hub(cls, mapping: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None) -> T5Config:
        """The config of a hub config.json; keys that say nothing about the net are left aside.

        weights: the hub's weights, where they are at hand. They settle whether the head is tied: libraries
        have written `tie_word_embeddings` both ways for the same checkpoints. Without a word on it in
        the config (`scale_decoder_outputs`), a head is scaled where it is tied, as in the original code.
        """
        missing = [_HUB_KEYS[name] for name in _REQUIRED if mapping.get(_HUB_KEYS[name]) is None]
        if missing:
            raise ValueError(f"config.json of a T5 lacks {', '.join(missing)}; add them or copy the file again.")
        values = {ours: mapping[hub] for ours, hub in _HUB_KEYS.items() if mapping.get(hub) is not None}
        family = values.setdefault("model_type", "t5")
        _, tied_by_default, _, scaled_if_tied = FAMILIES.get(family, ("", True, False, True))
        if "feed_forward" not in values and family != "t5":
            values["feed_forward"] = "gated-gelu"
        end = values.get("end_token", 1)
        if isinstance(end, list):
            if len(end) != 1:
                raise ValueError(f"eos_token_id={end}; a T5 has one end token, give a single number.")
            values["end_token"] = end[0]
        said = mapping.get("tie_word_embeddings", tied_by_default)
        tied = said if weights is None else _is_tied(weights)
        scaled = tied and said and scaled_if_tied
        return cls(**values, tied_head=tied, scale_head=mapping.get("scale_decoder_outputs", scaled))

    def to_hub(self) -> dict[str, Any]:
        """The hub's config.json; `from_hub` gives the same config back."""
        mapping = {hub: getattr(self, ours) for ours, hub in _HUB_KEYS.items()}
        return {
            **mapping,
            "architectures": [FAMILIES[self.model_type][0]],
            "is_encoder_decoder": True,
            "tie_word_embeddings": self.tied_head,
            "scale_decoder_outputs": self.scale_head,
        }


# our piece of a layer -> the hub's, per side
_SELF = {
    "attention_norm": "layer.0.layer_norm",
    "attention.query": "layer.0.SelfAttention.q",
    "attention.key": "layer.0.SelfAttention.k",
    "attention.value": "layer.0.SelfAttention.v",
    "attention.output": "layer.0.SelfAttention.o",
}
_CROSS = {
    "cross_norm": "layer.1.layer_norm",
    "cross.query": "layer.1.EncDecAttention.q",
    "cross.key": "layer.1.EncDecAttention.k",
    "cross.value": "layer.1.EncDecAttention.v",
    "cross.output": "layer.1.EncDecAttention.o",
}
_FEED = {
    "feed_norm": "layer_norm",
    "feed.inner": "DenseReluDense.wi",
    "feed.gate": "DenseReluDense.wi_0",
    "feed.up": "DenseReluDense.wi_1",
    "feed.down": "DenseReluDense.wo",
}
_PIECES = {
    "encoder": {**_SELF, **{ours: f"layer.1.{hub}" for ours, hub in _FEED.items()}},
    "decoder": {**_SELF, **_CROSS, **{ours: f"layer.2.{hub}" for ours, hub in _FEED.items()}},
}
_OUTER = {
    "encoder.final_norm.weight": "encoder.final_layer_norm.weight",
    "decoder.final_norm.weight": "decoder.final_layer_norm.weight",
    "encoder.embed_tokens.weight": "shared.weight",
    "decoder.head.weight": "lm_head.weight",
}
_TABLE = "layer.0.SelfAttention.relative_attention_bias"
# Written by old libraries into some checkpoints; no net reads it.
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def hub_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names (`encoder.`, `decoder.`) -> the hub's. ValueError lists names a T5 checkpoint cannot hold."""
    named = {name: _hub_name(name) for name in state if name != "decoder.embed_tokens.weight"}
    strange = [name for name, hub in named.items() if hub is None]
    if strange:
        raise ValueError(f"a T5 checkpoint has no place for {', '.join(strange)}; save the model in our format.")
    return {hub: state[name] for name, hub in named.items() if hub is not None}


def our_weights(hub: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The hub's names -> ours; unknown names stay as they are, for `load_weights` to report.

    The shared word embedding appears under the encoder's and the decoder's name; a stored head that is
    only a copy of it is left out, as are weights no net reads.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in hub.items():
        found[_our_name(name)] = tensor
    found.pop(_UNUSED, None)
    if _is_tied(hub):
        found.pop("decoder.head.weight", None)
    sides = {name.partition(".")[0] for name in found}
    embedding = found.get("encoder.embed_tokens.weight")
    if embedding is not None and "decoder" in sides:
        found.setdefault("decoder.embed_tokens.weight", embedding)
    return found


def _hub_name(name: str) -> str | None:
    if name in _OUTER:
        return _OUTER[name]
    if table := re.fullmatch(r"(encoder|decoder)\.relative_bias\.(\d+)\.weight", name):
        return f"{table[1]}.block.{table[2]}.{_TABLE}.weight"
    piece = re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.+)\.weight", name)
    if piece is None or piece[3] not in _PIECES[piece[1]]:
        return None
    return f"{piece[1]}.block.{piece[2]}.{_PIECES[piece[1]][piece[3]]}.weight"


def _our_name(name: str) -> str:
    outer = {hub: ours for ours, hub in _OUTER.items()}
    if name in outer:
        return outer[name]
    parts = re.fullmatch(r"(encoder|decoder)\.block\.(\d+)\.(.+)\.weight", name)
    if parts is None:
        return name
    if parts[3] == _TABLE:
        return f"{parts[1]}.relative_bias.{parts[2]}.weight"
    pieces = {hub: ours for ours, hub in _PIECES[parts[1]].items()}
    return f"{parts[1]}.layers.{parts[2]}.{pieces[parts[3]]}.weight" if parts[3] in pieces else name


def _is_tied(hub: Mapping[str, Tensor]) -> bool:
    head, embedding = hub.get("lm_head.weight"), hub.get("shared.weight")
    return head is None or (embedding is not None and (head is embedding or torch.equal(head, embedding)))


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
