"""wellread chunks, from the command line: one command for everything, the same step by step, shares, overlap."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from wellread.cli.chunks import command
from wellread.corpus import Corpus
from wellread.nn.bert import BertConfig, BertEncoder
from wellread.nn.tokenizers import Tokenizer, train_tokenizer
from wellread.retrieval.chunks import ChunkTexts
from wellread.retrieval.neighbours import Neighbours
from wellread.types import Passage

NAMES = "stone river light cloud moss wind amber field lamp ridge salt fern dune coral"
WORDS = NAMES.split()
CUT = ("--chunk-tokens", 8)


def run(*arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in (*arguments, "--json")])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


@pytest.fixture
def place(tmp_path):
    """A corpus of two splits and a tiny encoder."""
    draw = np.random.default_rng(0)
    passages = [
        Passage(f"w-{page}-{part}", " ".join(draw.choice(WORDS, 25)), title=f"P{page}", metadata={"split": split})
        for page, split in enumerate(["train"] * 8 + ["valid"] * 2)
        for part in range(2)
    ]
    Corpus.write(passages, tmp_path / "corpus")
    words = train_tokenizer([" ".join(WORDS)], 200)
    shape = {"dim": 16, "num_heads": 2, "num_layers": 1, "ffn_dim": 16, "max_positions": 64}
    special = {"start_token": words.start, "end_token": words.end, "pad_token": words.pad}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertEncoder(BertConfig(vocab_size=words.vocab_size, **shape, **special)).to_hub(tmp_path / "encoder")
    words.save(tmp_path / "encoder")
    return tmp_path


def test_one_command_is_the_same_as_its_steps(place):
    learn = ("--tokenizer", place / "bytes", "--learn-tokenizer", 300)
    keys = ("--encoder", place / "encoder", "--precision", "fp32", "--layers", 0, "--rarity", 0.01)
    whole = run(
        "build", place / "corpus", *learn, *CUT, *keys, "--split", "train", "--other", "valid", "-k", 2,
        "--out", place / "all",
    )  # fmt: skip
    assert whole["parts"].keys() == {"valid", "database"}
    assert whole["parts"]["database"]["recall"] > 0.9
    assert Tokenizer.load(place / "bytes").vocab_size <= 300
    for split, name in (("train", "database"), ("valid", "valid")):
        made = run(
            "cut", place / "corpus", "--tokenizer", place / "bytes", *CUT, "--split", split, "--out", place / name
        )
        assert made["chunks"] == ChunkTexts.open(place / "all" / name).num_chunks
    told = run("index", place / "database", *keys)
    assert told["recall"] > 0.9
    run("index", place / "valid", "--keys-of", place / "database")
    for name in ("database", "valid"):
        found = run("neighbours", place / name, "--database", place / "database", "-k", 2, "--out", place / f"n{name}")
        assert found["chunks"] == whole["parts"][name]["chunks"]
        there = Neighbours.open(place / "all" / name / "neighbours")
        np.testing.assert_array_equal(Neighbours.open(place / f"n{name}").numbers, there.numbers)
    again = run(
        "build", place / "corpus", *learn, *CUT, *keys, "--split", "train", "--other", "valid", "-k", 2,
        "--out", place / "all",
    )  # fmt: skip
    assert again["parts"] == whole["parts"]
    few = run(
        "neighbours", place / "valid", "--database", place / "database", "--share", 0.25, "-k", 2, "--out",
        place / "quarter",
    )  # fmt: skip
    assert few["share"] == 0.25
    texts, lists = ChunkTexts.open(place / "database"), Neighbours.open(place / "quarter")
    assert len(np.unique(texts.documents(lists.numbers))) <= 2
    shared = run(
        "overlap", place / "valid", "--database", place / "database", "--lists", place / "nvalid", "--out",
        place / "shares.npy",
    )  # fmt: skip
    assert shared["chunks"] == len(np.load(place / "shares.npy"))
    assert shared["at_most"]["1"] == 1.0
    assert 0 < shared["mean"] < 1


def test_overlap_of_texts_and_neighbours_of_two_vocabularies(place):
    """The same documents cut with another vocabulary: a chunk's neighbours are the chunks that hold its text."""
    learn = ("--tokenizer", place / "bytes", "--learn-tokenizer", 300, "--split", "train")
    run("cut", place / "corpus", *learn, *CUT, "--out", place / "database")
    run("index", place / "database", "--encoder", place / "encoder", "--precision", "fp32", "--layers", 0)
    run("cut", place / "corpus", "--tokenizer", place / "encoder", *CUT, "--split", "train", "--out", place / "again")
    run("index", place / "again", "--keys-of", place / "database")
    lists = place / "again" / "neighbours"
    run("neighbours", place / "again", "--database", place / "database", "--own", "-k", 4, "--out", lists)
    shared = run("overlap", place / "again", "--database", place / "database")
    assert shared["k"] == 4
    assert shared["mean"] > 0.5
    assert run("overlap", place / "again", "--database", place / "database", "-k", 1)["mean"] < shared["mean"]
    run("cut", place / "corpus", *learn, *CUT, "--documents", 8, "--out", place / "other")
    run("index", place / "other", "--encoder", place / "encoder", "--precision", "fp32", "--layers", 1)
    arguments = ["overlap", str(place / "again"), "--database", str(place / "other")]
    refused = CliRunner().invoke(command, arguments)
    assert "were not found among the chunks of" in str(refused.exception)


def test_only_the_first_documents(place):
    made = run(
        "cut", place / "corpus", "--tokenizer", place / "encoder", *CUT, "--documents", 3, "--out", place / "few"
    )
    assert made["documents"] == 3
