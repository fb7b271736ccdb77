"""`wellread memory`: what the verbs print and do."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from wellread.cli.main import main
from wellread.corpus.store import Corpus
from wellread.memory.build import memorize
from wellread.memory.fingerprint import Fingerprint
from wellread.memory.rows import Encoded
from wellread.memory.store import Memory
from wellread.types import Passage

FINGERPRINT = Fingerprint("encoder", "tokenizer", "2 of 4", "{title} {text}", "100 words")
DIM = 8
PASSAGES = [Passage(f"p{i}", f"text number {i}", f"Title {i}") for i in range(12)]


def encode(passages: list[Passage]) -> list[Encoded]:
    return [Encoded(np.arange(3), torch.full((3, DIM), float(len(item.text)))) for item in passages]


@pytest.fixture
def memory(tmp_path: Path) -> str:
    options = {"fingerprint": FINGERPRINT, "dim": DIM, "batch_size": 4, "progress": False}
    memorize(PASSAGES, encode, tmp_path / "m", codec="int8", **options)
    return str(tmp_path / "m")


@pytest.fixture
def _model(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--model` gives the encoder above, whatever folder is named."""
    model = SimpleNamespace(encoder_for_memory=lambda cutting, precision: (encode, FINGERPRINT, DIM))
    monkeypatch.setattr("wellread.pipeline.load_model", lambda path: model)


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """The JSON a verb prints, or what it says on stderr where it fails with code 2."""
    capsys.readouterr()
    if code:
        with pytest.raises(SystemExit) as stopped:
            main(["memory", *arguments])
        assert stopped.value.code == code
    else:
        main(["memory", *arguments])
    said = capsys.readouterr()
    return said.err if code == 2 else json.loads(said.out) if "--json" in arguments else said.out


def test_info(memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    facts = run(capsys, "info", memory, "--json")
    assert facts == Memory.open(memory).info() | {"index": None}
    assert {"passages", "tokens", "bytes", "codec", "fingerprint"} <= set(facts)
    text = run(capsys, "info", memory)
    assert "12 passages, 36 tokens" in text
    assert "index        none inside" in text
    assert "int8: 10 bytes per token, relative_l2" in text


def test_verify_and_its_exit_code(memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "verify", memory, "--json") == {
        "passages": 12,
        "damaged": [],
        "damaged_files": [],
        "missing_files": [],
        "ok": True,
    }
    assert run(capsys, "verify", memory) == f"{memory}: 12 passages, nothing damaged\n"
    name = next(name for name in Memory.open(memory).manifest.files if "_transactions" in name)
    with open(Path(memory) / name, "ab") as file:
        file.write(b"x")
    assert run(capsys, "verify", memory, "--json", code=1)["damaged"] == [name]
    assert f"1 damaged: {name}" in run(capsys, "verify", memory, code=1)


@pytest.mark.usefixtures("_model")
def test_add_and_update(memory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Corpus.write([PASSAGES[0], Passage("new", "more text")], tmp_path / "c")
    added = run(capsys, "add", memory, str(tmp_path / "c"), "--model", "any", "--json")
    assert (added["added"], added["unchanged"], added["passages"]) == (1, 1, 13)
    Corpus.write([Passage("p3", "corrected")], tmp_path / "d")
    assert "id='p3' is in memory" in run(capsys, "add", memory, str(tmp_path / "d"), "--model", "any", code=2)
    updated = run(capsys, "update", memory, str(tmp_path / "d"), "--model", "any", "--json")
    assert (updated["replaced"], updated["passages"], updated["tokens"]) == (1, 13, 39)
    assert Memory.open(memory).passages(["p3"])[0].text == "corrected"


def test_delete(memory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ids.txt").write_text("p1\np2\n\n", encoding="utf8")
    gone = run(capsys, "delete", memory, "p0", "--from", str(tmp_path / "ids.txt"), "--json")
    assert (gone["deleted"], gone["passages"], gone["freed"]) == (3, 9, 0)
    assert Memory.open(memory).ids() == [f"p{i}" for i in range(3, 12)]
    assert "'p0' are not in memory" in run(capsys, "delete", memory, "p0", code=2)
    assert "no ids were given; name passages" in run(capsys, "delete", memory, code=2)
    assert run(capsys, "delete", memory, "--compact", "--json")["freed"] > 0
    assert run(capsys, "verify", memory, "--json")["ok"]


def test_a_folder_without_a_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("info", "verify"):
        said = run(capsys, verb, str(tmp_path), code=2)
        assert said.count("\n") == 1
        assert "is not a memory (it has no memory.json)" in said


@pytest.mark.usefixtures("_model")
def test_the_index_inside_follows(memory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from wellread.retrieval import INDEX_FOLDER, RETRIEVERS, open_index
    from wellread.types import Probe

    def found(words: str) -> list[str]:
        hits = open_index(Path(memory) / INDEX_FOLDER).search([Probe(words)], top_k=1)
        return list(hits[0].ids)

    RETRIEVERS["lexical"].build(Memory.open(memory), Path(memory) / INDEX_FOLDER)
    Corpus.write([Passage("new", "zebras graze")], tmp_path / "c")
    run(capsys, "add", memory, str(tmp_path / "c"), "--model", "any")
    assert found("zebras") == ["new"]
    Corpus.write([Passage("new", "walruses swim")], tmp_path / "d")
    run(capsys, "update", memory, str(tmp_path / "d"), "--model", "any")
    assert (found("zebras"), found("walruses")) == ([], ["new"])
    Memory.open(memory).delete(["p1"])  # behind the back of the index
    run(capsys, "delete", memory, "new")
    assert found("walruses") == []
    assert len(open_index(Path(memory) / INDEX_FOLDER)) == 11
