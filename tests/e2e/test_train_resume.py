"""`wellread train` from documents to a model: stopped, gone on with, refused, restarted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from wellread.cli.main import main
from wellread.corpus.store import Corpus
from wellread.memory.build import memorize
from wellread.model import load_model
from wellread.retrieval import RETRIEVERS
from wellread.training.recipes import load_recipe
from wellread.training.run import check_resumable, run_recipe
from wellread.types import Passage

COLOURS = ("red", "green", "blue", "white")
RECIPE = """
[init]
kind = "scratch"
decoder_layers = 1
[init.scratch]
family = "bert"
vocab_size = 200
dim = 32
layers = 2
heads = 2
[system]
name = "lumen"
live_share = 0.5
[frame]
passage_tokens = 24
answer_tokens = 4
[data]
corpus = "{place}/corpus"
index = "{place}/index"
[[data.stages]]
top_k = 3
gold_share = 1.0
[tasks.houses]
questions = "{place}/questions.jsonl"
[dev]
questions = "{place}/questions.jsonl"
limit = 8
[training]
steps = 12
batch_size = 4
learning_rate = 3e-3
schedule = "linear"
log_every = 1
save_every = 4
evaluate_every = 6
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("houses")
    passages = [Passage(f"p{n}", f"House number {n} is {COLOURS[n % 4]}.", "Houses") for n in range(16)]
    RETRIEVERS["lexical"].build(Corpus.write(passages, folder / "corpus"), folder / "index")
    rows = [
        {"id": f"q{n}", "question": f"What is house {n}?", "answers": [COLOURS[n % 4]], "positive": [f"p{n}"]}
        for n in range(16)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.toml").write_text(RECIPE.replace("{place}", str(folder)))
    return folder


def wellread(capsys, *arguments: object) -> dict:
    main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_run_from_a_recipe(place, tmp_path, capsys):
    report = wellread(capsys, "train", place / "recipe.toml", "--out", tmp_path)
    assert report["steps"] == 12
    assert report["finished"] is True
    assert report["checkpoint"] == str(tmp_path / "best")
    model = load_model(tmp_path / "best")
    assert (model.name, model.frame.config.passage_tokens, model.trained_with) == ("lumen", 24, 3)
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert record["recipe"]["training"]["steps"] == 12
    assert record["recipe"]["training"]["weight_decay"] == 0.0
    assert record["system"]["live_share"] == 0.5
    assert record["tasks"] == {"houses": {"questions": 16, "without_answer": 0, "without_candidates": 0}}
    assert 0 < record["weights"]["trained"] < record["weights"]["all"]
    assert record["packages"]["torch"] == torch.__version__
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["dev"]["n"] for row in rows if "dev" in row] == [8, 8]
    assert report["best"] == max(row["dev"]["em"] for row in rows if "dev" in row)


def test_sigterm_then_the_same_command_is_an_unbroken_run(place, tmp_path, capsys):
    steps = ("--set", "training.steps=60", "--set", "training.evaluate_every=0")
    whole = wellread(capsys, "train", place / "recipe.toml", "--out", tmp_path / "whole", *steps)
    cut = tmp_path / "cut"
    # As many threads as here: sums are split over them, and their last bits depend on it.
    command = [
        sys.executable,
        "-c",
        "import torch; torch.set_num_threads(1); from wellread.cli.main import main; main()",
    ]
    command += ["train", str(place / "recipe.toml"), "--out", str(cut), *steps, "--json"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (cut / "log.jsonl").is_file() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)
    out, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    stopped = json.loads(out)
    assert not stopped["finished"]
    assert 0 < stopped["steps"] < 60
    assert f"stopped after step {stopped['steps']} of 60; run the same command again to go on." in said
    resumed = wellread(capsys, "train", place / "recipe.toml", "--out", cut, *steps)
    assert (resumed["steps"], resumed["best"]) == (60, whole["best"])
    one, other = weights(tmp_path / "whole" / "last"), weights(cut / "last")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_stopped_run_says_so_and_goes_on_to_the_same_losses(place, tmp_path):
    """What a program that trains by `run_recipe` relies on, such as the demo: it sees that the run was stopped."""
    recipe = load_recipe(place / "recipe.toml", ["training.evaluate_every=5"])
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def run(out: str, *, stop: bool = False):
        def evaluate(model) -> dict[str, float]:
            if stop:
                signal.raise_signal(signal.SIGTERM)
            return {"em": 0.0}

        return run_recipe(recipe, tmp_path / out, lambda recipe, model: evaluate, progress=False)

    def losses(out: str) -> list[tuple[int, float]]:
        rows = [json.loads(line) for line in (tmp_path / out / "log.jsonl").read_text().splitlines()]
        return [(row["step"], row["nll"]) for row in rows if "nll" in row]

    whole, stopped = run("whole"), run("cut", stop=True)
    assert (whole.steps, whole.finished) == (12, True)
    assert (stopped.steps, stopped.finished) == (6, False)  # told after step 5, it ends the step it is in
    assert losses("cut") == losses("whole")[:6]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    resumed = run("cut")
    assert (resumed.steps, resumed.finished) == (12, True)
    assert losses("cut") == losses("whole")


