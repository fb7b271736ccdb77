"""The model that comes with wellread: the files are those its record names, and small enough."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from wellread.cli.opening import DEFAULT_MODEL
from wellread.model import COMPANIONS, NAMED, holds_weights

MOST_BYTES = 40 << 20
SHARD_BYTES = 16 << 20


@pytest.fixture(scope="module")
def mini() -> Path:
    if not holds_weights(NAMED[DEFAULT_MODEL]):
        pytest.skip(f"this version comes without the weights of {DEFAULT_MODEL}")
    return NAMED[DEFAULT_MODEL]


def test_the_default_model_has_a_name():
    assert DEFAULT_MODEL in NAMED


def test_weights_are_those_the_record_names(mini):
    told = json.loads((mini / "run.json").read_text(encoding="utf8"))
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in mini.glob("model*")}
    assert found == told["files"]
    assert told["recipe"]["sha256"] == hashlib.sha256((mini / "recipe.toml").read_bytes()).hexdigest()


def test_it_is_small(mini):
    sizes = {file.name: file.stat().st_size for file in mini.iterdir()}
    assert sum(sizes.values()) <= MOST_BYTES
    assert max(sizes.values()) < SHARD_BYTES


def test_it_says_what_it_is(mini):
    files = {file.name for file in mini.iterdir()}
    assert {"CARD.md", "recipe.toml", "run.json"} <= files & set(COMPANIONS)
    card = (mini / "CARD.md").read_text(encoding="utf8")
    told = json.loads((mini / "run.json").read_text(encoding="utf8"))
    assert all(value in card for value in told["files"].values())
    assert not [text for text in (card, json.dumps(told)) if "/home/" in text or "/root/" in text]
