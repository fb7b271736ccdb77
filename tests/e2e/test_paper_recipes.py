"""Every recipe is valid; those of the papers train, at a size for tests, with all that is their own.

`reduced` is the way to try a full-size recipe without its checkpoint: the net, the token budgets and the number of
questions and steps are made small with --set, everything else stays as it stands.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from wellread.corpus.store import Corpus
from wellread.retrieval import RETRIEVERS
from wellread.training.config import Recipe, StageConfig
from wellread.training.recipes import load_recipe
from wellread.training.run import run_recipe
from wellread.types import Passage

ROOT = Path(__file__).parents[2]
PAPERS = ROOT / "recipes" / "papers"
# Files in a folder `parts` are there to be extended; they are no recipes alone.
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.toml") if path.parent.name != "parts")
PAPER_RECIPES = sorted(PAPERS.glob("*.toml"))
FROZEN = {"memory_fid", "lumen"}

SMALL = [
    "init.kind=scratch",
    "init.decoder_layers=2",
    "init.copy_head=false",
    "init.scratch.layers=2",
    "init.scratch.dim=16",
    "init.scratch.heads=2",
    "init.scratch.vocab_size=120",
    "training.steps=1",
    "training.batch_size=2",
    "training.accumulate=2",
    "dev.limit=1",
]


def reduced(path: Path) -> Recipe:
    """A paper's recipe around random weights: 2 layers of 16, an eighth of the tokens, 2 questions, one step."""
    frame = load_recipe(path).frame
    budgets = {
        name: max(getattr(frame, name) // 8, 6) for name in ("question_tokens", "passage_tokens", "answer_tokens")
    }
    return load_recipe(path, [*SMALL, *(f"frame.{name}={tokens}" for name, tokens in budgets.items())])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """What $WELLREAD_PAPERS names, with 30 made-up passages, made as recipes/papers/README.md says."""
    folder = tmp_path_factory.mktemp("papers")
    colours = ("red", "green", "blue")
    passages = [Passage(f"{n}", f"House number {n} is {colours[n % 3]}.", "Houses") for n in range(30)]
    Corpus.write(passages, folder / "wikipedia" / "corpus")
    corpus = Corpus.write(passages, folder / "kilt" / "corpus")
    RETRIEVERS["lexical"].build(corpus, folder / "kilt" / "index")
    asked = [(f"What colour is house {n}?", colours[n % 3]) for n in range(4)]
    found = [{"id": item.id, "title": item.title, "text": item.text} for item in passages]
    for name in ("nq", "triviaqa"):
        source = folder / "open_domain_data" / name
        source.mkdir(parents=True)
        rows = [{"question": question, "answers": [answer, "a colour"], "ctxs": found} for question, answer in asked]
        for part in ("train", "dev"):
            (source / f"{part}.json").write_text(json.dumps(rows))
        command = [sys.executable, str(PAPERS / "from_fid.py"), str(source), "--out", str(folder / name)]
        subprocess.run(command, check=True, timeout=60)
    (folder / "kilt" / "questions").mkdir()
    for name in ("nq", "triviaqa", "hotpotqa", "fever", "structured_zeroshot", "trex"):
        for part in ("train", "dev"):
            rows = [
                {"id": f"{name}-{part}-{n}", "input": question, "output": [{"answer": answer, "provenance": []}]}
                for n, (question, answer) in enumerate(asked)
            ]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / "kilt" / "questions" / f"{name}-{part}-kilt.jsonl").write_text(text)
    return folder


@pytest.fixture(autouse=True)
def _places(monkeypatch, tmp_path):
    for name in ("T5", "WELLREAD_PAPERS", "WELLREAD_DATA"):
        monkeypatch.setenv(name, os.environ.get(name, str(tmp_path)))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT / "recipes")))
def test_every_recipe_is_valid(path):
    recipe = load_recipe(path)
    assert bool(recipe.tasks) != bool(recipe.texts)


def test_every_part_is_used():
    def extended(path: Path) -> set[Path]:
        named = tomllib.loads(path.read_text(encoding="utf8")).get("extends", [])
        below = {path.parent / name for name in ([named] if isinstance(named, str) else named)}
        return below.union(*map(extended, below))

    used = set().union(*map(extended, RECIPES))
    assert set((ROOT / "recipes").rglob("parts/*.toml")) <= used


@pytest.mark.parametrize("path", PAPER_RECIPES, ids=lambda path: path.stem)
def test_the_header_says_how_and_at_what_cost(path):
    head = path.read_text(encoding="utf8").split("\n\n")[0].splitlines()
    said = {line[2:].partition(":")[0]: line.partition(":")[2].strip() for line in head if line[2:].partition(":")[1]}
    assert {"command", "before", "hardware", "time", "result"} <= set(said)
    assert said["command"].startswith(f"wellread train {path.relative_to(ROOT)} --out runs/papers/{path.stem}-")
    assert said["result"].startswith("not run here")


def test_the_values_are_those_of_the_papers():
    """LUMEN (2301.10448) and GLIMMER (2306.10231), section 4.1 of both."""
    for path in PAPER_RECIPES:
        recipe = load_recipe(path)
        training, frame, system = recipe.training, recipe.frame, recipe.system
        glimmer = system["name"] == "glimmer"
        assert (training.optimizer, training.learning_rate, training.schedule) == ("adafactor", 1e-4, "constant")
        assert training.batch_size == (128 if glimmer else 64)
        assert (frame.question_tokens, frame.passage_tokens) == (48, 304 if glimmer else 208)
        assert recipe.data.stages == (StageConfig(top_k=25 if glimmer else 20),)
        assert {task.weight for task in recipe.tasks.values()} == {1.0}  # "we sample uniformly from tasks"
        if system["name"] in ("lumen", "glimmer"):
            assert [round(system["live_share"] * layers) for layers in (12, 24)] == [4, 8]
        if glimmer:
            given = ("rerank_share", "keep", "distillation_weight", "distillation_temperature")
            assert [system[name] for name in given] == [0.25, 5, 1.0, 1.0]
    assert len(load_recipe(PAPERS / "glimmer_kilt.toml").tasks) == 6


@pytest.mark.parametrize("path", PAPER_RECIPES, ids=lambda path: path.stem)
def test_a_papers_recipe_trains(path, place, tmp_path, monkeypatch):
    monkeypatch.setenv("WELLREAD_PAPERS", str(place))
    recipe = reduced(path)
    name = recipe.system_name
    report = run_recipe(recipe, tmp_path, progress=False)
    assert (report.steps, report.finished) == (1, True)
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert {**record["system"], **recipe.system} == record["system"]  # every option reached the system
    assert set(record["tasks"]) == set(recipe.tasks)
    assert (record["weights"]["trained"] < record["weights"]["all"]) == (name in FROZEN)
    step, dev = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert step["learning_rate"] == 1e-4
    assert all(math.isfinite(step[key]) for key in ("loss", "nll", "grad_norm"))
    assert step["grad_norm"] > 0
    assert (step.get("distillation", 0.0) > 0) == (name == "glimmer")
    assert dev["dev"]["n"] == 1
    moments = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["optimizer"]["state"]
    assert any("row_var" in moment for moment in moments.values())  # Adafactor's factored second moments
