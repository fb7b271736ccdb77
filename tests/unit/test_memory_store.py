"""Memory: fetch, edit, compact, and find every flipped byte."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wellread.memory import table
from wellread.memory.build import memorize
from wellread.memory.edit import add, sync, update
from wellread.memory.fingerprint import Fingerprint
from wellread.memory.manifest import Manifest
from wellread.memory.rows import Encoded
from wellread.memory.store import Memory
from wellread.memory.verify import damaged_files
from wellread.types import Passage

FINGERPRINT = Fingerprint("encoder", "tokenizer", "2 of 4", "{title} {text}", "100 words")
DIM = 16
PASSAGES = [Passage(f"p{i}", f"text {i} " + "word " * (i % 7), f"Title {i}", {"page": i}) for i in range(50)]


def encode(passages: list[Passage]) -> list[Encoded]:
    """Tokens from the words; states that tell the passage and the place of the token."""
    encoded = []
    for passage in passages:
        tokens = np.array([sum(word.encode()) for word in passage.text.split()])
        encoded.append(Encoded(tokens, torch.cos(torch.outer(torch.from_numpy(tokens), torch.arange(DIM) / 9))))
    return encoded


def tokens_of(passage: Passage) -> list[int]:
    return encode([passage])[0].tokens.tolist()


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    options = {"fingerprint": FINGERPRINT, "dim": DIM, "batch_size": 4, "commit_every": 12, "progress": False}
    memorize(PASSAGES, encode, tmp_path / "m", codec="pq8", **options)
    return Memory.open(tmp_path / "m")


def test_fetch_keeps_the_order_asked(memory: Memory) -> None:
    asked = [f"p{i}" for i in random.Random(0).choices(range(50), k=40)]  # with repetitions
    rows = memory.fetch(asked)
    assert [item.id for item in rows.passages] == asked
    for name, tokens, states in zip(asked, rows.tokens, rows.states):
        assert tokens.tolist() == tokens_of(PASSAGES[int(name[1:])])
        assert states.shape == (len(tokens), DIM)
        assert torch.equal(states, memory.fetch([name]).states[0])
    assert memory.passages(asked) == rows.passages
    assert memory.fetch(asked, states=False).states is None
    assert memory.fetch(asked[:2], dtype=torch.bfloat16).states[0].dtype == torch.bfloat16
    nothing = memory.fetch([])
    assert (nothing.passages, nothing.tokens, nothing.states, nothing.keys) == ([], [], [], None)


def test_fetched_arrays_may_be_written(memory: Memory) -> None:
    """torch warns about arrays it must not write to, and callers pad in place."""
    rows = memory.fetch(["p1", "p2"])
    torch.as_tensor(rows.tokens[0]).add_(1)
    rows.states[0].add_(1)
    assert memory.fetch(["p1"]).tokens[0].tolist() == tokens_of(PASSAGES[1])


def test_it_is_a_collection(memory: Memory) -> None:
    assert len(memory) == 50
    assert "p7" in memory
    assert "nobody" not in memory
    assert list(memory) == PASSAGES
    assert memory.ids() == [item.id for item in PASSAGES]


def test_unknown_ids_are_named(memory: Memory) -> None:
    with pytest.raises(ValueError, match=r"passages 'x1', 'x2', 'x3' and 1 more are not in memory .*50 passages"):
        memory.fetch(["p1", "x1", "x2", "x3", "x4"])
    with pytest.raises(ValueError, match=r"passages 'x1' are not in memory"):
        memory.delete(["p1", "x1"])
    assert "p1" in memory
    with pytest.raises(ValueError, match=r"holds no keys; memorize with a system that makes them"):
        next(memory.keys())


def test_keys_of_all_passages(tmp_path: Path) -> None:
    def keyed(passages: list[Passage]) -> list[Encoded]:
        return [Encoded(np.arange(2), None, torch.tensor([float(item.id[1:]), 1.0])) for item in passages]

    memorize(PASSAGES, keyed, tmp_path / "m", fingerprint=FINGERPRINT, dim=None, batch_size=8, progress=False)
    memory = Memory.open(tmp_path / "m")
    assert torch.cat(list(memory.keys(batch_size=7)))[:, 0].tolist() == list(range(50))
    assert memory.fetch(["p3", "p9"]).keys.tolist() == [[3, 1], [9, 1]]
    assert (memory.info()["key_dim"], memory.info()["codec"]) == (2, "none")


def test_info(memory: Memory) -> None:
    facts = memory.info()
    assert (facts["passages"], facts["codec"], facts["bytes_per_token"], facts["cut"]) == (50, "pq8", 4, "2 of 4")
    assert facts["tokens"] == sum(len(tokens_of(item)) for item in PASSAGES)
    assert facts["fingerprint"] == asdict(FINGERPRINT)
    assert facts["complete"] is True
    data = sum(path.stat().st_size for path in (memory.path / "rows.lance" / "data").iterdir())
    assert data < facts["bytes"] < data + 40_000  # the tables of the codec and Lance's own lists come on top


def test_delete_and_compact(memory: Memory) -> None:
    assert memory.delete(["p3", "p20", "p3"]) == 2
    left = [item for item in PASSAGES if item.id not in ("p3", "p20")]
    assert list(memory) == left
    assert len(memory) == 48
    assert "p3" not in memory
    assert memory.fetch(["p21", "p49", "p0"]).passages == [PASSAGES[21], PASSAGES[49], PASSAGES[0]]
    assert memory.info()["tokens"] == sum(len(tokens_of(item)) for item in left)
    assert memory.verify()["ok"]
    before, states = memory.content_hash(), memory.fetch(["p49"]).states[0]
    memory.compact()
    assert memory.content_hash() == before
    assert torch.equal(memory.fetch(["p49"]).states[0], states)
    assert len(list((memory.path / "rows.lance" / "data").iterdir())) == 1
    assert memory.verify()["ok"]
    assert memory.delete([]) == 0


def test_ids_with_quotes_and_more_than_one_filter(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_IDS_PER_FILTER", 2)
    odd = [Passage("it's", "a"), Passage("' OR 'a'='a", "b"), Passage('"x"; --', "c")]
    add(memory, odd, encode, FINGERPRINT, progress=False)
    assert memory.delete([item.id for item in odd]) == 3
    assert list(memory) == PASSAGES


def test_add(memory: Memory) -> None:
    new = [Passage(f"n{i}", f"new words {i}", metadata={"list": [1, {"a": None}]}) for i in range(30)]
    report = add(memory, [PASSAGES[2], *new], encode, FINGERPRINT, progress=False)
    assert (report.written, report.unchanged) == (tuple(item.id for item in new), 1)
    assert (len(memory), report.passages) == (80, 80)
    assert list(memory) == PASSAGES + new
    assert report.tokens == memory.info()["tokens"] == sum(len(tokens_of(item)) for item in memory)
    assert memory.fetch(["n7"]).tokens[0].tolist() == tokens_of(new[7])
    again = add(memory, new, encode, FINGERPRINT, progress=False)
    assert (again.written, again.unchanged) == ((), 30)
    assert memory.verify()["ok"]


def test_update(memory: Memory) -> None:
    changed = replace(PASSAGES[4], text="something else entirely")
    report = update(memory, [PASSAGES[5], changed], encode, FINGERPRINT, progress=False)
    assert (report.written, report.unchanged, report.passages) == (("p4",), 1, 50)
    rows = memory.fetch(["p4", "p5"])
    assert rows.passages == [changed, PASSAGES[5]]
    assert rows.tokens[0].tolist() == tokens_of(changed)
    assert memory.info()["tokens"] == sum(len(tokens_of(item)) for item in memory)
    assert memory.ids()[-1] == "p4"
    assert memory.verify()["ok"]


def test_sync(memory: Memory) -> None:
    read: list[str] = []

    def reading(passages: list[Passage]) -> list[Encoded]:
        read.extend(item.id for item in passages)
        return encode(passages)

    changed, new = replace(PASSAGES[4], text="something else entirely"), Passage("n1", "new words")
    wanted = [new, changed, *PASSAGES[10:]]
    report = sync(memory, wanted, reading, FINGERPRINT, progress=False)
    gone = tuple(f"p{number}" for number in range(10) if number != 4)
    assert (report.added, report.replaced, report.deleted, report.unchanged) == (("n1",), ("p4",), gone, 40)
    assert read == ["n1", "p4"]
    assert {item.id: item for item in memory} == {item.id: item for item in wanted}
    assert memory.fetch(["p4"]).tokens[0].tolist() == tokens_of(changed)
    again = sync(memory, wanted, reading, FINGERPRINT, progress=False)
    assert (again.added, again.replaced, again.deleted, again.unchanged) == ((), (), (), 42)
    assert memory.verify()["ok"]
    with pytest.raises(ValueError, match=r"no passages to bring memory .* in line with; delete its folder instead"):
        sync(memory, [], encode, FINGERPRINT, progress=False)
    with pytest.raises(ValueError, match=r"does not fit the model: encoder is 'encoder' in the memory"):
        sync(memory, wanted, encode, replace(FINGERPRINT, encoder="b"), progress=False)
    assert len(memory) == 42


def test_edit_errors_change_nothing(memory: Memory) -> None:
    before = memory.content_hash()
    with pytest.raises(ValueError, match=r"id='p4' is in memory .* with another text; .*wellread memory update"):
        add(memory, [Passage("ok", "x"), Passage("p4", "x")], encode, FINGERPRINT, progress=False)
    with pytest.raises(ValueError, match=r"id='n1' is not in memory .*wellread memory add"):
        update(memory, [Passage("p4", "x"), Passage("n1", "x")], encode, FINGERPRINT, progress=False)
    with pytest.raises(ValueError, match=r"id='n1' comes twice"):
        add(memory, [Passage("n1", "x"), Passage("n1", "x")], encode, FINGERPRINT, progress=False)
    with pytest.raises(ValueError, match=r"does not fit the model: encoder is 'encoder' in the memory"):
        add(memory, [Passage("n1", "x")], encode, replace(FINGERPRINT, encoder="b"), progress=False)
    assert Memory.open(memory.path).content_hash() == before


def test_an_update_killed_half_way_leaves_the_old_rows(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the removal of the old row and the manifest, nobody sees the passage missing."""
    before = memory.content_hash()

    def broken(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Manifest, "write", broken)
    with pytest.raises(KeyboardInterrupt):
        update(memory, [replace(PASSAGES[4], text="half")], encode, FINGERPRINT, progress=False)
    monkeypatch.undo()
    reopened = Memory.open(memory.path)
    assert reopened.content_hash() == before
    assert reopened.passages(["p4"]) == [PASSAGES[4]]
    add(reopened, [Passage("n1", "x")], encode, FINGERPRINT, progress=False)
    assert list(reopened) == [*PASSAGES, Passage("n1", "x")]
    assert reopened.verify()["ok"]
    there = {f"rows.lance/data/{path.name}" for path in (memory.path / "rows.lance" / "data").iterdir()}
    assert there <= set(reopened.manifest.files), "the row of the killed update leaves no file behind"


