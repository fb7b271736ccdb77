"""REVEAL over one memory of two sources: built, resumed, asked, grown; texts only, as anybody can have them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wellread.cli.main import main
from wellread.corpus.store import Corpus
from wellread.memory.store import Memory
from wellread.model import as_system, build_model, load_model, save_model
from wellread.nn.building import build_from_scratch
from wellread.pipeline import memorize_corpus, open_pipeline
from wellread.reading.frame import FrameConfig
from wellread.retrieval import open_index
from wellread.types import Passage

RIVERS = ("Vltava", "Danube", "Seine", "Thames", "Tiber", "Ebro")
CITIES = ("Prague", "Vienna", "Paris", "London", "Rome", "Zaragoza")
ENTRIES = [
    Passage(f"p{n}", f"The {river} flows through {city}.", river, source=("facts", "pages")[n % 2])
    for n, (river, city) in enumerate(zip(RIVERS, CITIES))
]
QUESTION = "Which river flows through Prague?"
OPTIONS = {"sources": ["facts", "pages"], "num_latents": 3, "key_dim": 8, "reencoded": 2}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("reveal")
    texts = [f"{item.title} {item.text}" for item in ENTRIES] * 4
    sizes = {"vocab_size": 200, "dim": 16, "layers": 4, "heads": 2, "decoder_layers": 1, "family": "bert"}
    model = build_model("reveal", OPTIONS, *build_from_scratch(texts, **sizes), frame=FrameConfig(answer_tokens=6))
    torch.nn.init.normal_(model.system.gate.weight, generator=torch.Generator().manual_seed(0))
    save_model(home / "model", model)
    memorize_corpus(Corpus.write(ENTRIES, home / "corpus"), load_model(home / "model"), home / "memory", progress=False)
    return home


def test_a_memory_holds_a_key_and_values_of_every_entry(home):
    memory, model = Memory.open(home / "memory"), load_model(home / "model")
    kept = memory.fetch([item.id for item in ENTRIES])
    wanted = model.encode(ENTRIES)
    assert kept.keys.shape == (6, 8)
    for row, each in enumerate(wanted):
        assert kept.states[row].shape == (3, 16)
        torch.testing.assert_close(kept.keys[row], each.keys)
        # Values are kept in bfloat16, eight bits.
        torch.testing.assert_close(kept.states[row].float(), each.states, rtol=1e-2, atol=1e-2)
    assert open_index(home / "memory" / "index").name == "reveal"


def test_what_is_found_is_what_the_reader_scores_highest(home):
    pipeline = open_pipeline(model=home / "model", memory=home / "memory")
    found = pipeline.retrieve([QUESTION], top_k=6)[0]
    answer = pipeline.ask([QUESTION], top_k=6)[0]
    scores = {passage.id: passage.score for passage in answer.passages}
    assert list(found.ids) == sorted(scores, key=scores.get, reverse=True)
    temperature = pipeline.model.system.config.temperature
    for name, score in zip(found.ids, found.scores):
        # The reader divides by the temperature and reads keys from memory, in float32 both times.
        assert scores[name] == pytest.approx(score / temperature, rel=1e-4)


def test_one_source_alone(home):
    pipeline = open_pipeline(model=home / "model", memory=home / "memory")
    found = pipeline.retrieve([QUESTION], top_k=6, where={"source": "pages"})[0]
    assert sorted(found.ids) == ["p1", "p3", "p5"]


def test_as_many_entries_are_read_as_in_training(home, tmp_path, capsys):
    """For it shares p(z|x) out among them; `--top-k` still decides, and a model that says nothing reads 20."""
    trained = replace(load_model(home / "model"), trained_with=2)
    model = load_model(save_model(tmp_path / "model", trained))
    assert (load_model(home / "model").trained_with, model.trained_with) == (None, 2)
    assert as_system(model, "reveal", OPTIONS).trained_with == 2
    answers = [open_pipeline(model=each, memory=home / "memory").ask([QUESTION])[0] for each in (model, home / "model")]
    assert [len(answer.passages) for answer in answers] == [2, len(ENTRIES)]
    asked = [{"question": QUESTION, "answers": ["Vltava"]} for _ in range(4)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    places = ["--model", str(tmp_path / "model"), "--memory", str(home / "memory"), "--json"]
    main(["eval", "--questions", str(tmp_path / "asked.jsonl"), *places])
    assert json.loads(capsys.readouterr().out)["settings"]["top_k"] == 2
    main(["ask", QUESTION, "--top-k", "3", *places])
    assert len(json.loads(capsys.readouterr().out)["passages"]) == 3


def test_the_verbs_work_as_for_every_system(home, capsys):
    command = ["ask", QUESTION, "--model", str(home / "model"), "--memory", str(home / "memory"), "--top-k", "3"]
    main([*command, "--json"])
    said = json.loads(capsys.readouterr().out)
    assert len(said["passages"]) == 3
    main([*command, "--set", "fusion=none", "--json"])
    assert json.loads(capsys.readouterr().out)["passages"][0]["share"] == 0


def test_entries_are_added_and_found(home, tmp_path, capsys):
    half, rest, memory, model = (tmp_path / "half", tmp_path / "rest", str(tmp_path / "memory"), str(home / "model"))
    Corpus.write(ENTRIES[:3], half)
    Corpus.write(ENTRIES[3:], rest)
    main(["memorize", str(half), "--model", model, "--out", memory])
    main(["memory", "add", memory, str(rest), "--model", model])
    whole, grown = (open_pipeline(model=model, memory=place) for place in (home / "memory", memory))
    found = [pipeline.retrieve([QUESTION], top_k=6)[0] for pipeline in (whole, grown)]
    assert found[0].ids == found[1].ids
    assert found[0].scores == pytest.approx(found[1].scores, abs=1e-5)


def test_an_entry_of_an_unknown_source(home, tmp_path, capsys):
    Corpus.write([Passage("x", "No source of ours.", source="web")], tmp_path / "corpus")
    model, memory = str(home / "model"), str(tmp_path / "memory")
    with pytest.raises(SystemExit) as stopped:
        main(["memorize", str(tmp_path / "corpus"), "--model", model, "--out", memory])
    assert stopped.value.code == 2
    assert "has source 'web', the model's gate knows facts, pages" in capsys.readouterr().err
