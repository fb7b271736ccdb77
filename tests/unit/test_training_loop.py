"""The loop: it learns, it can be stopped and killed anywhere, and pieces make no difference."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from wellread.model import Model, load_model
from wellread.nn.tokenizers import train_tokenizer
from wellread.reading.frame import Frame, FrameConfig
from wellread.training import checkpoint as files
from wellread.training.config import TrainingConfig
from wellread.training.loop import train
from wellread.types import CandidateBatch, Inputs, TrainingBatch

CONFIG = TrainingConfig(steps=6, batch_size=4, learning_rate=3e-3, log_every=1, save_every=2, clip=1.0)


def rows_of(batch: TrainingBatch, rows: slice) -> TrainingBatch:
    def cut(value):
        return value[rows] if isinstance(value, torch.Tensor) else value

    inputs = Inputs(*map(cut, (batch.inputs.tokens, batch.inputs.mask)))
    names = ("tokens", "mask", "exists", "scores", "states")
    parts = {name: cut(getattr(batch.candidates, name)) for name in names}
    candidates = CandidateBatch(**parts, ids=batch.candidates.ids[rows])
    return TrainingBatch(inputs, candidates, cut(batch.target), cut(batch.target_mask))


class Source:
    """Random batches, four questions each; at="step -> call" lets a test interfere."""

    def __init__(self, tiny, *, same: bool = False, at=None) -> None:
        self.tiny, self.same, self.at, self.asked = tiny, same, at or {}, []

    def batch(self, step: int, part: int = 0, parts: int = 1) -> TrainingBatch:
        self.asked.append(step)
        if step in self.at:
            self.at[step]()
        seed = 0 if self.same else step
        inputs, candidates = self.tiny.batch(batch=4, passages=3, seed=seed)
        exists = candidates.exists.clone()
        exists[0, 1:] = False  # nothing to rank for this question: pieces differ in what losses are means over
        candidates = replace(candidates, exists=exists, mask=candidates.mask & exists[..., None])
        whole = TrainingBatch(inputs, candidates, *self.tiny.target(4, seed=seed))
        size = 4 // parts
        return rows_of(whole, slice(part * size, (part + 1) * size))


@pytest.fixture
def make(tiny):
    """A tiny model: its tokenizer is only there to be saved with it."""
    tokenizer = train_tokenizer(["a few words are enough for this"], 100)

    def model(name: str = "glimmer", **options) -> Model:
        if name == "glimmer":
            options = {"keep": 2, **options}
        return Model(name, tiny.system(name, **options), Frame(FrameConfig(), tokenizer))

    return model


def with_dropout(model: Model, rate: float = 0.2) -> Model:
    """The same model with dropout, so that the random numbers of every step count."""
    found = [part for part in model.system.modules() if isinstance(getattr(part, "dropout", None), float)]
    assert found
    for part in found:
        part.dropout = rate
    return model


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.system.state_dict().items()}


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def log_of(out: Path) -> list[dict]:
    """The log without what the clock decides."""
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    clock = ("seconds", "questions_per_second", "waited")
    return [{key: value for key, value in row.items() if key not in clock} for row in rows]


# -- learning ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fid", "lumen", "glimmer"])
def test_the_loss_goes_down_and_the_model_is_saved(make, tiny, tmp_path, name):
    config = replace(CONFIG, steps=40, learning_rate=1e-2, save_every=0, log_every=5)
    model = make(name)
    report = train(model, Source(tiny, same=True), config, out=tmp_path, progress=False)
    log = log_of(tmp_path)
    assert log[-1]["nll"] < 0.5 * log[0]["nll"]
    assert [row["step"] for row in log] == list(range(5, 41, 5))
    assert (report.steps, report.best, report.checkpoint, report.finished) == (40, None, tmp_path / "last", True)
    assert_same(weights(load_model(tmp_path / "last")), weights(model))


def test_the_log_says_what_happened(make, tiny, tmp_path):
    train(make(), Source(tiny), replace(CONFIG, log_every=3), out=tmp_path, progress=False)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6]
    for row in rows:
        assert row["loss"] == pytest.approx(row["nll"] + row["distillation"])
        assert row["learning_rate"] == CONFIG.learning_rate
        assert row["grad_norm"] > 0
        assert row["questions_per_second"] == pytest.approx(12 / row["seconds"], rel=0.05)  # both are rounded
        assert 0 <= row["waited"] <= row["seconds"]


def test_frozen_parts_keep_every_bit(make, tiny, tmp_path):
    model = make("lumen", train_memory=False)
    frozen = [name for name, weight in model.system.named_parameters() if not weight.requires_grad]
    before = weights(model)
    config = replace(CONFIG, weight_decay=0.1)
    train(model, Source(tiny), config, out=tmp_path, progress=False)
    after = weights(model)
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_bf16_reaches_every_weight_that_fp32_reaches(make, tiny, tmp_path):
    moved = {}
    for precision in ("fp32", "bf16"):
        model = make()
        before = weights(model)
        config = replace(CONFIG, steps=2, precision=precision, learning_rate=1e-2)
        train(model, Source(tiny), config, out=tmp_path / precision, progress=False)
        after = weights(model)
        assert all(value.dtype == torch.float32 for value in after.values())
        moved[precision] = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved["bf16"] == moved["fp32"]
    # GLIMMER reads once without a gradient before it reads with one; the decoder must not miss out on it.
    assert any("decoder" in name for name in moved["bf16"])
    full, half = log_of(tmp_path / "fp32")[0], log_of(tmp_path / "bf16")[0]
    assert full["nll"] != half["nll"]
    assert full["nll"] == pytest.approx(half["nll"], rel=0.03)  # bf16 has 8 bits: 0.4 % an operation


# -- pieces ------------------------------------------------------------------------------------------------


def test_accumulating_pieces_gives_the_same_as_the_whole(make, tiny, tmp_path):
    found = {}
    for accumulate in (1, 2, 4):
        model = make()
        config = replace(CONFIG, accumulate=accumulate, steps=3, optimizer="adafactor")
        train(model, Source(tiny), config, out=tmp_path / str(accumulate), progress=False)
        found[accumulate] = (weights(model), log_of(tmp_path / str(accumulate)))
    start = weights(make())
    for accumulate in (2, 4):
        for name, value in found[1][0].items():
            if name == "scorer.bias":
                continue  # a softmax over scores does not see a shift: its gradient is nothing but noise
            moved = (value - start[name]).norm()
            # The same sums in another order: fp32 noise, which the optimiser's division may enlarge.
            assert (value - found[accumulate][0][name]).norm() <= 1e-2 * moved + 1e-6
        for one, other in zip(found[1][1], found[accumulate][1], strict=True):
            assert one == pytest.approx(other, rel=1e-3)


def test_pieces_of_questions_that_take_no_part_change_nothing(make, tiny, tmp_path):
    """One has a mask too many; three can be answered."""

    class Mixed(Source):
        def batch(self, step: int, part: int = 0, parts: int = 1) -> TrainingBatch:
            whole = super().batch(step)
            whole.target_mask[1, 2:] = False
            return rows_of(whole, slice(part * 4 // parts, (part + 1) * 4 // parts))

    logs = []
    for accumulate in (1, 2, 4):
        model = replace(make(), name="realm", system=tiny.system("realm", "bert", tower_layers=2))
        config = replace(
            CONFIG, accumulate=accumulate, steps=3, optimizer="adafactor", save_every=0, learning_rate=1e-4
        )
        train(model, Mixed(tiny), config, out=tmp_path / str(accumulate), progress=False)
        logs.append(log_of(tmp_path / str(accumulate)))
    for one, *others in zip(*logs, strict=True):
        assert one["answerable"] == 0.75
        assert one["nll"] > 1
        for other in others:
            assert other == pytest.approx(one, rel=1e-3)


def test_a_run_that_learns_nothing_from_any_question_is_told(make, tiny, tmp_path):
    class Cut(Source):
        def batch(self, step: int, part: int = 0, parts: int = 1) -> TrainingBatch:
            whole = super().batch(step)
            whole.target_mask[:, 1:] = False
            return whole

    model = replace(make(), name="realm", system=tiny.system("realm", "bert", tower_layers=2))
    with pytest.raises(ValueError, match="none of the last 4 questions can be answered from what was read"):
        train(model, Cut(tiny), replace(CONFIG, steps=1, save_every=0), out=tmp_path, progress=False)


def test_activation_checkpointing_changes_nothing(make, tiny, tmp_path):
    found = []
    for on in (False, True):
        model = with_dropout(make())
        config = replace(CONFIG, steps=2, activation_checkpointing=on)
        seen = []
        able = [part for part in model.system.modules() if hasattr(part, "gradient_checkpointing")]
        look = partial(lambda able, seen: seen.append([part.gradient_checkpointing for part in able]), able, seen)
        train(model, Source(tiny, at={1: look}), config, out=tmp_path / str(on), progress=False)
        found.append(weights(model))
        assert able
        assert seen == [[on] * len(able)]
        assert not any(getattr(part, "gradient_checkpointing", False) for part in model.system.modules())
    for name in found[0]:
        # Layers are computed twice by the same kernels.
        assert torch.allclose(found[0][name], found[1][name], atol=1e-6)


# -- stopping and going on -----------------------------------------------------------------------------------


def stop_at(step: int):
    """While the batch of `step` is made, which is during the step before."""
    return {step: lambda: os.kill(os.getpid(), signal.SIGTERM)}


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_stopped_run_goes_on_bit_for_bit(make, tiny, tmp_path, optimizer):
    config = replace(CONFIG, steps=7, optimizer=optimizer, log_every=2, schedule="linear", warmup=2)
    whole = with_dropout(make())
    train(whole, Source(tiny), config, out=tmp_path / "whole", progress=False)

    handler = signal.getsignal(signal.SIGTERM)
    stopped = train(with_dropout(make()), Source(tiny, at=stop_at(3)), config, out=tmp_path / "cut", progress=False)
    assert not stopped.finished
    assert 3 <= stopped.steps < 7
    assert signal.getsignal(signal.SIGTERM) is handler
    assert stopped.checkpoint == tmp_path / "cut" / "last"

    rest, source = with_dropout(make()), Source(tiny)
    torch.rand(5)  # another random state than the first time
    report = train(rest, source, config, out=tmp_path / "cut", progress=False)
    assert report.finished
    assert source.asked == list(range(stopped.steps, 7))
    assert_same(weights(rest), weights(whole))
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")


def test_a_killed_run_goes_on_from_its_last_checkpoint(make, tiny, tmp_path):
    whole = with_dropout(make())
    train(whole, Source(tiny), CONFIG, out=tmp_path / "whole", progress=False)

    def fall():
        raise RuntimeError("power is gone")

    with pytest.raises(RuntimeError, match="power is gone"):
        train(with_dropout(make()), Source(tiny, at={5: fall}), CONFIG, out=tmp_path / "cut", progress=False)
    rest, source = with_dropout(make()), Source(tiny)
    train(rest, source, CONFIG, out=tmp_path / "cut", progress=False)
    assert source.asked == [4, 5]
    assert_same(weights(rest), weights(whole))
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")


def test_a_finished_run_is_not_trained_again(make, tiny, tmp_path):
    first = make()
    train(first, Source(tiny), CONFIG, out=tmp_path, progress=False)
    again, source = make(), Source(tiny)
    report = train(again, source, CONFIG, out=tmp_path, progress=False)
    assert (report.steps, report.finished, source.asked) == (6, True, [])
    assert_same(weights(again), weights(first))


def test_the_callers_random_state_is_left_alone(make, tiny, tmp_path):
    model = with_dropout(make())
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(model, Source(tiny), CONFIG, out=tmp_path, progress=False)
    assert torch.equal(torch.rand(4), expected)


# -- files ---------------------------------------------------------------------------------------------------


def test_a_checkpoint_killed_half_way_leaves_the_one_before(tmp_path, monkeypatch):
    files.write_checkpoint(tmp_path, {"step": 1})

    def half(state, file):
        file.write(b"PK\x03\x04 half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(files.torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        files.write_checkpoint(tmp_path, {"step": 2})
    assert files.read_checkpoint(tmp_path)["step"] == 1


def test_a_damaged_checkpoint_is_told(tmp_path):
    path = files.write_checkpoint(tmp_path, {"step": 1})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"checkpoint.pt is damaged .* restart the run with --restart"):
        files.read_checkpoint(tmp_path)
    torch.save({"format": 99}, path)
    with pytest.raises(ValueError, match="has format 99; this version reads format 1"):
        files.read_checkpoint(tmp_path)


@pytest.mark.parametrize("kill_after", [0, 1])
def test_a_folder_killed_between_its_moves_is_settled(tmp_path, monkeypatch, kill_after):
    folder = tmp_path / "best"
    files.replace_folder(folder, lambda path: (path.mkdir(), (path / "x").write_text("old")))
    moves, move = [], os.replace

    def moved(one, other):
        if len(moves) == kill_after:
            raise KeyboardInterrupt
        moves.append(one)
        move(one, other)

    monkeypatch.setattr(files.os, "replace", moved)
    with pytest.raises(KeyboardInterrupt):
        files.replace_folder(folder, lambda path: (path.mkdir(), (path / "x").write_text("new")))
    monkeypatch.undo()
    files.settle_folder(folder)
    assert (folder / "x").read_text() == "old"
    files.replace_folder(folder, lambda path: (path.mkdir(), (path / "x").write_text("new")))
    assert (folder / "x").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_rows_after_the_checkpoint_are_dropped_from_the_log(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "lo')
    log = files.RunLog(tmp_path, step=2)
    log.write({"step": 3})
    assert log_of(tmp_path) == [{"step": 1}, {"step": 2}, {"step": 3}]


# -- choosing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "values", "best"), [("em", [10.0, 30.0, 20.0], 30.0), ("nll", [3.0, 1.0, 2.0], 1.0)]
)
def test_the_best_weights_are_kept(make, tiny, tmp_path, metric, values, best):
    seen = []

    def evaluate(model: Model) -> dict[str, float]:
        assert not model.system.training
        seen.append(weights(model))
        return {metric: values[len(seen) - 1]}

    config = replace(CONFIG, evaluate_every=2, keep_best=metric)
    model = make()
    report = train(model, Source(tiny), config, out=tmp_path, evaluate=evaluate, progress=False)
    assert (report.best, report.checkpoint) == (best, tmp_path / "best")
    assert_same(weights(load_model(tmp_path / "best")), seen[1])
    assert_same(weights(load_model(tmp_path / "last")), weights(model))
    dev = [row for row in log_of(tmp_path) if "dev" in row]
    assert [(row["step"], row["dev"][metric], row["best"]) for row in dev] == [
        (2, values[0], True),
        (4, values[1], True),
        (6, values[2], False),
    ]


def test_a_metric_that_was_not_measured_is_told(make, tiny, tmp_path):
    config = replace(CONFIG, keep_best="bleu")
    with pytest.raises(ValueError, match=r"training.keep_best='bleu' was not measured; use one of: em"):
        train(make(), Source(tiny), config, out=tmp_path, evaluate=lambda model: {"em": 1.0}, progress=False)


def test_too_many_parts_are_told(make, tiny, tmp_path):
    from wellread.training.processes import Processes

    with pytest.raises(ValueError, match=r"batch_size=4 but a step has 6 parts \(accumulate=2 in 3 processes\)"):
        train(make(), Source(tiny), replace(CONFIG, accumulate=2), out=tmp_path, processes=Processes(0, 3))


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(make, tiny, tmp_path):
    model = make()
    with torch.no_grad():
        model.system.reader.decoder.embed_tokens.weight[5] = float("inf")
    config = replace(CONFIG, log_every=100)
    with pytest.raises(ValueError, match=r"training went astray before step 2: .*nan.* Lower training.learning_rate"):
        train(model, Source(tiny), config, out=tmp_path, progress=False)
    assert not files.has_checkpoint(tmp_path)
