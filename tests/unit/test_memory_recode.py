"""A memory stored with another codec."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wellread.memory.build import memorize
from wellread.memory.fingerprint import Fingerprint
from wellread.memory.recode import recode
from wellread.memory.rows import Encoded
from wellread.memory.store import Memory
from wellread.types import Passage

PASSAGES = [Passage(id=f"p{index}", text=f"text {index}", title="t", metadata={"n": index}) for index in range(90)]
PRINT = Fingerprint("e", "t", "2 of 3", "f", "none")


def encode(passages):
    rows = []
    for passage in passages:
        generator = torch.Generator().manual_seed(int(passage.id[1:]))
        count = 3 + int(passage.id[1:]) % 4
        rows.append(Encoded(np.arange(count, dtype=np.int32), torch.randn(count, 16, generator=generator)))
    return rows


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Memory:
    out = tmp_path_factory.mktemp("memory") / "bf16"
    memorize(PASSAGES, encode, out, codec="bf16", fingerprint=PRINT, dim=16, progress=False)
    (out / "index").mkdir()
    (out / "index" / "file").write_text("kept")
    return Memory.open(out)


def test_passages_tokens_and_fingerprint_stay(source, tmp_path):
    report = recode(source, tmp_path / "int8", codec="int8", progress=False)
    made = Memory.open(tmp_path / "int8")
    assert report.passages == len(made) == 90
    assert made.fingerprint == source.fingerprint
    assert made.info()["codec"] == "int8"
    before, after = source.fetch(["p7", "p3"]), made.fetch(["p7", "p3"])
    assert before.passages == after.passages
    assert [row.tolist() for row in before.tokens] == [row.tolist() for row in after.tokens]
    for one, other in zip(before.states, after.states, strict=True):
        # int8 with a scale per token: half a step of 1/127 of the token's largest number.
        torch.testing.assert_close(other, one, rtol=0, atol=one.abs().max().item() / 127)
    assert (tmp_path / "int8" / "index" / "file").read_text() == "kept"


def test_it_is_the_memory_a_direct_build_of_rounded_states_gives(source, tmp_path):
    def rounded(passages):
        return [Encoded(row.tokens, row.states.bfloat16().float()) for row in encode(passages)]

    recode(source, tmp_path / "one", codec="pq8", progress=False)
    memorize(PASSAGES, rounded, tmp_path / "two", codec="pq8", fingerprint=PRINT, dim=16, batch_size=64, progress=False)
    one, two = (Memory.open(tmp_path / name).fetch(["p0", "p89"]).states for name in ("one", "two"))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_memory_of_tokens_cannot_be_recoded(tmp_path):
    bare = [Passage(id="a", text="b")]
    memorize(
        bare,
        lambda some: [Encoded(np.zeros(1, dtype=np.int32)) for _ in some],
        tmp_path / "tokens",
        codec="bf16",
        fingerprint=PRINT,
        dim=None,
        progress=False,
    )
    with pytest.raises(ValueError, match="holds tokens only; there are no states to store with another codec"):
        recode(Memory.open(tmp_path / "tokens"), tmp_path / "out", codec="int8")
