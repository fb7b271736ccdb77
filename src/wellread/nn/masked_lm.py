"""An encoder that fills masks: BERT with its masked-LM head, and a copy head over a passage beside it.

Devlin et al. 2019, section 3.1 (task 1): the head is a dense layer, a norm, and the word embeddings with one bias per
word. Checkpoints that hold the head (`cls.predictions`) keep it; sentence encoders come without, and get a new one.
The copy head (`copying.CopyHead`) points at passage tokens; nets without it only say words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from wellread.config import require
from wellread.nn.bert import BertEncoder
from wellread.nn.bert_hub import ACTIVATIONS, BertConfig
from wellread.nn.building import NetKind, check_vocabulary, default_encoder_path, seeded
from wellread.nn.checkpoints import read_hub, read_json
from wellread.nn.copying import CopyHead
from wellread.nn.tokenizers import Tokenizer, train_tokenizer

__all__ = ["ENCODER", "Copyable", "EncoderConfig", "MaskedHead", "MaskedReader", "build_masked_reader"]

# our name in `MaskedHead` -> the hub's; norms of old checkpoints are named gamma and beta.
_HUB = {
    "dense.weight": ("cls.predictions.transform.dense.weight",),
    "dense.bias": ("cls.predictions.transform.dense.bias",),
    "norm.weight": ("cls.predictions.transform.LayerNorm.weight", "cls.predictions.transform.LayerNorm.gamma"),
    "norm.bias": ("cls.predictions.transform.LayerNorm.bias", "cls.predictions.transform.LayerNorm.beta"),
    "bias": ("cls.predictions.bias",),
}


@dataclass(frozen=True)
class EncoderConfig:
    """encoder: a hub config.json mapping of the BERT family. mask_token: the id that stands for what is to be filled
    in. copy_head: whether words can be copied from the passage."""

    encoder: Mapping[str, Any]
    mask_token: int
    copy_head: bool = True

    def __post_init__(self) -> None:
        kind = self.encoder.get("model_type")
        require(kind == "bert", f"encoder model_type={kind!r}; an encoder with a masked-LM head is of 'bert'.")
        size = self.encoder.get("vocab_size", BertConfig.vocab_size)
        require(
            0 <= self.mask_token < size,
            f"mask_token={self.mask_token}, but the vocabulary has {size} entries; give a token inside it.",
        )


class MaskedHead(nn.Module):
    """States -> what the word embeddings, which are the encoder's, turn into scores; and the bias of each word."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.dim, config.dim)
        nn.init.normal_(self.dense.weight, std=config.initializer_range)
        nn.init.zeros_(self.dense.bias)
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_epsilon)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, states: Tensor) -> Tensor:
        """[..., dim] -> [..., dim]."""
        return self.norm(self.activation(self.dense(states)))


class Copyable(NamedTuple):
    """What may be copied. states: [rows, m, dim], of all tokens. tokens: [rows, m] int64, the word behind each.
    mask: [rows, m] bool, True on passage tokens."""

    states: Tensor
    tokens: Tensor
    mask: Tensor


