"""What the tests of live search share: rivers and cities, a tiny REALM, recipes, and steps that wait for a worker."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from wellread.cli.main import main
from wellread.corpus.store import Corpus
from wellread.model import build_model, load_model, save_model
from wellread.nn.masked_lm import masked_reader_from
from wellread.reading.frame import FrameConfig
from wellread.training import live
from wellread.training.recipes import parse_recipe
from wellread.types import Passage

RIVERS = ("Vltava", "Danube", "Seine", "Thames", "Tiber", "Ebro", "Rhine", "Oder")
CITIES = ("Prague", "Vienna", "Paris", "London", "Rome", "Zaragoza", "Cologne", "Wroclaw")
PASSAGES = [
    Passage(f"p{number}", f"The {river} is a river. It flows through the city of {city} on its way to the sea.", river)
    for number, (river, city) in enumerate(zip(RIVERS, CITIES))
]


def made(home: Path) -> Path:
    """The folder with model, corpus and questions of three kinds."""
    texts = [f"{item.title} {item.text}" for item in PASSAGES] * 4
    nets, tokenizer = masked_reader_from("scratch", texts=texts, vocab_size=200, dim=16, layers=2, heads=2, dropout=0.1)
    frame = FrameConfig(question="{question}", passage="{title} [SEP] {text}", passage_tokens=32, answer_tokens=6)
    save_model(home / "model", build_model("realm", {"tower_layers": 1}, nets, tokenizer, frame=frame))
    Corpus.write(PASSAGES, home / "corpus")
    masked = ["questions", "masked", str(home / "corpus"), "--finder", "rules", "--limit", "16", "--hide-own"]
    main([*masked, "--tokenizer", str(home / "model"), "--out", str(home / "masked.jsonl")])
    main(["questions", "cloze", str(home / "corpus"), "--limit", "8", "--out", str(home / "cloze.jsonl")])
    asked = [
        {"id": f"q{n}", "question": f"Which city is on the {river}?", "answers": [city]}
        for n, (river, city) in enumerate(zip(RIVERS, CITIES))
    ]
    (home / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    return home


def recipe(home: Path, *, steps: int, task: str = "masked", dev: bool = False, freeze=(), **kinds):
    table = {
        "system": {"name": "realm", "tower_layers": 1},
        "init": {"from": str(home / "model")},
        "training": {"steps": steps, "batch_size": 4, "learning_rate": 1e-3, "log_every": 1, "save_every": 3},
        "data": {"corpus": str(home / "corpus"), "live": kinds, "stages": [{"top_k": 3}]},
        "tasks": {task: {"questions": str(home / f"{task}.jsonl")}},
    }
    table["training"]["freeze"] = list(freeze)
    if dev:
        table["dev"] = {"questions": str(home / f"{task}.jsonl")}
    return parse_recipe(table)


def rows(folder: Path) -> list[dict]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "loss" in row]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder / "last").system.state_dict()


def waiting_for(monkeypatch, act) -> None:
    """Steps wait for `act` on the process that makes the new index, as long as there is one."""
    plain = live.LiveSearch.complete

    def complete(self, model, examples):
        if self.worker is not None:
            act(self.worker)
        return plain(self, model, examples)

    monkeypatch.setattr(live.LiveSearch, "complete", complete)
