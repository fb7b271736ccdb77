"""memorize survives kill -9 at any moment: 20 kills, and the memory is the same to the bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from wellread.memory.build import memorize
from wellread.memory.store import Memory

KILLS = 20
CODECS = ("pq8", "int8")

SETTING = """
import time
import numpy as np, torch
from wellread.memory.fingerprint import Fingerprint
from wellread.memory.rows import Encoded
from wellread.types import Passage

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
table = torch.randn(64, 16, generator=generator)
mix = torch.randn(16, 16, generator=generator) / 4
PASSAGES = [Passage(f"p{i}", " ".join(str((i * k) % 64) for k in range(1, 3 + i * 5 % 9)), f"T{i}", {"n": i})
            for i in range(400)]

def encode(passages):
    "A tiny attention layer over padded batches; its states depend on who shares the batch."
    rows = [[int(word) for word in item.text.split()] for item in passages]
    padded = torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])
    x = table[padded]
    states = torch.softmax(x @ mix @ x.transpose(1, 2) / 4, -1) @ x
    return [Encoded(np.array(row), states[i, : len(row)]) for i, row in enumerate(rows)]

OPTIONS = dict(fingerprint=Fingerprint("e", "t", "1 of 2", "{text}", "rule"), dim=16, batch_size=4,
               commit_every=8, sample_tokens=60, progress=False)
"""

# One process imports everything once and forks a worker for every line "DIRECTORY CODEC" it gets. Lance warns
# about forks because its threads do not survive them; here it has none yet, the workers are the first to use it.
NURSERY = """
import os, sys, warnings
from wellread.memory.build import memorize

warnings.filterwarnings("ignore", message="lance is not fork-safe")

def say(words):
    os.write(1, (words + "\\n").encode())

def slowly(batch):
    say("batch")
    time.sleep(0.004)
    return encode(batch)

for line in sys.stdin:
    worker = os.fork()
    if not worker:
        out, codec = line.split()
        memorize(PASSAGES, slowly, out, codec=codec, **OPTIONS)
        os._exit(0)
    say(f"worker {worker}")
    say(f"ended {os.waitpid(worker, 0)[1]}")
"""


class Nursery:
    """Starts builds in processes of their own, kills them, and says how they ended."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SETTING + NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def build_and_kill(self, out: Path, codec: str, *, batches: int, seconds: float) -> bool:
        """Kill a build some time after it began its nth batch; False if it ended before."""
        self.process.stdin.write(f"{out} {codec}\n")
        self.process.stdin.flush()
        worker, begun, ended = None, 0, None
        while (worker is None or begun < batches) and ended is None:
            word, _, value = self.process.stdout.readline().strip().partition(" ")
            worker = int(value) if word == "worker" else worker
            ended = int(value) if word == "ended" else ended
            begun += word == "batch"
        time.sleep(seconds)
        if ended is None:
            os.kill(worker, signal.SIGKILL)
        while ended is None:
            word, _, value = self.process.stdout.readline().strip().partition(" ")
            ended = int(value) if word == "ended" else None
        return os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGKILL

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def test_twenty_kills_leave_no_trace(tmp_path: Path) -> None:
    space: dict = {}
    exec(SETTING, space)
    passages, encode, options = space["PASSAGES"], space["encode"], space["OPTIONS"]
    expected = {}
    for codec in CODECS:
        memorize(passages, encode, tmp_path / codec, codec=codec, **options)
        expected[codec] = Memory.open(tmp_path / codec).content_hash()

    draw = random.Random(0)
    stored: dict[str, set[int]] = {codec: set() for codec in CODECS}
    nursery = Nursery()
    for number in range(KILLS):
        codec = CODECS[number % len(CODECS)]
        out = tmp_path / f"killed-{codec}"
        # A commit is due every two batches, so counting them makes progress however slow the machine is; the
        # time on top hits what happens between two batches.
        killed = nursery.build_and_kill(out, codec, batches=draw.randrange(8), seconds=draw.uniform(0, 0.02))
        assert killed, "the build ended before it could be killed; make it longer"
        if (out / "memory.json").exists():
            stored[codec].add(len(Memory.open(out)))  # readable at any moment
    nursery.close()

    for codec in CODECS:
        out = tmp_path / f"killed-{codec}"
        # Kills that all hit before the first commit, or between the same two, would prove nothing.
        assert len(stored[codec]) >= 4, f"{codec}: the kills hit only at {sorted(stored[codec])} passages"
        report = memorize(passages, encode, out, codec=codec, **options)
        assert max(stored[codec]) == report.resumed_from < report.passages
        memory = Memory.open(out)
        assert memory.content_hash() == expected[codec]
        assert memory.verify()["ok"]