class MaskedReader(nn.Module):
    """The nets of a reader without a decoder: encoder, masked-LM head, and maybe a copy head."""

    kind = "encoder"

    def __init__(self, encoder: BertEncoder, *, mask_token: int, copy_head: bool = True) -> None:
        super().__init__()
        self.encoder, self.mask_token = encoder, mask_token
        self.head = MaskedHead(encoder.config)
        self.copy = CopyHead(encoder.dim, encoder.dim, copy_dim=encoder.dim) if copy_head else None

    @property
    def config(self) -> EncoderConfig:
        """What `build_masked_reader` makes the same nets from."""
        return EncoderConfig(self.encoder.config.to_hub(), self.mask_token, copy_head=self.copy is not None)

    @property
    def start_token(self) -> int:
        """The token every text begins with, [CLS]."""
        return self.encoder.config.start_token

    @property
    def end_token(self) -> int:
        """The token every text ends with, [SEP]."""
        return self.encoder.config.end_token

    @property
    def pad_token(self) -> int:
        """The token that fills rows up."""
        return self.encoder.config.pad_token

    def logits(self, states: Tensor) -> Tensor:
        """Scores [..., vocab] of all words at states [..., dim]."""
        ready = self.head(states)
        return functional.linear(
            ready, self.encoder.embed_tokens.weight.to(ready.dtype), self.head.bias.to(ready.dtype)
        )

    def log_probs(self, states: Tensor, copyable: Copyable) -> Tensor:
        """Log-probabilities [rows, t, vocab] float32 of the words at states [rows, t, dim]."""
        log_words = self.logits(states).float().log_softmax(-1)
        if self.copy is None:
            return log_words
        return self.copy.mix(self._copying(states, copyable), log_words, copyable.tokens)

    def target_log_probs(self, states: Tensor, target: Tensor, copyable: Copyable) -> Tensor:
        """Log-probability [rows, t] float32 of each target word [rows, t] at states [rows, t, dim]."""
        logits = self.logits(states).float()
        log_target = -functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        log_target = log_target.view_as(target)
        if self.copy is None:
            return log_target
        return self.copy.mix_target(self._copying(states, copyable), log_target, copyable.tokens, target)

    def _copying(self, states: Tensor, copyable: Copyable) -> Any:
        keys = self.copy.keys(copyable.states, torch.where(copyable.mask, 0, -1))
        return self.copy(states, keys, copyable.mask)

    @classmethod
    def from_hub(cls, path: str | Path, *, mask_token: int, copy_head: bool = True, **changes: Any) -> MaskedReader:
        """The encoder of a hub folder, with its masked-LM head where it has one. changes: fields of its BertConfig."""
        reader = cls(BertEncoder.from_hub(path, **changes), mask_token=mask_token, copy_head=copy_head)
        hub = read_hub(path)[1]
        found = {ours: next((hub[name] for name in names if name in hub), None) for ours, names in _HUB.items()}
        if all(weight is not None for weight in found.values()):
            reader.head.load_state_dict(found)
        return reader


def build_masked_reader(config: EncoderConfig) -> MaskedReader:
    """Nets with random weights; torch's current random state decides them."""
    encoder = BertEncoder(BertConfig.from_hub(config.encoder))
    return MaskedReader(encoder, mask_token=config.mask_token, copy_head=config.copy_head)


def masked_reader_from(
    source: str | Path,
    *,
    texts: Iterable[str] | None = None,
    copy_head: bool | None = None,
    dropout: float | None = None,
    seed: int = 0,
    vocab_size: int = 8000,
    dim: int = 256,
    layers: int = 6,
    heads: int = 4,
    **others: Any,
) -> tuple[MaskedReader, Tokenizer]:
    """Nets and tokenizer from a hub folder of the BERT family, "default", or "scratch" (a wordpiece vocabulary learnt
    from `texts`). ValueError for a folder of another family. Attention weights get no dropout, as in `building`."""
    copies = copy_head is not False
    if source == "scratch":
        if texts is None:
            raise ValueError("a reader from scratch learns its vocabulary from texts; give texts (--corpus DIR).")
        tokenizer = train_tokenizer(texts, vocab_size, kind="wordpiece")
        config = BertConfig(tokenizer.vocab_size, dim, layers, heads, ffn_dim=4 * dim)
        config = replace(config, **_specials(tokenizer), **_dropouts(dropout))
        with seeded(seed):
            return MaskedReader(BertEncoder(config), mask_token=tokenizer.mask, copy_head=copies), tokenizer
    path = default_encoder_path() if source == "default" else Path(source)
    if not path.is_dir():
        raise ValueError(f"source={str(source)!r} is no folder; give a hub folder, 'default' or 'scratch'.")
    kind = read_json(path / "config.json").get("model_type")
    if kind != "bert":
        raise ValueError(f"{path} holds model_type={kind!r}; nets that fill masks are made from the family 'bert'.")
    tokenizer = Tokenizer.load(path)
    changes = {**_specials(tokenizer), **_dropouts(dropout)}
    with seeded(seed):
        reader = MaskedReader.from_hub(path, mask_token=tokenizer.mask, copy_head=copies, **changes)
    check_vocabulary(tokenizer, reader.encoder.vocab_size, path)
    return reader, tokenizer


def _specials(tokenizer: Tokenizer) -> dict[str, int]:
    return {"start_token": tokenizer.start, "end_token": tokenizer.end, "pad_token": tokenizer.pad}


def _dropouts(dropout: float | None) -> dict[str, float]:
    return {"attention_dropout": 0.0} | ({} if dropout is None else {"dropout": dropout})


ENCODER = NetKind(EncoderConfig, build_masked_reader, masked_reader_from)
