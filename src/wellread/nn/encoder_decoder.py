"""An encoder and a decoder, of one family or of two, with an optional bridge and copy head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from wellread.config import require
from wellread.nn import t5_hub
from wellread.nn.bert import BertDecoder, BertEncoder
from wellread.nn.bert_hub import BertConfig
from wellread.nn.checkpoints import load_weights, read_hub, write_hub
from wellread.nn.copying import CopyHead, Copying
from wellread.nn.t5 import T5Encoder
from wellread.nn.t5_decoder import T5Decoder
from wellread.nn.t5_hub import T5Config

__all__ = ["EncoderDecoder", "ReaderConfig", "build_reader"]


@dataclass(frozen=True)
class _Family:
    config: type[T5Config] | type[BertConfig]
    encoder: Callable[..., nn.Module]
    decoder: Callable[..., nn.Module]


_T5 = _Family(T5Config, T5Encoder, T5Decoder)
_FAMILIES = {**dict.fromkeys(t5_hub.FAMILIES, _T5), "bert": _Family(BertConfig, BertEncoder, BertDecoder)}


@dataclass(frozen=True)
class ReaderConfig:
    """The nets of a reader.

    encoder, decoder: hub config.json mappings, with model_type; of a T5 mapping the decoder uses the
    decoder's sizes. copy_head: whether the reader can copy from passages. copy_dim: width of the copy keys.
    """

    encoder: Mapping[str, Any]
    decoder: Mapping[str, Any]
    copy_head: bool = False
    copy_dim: int = 0

    def __post_init__(self) -> None:
        for side in ("encoder", "decoder"):
            kind = getattr(self, side).get("model_type")
            known = ", ".join(_FAMILIES)
            require(kind in _FAMILIES, f"{side} model_type={kind!r} is unknown; use one of: {known}.")
        require(
            not self.copy_head or self.copy_dim >= 1,
            f"copy_dim={self.copy_dim}; a copy head needs a width of at least 1.",
        )


class EncoderDecoder(nn.Module):
    """The nets of a reader: encoder, decoder, and between them a bridge where their widths differ.

    copy: a CopyHead(encoder.dim, decoder.dim, ...), or None for a reader that only says words of the
    vocabulary. Word embeddings shared between encoder and decoder are shared by whoever made the two.
    """

    kind = "encoder_decoder"

    def __init__(self, encoder: nn.Module, decoder: nn.Module, *, copy: CopyHead | None = None) -> None:
        super().__init__()
        if copy is not None and encoder.vocab_size != decoder.vocab_size:
            raise ValueError(
                f"the encoder knows {encoder.vocab_size} words and the decoder {decoder.vocab_size}; "
                "a copy head needs one vocabulary. Give both the same, or build without a copy head."
            )
        self.encoder = encoder
        self.decoder = decoder
        self.bridge = None if encoder.dim == decoder.dim else nn.Linear(encoder.dim, decoder.dim)
        self.copy = copy

    @property
    def config(self) -> ReaderConfig:
        """What `build_reader` makes the same nets from."""
        copy_dim = 0 if self.copy is None else self.copy.copy_dim
        encoder, decoder = self.encoder.config.to_hub(), self.decoder.config.to_hub()
        return ReaderConfig(encoder, decoder, copy_head=self.copy is not None, copy_dim=copy_dim)

    @property
    def start_token(self) -> int:
        """The token every target begins with."""
        return self.decoder.start_token

    @property
    def end_token(self) -> int:
        """The token every target ends with."""
        return self.decoder.end_token

    @property
    def pad_token(self) -> int:
        """The token that fills rows up."""
        return self.decoder.pad_token

    def memory(self, states: Tensor) -> Tensor:
        """Encoder states [batch, m, encoder.dim] -> what the decoder attends to, [batch, m, decoder.dim]."""
        return states if self.bridge is None else self.bridge(states)

    def copy_keys(self, states: Tensor, passage: Tensor) -> Tensor | None:
        """Keys [batch, m, copy_dim] for `copy_states` below, once per read; None without a copy head.

        states: [batch, m, encoder.dim], fused encoder states before the bridge. passage: [batch, m] int64,
        the passage of each state, -1 for none.
        """
        return None if self.copy is None else self.copy.keys(states, passage)

    def log_probs(
        self,
        decoder_states: Tensor,
        *,
        copy_states: Tensor | None = None,
        copy_tokens: Tensor | None = None,
        copy_mask: Tensor | None = None,
    ) -> Tensor:
        """Log-probabilities [rows, t, vocab] float32 of the next word after each decoder state.

        decoder_states: [rows, t, decoder.dim]; rows may be a multiple of batch (beams of one question
        adjacent). copy_states: what `copy_keys` gave, [batch, m, copy_dim]. copy_tokens: [batch, m] int64, the
        token behind each state. copy_mask: [batch, m] bool, True where it may be copied. The three are
        needed with a copy head and disregarded without one.
        """
        log_words = self.decoder.logits(decoder_states).float().log_softmax(dim=-1)
        copying = self.copying(decoder_states, copy_states, copy_tokens, copy_mask)
        return log_words if copying is None else self.copy.mix(copying, log_words, copy_tokens)

    def target_log_probs(
        self,
        decoder_states: Tensor,
        target: Tensor,
        *,
        copy_states: Tensor | None = None,
        copy_tokens: Tensor | None = None,
        copy_mask: Tensor | None = None,
    ) -> Tensor:
        """Log-probability [rows, t] float32 of each target token [rows, t]; as `log_probs`, but cheaper.

        The distribution over copied words is not built. Padding in the target must be a valid id.
        """
        logits = self.decoder.logits(decoder_states).float()
        log_target = -functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        log_target = log_target.view_as(target)
        copying = self.copying(decoder_states, copy_states, copy_tokens, copy_mask)
        return log_target if copying is None else self.copy.mix_target(copying, log_target, copy_tokens, target)

    def copying(
        self,
        decoder_states: Tensor,
        copy_states: Tensor | None,
        copy_tokens: Tensor | None,
        copy_mask: Tensor | None,
    ) -> Copying | None:
        """Where each decoder state would copy from, and the gate; None without a copy head."""
        if self.copy is None:
            return None
        if copy_states is None or copy_tokens is None or copy_mask is None:
            raise ValueError(
                "this reader has a copy head; give copy_states (from copy_keys), copy_tokens and copy_mask. "
                "Where nothing may be copied, copy_mask is False everywhere."
            )
        return self.copy(decoder_states, copy_states, copy_mask)

    @classmethod
    def from_hub(cls, path: str | Path) -> EncoderDecoder:
        """The encoder and decoder of a T5-family folder in the hub's format (config.json + safetensors)."""
        config, weights = read_hub(path)
        kind = config.get("model_type")
        if kind not in t5_hub.FAMILIES:
            raise ValueError(
                f"{path} holds model_type={kind!r}; whole readers are read from {', '.join(t5_hub.FAMILIES)}. "
                "Build a reader from a BERT encoder with build_from_bert."
            )
        reader = cls(*_nets(_T5, T5Config.from_hub(config, weights)))
        load_weights(reader, t5_hub.our_weights(weights))
        return reader

    def to_hub(self, path: str | Path) -> None:
        """Write a T5 reader as a hub folder. ValueError where the hub has no format for this reader."""
        kinds = (self.config.encoder["model_type"], self.config.decoder["model_type"])
        extra = [name for name in ("copy", "bridge") if getattr(self, name) is not None]
        if kinds[0] != kinds[1] or kinds[0] not in t5_hub.FAMILIES or extra:
            parts = f"a {kinds[0]} encoder and a {kinds[1]} decoder" + "".join(f", {name}" for name in extra)
            raise ValueError(
                f"this reader is made of {parts}; the hub's format holds plain T5 readers only. Use save_reader."
            )
        write_hub(path, self.config.decoder, t5_hub.hub_weights(self.state_dict()))


def build_reader(config: ReaderConfig) -> EncoderDecoder:
    """A reader with random weights; torch's current random state decides them."""
    families = [_FAMILIES[side["model_type"]] for side in (config.encoder, config.decoder)]
    encoder_config = families[0].config.from_hub(config.encoder)
    decoder_config = families[1].config.from_hub(config.decoder)
    sizes = [(item.vocab_size, item.dim) for item in (encoder_config, decoder_config)]
    if families[0] is families[1] and sizes[0] == sizes[1]:
        encoder, decoder = _nets(families[0], encoder_config, decoder_config)
    else:
        encoder, decoder = families[0].encoder(encoder_config), families[1].decoder(decoder_config)
    copy = CopyHead(encoder.dim, decoder.dim, copy_dim=config.copy_dim) if config.copy_head else None
    return EncoderDecoder(encoder, decoder, copy=copy)


def _nets(family: _Family, encoder: Any, decoder: Any = None) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder that share their word embeddings."""
    first = family.encoder(encoder)
    second = family.decoder(encoder if decoder is None else decoder, embed_tokens=first.embed_tokens)
    return first, second
