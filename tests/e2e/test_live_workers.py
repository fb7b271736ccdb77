"""Indexes made anew beside training: taken up when they are there, and workers that are killed, hang or are left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from live_kit import PASSAGES, made, recipe, rows, waiting_for

from wellread.corpus.store import Corpus
from wellread.model import load_model
from wellread.training import keys, live
from wellread.training.run import run_recipe


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("live"))


def test_the_loop_goes_over_to_the_new_index_when_it_is_there(home, tmp_path, monkeypatch):
    waiting_for(monkeypatch, lambda process: process.wait(60))
    run_recipe(recipe(home, steps=5, every=3), tmp_path, progress=False)
    assert [row["index_step"] for row in rows(tmp_path)] == [0, 0, 0, 3, 3]
    assert rows(tmp_path)[-1]["index_refreshes"] == 1
    # The weights the worker had are those the loop had: nothing is written while it steps.
    snapshot = load_model(tmp_path / "keys-snapshot")
    again = live.encode_keys(snapshot, [snapshot.frame.passages([each])[0] for each in PASSAGES])
    kept = live.np.load(tmp_path / "keys-000003.npy")
    assert abs(kept - again).max() < 1e-5  # float32 in batches of other sizes


def test_a_killed_worker_does_not_stop_training(home, tmp_path, monkeypatch, caplog):
    killed = []

    def kill(process) -> None:
        if len(killed) < 1:
            killed.append(process.pid)
            os.kill(process.pid, signal.SIGKILL)
        process.wait(60)

    waiting_for(monkeypatch, kill)
    report = run_recipe(recipe(home, steps=6, every=2), tmp_path, progress=False)
    assert report.finished
    assert len(killed) == 1
    found = [(row["step"], row["index_step"], row["index_age"], row["workers_died"]) for row in rows(tmp_path)]
    assert found[1:4] == [(2, 0, 2, 0), (3, 0, 3, 1), (4, 0, 4, 1)]
    assert found[-1] == (6, 4, 2, 1)  # made by the one that was started at the next refresh
    assert "the refresh ended with code -9; the index stays as it is" in caplog.text


@pytest.mark.parametrize("first", [True, False])
def test_a_worker_that_hangs_is_ended_for_a_new_one(home, tmp_path, monkeypatch, caplog, first):
    """The first of all, or one after a refresh that was done."""
    monkeypatch.setattr(live, "FIRST_PATIENCE" if first else "PATIENCE", 0.0)
    hung, seen = [], []

    def hang(process) -> None:
        if process.pid not in seen:
            seen.append(process.pid)
            if len(seen) == (1 if first else 2):
                hung.append(process)
                os.kill(process.pid, signal.SIGSTOP)
        if process not in hung:
            process.wait(60)

    waiting_for(monkeypatch, hang)
    run_recipe(recipe(home, steps=8, every=2), tmp_path, progress=False)
    assert hung[0].poll() == -signal.SIGKILL
    found = [(row["index_step"], row["workers_died"]) for row in rows(tmp_path)]
    assert found[4:] == ([(4, 1)] * 2 + [(6, 1)] * 2 if first else [(2, 0)] * 2 + [(6, 1)] * 2)
    assert "a refresh was not done after 0 seconds and is ended for a new one" in caplog.text


def test_a_worker_that_takes_its_time_is_left_to_it(home, tmp_path, monkeypatch, caplog):
    left = []
    waiting_for(monkeypatch, lambda process: left or left.append(os.kill(process.pid, signal.SIGSTOP)))
    run_recipe(recipe(home, steps=5, every=2), tmp_path, progress=False)
    assert rows(tmp_path)[-1]["workers_died"] == 0
    assert "an earlier refresh is not done at step 4; refresh less often" in caplog.text


def test_a_worker_ends_with_its_run(home, tmp_path, monkeypatch):
    left = []
    waiting_for(monkeypatch, left.append)
    run_recipe(recipe(home, steps=3, every=2), tmp_path, progress=False)
    assert left
    begun = time.monotonic()
    while left[0].poll() is None and time.monotonic() - begun < 10:
        time.sleep(0.05)
    assert left[0].poll() is not None


def test_a_worker_whose_run_is_gone_already_writes_nothing(home, tmp_path):
    """A run may be killed while its worker still imports; the one that goes on must not find its keys."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    keys.write_passages(tmp_path / "passages.npz", load_model(home / "model").frame.passages(PASSAGES))
    order = [home / "model", tmp_path / "passages.npz", tmp_path / "keys.npy", "fp32", "cpu"]
    for run, ended in ((gone.pid, 1), (os.getpid(), 0)):
        command = [sys.executable, "-m", "wellread.training.keys", *map(str, order), str(run)]
        worker = subprocess.run(command, check=False)
        assert worker.returncode == ended
        assert (tmp_path / "keys.npy").is_file() == (ended == 0)


def test_a_run_begun_anew_keeps_nothing_of_another_corpus(home, tmp_path, monkeypatch):
    waiting_for(monkeypatch, lambda process: process.wait(60))
    run_recipe(recipe(home, steps=4, every=2), tmp_path / "run", progress=False)
    Corpus.write([replace(each, text=f"Nothing of {each.title}.") for each in PASSAGES], tmp_path / "corpus")
    other = recipe(home, steps=4, every=2)
    other = replace(other, data=replace(other.data, corpus=tmp_path / "corpus"))
    run_recipe(other, tmp_path / "run", restart=True, progress=False)
    snapshot = load_model(tmp_path / "run" / "keys-snapshot")
    right = live.encode_keys(snapshot, snapshot.frame.passages(list(Corpus.open(tmp_path / "corpus"))))
    kept = live.np.load(tmp_path / "run" / "keys-000002.npy")
    assert abs(kept - right).max() < 1e-5  # float32 in batches of other sizes
