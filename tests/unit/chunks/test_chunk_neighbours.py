"""Lists of neighbours: what they hold, that a kill changes nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from chunk_pieces import Killed, M, contents, corpus, cut, dying

from wellread.nn.tokenizers import Tokenizer
from wellread.retrieval import neighbours
from wellread.retrieval.chunk_database import ChunkDatabase
from wellread.retrieval.chunk_keys import ChunkEncoder, write_keys
from wellread.retrieval.chunks import ChunkTexts, documents_of
from wellread.retrieval.neighbours import NeighbourOptions, Neighbours, build_neighbours, find_neighbours


def test_lists_are_what_the_search_gives(tmp_path, folder, database):
    lists = find_neighbours(database.texts, database, tmp_path / "n", NeighbourOptions(k=3, probes=8))
    rows = np.arange(len(database.keys))
    own = database.texts.documents(rows)
    numbers, distances = database.search_many(database.keys[rows], 3, own, probes=8)
    assert np.array_equal(lists.numbers, numbers)
    assert np.array_equal(lists.distances, distances)
    assert np.array_equal(distances, database.search(database.keys[rows], 3, own, exact=True)[1])
    assert lists.info["recall"] > 0.99
    got, far = lists.of(np.array([[5, -1]]))
    assert np.array_equal(got, [[numbers[5], [-1, -1, -1]]])
    assert np.isinf(far[0, 1]).all()
    lists.check(texts=database.texts, database=database)
    with pytest.raises(ValueError, match=rf"chunk={len(rows)}; .* has chunks 0 to {len(rows) - 1}"):
        lists.of(np.array([len(rows)]))


def test_lists_go_on_after_a_kill(tmp_path, database, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 64)
    options = NeighbourOptions(k=3, share=0.5)
    whole = find_neighbours(database.texts, database, tmp_path / "a", options)
    with monkeypatch.context() as patch:
        patch.setattr(ChunkDatabase, "search_many", dying(ChunkDatabase.search_many, 2))
        with pytest.raises(Killed):
            find_neighbours(database.texts, database, tmp_path / "b", options)
    with pytest.raises(ValueError, match=r"holds no finished neighbours"):
        Neighbours.open(tmp_path / "b")
    with pytest.raises(ValueError, match=r"was begun with k=3 \(now 4\); give the same again, or another folder"):
        find_neighbours(database.texts, database, tmp_path / "b", NeighbourOptions(k=4, share=0.5))
    find_neighbours(database.texts, database, tmp_path / "b", options)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    chosen = database.share(0.5)
    assert chosen[database.texts.documents(whole.numbers)].all()
    with pytest.raises(ValueError, match=r"holds neighbours of share=0.5 \(now 1.0\); give another folder"):
        find_neighbours(database.texts, database, tmp_path / "a", NeighbourOptions(k=3))


def test_a_document_is_known_by_its_id_in_another_folder(tmp_path, tokenizer, encoder, database):
    texts = cut(tmp_path / "q", tokenizer, list(documents_of(corpus(6, first=27))))
    write_keys(texts, encoder)
    same = database.texts.documents_like(texts)
    assert same.tolist() == [27, 28, 29, -1, -1, -1]
    closed = find_neighbours(texts, database, tmp_path / "n", NeighbourOptions(k=2))
    own = same[texts.documents(np.arange(texts.num_chunks))]
    assert (database.texts.documents(closed.numbers) != own[:, None]).all()
    opened = find_neighbours(texts, database, tmp_path / "o", NeighbourOptions(k=2, own=True))
    assert (opened.distances[own >= 0, 0] == 0).all(), "with its own document open, a chunk finds itself"
    with pytest.raises(ValueError, match=r"neighbours .* belong to another text .* than .*; find them again"):
        closed.check(texts=database.texts)


def test_keys_must_be_comparable(tmp_path, tokenizer, encoder_folder, database):
    texts = cut(tmp_path / "q", tokenizer, list(documents_of(corpus(2))))
    write_keys(texts, ChunkEncoder(str(encoder_folder), layers=1, unit=False, precision="fp32"))
    with pytest.raises(
        ValueError, match=r"are not comparable: layers=1 \(now 2\), .*; make them with the same encoder"
    ):
        find_neighbours(texts, database, tmp_path / "n")


def test_options_of_a_search_are_checked():
    for options, message in [
        ({"k": 0}, r"k=0 is too small"),
        ({"share": 2}, r"share=2; it must be above 0 and at most 1"),
        ({"limit": -1}, r"limit=-1 is negative"),
        ({"limit": 5, "share": 0.5}, r"share=0.5 and limit=5; give one of them"),
        ({"probes": 0}, r"probes=0 is too small"),
        ({"sample": -1}, r"sample=-1 is negative"),
    ]:
        with pytest.raises(ValueError, match=message):
            NeighbourOptions(**options)


def test_everything_at_once_goes_on_where_it_was(tmp_path, tokenizer, encoder, monkeypatch):
    passages = [*corpus(12), *corpus(3, split="valid", first=12)]

    def build(name):
        return build_neighbours(
            lambda splits: documents_of(passages, splits=splits), tmp_path / name, tokenizer=tokenizer,
            database=["train"], others=["valid"], encoder=encoder, chunk_tokens=M,
            options=NeighbourOptions(k=2, sample=10),
        )  # fmt: skip

    whole = build("a")
    assert whole.keys() == {"database", "valid"}
    monkeypatch.setattr(neighbours, "BLOCK", 32)
    monkeypatch.setattr(ChunkDatabase, "search_many", dying(ChunkDatabase.search_many, 3))
    with pytest.raises(Killed):
        build("b")
    monkeypatch.undo()
    again = build("b")
    for name, lists in whole.items():
        assert np.array_equal(again[name].numbers, lists.numbers)
        assert np.array_equal(Neighbours.open(tmp_path / "b" / name / "neighbours").numbers, lists.numbers)
    assert ChunkTexts.open(tmp_path / "b/valid").document_split(0) == "valid"
    assert json.loads((tmp_path / "b/database/chunks.json").read_text())["splits"] == ["train"]
    assert Tokenizer.load(tmp_path / "b/database").fingerprint == tokenizer.fingerprint
