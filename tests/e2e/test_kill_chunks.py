"""Chunks, keys, index and neighbour lists survive kill -9 at any moment: the result is the same to the bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

# The parent imports everything once and forks a worker for every folder it is given. A worker says "block" whenever
# a block of an array is safe.
NURSERY = """
import os, sys, time
from pathlib import Path
import numpy as np, torch

torch.set_num_threads(1)
from wellread.nn.bert import BertConfig, BertEncoder
from wellread.nn.tokenizers import train_tokenizer
from wellread.retrieval import blocks, chunk_keys, chunks, neighbours
from wellread.retrieval.chunk_index import IndexOptions
from wellread.retrieval.chunk_keys import ChunkEncoder
from wellread.retrieval.chunks import Document
from wellread.retrieval.neighbours import NeighbourOptions, build_neighbours

WORDS = "stone river light cloud moss wind amber field lamp ridge salt fern dune coral".split()
chunks.BLOCK_BYTES, chunk_keys.BLOCK, neighbours.BLOCK = 900, 24, 40
draw = np.random.default_rng(0)
DOCUMENTS = [Document(f"d{n}", " ".join(draw.choice(WORDS, 40)), "train" if n < 24 else "valid") for n in range(28)]
VOCABULARY = train_tokenizer((item.text for item in DOCUMENTS), 300, kind="bytes")
folder = Path(sys.argv[1])
words = train_tokenizer([" ".join(WORDS)], 200)
shape = dict(vocab_size=words.vocab_size, dim=16, num_heads=2, num_layers=1, ffn_dim=16, max_positions=64)
torch.manual_seed(0)
BertEncoder(BertConfig(**shape, start_token=words.start, end_token=words.end, pad_token=words.pad)).to_hub(folder)
words.save(folder)

def say(line):
    os.write(1, (line + "\\n").encode())

append = blocks.Blocks.append
def slowly(self, *given, **arrays):
    append(self, *given, **arrays)
    say("block")
    time.sleep(0.003)
blocks.Blocks.append = slowly

for line in sys.stdin:
    worker = os.fork()
    if not worker:
        build_neighbours(
            lambda splits: [item for item in DOCUMENTS if item.split in splits], line.strip(), tokenizer=VOCABULARY,
            database=["train"], others=["valid"], encoder=ChunkEncoder(str(folder), rarity=0.01), chunk_tokens=8,
            index=IndexOptions(lists=4, shard_rows=60), options=NeighbourOptions(k=2, sample=20),
        )
        os._exit(0)
    say(f"worker {worker}")
    say(f"ended {os.waitpid(worker, 0)[1]}")
"""


def build(nursery: subprocess.Popen, out: Path, blocks: int) -> bool:
    """Build into the folder; kill -9 after so many blocks (0: never). Whether it was killed."""
    nursery.stdin.write(f"{out}\n")
    nursery.stdin.flush()
    worker, seen = 0, 0
    for line in nursery.stdout:
        word, *number = line.split()
        if word == "ended":
            assert int(number[0]) in (0, signal.SIGKILL), f"the build ended with status {number[0]}"
            return int(number[0]) == signal.SIGKILL
        worker = int(number[0]) if word == "worker" else worker
        seen += word == "block"
        if blocks and seen == blocks:
            os.kill(worker, signal.SIGKILL)
    raise AssertionError("the process that starts the builds died")


def contents(folder: Path) -> dict[str, bytes]:
    kinds = (".bin", ".faiss", ".npz")
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.suffix in kinds}


def test_kills_change_nothing(tmp_path):
    (tmp_path / "encoder").mkdir()
    command = [sys.executable, "-c", NURSERY, str(tmp_path / "encoder")]
    draw, kills = random.Random(0), 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        assert not build(nursery, tmp_path / "whole", 0)
        while build(nursery, tmp_path / "broken", draw.randint(1, 5)):
            kills += 1
        nursery.stdin.close()
    assert kills >= 5, "too few kills to say anything"
    whole, broken = contents(tmp_path / "whole"), contents(tmp_path / "broken")
    assert len(whole) > 10
    assert broken == whole
