"""Search over chunks beside brute force."""

from __future__ import annotations

import numpy as np
import pytest
from chunk_pieces import Killed, brute, corpus, cut, dying, text

from wellread.retrieval.chunk_database import ChunkDatabase
from wellread.retrieval.chunk_index import IndexOptions, build_index
from wellread.retrieval.chunk_keys import write_keys
from wellread.retrieval.chunks import Document, documents_of


def test_exact_search_is_brute_force(database):
    rows = np.arange(0, len(database.keys), 9)
    own = database.texts.documents(rows)
    for closed in (None, own):
        numbers, distances = database.search(database.keys[rows], 5, closed, exact=True)
        right, far = brute(database, database.keys[rows], 5, own=closed)
        assert np.array_equal(numbers, right)
        # float32 sums of 16 squares.
        np.testing.assert_allclose(distances, far, rtol=1e-4, atol=1e-4)


def test_the_index_finds_nearly_all_that_brute_force_finds(database):
    assert len(database.index.shards) == 3
    assert database.index.lists == 8
    rows = np.arange(0, len(database.keys), 3)
    own = database.texts.documents(rows)
    right, _ = brute(database, database.keys[rows], 5, own=own)
    numbers, distances = database.search(database.keys[rows], 5, own, probes=4)
    hits = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(numbers, right)])
    assert hits > 0.8, "half of the lists are looked into; at random they would hold half"
    assert (np.diff(distances, axis=1) >= 0).all()
    every, _ = database.search(database.keys[rows], 5, own, probes=8)
    assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(every, right)]) > 0.99
    assert 0.99 < database.recall(5, probes=8) <= 1
    assert database.recall(5, probes=1) < 0.99, "one list of eight does not hold everything"


@pytest.mark.parametrize("limit", [None, 60, "share"])
def test_many_keys_at_once_find_the_same(database, limit):
    limit = database.share(0.4) if limit == "share" else limit
    rows = np.arange(0, len(database.keys), 2)
    own = database.texts.documents(rows)
    for closed in (None, own):
        found = database.search_many(database.keys[rows], 4, closed, limit, probes=8)
        right = database.search(database.keys[rows], 4, closed, limit, exact=True)
        # Distances, because which of two equally near chunks is left out is not said.
        np.testing.assert_array_equal(found[1], right[1])
        assert closed is None or (database.texts.documents(found[0]) != own[:, None]).all()
    few, _ = database.search_many(database.keys[rows], 4, own, limit, probes=1)
    assert (few >= 0).all(), "rows that come out short are searched again"
    assert (database.texts.documents(few) != own[:, None]).all()


def test_own_documents_are_closed(database):
    rows = np.arange(len(database.keys))
    own = database.texts.documents(rows)
    itself, far = database.search(database.keys[rows], 1)
    assert np.array_equal(itself[:, 0], rows) or (far[:, 0] == 0).all()
    numbers, _ = database.search(database.keys[rows], 4, own)
    assert (numbers >= 0).all()
    assert (database.texts.documents(numbers) != own[:, None]).all()


def test_limits(database):
    rows, half = np.arange(0, len(database.keys), 11), len(database.keys) // 2
    numbers, _ = database.search(database.keys[rows], 3, limit=half, probes=8)
    assert numbers.max() < half
    right, _ = brute(database, database.keys[rows], 3, allowed=np.arange(len(database.keys)) < half)
    assert np.mean(numbers == right) > 0.98  # equally near chunks may come in another order
    small, large = database.share(0.1), database.share(0.4)
    assert (small.sum(), large.sum()) == (3, 12)
    assert large[small].all(), "smaller shares lie within larger ones"
    assert not np.array_equal(small, database.share(0.1, seed=1))
    assert database.share(1) is None
    numbers, _ = database.search(database.keys[rows], 3, limit=small)
    assert small[database.texts.documents(numbers)].all()