def test_an_unfinished_memory_is_not_edited(tmp_path: Path) -> None:
    def stopping(passages: list[Passage]) -> list[Encoded]:
        if any(item.id == "p30" for item in passages):
            raise KeyboardInterrupt
        return encode(passages)

    options = {"fingerprint": FINGERPRINT, "dim": DIM, "batch_size": 4, "commit_every": 12, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        memorize(PASSAGES, stopping, tmp_path / "m", codec="int8", **options)
    memory = Memory.open(tmp_path / "m")
    assert (len(memory), memory.info()["complete"]) == (24, False)
    with pytest.raises(ValueError, match=r"is not finished; run `wellread memorize` to its end first"):
        add(memory, [Passage("n1", "x")], encode, FINGERPRINT, progress=False)


def test_a_reader_refreshes(memory: Memory) -> None:
    reader = Memory.open(memory.path)
    assert reader.refresh() is False
    add(memory, [Passage("n1", "x")], encode, FINGERPRINT, progress=False)
    assert "n1" not in reader
    assert reader.fetch(["p49"]).passages == [PASSAGES[49]]
    assert reader.refresh() is True
    assert reader.fetch(["n1"]).passages == [Passage("n1", "x")]


def test_opening_while_another_process_moves_on(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading memory.json and opening the table, the version it names may be swept away."""
    stale = [memory.manifest]
    memory.delete(["p3"])
    memory.compact()
    read = Manifest.read
    monkeypatch.setattr(Manifest, "read", lambda directory: stale.pop() if stale else read(directory))
    assert len(Memory.open(memory.path)) == 49


def test_what_is_not_a_memory(tmp_path: Path, memory: Memory) -> None:
    with pytest.raises(ValueError, match=r"nothing is not a memory \(it has no memory.json\); build one with"):
        Memory.open(tmp_path / "nothing")
    text = (memory.path / "memory.json").read_text()
    (memory.path / "memory.json").write_text(replace(memory.manifest, format=9).text())
    with pytest.raises(ValueError, match=r"has format 9; this wellread reads format 1"):
        Memory.open(memory.path)
    (memory.path / "memory.json").write_text(text[:100])
    with pytest.raises(ValueError, match=r"memory.json is damaged: its checksum differs"):
        Memory.open(memory.path)
    (memory.path / "memory.json").write_text(text)
    mend = flip(memory.path / "codec.safetensors", 999)
    with pytest.raises(ValueError, match=r"codec.safetensors is damaged: its checksum differs"):
        Memory.open(memory.path)
    mend()
    (memory.path / "codec.safetensors").unlink()
    with pytest.raises(ValueError, match=r"codec.safetensors is missing; the states cannot be decoded"):
        Memory.open(memory.path)
    assert memory.verify()["missing_files"] == ["codec.safetensors"]


# -- damage ------------------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> Callable[[], None]:
    """Change one bit of one byte; returns what mends it."""
    good = path.read_bytes()
    bad = bytearray(good)
    bad[place] ^= 1 << (place % 8)
    path.write_bytes(bad)
    return lambda: path.write_bytes(good)


def test_any_flipped_byte_is_found(memory: Memory) -> None:
    """300 places drawn from all files that memory.json names."""
    draw = random.Random(0)
    names = sorted(memory.manifest.files)
    assert any(name.startswith("rows.lance/_versions/") for name in names)
    assert damaged_files(memory.path, memory.manifest) == ([], [])
    for name in draw.choices(names, k=300):
        path = memory.path / name
        mend = flip(path, draw.randrange(path.stat().st_size))
        assert damaged_files(memory.path, memory.manifest) == ([name], [])
        mend()
    assert damaged_files(memory.path, memory.manifest) == ([], [])


@pytest.mark.parametrize("kind", ["codec", "_versions", "_deletions", "_transactions", "data"])
def test_every_kind_of_file_is_reported(memory: Memory, kind: str) -> None:
    memory.delete(["p3"])
    assert memory.verify() == {"passages": 49, "damaged": [], "damaged_files": [], "missing_files": [], "ok": True}
    name = next(name for name in memory.manifest.files if kind in name)
    flip(memory.path / name, (memory.path / name).stat().st_size // 3)
    found = memory.verify()
    assert found["damaged_files"] == [name]
    assert found["damaged"]
    assert not found["ok"]


def test_damage_that_ends_the_reading_process(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some flips make Lance abort. A stand-in for the interpreter that dies at once plays that part."""
    name = next(name for name in memory.manifest.files if "data" in name)
    flip(memory.path / name, 10)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    found = memory.verify()
    assert len(found["damaged"]) in (2, 12)  # all rows of one commit
    assert all(name.startswith("row ") for name in found["damaged"])


def test_any_flipped_byte_of_the_manifest_is_found(memory: Memory) -> None:
    path = memory.path / "memory.json"
    for place in range(0, path.stat().st_size, 7):
        mend = flip(path, place)
        with pytest.raises(ValueError, match=r"memory.json is damaged"):
            memory.verify()
        mend()
    assert memory.verify()["ok"]
    path.write_text(path.read_text().replace(" ", "\t", 1))  # JSON would not mind
    with pytest.raises(ValueError, match=r"memory.json is damaged"):
        memory.verify()


def test_a_damaged_passage_is_named(memory: Memory) -> None:
    """A byte of a text changes that passage and no other."""
    place = next(
        (path, at)
        for path in (memory.path / "rows.lance" / "data").iterdir()
        if (at := path.read_bytes().find(b"text 17 ")) >= 0
    )
    mend = flip(place[0], place[1])
    assert memory.verify()["damaged"] == ["p17"]
    mend()
    assert memory.verify()["ok"]


def test_a_row_that_was_stored_wrong_is_found(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are as written, so only the checksum of the row can tell."""
    from wellread.memory import rows

    checksums = rows.checksums
    monkeypatch.setattr(rows, "checksums", lambda batch: [1, *checksums(batch)[1:]])
    add(memory, [Passage("n1", "x"), Passage("n2", "y")], encode, FINGERPRINT, progress=False)
    monkeypatch.undo()
    found = memory.verify()
    assert (found["damaged"], found["damaged_files"], found["ok"]) == (["n1"], [], False)


def test_missing_files_are_found(memory: Memory) -> None:
    name = next(name for name in memory.manifest.files if name.startswith("rows.lance/data/"))
    content = (memory.path / name).read_bytes()
    (memory.path / name).unlink()
    found = memory.verify()
    assert found["missing_files"] == [name]
    assert len(found["damaged"]) in (2, 12)  # the rows of one commit
    (memory.path / name).write_bytes(content)
    version = next(name for name in memory.manifest.files if "_versions" in name)
    (memory.path / version).unlink()
    with pytest.raises(ValueError, match=r"cannot be opened at version \d+: .*wellread memory verify"):
        Memory.open(memory.path)
    assert version in memory.verify()["missing_files"]
