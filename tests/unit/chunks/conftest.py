"""A small database of chunks, made once for the tests of a file."""

from __future__ import annotations

import pytest
import torch
from chunk_pieces import WORDS, corpus, cut

from wellread.nn.bert import BertConfig, BertEncoder
from wellread.nn.tokenizers import train_tokenizer
from wellread.retrieval.chunk_database import ChunkDatabase
from wellread.retrieval.chunk_index import IndexOptions, build_index
from wellread.retrieval.chunk_keys import ChunkEncoder, write_keys
from wellread.retrieval.chunks import documents_of


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((document.text for document in documents_of(corpus())), 300, kind="bytes")


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = train_tokenizer([" ".join(WORDS)], 200)
    config = BertConfig(
        vocab_size=vocabulary.vocab_size, dim=16, num_heads=2, num_layers=2, ffn_dim=32, max_positions=64,
        start_token=vocabulary.start, end_token=vocabulary.end, pad_token=vocabulary.pad,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = BertEncoder(config)
        net.embed_tokens.weight.data.mul_(50)  # so that keys differ by what is said
        net.to_hub(folder)
    vocabulary.save(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(encoder_folder):
    return ChunkEncoder(str(encoder_folder), unit=False, precision="fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer, encoder):
    """A database of 30 documents with an index of three shards."""
    out = tmp_path_factory.mktemp("database")
    keys = write_keys(cut(out, tokenizer), encoder)
    build_index(keys, out, IndexOptions(lists=8, shard_rows=len(keys) // 3 + 1))
    return out


@pytest.fixture(scope="module")
def database(folder):
    return ChunkDatabase.open(folder)