def test_rows_that_cannot_be_filled_end_with_nothing(database):
    first = database.texts.first_chunk(1)
    numbers, distances = database.search(database.keys[:2], 5, np.array([0, -1]), limit=first + 2)
    assert sorted(numbers[0, :2]) == [first, first + 1]
    assert (numbers[0, 2:] == -1).all()
    assert np.isinf(distances[0, 2:]).all()
    assert (numbers[1] >= 0).all()


def test_few_keys_need_no_lists(tmp_path, tokenizer, encoder):
    keys = write_keys(cut(tmp_path, tokenizer, [Document("a", text(0, 60))]), encoder)
    assert build_index(keys, tmp_path).lists == 0
    found, _ = ChunkDatabase.open(tmp_path).search(keys[:], 1)
    assert found[:, 0].tolist() == list(range(len(keys)))


def test_texts_are_encoded_as_chunks_are(database):
    chunk = database.texts.first_chunk(4)
    key = database.encode([database.texts.chunk_text(chunk)])
    numbers, distances = database.search(key, 1)
    assert numbers[0, 0] == chunk
    assert distances[0, 0] < 1e-4, "only the rounding of stored keys is between them"


def test_an_index_goes_on_after_a_kill(folder, tmp_path, tokenizer, encoder, monkeypatch):
    from wellread.retrieval import chunk_index

    keys = write_keys(cut(tmp_path, tokenizer), encoder)
    options = IndexOptions(lists=8, shard_rows=len(keys) // 3 + 1)
    with monkeypatch.context() as patch:
        patch.setattr(chunk_index, "_write", dying(chunk_index._write, 2))
        with pytest.raises(Killed):
            build_index(keys, tmp_path, options)
    written = (tmp_path / "index/shard-00000.faiss").stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"holds an index of code='sq8' \(now 'pq'\)"):
        build_index(keys, tmp_path, IndexOptions(code="pq", lists=8, shard_rows=options.shard_rows))
    build_index(keys, tmp_path, options)
    assert (tmp_path / "index/shard-00000.faiss").stat().st_mtime_ns == written
    one, other = ChunkDatabase.open(tmp_path), ChunkDatabase.open(folder)
    for a, b in zip(one.search(keys[:50], 4), other.search(keys[:50], 4)):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("code", ["flat", "sq8", "pq"])
def test_every_code_can_be_searched(tmp_path, tokenizer, encoder, code):
    documents = list(documents_of(corpus(60))) if code == "pq" else None
    keys = write_keys(cut(tmp_path, tokenizer, documents), encoder)
    build_index(keys, tmp_path, IndexOptions(code=code, lists=4))
    assert ChunkDatabase.open(tmp_path).recall(5, probes=4) > 0.95


def test_questions_that_make_no_sense(database):
    keys = database.keys[:3]
    for arguments, message in [
        ((keys[:, :4], 2), r"keys have shape \(3, 4\); this database needs \(n, 16\)"),
        ((keys, 0), r"k=0 is too small; at least 1 neighbour"),
        ((keys, 1, np.zeros(2)), r"exclude_documents has shape \(2,\); give one document per key: \(3,\)"),
        ((keys, 1, np.array([0, 1, 30])), r"document=\[30\] is unknown; documents go from 0 to 29"),
        ((keys, 1, None, 0), r"limit=0 leaves no chunk; it must be at least 1"),
        ((keys, 1, None, np.zeros(30, bool)), r"limit leaves no chunk; choose at least one document"),
        ((keys, 1, None, np.zeros(3, bool)), r"limit has shape \(3,\); give one bool per document: \(30,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            database.search(*arguments)
    with pytest.raises(ValueError, match=r"share=0; it must be above 0 and at most 1"):
        database.share(0)
    for options, message in [
        ({"code": "zip"}, r"code='zip' is unknown; use one of: flat, sq8, pq"),
        ({"lists": -1}, r"lists=-1 is negative"),
        ({"shard_rows": 0}, r"shard_rows=0 is too small"),
    ]:
        with pytest.raises(ValueError, match=message):
            IndexOptions(**options)
