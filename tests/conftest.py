"""Shared pieces of the tests: where real data lies, tiny models, quiet single-threaded torch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; tests that need it skip with a reason where it is absent."""
    place = Path(os.environ.get("WELLREAD_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (place / "manifest.json").is_file():
        pytest.skip(f"needs the data folder; {place} does not exist (set WELLREAD_DATA)")
    return place


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """One thread per worker: the workers of a parallel run would fight over two cores."""
    import torch

    torch.set_num_threads(1)


def tiny_reader(family: str, *, layers: int = 3, copy_head: bool | None = None, seed: int = 0):
    """A reader with random weights small enough for a test: "t5", "t5-gated" or "bert"."""
    from dataclasses import replace

    import torch

    from wellread.nn.bert import BertConfig
    from wellread.nn.encoder_decoder import ReaderConfig, build_reader
    from wellread.nn.t5 import T5Config

    common = {"vocab_size": 60, "dim": 16, "num_heads": 2, "pad_token": 0, "end_token": 1}
    if family == "bert":
        config = BertConfig(**common, num_layers=layers, ffn_dim=32, start_token=2)
        config = replace(config, dropout=0.0, attention_dropout=0.0)
        encoder, decoder = config.to_hub(), {**config.to_hub(), "num_hidden_layers": 2}
    else:
        gated = family == "t5-gated"
        shape = {"head_dim": 8, "inner_dim": 32, "num_layers": layers, "num_decoder_layers": 2}
        kind = "gated-gelu" if gated else "relu"
        switches = {"feed_forward": kind, "tied_head": not gated, "scale_head": not gated}
        config = T5Config(**common, **shape, **switches, start_token=0, dropout=0.0)
        encoder = decoder = config.to_hub()
    copies = family == "bert" if copy_head is None else copy_head
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        reader = build_reader(ReaderConfig(encoder, decoder, copy_head=copies, copy_dim=16 * copies))
        for weight in reader.parameters():  # biases and norms too, so that no term can hide behind a zero
            weight.data.add_((0.25 if family == "bert" else 0.05) * torch.randn_like(weight))
    return reader.eval()


def tiny_decoder(family: str, *, layers: int = 3, seed: int = 0):
    """A causal language model with random weights: tied, with shared heads of keys, or with biases."""
    import torch

    from wellread.nn.llama import LlamaDecoder
    from wellread.nn.llama_hub import LlamaConfig

    shapes = {
        "t5": {"tied_head": True, "num_heads": 2},
        "t5-gated": {"num_heads": 4, "num_key_heads": 2},
        "bert": {"num_heads": 2, "attention_bias": True},
    }
    common = {"vocab_size": 60, "dim": 16, "inner_dim": 32, "num_layers": layers, "initializer_range": 0.3}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(**common, **shapes[family], pad_token=0, start_token=2, end_token=1)
        return LlamaDecoder(config).eval()


MASK = 59
"""The mask of tiny nets; no text of `tiny_batch` has it elsewhere than at the end of a question."""


def tiny_masked_reader(*, layers: int = 3, copy_head: bool | None = None, seed: int = 0):
    """An encoder that fills masks, with random weights."""
    import torch

    from wellread.nn.masked_lm import EncoderConfig, build_masked_reader

    encoder = tiny_reader("bert", layers=layers, seed=seed).config.encoder
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        reader = build_masked_reader(EncoderConfig(encoder, MASK, copy_head=copy_head is not False))
        for weight in reader.parameters():
            weight.data.add_(0.25 * torch.randn_like(weight))
    return reader.eval()


def tiny_nets(kind: str, family: str, **options):
    """Tiny nets of a kind of nn.building.NETS; skips where the kind has none of the family."""
    if kind == "decoder":
        return tiny_decoder(family, layers=options.get("layers", 3), seed=options.get("seed", 0))
    if kind != "encoder":
        return tiny_reader(family, **options)
    if family != "bert":
        pytest.skip("an encoder that fills masks is of BERT's family")
    return tiny_masked_reader(**options)


# What a system's tiny form needs: chunks short enough for tiny questions to finish one.
TINY_OPTIONS = {"retro": {"chunk_tokens": 3}}


def tiny_system(name: str, family: str = "t5", *, layers: int = 3, seed: int = 0, copy_head=None, **options):
    """A system of the table around a tiny reader; options of its Config by keyword."""
    import torch

    from wellread.config import from_mapping
    from wellread.systems import SYSTEMS

    kind = SYSTEMS[name]
    reader = tiny_nets(kind.built_on, family, layers=layers, seed=seed, copy_head=copy_head)
    system = kind(from_mapping(kind.Config, TINY_OPTIONS.get(name, {}) | options), reader)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        for part in ("neighbours", "cross", "copy"):  # parts that start at zero
            net = getattr(system, part, None)
            for weight in net.parameters() if net is not None else ():
                weight.data.add_(0.25 * torch.randn_like(weight))
        for part in ("scorer",):
            if hasattr(system, part):
                torch.nn.init.normal_(getattr(system, part).weight)
    return system.eval()


def tiny_batch(*, batch: int = 2, passages: int = 4, seed: int = 0, extra_tokens: int = 0, extra_passages: int = 0):
    """Inputs and candidates of random lengths. extra_*: more padding around the same content. A question ends with as
    many masks as its answer of `tiny_target` has tokens."""
    import torch

    from wellread.types import CandidateBatch, Inputs

    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    questions = [torch.randint(3, 60, (number(3, 6),), generator=generator) for _ in range(batch)]
    masks = [torch.full((2 if row == 0 else 3,), MASK) for row in range(batch)]
    questions = [torch.cat([text.clamp_max(MASK - 1), asked]) for text, asked in zip(questions, masks)]
    texts = [
        [torch.randint(3, 60, (number(4, 9),), generator=generator) for _ in range(passages - (row % 2))]
        for row in range(batch)
    ]
    texts = [[text.clamp_max(MASK - 1) for text in row] for row in texts]
    q_tokens = torch.zeros(batch, 8 + extra_tokens, dtype=torch.int64)
    tokens = torch.zeros(batch, passages + extra_passages, 9 + extra_tokens, dtype=torch.int64)
    q_mask, mask = q_tokens.bool(), tokens.bool()
    for row in range(batch):
        q_tokens[row, : len(questions[row])], q_mask[row, : len(questions[row])] = questions[row], True
        for column, text in enumerate(texts[row]):
            tokens[row, column, : len(text)], mask[row, column, : len(text)] = text, True
    exists = mask.any(-1)
    scores = torch.arange(tokens.shape[1]).flip(0).float().expand(batch, -1).contiguous()
    ids = [[f"p{row}-{column}" for column in range(tokens.shape[1])] for row in range(batch)]
    candidates = CandidateBatch(tokens=tokens, mask=mask, exists=exists, scores=scores, ids=ids)
    return Inputs(q_tokens, q_mask), candidates


def tiny_target(batch: int = 2, seed: int = 1):
    """Targets [batch, 4] that end with the end token, and their mask."""
    import torch

    target = torch.randint(3, MASK, (batch, 4), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(target, dtype=torch.bool)
    target[0, 2], target[0, 3], mask[0, 3] = 1, 0, False
    target[1:, 3] = 1
    return target, mask


@pytest.fixture(scope="session")
def tiny():
    """The factories above, for tests that cannot import a conftest."""
    from types import SimpleNamespace

    factories = {"reader": tiny_reader, "nets": tiny_nets, "system": tiny_system, "batch": tiny_batch}
    return SimpleNamespace(**factories, target=tiny_target, mask=MASK)
