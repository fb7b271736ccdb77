"""A tiny world made by the command line, and a way to run the command inside the test's own process."""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from wellread.cli.main import main

PASSAGES = [
    ("io", "Io", "The moon Io has four hundred volcanoes.", "moon"),
    ("titan", "Titan", "The moon Titan has lakes of methane.", "moon"),
    ("mars", "Mars", "The planet Mars is red because of rust.", "planet"),
    ("venus", "Venus", "The planet Venus turns backwards.", "planet"),
    ("jupiter", "Jupiter", "The largest planet is Jupiter.", "planet"),
    ("saturn", "Saturn", "The planet Saturn has rings of ice.", "planet"),
]
QUESTIONS = [("What is the largest planet?", "Jupiter", "jupiter"), ("What has lakes of methane?", "Titan", "titan")]
RECIPE = """\
[init]
kind = "scratch"
decoder_layers = 1
[init.scratch]
vocab_size = 120
dim = 16
layers = 3
heads = 2
[system]
name = "glimmer"
keep = 2
[frame]
answer_tokens = 6
[data]
corpus = "corpus"
index = "index"
[[data.stages]]
top_k = 3
[tasks.planets]
questions = "questions.jsonl"
[training]
steps = 1
batch_size = 2
"""
INIT = "init --from scratch --corpus corpus --vocabulary 120 --dim 16 --layers 3 --heads 2 --decoder-layers 1"
INIT += " --set keep=2 --frame answer_tokens=6"


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


def run(line: str, *, typed: str = "") -> Said:
    """Run a command line in this process. typed: what stands on its standard input."""
    out, err, code, before = io.StringIO(), io.StringIO(), 0, sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(typed.encode()), encoding="utf8")
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main(shlex.split(line.removeprefix("wellread ")))
    except SystemExit as stopped:
        code = stopped.code
    finally:
        sys.stdin = before
    return Said(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def wellread() -> Callable[..., Said]:
    """`wellread("ask ...")` -> Said."""
    return run


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with passages.jsonl, questions.jsonl, recipe.toml, corpus, index, two models and a memory."""
    folder = tmp_path_factory.mktemp("world")
    write_rows(folder / "passages.jsonl", [dict(zip(("id", "title", "text", "kind"), row)) for row in PASSAGES])
    asked = [{"id": f"q-{name}", "question": text, "answers": [a], "positive": [name]} for text, a, name in QUESTIONS]
    write_rows(folder / "questions.jsonl", asked)
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf8")
    steps = [
        "corpus passages.jsonl --out corpus",
        "index corpus --retriever lexical --out index",
        f"{INIT} --out model",
        f"{INIT} --seed 1 --out other-model",
        "memorize corpus --model model --retriever lexical --out memory",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for step in steps:
            said = run(step)
            assert said.code == 0, said.err
    return folder
