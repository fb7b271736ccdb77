"""memorize: order, resuming, refusals, and bounded growth."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wellread.locking import locked
from wellread.memory import table
from wellread.memory.build import memorize
from wellread.memory.fingerprint import Fingerprint
from wellread.memory.manifest import Manifest
from wellread.memory.rows import Encoded
from wellread.memory.store import Memory
from wellread.types import Passage

FINGERPRINT = Fingerprint("encoder", "tokenizer", "2 of 4", "{title} {text}", "100 words")
DIM = 16
OPTIONS = {"fingerprint": FINGERPRINT, "dim": DIM, "batch_size": 4, "commit_every": 8, "progress": False}
PASSAGES = [
    Passage(f"p{i}", "word " * (1 + i * 7 % 13) + "ümläut\n", f"Title {i}", {"page": i}, "text") for i in range(43)
]


class Encoder:
    """States that depend on the batch a passage is in, like padding does; counts what it encodes."""

    def __init__(self, *, states: bool = True, keys: bool = False, stop_after: int | None = None) -> None:
        self.states, self.keys, self.stop_after = states, keys, stop_after
        self.seen: list[str] = []

    def __call__(self, passages: list[Passage]) -> list[Encoded]:
        self.seen += [item.id for item in passages]
        if self.stop_after is not None and len(self.seen) > self.stop_after:
            raise KeyboardInterrupt
        longest = max(len(item.text.split()) for item in passages)
        return [self.one(item, longest) for item in passages]

    def one(self, passage: Passage, longest: int) -> Encoded:
        tokens = np.array([len(word) + index for index, word in enumerate(passage.text.split())])
        x = torch.sin(torch.outer(torch.from_numpy(tokens) + len(passage.id), torch.arange(1.0, DIM + 1)))
        return Encoded(tokens, x + 1e-3 * longest if self.states else None, x.mean(0)[:5] if self.keys else None)


def unbroken(out: Path, codec: str = "int8") -> str:
    memorize(PASSAGES, Encoder(), out, codec=codec, **OPTIONS)
    return Memory.open(out).content_hash()


@pytest.mark.parametrize("codec", ["bf16", "int8", "pq8", "pq16"])
def test_memory_read_back_is_what_was_encoded(tmp_path: Path, codec: str) -> None:
    encode, given = Encoder(keys=True), {}

    def noting(passages: list[Passage]) -> list[Encoded]:
        encoded = encode(passages)
        given.update(zip((item.id for item in passages), encoded))
        return encoded

    report = memorize(PASSAGES, noting, tmp_path / "m", codec=codec, **OPTIONS)
    memory = Memory.open(tmp_path / "m")
    assert memory.ids() == [item.id for item in PASSAGES]
    assert (report.passages, report.resumed_from) == (43, 0)
    assert report.tokens == sum(len(item.text.split()) for item in PASSAGES)
    assert report.bytes == sum(
        path.stat().st_size
        for path in (tmp_path / "m").rglob("*")
        if str(path.relative_to(tmp_path / "m")) in memory.manifest.files
    )
    rows = memory.fetch([item.id for item in PASSAGES])
    assert rows.passages == PASSAGES
    for passage, tokens, states, key in zip(PASSAGES, rows.tokens, rows.states, rows.keys):
        want = given[passage.id]
        assert tokens.dtype == np.int32
        assert tokens.tolist() == want.tokens.tolist()
        assert torch.equal(key, want.keys)
        # What a codec loses is in test_codecs; here its copy must come back. Product quantisation may take the
        # other of two centroids that are equally near up to rounding (equally near after normalising, so not
        # exactly here): a tenth of the distance is allowed. A wrong row would be many times as far.
        again = memory.codec.decode(memory.codec.encode(want.states))
        assert codec.startswith("pq") or torch.equal(states, again)
        distance, expected = (states - want.states).norm(), (again - want.states).norm()
        torch.testing.assert_close(distance, expected, rtol=0.1, atol=1e-3)
    assert set(memory.info()["error"]) == {"relative_l2", "cosine"}


def test_batches_are_sorted_by_length_and_full(tmp_path: Path) -> None:
    sizes: list[list[int]] = []

    def encode(passages: list[Passage]) -> list[Encoded]:
        sizes.append([len(item.text) for item in passages])
        return Encoder()(passages)

    memorize(PASSAGES, encode, tmp_path / "m", codec="int8", **{**OPTIONS, "commit_every": 32})
    build = sizes[1:]  # the first batch is the look ahead
    assert [len(batch) for batch in build] == [4] * 8 + [4, 4, 3]
    chunk = [length for batch in build[:8] for length in batch]
    assert chunk == sorted(chunk, reverse=True)


@pytest.mark.parametrize("stop_after", [4, 5, 12, 20, 37, 46])
@pytest.mark.parametrize("codec", ["int8", "pq8"])
def test_resuming_gives_the_same_memory(tmp_path: Path, stop_after: int, codec: str) -> None:
    expected = unbroken(tmp_path / "whole", codec)
    with pytest.raises(KeyboardInterrupt):
        memorize(PASSAGES, Encoder(stop_after=stop_after), tmp_path / "m", codec=codec, **OPTIONS)
    begun = (tmp_path / "m" / "memory.json").exists()
    stored = len(Memory.open(tmp_path / "m")) if begun else 0
    second = Encoder()
    report = memorize(PASSAGES, second, tmp_path / "m", codec=codec, **OPTIONS)
    assert report.resumed_from == stored
    assert report.passages == 43
    assert Memory.open(tmp_path / "m").content_hash() == expected
    if begun:
        assert sorted(second.seen) == sorted(item.id for item in PASSAGES[stored:]), "stored passages stay"


@pytest.mark.parametrize("commit", range(6))
def test_a_stop_between_table_and_manifest_is_rolled_back(
    tmp_path: Path, commit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = unbroken(tmp_path / "whole")
    write, calls = Manifest.write, iter(range(100))

    def broken(self: Manifest, directory: Path) -> Manifest:
        if next(calls) == commit + 1:
            raise KeyboardInterrupt
        return write(self, directory)

    monkeypatch.setattr(Manifest, "write", broken)
    with pytest.raises(KeyboardInterrupt):
        memorize(PASSAGES, Encoder(), tmp_path / "m", codec="int8", **OPTIONS)
    monkeypatch.undo()
    assert len(Memory.open(tmp_path / "m")) == 8 * commit, "a reader sees the last commit point"
    report = memorize(PASSAGES, Encoder(), tmp_path / "m", codec="int8", **OPTIONS)
    assert report.resumed_from == 8 * commit
    memory = Memory.open(tmp_path / "m")
    assert memory.content_hash() == expected
    assert memory.verify()["ok"]
    files = {str(path.relative_to(tmp_path / "m")) for path in (tmp_path / "m" / "rows.lance" / "data").iterdir()}
    assert files <= set(memory.manifest.files), "rolled back rows leave no file behind"


def test_a_finished_memory_is_left_alone(tmp_path: Path) -> None:
    unbroken(tmp_path / "m")
    before = (tmp_path / "m" / "memory.json").read_bytes()
    again = Encoder()
    report = memorize(PASSAGES, again, tmp_path / "m", codec="int8", **OPTIONS)
    assert (report.resumed_from, report.passages, again.seen) == (43, 43, [])
    assert (tmp_path / "m" / "memory.json").read_bytes() == before


def test_content_hash_sees_every_part(tmp_path: Path) -> None:
    first = unbroken(tmp_path / "a")
    changes = {
        "text": replace(PASSAGES[7], text="other text"),
        "metadata": replace(PASSAGES[7], metadata={}),
        "source": replace(PASSAGES[7], source="triples"),
    }
    hashes = {first, unbroken(tmp_path / "bf16", "bf16")}
    for name, passage in changes.items():
        changed = [*PASSAGES[:7], passage, *PASSAGES[8:]]
        memorize(changed, Encoder(), tmp_path / name, codec="int8", **OPTIONS)
        hashes.add(Memory.open(tmp_path / name).content_hash())
    swapped = [PASSAGES[1], PASSAGES[0], *PASSAGES[2:]]
    memorize(swapped, Encoder(), tmp_path / "order", codec="int8", **OPTIONS)
    hashes.add(Memory.open(tmp_path / "order").content_hash())
    assert len(hashes) == 6
    assert unbroken(tmp_path / "b") == first, "two builds agree"


def test_tokens_only(tmp_path: Path) -> None:
    memorize(PASSAGES, Encoder(states=False), tmp_path / "m", codec="pq8", **{**OPTIONS, "dim": None})
    memory = Memory.open(tmp_path / "m")
    rows = memory.fetch(["p3", "p1"])
    assert rows.states is None
    assert rows.keys is None
    assert rows.tokens[1].tolist() == Encoder().one(PASSAGES[1], 0).tokens.tolist()
    assert (memory.info()["codec"], memory.info()["dim"], memory.codec) == ("none", None, None)


def test_empty_texts_and_passages_without_tokens(tmp_path: Path) -> None:
    passages = [Passage("a", "x"), Passage("b", ""), Passage("c", "x y")]

    def encode(batch: list[Passage]) -> list[Encoded]:
        rows = [np.arange(len(item.text.split()), dtype=np.int64) for item in batch]
        return [Encoded(row, torch.ones(len(row), DIM)) for row in rows]

    memorize(passages, encode, tmp_path / "m", codec="int8", **OPTIONS)
    rows = Memory.open(tmp_path / "m").fetch(["c", "b", "a", "b"])
    assert [len(item) for item in rows.tokens] == [2, 0, 1, 0]
    assert [tuple(item.shape) for item in rows.states] == [(2, DIM), (0, DIM), (1, DIM), (0, DIM)]


def test_states_may_be_fewer_than_tokens(tmp_path: Path) -> None:
    def encode(batch: list[Passage]) -> list[Encoded]:
        return [Encoded(np.arange(9), torch.full((2, DIM), float(item.id[1:]))) for item in batch]

    memorize(PASSAGES, encode, tmp_path / "m", codec="bf16", **OPTIONS)
    rows = Memory.open(tmp_path / "m").fetch(["p9", "p2"])
    assert [item.mean().item() for item in rows.states] == [9, 2]
    assert rows.states[0].shape == (2, DIM)


def test_default_commit_size_is_bounded(tmp_path: Path) -> None:
    options = {**OPTIONS, "commit_every": None}
    memorize(PASSAGES, Encoder(), tmp_path / "small", codec="int8", **options)
    assert Memory.open(tmp_path / "small").manifest.build.commit_every == 4096
    wide = 2000

    def encode(batch: list[Passage]) -> list[Encoded]:
        return [Encoded(np.zeros(40, dtype=np.int32), torch.ones(40, wide)) for _ in batch]

    memorize(PASSAGES, encode, tmp_path / "wide", codec="bf16", **{**options, "dim": wide})
    commit = Memory.open(tmp_path / "wide").manifest.build.commit_every
    # 64 MB over 1,024 bytes of text, 40 tokens of 4 bytes and 40 states of 4,000 bytes.
    assert commit == -(-((64 << 20) // (1024 + 160 + 160_000)) // 4) * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": replace(FINGERPRINT, encoder="other")}, r"encoder='other' \(it has 'encoder'\)"),
        ({"codec": "bf16"}, r"codec='bf16' \(it has 'int8'\)"),
        ({"batch_size": 2}, r"batch_size=2 \(it has 4\)"),
        ({"commit_every": 16}, r"commit_every=16 \(it has 8\)"),
        ({"seed": 1}, r"seed=1 \(it has 0\)"),
        ({"dim": 8}, r"dim=8 \(it has 16\)"),
    ],
)
def test_other_arguments_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        memorize(PASSAGES, Encoder(stop_after=20), tmp_path / "m", codec="int8", **OPTIONS)
    before = (tmp_path / "m" / "memory.json").read_bytes()
    with pytest.raises(ValueError, match=message + r".*Give the same again to continue it"):
        memorize(PASSAGES, Encoder(), tmp_path / "m", **{"codec": "int8", **OPTIONS, **change})
    assert (tmp_path / "m" / "memory.json").read_bytes() == before


@pytest.mark.parametrize(("begun", "given"), [("bf16", "fp32"), ("fp32", "bf16"), ("fp32", None)])
def test_another_precision_is_refused(tmp_path: Path, begun: str, given: str | None) -> None:
    """States of one memory are computed alike: the first half in bf16 and the rest in fp32 would be neither."""
    with pytest.raises(KeyboardInterrupt):
        memorize(PASSAGES, Encoder(stop_after=20), tmp_path / "m", codec="int8", **OPTIONS, precision=begun)
    before = (tmp_path / "m" / "memory.json").read_bytes()
    with pytest.raises(ValueError, match=rf"precision={given!r} \(it has '{begun}'\)\. Give the same again"):
        memorize(PASSAGES, Encoder(), tmp_path / "m", codec="int8", **OPTIONS, precision=given)
    assert (tmp_path / "m" / "memory.json").read_bytes() == before
    report = memorize(PASSAGES, Encoder(), tmp_path / "m", codec="int8", **OPTIONS, precision=begun)
    assert (report.passages, report.resumed_from) == (43, 16)
    assert Manifest.read(tmp_path / "m").build.precision == begun


def test_a_memory_that_does_not_know_its_precision_is_gone_on_with(tmp_path: Path) -> None:
    """As before precision was kept: memory.json has no such key, and neither file nor hash changes."""
    expected = unbroken(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        memorize(PASSAGES, Encoder(stop_after=20), tmp_path / "m", codec="int8", **OPTIONS)
    assert "precision" not in (tmp_path / "m" / "memory.json").read_text()
    report = memorize(PASSAGES, Encoder(), tmp_path / "m", codec="int8", **OPTIONS, precision="fp32")
    assert (report.passages, report.resumed_from) == (43, 16)
    assert "precision" not in (tmp_path / "m" / "memory.json").read_text()
    assert Memory.open(tmp_path / "m").content_hash() == expected


def test_another_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        memorize(PASSAGES, Encoder(stop_after=20), tmp_path / "m", codec="int8", **OPTIONS)
    other = [*PASSAGES[:5], replace(PASSAGES[5], text="something else"), *PASSAGES[6:]]
    with pytest.raises(ValueError, match=r"row 5 of the memory .* is id='p5', 'word.* has id='p5', 'something else'"):
        memorize(other, Encoder(), tmp_path / "m", codec="int8", **OPTIONS)
    with pytest.raises(ValueError, match=r"row 3 of the memory .* but the corpus ends there"):
        memorize(PASSAGES[:3], Encoder(), tmp_path / "m", codec="int8", **OPTIONS)
    memorize(PASSAGES, Encoder(), tmp_path / "m", codec="int8", **OPTIONS)
    longer = [*PASSAGES, Passage("new", "words")]
    with pytest.raises(ValueError, match=r"complete with 43 passages, but .* id='new'.*wellread memory add"):
        memorize(longer, Encoder(), tmp_path / "m", codec="int8", **OPTIONS)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    def run(passages=PASSAGES, encode=None, **change):
        name = tmp_path / str(len(list(tmp_path.iterdir())))
        return memorize(passages, encode or Encoder(), name, **{"codec": "int8", **OPTIONS, **change})

    with pytest.raises(ValueError, match=r"passages is a list_iterator, which can be read only once"):
        run(iter(PASSAGES))
    with pytest.raises(ValueError, match=r"there are no passages to memorize"):
        run([])
    with pytest.raises(ValueError, match=r"passage id='p4' comes twice"):
        run([*PASSAGES, PASSAGES[4]])
    with pytest.raises(ValueError, match=r"batch_size=0; it must be at least 1"):
        run(batch_size=0)
    with pytest.raises(ValueError, match=r"codec='zip' is unknown"):
        run(codec="zip")
    with pytest.raises(ValueError, match=r"the encoder gave 3 results for 4 passages"):
        run(encode=lambda batch: Encoder()(batch)[:3])
    with pytest.raises(ValueError, match=r"states have shape \(\d+, 16\); the memory holds \[stored, 8\]"):
        run(dim=8)
    with pytest.raises(ValueError, match=r"the encoder gave no states, but the memory has dim=16"):
        run(encode=Encoder(states=False))
    with pytest.raises(ValueError, match=r"states hold nan or inf"):
        run(encode=lambda batch: [Encoded(np.arange(2), torch.full((2, DIM), torch.nan)) for _ in batch])
    with pytest.raises(ValueError, match=r"the encoder must give \[tokens\] int"):
        run(encode=lambda batch: [Encoded(np.ones(2), torch.ones(2, DIM)) for _ in batch])
    with pytest.raises(ValueError, match=r"a token is -1 or 0; ids go from 0"):
        run(encode=lambda batch: [Encoded(np.array([-1, 0]), torch.ones(2, DIM)) for _ in batch])
    with pytest.raises(ValueError, match=r"metadata cannot be written as JSON"):
        run([Passage("a", "b", metadata={"when": object()})])
    with pytest.raises(ValueError, match=r"the encoder gave no states for the first passages"):
        run(encode=lambda batch: [Encoded(np.arange(2), torch.ones(0, DIM)) for _ in batch])


def test_two_builds_at_once_are_refused(tmp_path: Path) -> None:
    tmp_path.joinpath("m").mkdir()
    with locked(tmp_path / "m"), pytest.raises(ValueError, match=r"another process is changing .*m; wait"):
        memorize(PASSAGES, Encoder(), tmp_path / "m", codec="int8", **OPTIONS)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"writing the memory .*file/m failed: .*Not a directory.*Free space"):
        memorize(PASSAGES, Encoder(), tmp_path / "file" / "m", codec="int8", **OPTIONS)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match=r"is no memory and holds 'thesis.txt'; give a new directory"):
        memorize(PASSAGES, Encoder(), tmp_path, codec="int8", **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_full_disk_keeps_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = unbroken(tmp_path / "whole")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    commit, done = table.commit, []

    def limited(*arguments, **options):
        done.append(1)
        if len(done) == 3:  # the third commit finds no room: files may not grow beyond 500 bytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
        try:
            return commit(*arguments, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(table, "commit", limited)
    with pytest.raises(OSError, match=r"writing the memory .* failed: .*run the same command again"):
        memorize(PASSAGES, Encoder(), tmp_path / "m", codec="int8", **OPTIONS)
    monkeypatch.undo()
    report = memorize(PASSAGES, Encoder(), tmp_path / "m", codec="int8", **OPTIONS)
    assert report.resumed_from == 16
    assert Memory.open(tmp_path / "m").content_hash() == expected


def test_a_generator_class_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """At no time are more passages alive than a commit and a look ahead need."""

    class Streamed:
        alive = most = 0

        def __iter__(self) -> Iterator[Passage]:
            for number in range(600):
                yield Passage(f"n{number}", "some words here", metadata=Counted())

    class Counted(dict):
        def __init__(self) -> None:
            super().__init__()
            Streamed.alive += 1
            Streamed.most = max(Streamed.most, Streamed.alive)

        def __del__(self) -> None:
            Streamed.alive -= 1

    report = memorize(Streamed(), Encoder(), tmp_path / "m", codec="int8", **OPTIONS)
    assert report.passages == 600
    # A commit of 8, its copy in the chunk, and the one being read: far below 600.
    assert Streamed.most <= 32