def test_another_recipe_is_refused_and_restart_begins_anew(place, tmp_path, capsys):
    start = ("train", place / "recipe.toml", "--out", tmp_path, "--set", "training.steps=2")
    wellread(capsys, *start)
    with pytest.raises(SystemExit) as caught:
        main([*map(str, start), "--set", "training.learning_rate=0.1", "--set", "data.stages.0.top_k=2"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "data.stages[0].top_k was 3 and is 2; training.learning_rate was 0.003 and is 0.1" in said
    assert "--restart to begin anew" in said
    other = [*start, "--set", "training.learning_rate=0.1", "--restart"]
    assert wellread(capsys, *other)["steps"] == 2
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[1])["learning_rate"] == 0.05


def test_what_does_not_change_the_outcome_may_change(place, tmp_path):
    recipe = load_recipe(place / "recipe.toml", ["training.steps=1", "training.schedule=constant"])
    run_recipe(recipe, tmp_path, progress=False)
    longer = ["training.steps=2", "training.schedule=constant", "training.save_every=1"]
    check_resumable(load_recipe(place / "recipe.toml", longer), tmp_path)
    with pytest.raises(ValueError, match=r"training.steps was 1 and is 2; training.schedule was 'constant' and is"):
        check_resumable(load_recipe(place / "recipe.toml", ["training.steps=2"]), tmp_path)


def test_states_from_memory_train_like_states_encoded_now(place, tmp_path):
    few = ["training.steps=3", "training.evaluate_every=0"]
    encoded = run_recipe(load_recipe(place / "recipe.toml", few), tmp_path / "encoded", progress=False)
    # Its memory encoder is frozen, so it is still the one that both runs start from.
    model = load_model(encoded.checkpoint)
    corpus = Corpus.open(place / "corpus")
    encode, fingerprint, dim = model.encoder_for_memory()
    memorize(corpus, encode, tmp_path / "memory", codec="bf16", fingerprint=fingerprint, dim=dim, progress=False)
    recipe = load_recipe(place / "recipe.toml", [*few, f"data.memory={tmp_path}/memory"])
    run_recipe(recipe, tmp_path / "stored", progress=False)
    first_rows = [(tmp_path / name / "log.jsonl").read_text().splitlines()[0] for name in ("encoded", "stored")]
    logs = [json.loads(row)["nll"] for row in first_rows]
    assert logs[0] != logs[1]
    assert logs[0] == pytest.approx(logs[1], rel=0.01)  # bf16 has 8 bits: 0.4 % a number


def test_messages_about_memory(place, tmp_path):
    def run(*settings: str) -> None:
        recipe = load_recipe(place / "recipe.toml", [f"data.memory={tmp_path}/none", *settings])
        run_recipe(recipe, tmp_path / "run", progress=False)

    with pytest.raises(ValueError, match=r"but the memory encoder is trained.* set system.train_memory = false"):
        run("system.train_memory=true")
    recipe = load_recipe(place / "recipe.toml", [f"data.memory={tmp_path}/none"])
    with pytest.raises(ValueError, match=r"reads no stored states; leave data.memory out"):
        run_recipe(type(recipe)(**{**vars(recipe), "system": {"name": "fid"}}), tmp_path / "run", progress=False)


def test_going_on_from_a_model_takes_its_weights(place, tmp_path):
    few = ["training.steps=2", "training.evaluate_every=0"]
    first = run_recipe(load_recipe(place / "recipe.toml", few), tmp_path / "first", progress=False)
    again = [*few, f"init.from={first.checkpoint}", "init.kind=auto", "training.learning_rate=1e-12"]
    second = run_recipe(load_recipe(place / "recipe.toml", again), tmp_path / "second", progress=False)
    one, other = weights(first.checkpoint), weights(second.checkpoint)
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], atol=1e-9) for name in one)
    swapped = [*again, "system.name=glimmer", "system.keep=1", "system.question_encoder=separate"]
    third = weights(
        run_recipe(load_recipe(place / "recipe.toml", swapped), tmp_path / "third", progress=False).checkpoint
    )
    assert all(torch.allclose(one[name], third[name], atol=1e-9) for name in one)
    assert "scorer.weight" in third


def test_no_folder_is_told(place):
    with pytest.raises(ValueError, match="no folder for the run; give --out DIR"):
        run_recipe(load_recipe(place / "recipe.toml"))


def test_a_folder_that_holds_no_model_is_told(place, tmp_path):
    recipe = load_recipe(place / "recipe.toml", [f"init.from={tmp_path}", "init.kind=auto"])
    with pytest.raises(ValueError, match=r"holds neither system.json nor config.json; give a model folder"):
        run_recipe(recipe, tmp_path / "run", progress=False)
    assert not os.path.exists(tmp_path / "run" / "recipe.json")


def test_parts_are_transferred_from_another_run(place, tmp_path):
    few = ["training.steps=2", "training.evaluate_every=0"]
    first = run_recipe(load_recipe(place / "recipe.toml", few), tmp_path / "first", progress=False)
    still = [*few, "training.learning_rate=1e-12", "init.seed=1"]
    taken = [*still, f"transfer.from={first.checkpoint}", 'transfer.parts=["decoder"]']
    second = run_recipe(load_recipe(place / "recipe.toml", taken), tmp_path / "second", progress=False)
    one, other = weights(first.checkpoint), weights(second.checkpoint)
    same = {name for name in one if torch.allclose(one[name], other[name], atol=1e-9)}
    decoder = {name for name in one if name.startswith(("reader.decoder.", "reader.copy."))}
    assert decoder <= same
    assert "reader.encoder.layers.0.attention.query.weight" not in same
