"""Several processes train as one does. Run as a script, this file is one of the processes."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wellread.training.config import TrainingConfig
from wellread.training.loop import train
from wellread.training.processes import Processes, find_processes, pick_device

CONFIG = TrainingConfig(steps=3, batch_size=4, learning_rate=3e-3, log_every=1, save_every=2, optimizer="adafactor")


def from_file(path: Path):
    """A module of the tests, which are no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# A system whose losses are means over questions, and one that compares all questions of a step.
OPTIONS = {"glimmer": {"keep": 2}, "reatt": {}}
# A softmax over scores does not see a shift: the gradient of these is nothing but noise.
UNSEEN = ("scorer.bias", "attention.key.bias", "cross.key.bias")


def work(out: Path, tiny, processes: Processes, *, name: str, accumulate: int = 1) -> dict[str, torch.Tensor]:
    """Train a tiny system; questions differ in what there is to rank, so that parts differ in weight."""
    from wellread.model import Model
    from wellread.nn.tokenizers import train_tokenizer
    from wellread.reading.frame import Frame, FrameConfig

    source = from_file(Path(__file__).with_name("test_training_loop.py")).Source(tiny)
    tokenizer = train_tokenizer(["a few words are enough for this"], 100)
    # Another start in every process: the first one's weights count.
    system = tiny.system(name, **OPTIONS[name], seed=processes.rank)
    model = Model(name, system, Frame(FrameConfig(), tokenizer))
    config = replace(CONFIG, accumulate=accumulate)
    train(model, source, config, out=out, progress=False, processes=processes)
    return {name: value.clone() for name, value in system.state_dict().items()}


def main(out: Path, accumulate: int, name: str) -> None:
    from types import SimpleNamespace

    tests = from_file(Path(__file__).parents[1] / "conftest.py")
    tiny = SimpleNamespace(system=tests.tiny_system, batch=tests.tiny_batch, target=tests.tiny_target)
    torch.set_num_threads(1)
    processes = find_processes()
    assert (processes.count, processes.device.type) == (2, "cpu")
    weights = work(out, tiny, processes, name=name, accumulate=accumulate)
    torch.save(weights, out / f"rank{processes.rank}.pt")
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize("name", OPTIONS)
def test_two_processes_give_the_weights_of_one(tiny, tmp_path, name):
    port, running = free_port(), []
    for rank in range(2):
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        env = {**os.environ, **{key: str(value) for key, value in places.items()}, "ACCELERATE_USE_CPU": "true"}
        command = [sys.executable, __file__, str(tmp_path / "two"), "2", name]
        running.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    (tmp_path / "two").mkdir()
    one = work(tmp_path / "one", tiny, Processes(), name=name)
    start = tiny.system(name, **OPTIONS[name], seed=0).state_dict()
    for process in running:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    first, second = (torch.load(tmp_path / "two" / f"rank{rank}.pt") for rank in range(2))
    for weight in one:
        assert torch.equal(first[weight], second[weight])
        if weight.endswith(UNSEEN):
            continue
        moved = (one[weight] - start[weight]).norm()
        # The same sums in another order: fp32 noise, which the optimiser's division may enlarge.
        assert (one[weight] - first[weight]).norm() <= 1e-2 * moved + 1e-6
    assert len((tmp_path / "two" / "log.jsonl").read_text().splitlines()) == 3


def test_a_process_alone_does_nothing_extra(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = find_processes()
    assert (alone.rank, alone.count, alone.main, alone.device) == (0, 1, True, None)
    values = torch.tensor([1.0, 2.0])
    assert alone.sum(values) is values


def test_devices():
    assert pick_device("cpu", Processes()).type == "cpu"
    with pytest.raises(ValueError, match=r"training.device='gpu' is unknown; use \"auto\", \"cpu\" or \"cuda\""):
        pick_device("gpu", Processes())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
