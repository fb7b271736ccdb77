"""memorize survives kill -9 at any moment: 20 kills, and the memory is the same to the bit."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from wellread.memory.build import memorize
from wellread.memory.store import Memory

KILLS = 20
CODECS = ("pq8", "int8")

# The worker imports everything, says so, and waits for a line before it works: the next one warms up meanwhile.
WORKER = '''
import sys, time
import numpy as np, torch
from wellread.memory.build import memorize
from wellread.memory.fingerprint import Fingerprint
from wellread.memory.rows import Encoded
from wellread.types import Passage

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
table = torch.randn(64, 16, generator=generator)
mix = torch.randn(16, 16, generator=generator) / 4
PASSAGES = [Passage(f"p{i}", " ".join(str((i * k) % 64) for k in range(1, 3 + i * 5 % 9)), f"T{i}", {"n": i})
            for i in range(PASSAGE_COUNT)]

def encode(passages, pause=0.0):
    """A tiny attention layer over padded batches; its states depend on who shares the batch."""
    rows = [[int(word) for word in item.text.split()] for item in passages]
    padded = torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])
    x = table[padded]
    states = torch.softmax(x @ mix @ x.transpose(1, 2) / 4, -1) @ x
    time.sleep(pause)
    return [Encoded(np.array(row), states[i, : len(row)]) for i, row in enumerate(rows)]

OPTIONS = dict(fingerprint=Fingerprint("e", "t", "1 of 2", "{text}", "rule"), dim=16, batch_size=4,
               commit_every=8, sample_tokens=400, progress=False)
'''.replace("PASSAGE_COUNT", "360")

RUN = """
def say(word):
    sys.stdout.write(word + "\\n")
    sys.stdout.flush()

def slowly(batch):
    say("batch")
    return encode(batch, 0.004)

say("ready")
out, codec = sys.stdin.readline().split()
memorize(PASSAGES, slowly, out, codec=codec, **OPTIONS)
"""


class Worker:
    """A process that is warmed up and waits to be told what to build."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER + RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, out: Path, codec: str) -> None:
        assert self.process.stdout.readline() == "ready\n"
        self.process.stdin.write(f"{out} {codec}\n")
        self.process.stdin.flush()

    def kill_after(self, batches: int, seconds: float) -> bool:
        """Kill it some time after it began its nth batch; False if it had finished by itself before."""
        for _ in range(batches):
            self.process.stdout.readline()
        time.sleep(seconds)
        finished = self.process.poll() is not None
        self.process.kill()
        self.close()
        return not finished

    def close(self) -> None:
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def test_twenty_kills_leave_no_trace(tmp_path: Path) -> None:
    space: dict = {}
    exec(WORKER, space)
    expected = {}
    for codec in CODECS:
        memorize(space["PASSAGES"], space["encode"], tmp_path / codec, codec=codec, **space["OPTIONS"])
        expected[codec] = Memory.open(tmp_path / codec).content_hash()

    draw = random.Random(0)
    kills = 0
    resumed: set[tuple[str, int]] = set()
    waiting = Worker()
    while kills < KILLS:
        codec = CODECS[kills % len(CODECS)]
        out = tmp_path / f"killed-{codec}"
        worker, waiting = waiting, Worker()
        worker.start(out, codec)
        # Counting batches makes progress however slow the machine; the rest of the time hits the commits.
        assert worker.kill_after(draw.randrange(8), draw.uniform(0.0, 0.04)), "the build is too short"
        kills += 1
        if (out / "memory.json").exists():
            resumed.add((codec, len(Memory.open(out))))  # readable at any moment
    waiting.process.kill()
    waiting.close()

    for codec in CODECS:
        out = tmp_path / f"killed-{codec}"
        report = memorize(space["PASSAGES"], space["encode"], out, codec=codec, **space["OPTIONS"])
        assert 0 < report.resumed_from < report.passages, "the last run has to go on from the kills"
        memory = Memory.open(out)
        assert memory.content_hash() == expected[codec]
        assert memory.verify()["ok"]
    # Kills that all hit before the first commit would prove nothing.
    assert len(resumed) >= 5, f"the kills hit only at {sorted(resumed)} passages"
