"""What the hub says about a decoder of the Llama family: its config.json and the names of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from wellread.config import require
from wellread.nn.hub_names import HubNames

__all__ = ["ACTIVATIONS", "LlamaConfig", "hub_weights", "our_weights"]

ACTIVATIONS = {"silu": functional.silu, "gelu": functional.gelu, "relu": functional.relu}

# our field -> key in the hub's config.json
_HUB_KEYS = {
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "inner_dim": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_key_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "max_positions": "max_position_embeddings",
    "norm_epsilon": "rms_norm_eps",
    "activation": "hidden_act",
    "tied_head": "tie_word_embeddings",
    "attention_bias": "attention_bias",
    "initializer_range": "initializer_range",
    "pad_token": "pad_token_id",
    "start_token": "bos_token_id",
    "end_token": "eos_token_id",
}
_REQUIRED = ("vocab_size", "dim", "inner_dim", "num_layers", "num_heads")


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a decoder of the Llama family.

    inner_dim: width of the gated feed-forward part. num_key_heads: heads of keys and values, each shared by num_heads
    / num_key_heads heads of queries (grouped-query attention); 0 for num_heads. head_dim: width of a head; 0 for dim
    / num_heads. max_positions: what it was trained for, not a limit. rope_theta: base of the rotary frequencies.
    tied_head: the output head is the word embedding. initializer_range: of new embeddings. dropout: of what every
    part adds; the hub's nets have none. start_token: what every text begins with.
    """

    vocab_size: int
    dim: int
    inner_dim: int
    num_layers: int
    num_heads: int
    num_key_heads: int = 0
    head_dim: int = 0
    max_positions: int = 2048
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-6
    activation: str = "silu"
    tied_head: bool = False
    attention_bias: bool = False
    initializer_range: float = 0.02
    dropout: float = 0.0
    pad_token: int = 0
    start_token: int = 1
    end_token: int = 2

    def __post_init__(self) -> None:
        for name in ("num_key_heads", "head_dim"):
            if not getattr(self, name):
                default = self.num_heads if name == "num_key_heads" else self.dim // max(self.num_heads, 1)
                object.__setattr__(self, name, default)
        for name in (*_REQUIRED, "num_key_heads", "head_dim"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}; it must be at least 1.")
        require(
            self.num_heads % self.num_key_heads == 0,
            f"num_heads={self.num_heads} with num_key_heads={self.num_key_heads}; the heads of queries must be a "
            "multiple of those of keys.",
        )
        require(self.head_dim % 2 == 0, f"head_dim={self.head_dim}; rotary positions need an even width.")
        allowed = ", ".join(ACTIVATIONS)
        require(self.activation in ACTIVATIONS, f"activation={self.activation!r}; it must be one of: {allowed}.")
        for name in ("pad_token", "start_token", "end_token"):
            token = getattr(self, name)
            require(
                0 <= token < self.vocab_size,
                f"{name}={token}, but the vocabulary has {self.vocab_size} entries; give a token inside it.",
            )

    @classmethod
    def from_hub(cls, mapping: Mapping[str, Any]) -> LlamaConfig:
        """From the keys of a hub config.json. ValueError for another family and for scaled rotary positions."""
        kind = mapping.get("model_type", "llama")
        require(kind == "llama", f"model_type={kind!r}; this net reads model_type 'llama'.")
        missing = [_HUB_KEYS[name] for name in _REQUIRED if mapping.get(_HUB_KEYS[name]) is None]
        require(not missing, f"config.json lacks {', '.join(missing)}; download or copy it again.")
        require(not mapping.get("mlp_bias"), "mlp_bias=true; this net's feed-forward part has no biases.")
        given = {ours: mapping[theirs] for ours, theirs in _HUB_KEYS.items() if mapping.get(theirs) is not None}
        tables = [mapping.get(key) or {} for key in ("rope_parameters", "rope_scaling")]
        for table in tables:
            scaled = table.get("rope_type", table.get("type", "default"))
            require(
                scaled == "default", f"rope_type={scaled!r}; only rotary positions of type 'default' are supported."
            )
        theta = tables[0].get("rope_theta", mapping.get("rope_theta", 10000.0))
        return cls(**{**given, **_tokens(given), "rope_theta": float(theta)})

    def to_hub(self) -> dict[str, Any]:
        """The keys of a hub config.json; `from_hub` reads them back."""
        keys = {theirs: getattr(self, ours) for ours, theirs in _HUB_KEYS.items()}
        rotary = {"rope_theta": self.rope_theta, "rope_type": "default"}
        described = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "mlp_bias": False}
        return {**described, **keys, "rope_parameters": rotary, "rope_theta": self.rope_theta}


def _tokens(given: Mapping[str, Any]) -> dict[str, int]:
    """Special tokens where config.json says less, or more, than one number of each."""
    start = _first(given.get("start_token"), 1)
    end = _first(given.get("end_token"), 2)
    pad = _first(given.get("pad_token"), end)
    return {"start_token": start, "end_token": end, "pad_token": end if pad < 0 else pad}


def _first(value: Any, default: int) -> int:
    return default if value is None else value[0] if isinstance(value, list) else value


_OUTER = {"model.embed_tokens": "embed_tokens", "model.norm": "final_norm", "lm_head": "head"}
_INNER = {
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.output",
    "mlp.gate_proj": "feed.gate",
    "mlp.up_proj": "feed.up",
    "mlp.down_proj": "feed.down",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "feed_norm",
}
_NAMES = HubNames(_OUTER, _INNER, layers="model.layers.")
# Tables that old checkpoints hold and that follow from the config.
_IGNORED = "rotary_emb.inv_freq"


def our_weights(hub: Mapping[str, Tensor], *, tied_head: bool) -> dict[str, Tensor]:
    """Hub names -> ours; unknown names stay as they are. tied_head: a head stored beside the embedding is left out."""
    ours = {}
    for full, value in hub.items():
        name = full if full.startswith(("model.", "lm_head.")) else f"model.{full}"
        if name.endswith(_IGNORED) or (tied_head and name == "lm_head.weight"):
            continue
        ours[_NAMES.ours(name) or full] = value
    return ours


def hub_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names -> the hub's (those of LlamaForCausalLM)."""
    return {_NAMES.hubs(name): value for name, value in state.items()}
