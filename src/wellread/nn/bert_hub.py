"""BERT's configuration and the names of its weights, the hub's <-> ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional

from wellread.config import require
from wellread.nn.hub_names import HubNames

__all__ = ["ACTIVATIONS", "BertConfig", "hub_weights", "our_weights"]

ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
}

# our name -> the hub's name in config.json
_CONFIG_KEYS = {
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "num_segments": "type_vocab_size",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "norm_epsilon": "layer_norm_eps",
    "initializer_range": "initializer_range",
    "pad_token": "pad_token_id",
    "start_token": "decoder_start_token_id",
    "end_token": "eos_token_id",
}


@dataclass(frozen=True)
class BertConfig:
    """The sizes of a BERT-family net; the defaults are BERT base, uncased.

    start_token, end_token: what a decoder begins and ends with; [CLS] and [SEP] of BERT's vocabularies.
    """

    vocab_size: int = 30522
    dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    ffn_dim: int = 3072
    max_positions: int = 512
    num_segments: int = 2
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    norm_epsilon: float = 1e-12
    initializer_range: float = 0.02
    pad_token: int = 0
    start_token: int = 101
    end_token: int = 102

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "dim",
            "num_layers",
            "num_heads",
            "ffn_dim",
            "max_positions",
            "num_segments",
        ):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}; it must be at least 1.")
        require(
            self.dim % self.num_heads == 0,
            f"dim={self.dim} with num_heads={self.num_heads}; dim must be a multiple of num_heads.",
        )
        allowed = ", ".join(ACTIVATIONS)
        require(self.activation in ACTIVATIONS, f"activation={self.activation!r}; it must be one of: {allowed}.")

    @classmethod
    def from_hub(cls, mapping: Mapping[str, Any]) -> BertConfig:
        """From the keys of a hub config.json; what is missing there takes BERT's defaults."""
        kind = mapping.get("model_type", "bert")
        require(kind == "bert", f"model_type={kind!r}; this net reads model_type 'bert'.")
        positions = mapping.get("position_embedding_type") or "absolute"
        require(positions == "absolute", f"position_embedding_type={positions!r}; only 'absolute' is supported.")
        given = {ours: mapping[theirs] for ours, theirs in _CONFIG_KEYS.items() if mapping.get(theirs) is not None}
        return cls(**given)

    def to_hub(self) -> dict[str, Any]:
        """The keys of a hub config.json; `from_hub` reads them back."""
        keys = {theirs: getattr(self, ours) for ours, theirs in _CONFIG_KEYS.items()}
        return {"model_type": "bert", "architectures": ["BertModel"], **keys}


_OUTER = {
    "embeddings.word_embeddings": "embed_tokens",
    "embeddings.position_embeddings": "placing.positions",
    "embeddings.token_type_embeddings": "placing.segments",
    "embeddings.LayerNorm": "placing.norm",
}
_INNER = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.output",
    "attention.output.LayerNorm": "attention_norm",
    "crossattention.self.query": "cross.query",
    "crossattention.self.key": "cross.key",
    "crossattention.self.value": "cross.value",
    "crossattention.output.dense": "cross.output",
    "crossattention.output.LayerNorm": "cross_norm",
    "intermediate.dense": "expand",
    "output.dense": "contract",
    "output.LayerNorm": "ffn_norm",
}
_NAMES = HubNames(_OUTER, _INNER, layers="encoder.layer.")
# Parts of hub checkpoints that an encoder has no use for; everything else must be known.
_IGNORED = ("pooler.", "cls.", "embeddings.position_ids")
# Checkpoints converted from TensorFlow name the parts of a norm so.
_OLD_KINDS = {"gamma": "weight", "beta": "bias"}


def our_weights(hub: Mapping[str, Tensor], *, decoder: bool = False) -> dict[str, Tensor]:
    """Hub names -> ours, with or without the "bert." prefix; unknown names stay as they are.

    Poolers, pre-training heads and position ids are left out; decoder: the bias of the head is kept.
    """
    ours = {}
    for full, value in hub.items():
        name = full.removeprefix("bert.")
        if decoder and name == "cls.predictions.bias":
            ours["head_bias"] = value
        elif not name.startswith(_IGNORED):
            ours[_our_name(name)] = value
    return ours


def _our_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    return _NAMES.ours(f"{stem}.{_OLD_KINDS.get(kind, kind)}") or name


def hub_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names -> the hub's (BertModel's, without prefix); the head's bias becomes cls.predictions.bias."""
    return {
        "cls.predictions.bias" if name == "head_bias" else _NAMES.hubs(name): value for name, value in state.items()
    }
