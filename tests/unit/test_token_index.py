"""Token search: one vector per token, average of maxima; codecs, two stages, changes, filters, resumed builds."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch

from wellread.retrieval import open_index, token_codes, token_search, tokens
from wellread.retrieval.tokens import TokenOptions, TokenRetriever
from wellread.types import Passage, Probe

DIM = 8


class FakeEncoder:
    """Token vectors of a text, the same in every process: each is near one of 40 centres, as words of a kind are.

    calls: how many passages it was asked for. fail_at: after how many it raises.
    """

    def __init__(self, name="fake", fail_at=None, dim=DIM):
        self.name, self.fail_at, self.dim, self.calls = name, fail_at, dim, 0
        self.centres = 2 * np.random.default_rng(0).standard_normal((40, dim))

    def vectors(self, text, count):
        draw = np.random.default_rng(zlib.crc32(text.encode()))
        near = self.centres[draw.integers(0, 40, count)]
        # Of very different lengths, as raw attention keys are.
        return ((near + 0.5 * draw.standard_normal(near.shape)) * draw.uniform(0.5, 2, (count, 1))).astype(np.float32)

    def passages(self, passages):
        if self.fail_at is not None and self.calls >= self.fail_at:
            raise Stopped
        self.calls += len(passages)
        return [self.vectors(passage.text, 3 + int(passage.metadata["number"]) % 7) for passage in passages]

    def questions(self, texts):
        return [self.vectors(text, 5) for text in texts]


class Stopped(Exception):
    pass


def make(numbers):
    topics = ["sky", "land"]
    return [
        Passage(f"p{number}", f"text {number}", metadata={"topic": topics[number % 2], "number": number})
        for number in numbers
    ]


def build(tmp_path, numbers=range(300), name="index", **options):
    options = {"codec": "float32", "encoder": FakeEncoder()} | options
    return TokenRetriever.build(make(numbers), tmp_path / name, **options)


def probes(count=6, first=0):
    rows = FakeEncoder().questions([f"question {number}" for number in range(first, first + count)])
    return [Probe(vectors=torch.from_numpy(row)) for row in rows]


def expected(numbers, probe, top_k, encoder=None):
    """A naive double loop over passages: [(id, score)], best first."""
    encoder = encoder or FakeEncoder()
    question = probe.vectors.double()
    scored = []
    for passage, keys in zip(make(numbers), encoder.passages(make(numbers))):
        total = 0.0
        for token in question:
            total += (torch.from_numpy(keys).double() @ token).max().item()
        scored.append((passage.id, total / len(question)))
    return sorted(scored, key=lambda pair: -pair[1])[:top_k]


def check(found, wanted):
    assert list(found.ids) == [name for name, _ in wanted]
    # Sums of eight products of numbers below 100 in float32.
    assert np.allclose(found.scores, [score for _, score in wanted], atol=1e-4, rtol=1e-5)


TWO_STAGES = {"candidates": 20, "per_token": 40, "lists": 16}
WIDE = {"candidates": 0, "per_token": 10_000}


@pytest.mark.parametrize("block", [11, 16384])
@pytest.mark.parametrize("span", [13, 65536])
def test_exhaustive_search_is_the_average_of_maxima(tmp_path, monkeypatch, block, span):
    monkeypatch.setattr(token_search, "TOKENS", block)
    monkeypatch.setattr(token_search, "SPAN", span)
    monkeypatch.setattr(token_search, "COLUMNS", 12)
    found = build(tmp_path, search="exhaustive").search(probes(), top_k=7)
    for probe, candidates in zip(probes(), found):
        check(candidates, expected(range(300), probe, 7))


@pytest.mark.parametrize("codec", ["float32", "float16"])
@pytest.mark.parametrize(
    "options",
    [
        {"search": "exact"},
        {"search": "approximate", "lists": 16, "probes": 16},
    ],
)
def test_two_stages_that_look_everywhere_find_what_all_passages_give(tmp_path, codec, options):
    retriever = build(tmp_path, codec=codec, **options, **WIDE)
    for found, wanted in zip(retriever.search(probes(), top_k=9), retriever.search_exhaustive(probes(), top_k=9)):
        assert found.ids == wanted.ids
        # Matrices of other shapes are summed in another order.
        assert np.allclose(found.scores, wanted.scores, rtol=1e-6)
    if codec == "float32":
        check(retriever.search(probes(), top_k=9)[0], expected(range(300), probes()[0], 9))


@pytest.mark.parametrize("codec", ["residual", "float32", "float16"])
def test_all_lists_probed_equals_the_exact_first_stage(tmp_path, codec):
    common = {"codec": codec, "candidates": 30, "per_token": 25, "lists": 16}
    inverted = build(tmp_path, search="approximate", probes=16, **common)
    exact = build(tmp_path, name="exact", search="exact", **common)
    assert inverted.segments[0].inverted
    found, wanted = (retriever.search(probes(), top_k=15) for retriever in (inverted, exact))
    assert [candidates.ids for candidates in found] == [candidates.ids for candidates in wanted]


def test_the_first_stage_leads_to_passages_that_score_well(tmp_path):
    """Of 1,000 passages 60 are scored. Lists that score worst, or passages in random order, give less than .3."""
    options = {"candidates": 60, "per_token": 240, "lists": 32, "probes": 16}
    retriever = build(tmp_path, range(1000), codec="residual", **options)
    assert len(retriever.segments[0].centroids) == 32
    assert retriever.recall_against_exhaustive(probes(20), top_k=10) > 0.95


def test_recall_counts_what_search_finds_of_all(tmp_path, monkeypatch):
    assert build(tmp_path / "all", search="exhaustive").recall_against_exhaustive(probes(), top_k=10) == 1
    retriever = build(tmp_path / "some", lists=16, probes=16, per_token=4096, candidates=0)
    assert retriever.recall_against_exhaustive(probes(), top_k=10) == 1  # nothing is passed over
    halved = [found.top(5) for found in retriever.search(probes(), top_k=10)]
    monkeypatch.setattr(retriever, "search", lambda *_, **__: halved)
    assert retriever.recall_against_exhaustive(probes(), top_k=10) == 0.5


def test_few_passages_are_all_scored(tmp_path):
    retriever = build(tmp_path, candidates=300, per_token=1, lists=16, probes=1)
    check(retriever.search(probes(1), top_k=20)[0], expected(range(300), probes()[0], 20))


def test_where_the_first_stage_finds_too_few_all_are_scored(tmp_path):
    retriever = build(tmp_path, candidates=0, per_token=1, lists=16, probes=1)
    check(retriever.search(probes(1), top_k=150)[0], expected(range(300), probes()[0], 150))


def test_residual_codes_lose_little_and_take_little(tmp_path):
    retriever = build(tmp_path, codec="residual", lists=16)
    segment = retriever.segments[0]
    plain = np.concatenate(FakeEncoder().passages(make(range(300))))
    decoded = segment.keys_of(np.arange(300))
    error = np.linalg.norm(decoded - plain, axis=1) / np.linalg.norm(plain, axis=1)
    # A code has 254 steps over twice the largest entry of the residual, so each entry is off by 1/254 of that at most.
    assert error.max() < 0.02
    some = np.array([7, 250, 8])
    assert np.array_equal(segment.keys_of(some), np.concatenate([segment.keys_of(row[None]) for row in some]))
    told = retriever.bytes_per_token()
    assert told["plain"] == 4 * DIM
    assert told["keys"] == DIM
    files = list((tmp_path / "index").rglob("*.npy"))
    # A file has at most 128 bytes of header.
    on_disk = sum(file.stat().st_size for file in files)
    assert on_disk - 128 * len(files) <= told["stored"] * len(plain) <= on_disk


def test_larger_residuals_than_the_sample_had_are_clipped_and_not_wrapped():
    steps = np.full(2, 0.01, np.float32)
    codes, sizes = token_codes._encoded(np.array([[1000.0, -1000.0], [0.0, 0.0], [1.27, 0.0]], np.float32), steps)
    assert codes.tolist() == [[127, -127], [0, 0], [127, 0]]
    assert sizes.tolist() == [255, 0, 0]


def test_equal_passages_come_in_index_order(tmp_path):
    class Same(FakeEncoder):
        def passages(self, passages):
            return [self.vectors("same", 4) for _ in passages]

    for search in ("exhaustive", "exact", "approximate"):
        retriever = build(tmp_path, range(60), name=search, encoder=Same(), search=search, lists=1, **WIDE)
        assert retriever.search(probes(1), top_k=5)[0].ids == ("p0", "p1", "p2", "p3", "p4")


@pytest.mark.parametrize(
    "options", [{"search": "exhaustive"}, {"search": "exact", **WIDE}, {"lists": 16, "probes": 16, **WIDE}]
)
def test_add_delete_and_merge_equal_a_fresh_build(tmp_path, options):
    retriever = build(tmp_path, range(50), **options)
    retriever.add(make(range(50, 60)))
    retriever.delete([f"p{number}" for number in range(0, 60, 4)])
    left = [number for number in range(60) if number % 4]
    fresh = build(tmp_path, left, name="fresh", **options)
    wanted = [candidates.ids for candidates in fresh.search(probes(), top_k=8)]
    assert wanted[0] == tuple(name for name, _ in expected(left, probes()[0], 8))
    assert [candidates.ids for candidates in retriever.search(probes(), top_k=8)] == wanted
    retriever.compact()
    again = open_index(tmp_path / "index")
    assert [candidates.ids for candidates in again.search(probes(), top_k=8)] == wanted
    assert again.fingerprint == fresh.fingerprint
    assert len(again) == len(left)
    assert not list((tmp_path / "index").rglob("*.part"))


def test_residual_codes_survive_a_merge(tmp_path):
    retriever = build(tmp_path, range(100), codec="residual")
    retriever.add(make(range(100, 200)))
    retriever.compact()
    plain = np.concatenate(FakeEncoder().passages(make(range(200))))
    error = np.linalg.norm(retriever.segments[0].keys_of(np.arange(200)) - plain, axis=1)
    # Coded twice, so up to twice the loss of once.
    assert (error / np.linalg.norm(plain, axis=1)).max() < 0.04


@pytest.mark.parametrize("options", [{"search": "exact"}, {"lists": 16, "probes": 4}, {"search": "exhaustive"}])
@pytest.mark.parametrize("top_k", [12, 150])
def test_where_still_gives_top_k(tmp_path, options, top_k):
    retriever = build(tmp_path, **(options | {"candidates": 20, "per_token": 60}))
    retriever.delete(["p4"])
    for probe, candidates in zip(probes(), retriever.search(probes(), top_k=top_k, where={"topic": "sky"})):
        kept = [number for number in range(0, 300, 2) if number != 4]
        ids = {name for name, _ in expected(kept, probe, top_k)}
        assert len(candidates.ids) == min(top_k, len(kept))
        assert set(candidates.ids) <= {f"p{number}" for number in kept}
        # 149 passages match: all come back where that many are asked for, and most of the best where fewer are.
        assert len(ids & set(candidates.ids)) > 0.5 * top_k


@pytest.mark.parametrize("codec", ["residual", "float32"])
def test_an_index_is_opened_as_it_was(tmp_path, codec):
    retriever = build(tmp_path, codec=codec, **TWO_STAGES)
    again = open_index(tmp_path / "index")
    assert isinstance(again, TokenRetriever)
    assert again.options == retriever.options
    assert again.search(probes(), top_k=5) == retriever.search(probes(), top_k=5)
    assert again.search([Probe(words="question 0")], top_k=5) == again.search(probes(1), top_k=5)


def test_words_and_vectors_can_be_mixed(tmp_path):
    retriever = build(tmp_path)
    mixed = [probes()[0], Probe(words="question 1"), Probe(words="other", vectors=probes()[2].vectors)]
    assert retriever.search(mixed, top_k=4) == retriever.search(probes(3), top_k=4)


def test_a_stopped_build_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "BLOCK", 8)
    first, second = FakeEncoder(fail_at=24), FakeEncoder()
    with pytest.raises(Stopped):
        build(tmp_path, range(50), encoder=first, codec="residual")
    assert first.calls == 24
    with (tmp_path / "index" / "segment-00000" / "given.part").open("ab") as file:
        file.write(b"half a block")  # written, but not yet recorded, when the process was killed
    retriever = build(tmp_path, range(50), encoder=second, codec="residual")
    assert second.calls == 50 - 24
    whole = build(tmp_path, range(50), name="whole", codec="residual")
    assert np.array_equal(retriever.segments[0].keys, whole.segments[0].keys)
    assert not list((tmp_path / "index").rglob("*.part"))
    assert not list((tmp_path / "index").rglob("progress*"))


def test_a_build_stopped_while_keys_are_arranged_encodes_nothing_again(tmp_path, monkeypatch):
    def stop(*_):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(token_codes, "_encoded", stop)
        with pytest.raises(Stopped):
            build(tmp_path, codec="residual")
    encoder = FakeEncoder()
    retriever = build(tmp_path, encoder=encoder, codec="residual")
    assert encoder.calls == 0
    assert len(retriever.search(probes(1), top_k=3)[0].ids) == 3


def test_a_stopped_build_with_another_model_starts_again(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "BLOCK", 8)
    stopped = FakeEncoder(fail_at=24)
    stopped.fingerprint = "old"
    with pytest.raises(Stopped):
        build(tmp_path, range(50), encoder=stopped)
    trained = FakeEncoder()
    trained.fingerprint = "new"
    build(tmp_path, range(50), encoder=trained)
    assert trained.calls == 50


def test_memory_stays_bounded_by_the_block(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "BLOCK", 8)
    sizes, encoder = [], FakeEncoder()
    plain = encoder.passages
    encoder.passages = lambda batch: sizes.append(len(batch)) or plain(batch)
    build(tmp_path, range(50), encoder=encoder)
    assert max(sizes) == 8


def test_arrays_are_memory_mapped(tmp_path):
    segment = build(tmp_path, range(50), codec="residual").segments[0]
    assert all(isinstance(array.base.array, np.memmap) for array in (segment.keys, segment.rows, segment.owners))


def test_passages_without_tokens_are_never_found(tmp_path):
    class Silent(FakeEncoder):
        def passages(self, passages):
            rows = super().passages(passages)
            return [row[: 0 if passage.id in ("p0", "p5") else None] for passage, row in zip(passages, rows)]

    for search in ("exhaustive", "exact", "approximate"):
        retriever = build(tmp_path, range(20), name=search, encoder=Silent(), search=search, candidates=2)
        assert len(retriever) == 20
        found = retriever.search(probes(1), top_k=20)[0]
        assert set(found.ids) == {f"p{number}" for number in range(20)} - {"p0", "p5"}
        assert np.isfinite(found.scores).all()


def test_a_question_longer_than_the_block_of_question_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(token_search, "COLUMNS", 3)
    retriever = build(tmp_path, search="exhaustive")
    check(retriever.search(probes(2), top_k=5)[1], expected(range(300), probes()[1], 5))


@pytest.mark.parametrize("shape", [(0, DIM), (3, DIM + 1)])
def test_probes_of_another_shape_are_refused(tmp_path, shape):
    message = rf"shape \({shape[0]}, {shape[1]}\); this token index needs \(tokens, {DIM}\) with at least one token"
    with pytest.raises(ValueError, match=message):
        build(tmp_path).search([Probe(vectors=torch.zeros(shape))], top_k=1)


def test_probes_that_are_no_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="probe vectors hold infinite numbers or NaN; check the model"):
        build(tmp_path, range(10)).search([Probe(vectors=torch.full((2, DIM), torch.nan))], top_k=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": ""}, "encoder is missing; give the folder of a model"),
        ({"lists": -1}, "lists=-1 is out of range; it must be between 0"),
        ({"lists": 65537}, "lists=65537 is out of range.*65536"),
        ({"probes": -1}, "probes=-1 is negative; it must be 0"),
        ({"per_token": -1}, "per_token=-1 is negative; it must be 0 .automatic. or more"),
        ({"candidates": -1}, "candidates=-1 is negative; it must be 0"),
        ({"codec": "pq"}, "reatt.codec='pq' is not allowed; use one of: residual, float32, float16"),
        ({"search": "quick"}, "reatt.search='quick' is not allowed; use one of: approximate, exact, exhaustive"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **options)


def test_a_top_k_of_nothing_and_no_probes_are_refused(tmp_path):
    retriever = build(tmp_path, range(10))
    with pytest.raises(ValueError, match="top_k=0 is too small"):
        retriever.search_exhaustive(probes(), top_k=0)
    with pytest.raises(ValueError, match="no probes to measure recall with"):
        retriever.recall_against_exhaustive([])
    assert retriever.search_exhaustive([], top_k=1) == []


def test_vectors_that_are_no_numbers_are_refused(tmp_path):
    class Broken(FakeEncoder):
        def passages(self, passages):
            return [
                row * (np.nan if passage.id == "p3" else 1)
                for row, passage in zip(super().passages(passages), passages)
            ]

    with pytest.raises(ValueError, match="gave passage 'p3' vectors with infinite numbers or NaN; read it with"):
        build(tmp_path, encoder=Broken())


def test_other_weights_under_the_same_name_are_refused(tmp_path):
    encoder = FakeEncoder("changing")
    encoder.fingerprint = "before"
    build(tmp_path, encoder=encoder)
    encoder.fingerprint = "after"
    again = open_index(tmp_path / "index")
    assert len(again.search(probes(1), top_k=3)[0].ids) == 3  # vectors are the caller's own business
    message = "encoder 'changing' has fingerprint 'after', but this index was built with 'before'; build"
    with pytest.raises(ValueError, match=message):
        again.search([Probe(words="question 0")], top_k=3)
    with pytest.raises(ValueError, match=message):
        again.add(make([999]))
    assert len(open_index(tmp_path / "index")) == 300


def test_an_encoder_nobody_gave_is_opened_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(TokenRetriever, "_encoders", {})
    opened = []
    monkeypatch.setattr(tokens, "TOKEN_ENCODERS", {"model": lambda name: opened.append(name) or FakeEncoder(name)})
    retriever = build(tmp_path, range(20), encoder="models/mine")
    assert retriever.options.encoder == "models/mine"
    retriever.search([Probe(words="question 0")], top_k=3)
    assert opened == ["models/mine"]


def test_passages_go_first_that_many_tokens_find_and_find_clearly():
    # Question token 0 finds passages 0, 0, 1 and 2, question token 1 finds 1 and 3, the last one finds nothing.
    owners, scores = np.array([0, 0, 1, 2, 1, 3]), np.array([9, 7, 5, 3, 4, 2], np.float32)
    found, partial = token_search._filtered(owners, scores, np.array([4, 2, 0]), 5)
    assert found.tolist() == [0, 1, 2, 3]
    # above the worst row (3 and 2); and what a token's rows have more than that on average, where it finds a passage
    missed = (6 + 4 + 2 + 0) / 4, (2 + 0) / 2
    assert partial.tolist() == [6 + missed[0], 2 + missed[0] + 2 + missed[1], 0 + missed[0], 0 + missed[1]]


def test_lists_follow_the_number_of_tokens():
    options = TokenOptions(encoder="any")
    assert [options.lists_for(tokens) for tokens in (0, 1, 2_500_000, 12_000_000, 10**12)] == [2, 2, 2048, 4096, 65536]
    assert TokenOptions(encoder="any", codec="float32", search="exact").lists_for(1000) == 0
    assert TokenOptions(encoder="any", lists=7).lists_for(1000) == 7
    assert [options.probes_for(lists) for lists in (1, 64, 2048, 4096)] == [16, 16, 64, 128]
    assert [options.per_token_for(tokens) for tokens in (10, 500_000, 12_277_157)] == [512, 512, 11_989]
    assert TokenOptions(encoder="any", per_token=7).per_token_for(12_277_157) == 7
    assert [options.candidates_for(top_k) for top_k in (1, 20, 100)] == [1000, 1000, 2000]
    assert [TokenOptions(encoder="any", candidates=count).candidates_for(100) for count in (0, 7)] == [0, 7]
    assert TokenOptions(encoder="any", search="exact", probes=7).probes_for(64) == 0
    assert TokenOptions(encoder="any", probes=7).probes_for(2048) == 7
