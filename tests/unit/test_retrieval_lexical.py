"""BM25: contents of the index, adding, deleting, merging and filtering equal a fresh build."""

from __future__ import annotations

import random

import numpy as np
import pytest

from wellread.retrieval import open_index, segments
from wellread.retrieval.catalog import matches
from wellread.retrieval.lexical import LexicalRetriever
from wellread.types import Passage, Probe

WORDS = [
    "moon", "planet", "orbit", "river", "valley", "castle", "bridge", "engine", "copper", "silver", "garden",
    "winter", "harbour", "signal", "theory",
]  # fmt: skip


def make(numbers, seed=0):
    """Random passages; the same number always gives the same passage."""
    passages = []
    for number in numbers:
        draw = random.Random(seed * 1000 + number)
        text = " ".join(draw.choices(WORDS, k=draw.randint(3, 30)))
        metadata = {"topic": draw.choice(["sky", "land"]), "year": number % 5}
        if number % 7 == 0:
            metadata["rare"] = True
        passages.append(Passage(f"p{number}", text, title=draw.choice(WORDS), metadata=metadata))
    return passages


def probes(count=20, seed=1):
    draw = random.Random(seed)
    return [Probe(words=" ".join(draw.choices(WORDS, k=3))) for _ in range(count)]


def found(retriever, top_k=10, **options):
    return [dict(zip(item.ids, item.scores)) for item in retriever.search(probes(), top_k=top_k, **options)]


def assert_same(first, second):
    # Equal formulas over equal counts; only the order of equal scores may differ with the order of passages.
    for one, other in zip(first, second, strict=True):
        assert sorted(one.values()) == pytest.approx(sorted(other.values()), rel=1e-6)
        least = min(one.values(), default=0)
        surely = {name for name, score in one.items() if score > least * (1 + 1e-6)}
        assert surely <= set(other)
        assert all(one[name] == pytest.approx(other[name], rel=1e-6) for name in surely)


def test_the_best_passage_comes_first_and_scores_fall(tmp_path):
    passages = [
        Passage("moon", "The Moon orbits the Earth."),
        Passage("sun", "The Sun is a star; planets orbit it.", title="Sun"),
        Passage("cake", "Flour, sugar and eggs."),
    ]
    retriever = LexicalRetriever.build(passages, tmp_path / "index")
    [candidates] = retriever.search([Probe(words="What orbits the earth?")], top_k=5)
    assert candidates.ids == ("moon", "sun")
    assert candidates.scores[0] > candidates.scores[1] > 0


def test_titles_count_and_words_are_stemmed(tmp_path):
    passages = [Passage("a", "nothing here", title="Running rivers"), Passage("b", "nothing there")]
    retriever = LexicalRetriever.build(passages, tmp_path / "index")
    assert retriever.search([Probe(words="runs by the river")], top_k=5)[0].ids == ("a",)


@pytest.mark.parametrize("words", ["", "the of and", "xylophone", "?!"])
def test_no_shared_word_gives_no_candidates(tmp_path, words):
    retriever = LexicalRetriever.build(make(range(5)), tmp_path / "index")
    assert retriever.search([Probe(words=words)], top_k=5)[0].ids == ()


def test_passages_without_words_are_kept_but_never_found(tmp_path):
    retriever = LexicalRetriever.build([Passage("empty", ""), *make(range(5))], tmp_path / "index")
    assert len(retriever) == 6
    assert all("empty" not in row for row in found(retriever))


def test_add_and_delete_equal_a_fresh_build(tmp_path):
    grown = LexicalRetriever.build(make(range(40)), tmp_path / "grown")
    assert grown.add(make(range(40, 60))) == 20
    assert grown.delete([f"p{number}" for number in range(0, 60, 3)]) == 20
    assert grown.add(make([3, 6])) == 2
    left = sorted({*range(60)} - {*range(0, 60, 3)} | {3, 6})
    fresh = LexicalRetriever.build(make(left), tmp_path / "fresh")
    assert len(grown) == len(fresh) == 42
    assert grown.fingerprint == fresh.fingerprint
    assert_same(found(grown), found(fresh))
    again = open_index(tmp_path / "grown")
    assert found(again) == found(grown)
    again.compact()
    assert len(again.segments) == 1
    assert_same(found(again), found(fresh))
    assert again.fingerprint == fresh.fingerprint


def test_many_small_additions_are_merged(tmp_path):
    retriever = LexicalRetriever.build(make(range(10)), tmp_path / "index")
    for number in range(10, 10 + 2 * segments.MOST_SEGMENTS):
        retriever.add(make([number]))
    assert len(retriever.segments) <= segments.MOST_SEGMENTS
    folders = {path.name for path in (tmp_path / "index").glob("segment-*")}
    assert folders == {segment.path.name for segment in retriever.segments}
    fresh = LexicalRetriever.build(make(range(10 + 2 * segments.MOST_SEGMENTS)), tmp_path / "fresh")
    assert_same(found(retriever), found(fresh))


def test_everything_can_be_deleted_and_added_again(tmp_path):
    retriever = LexicalRetriever.build(make(range(5)), tmp_path / "index")
    retriever.delete([f"p{number}" for number in range(5)])
    assert len(retriever) == 0
    assert found(retriever) == [{}] * 20
    retriever.add(make(range(5)))
    assert found(retriever) == found(LexicalRetriever.build(make(range(5)), tmp_path / "fresh"))


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ({"topic": "sky"}, lambda item: item.metadata["topic"] == "sky"),
        ({"year": [1, 3.0]}, lambda item: item.metadata["year"] in (1, 3)),
        ({"topic": "land", "year": 2}, lambda item: item.metadata["topic"] == "land" and item.metadata["year"] == 2),
        ({"rare": True}, lambda item: "rare" in item.metadata),
        ({"source": "text"}, lambda item: True),
        ({"year": "1"}, lambda item: False),
    ],
)
def test_where_filters_before_ranking(tmp_path, where, wanted):
    retriever = LexicalRetriever.build(make(range(30)), tmp_path / "index")
    retriever.add(make(range(30, 60)))
    retriever.delete(["p31", "p1"])
    everything = found(retriever, top_k=100)
    names = {item.id for item in make(range(60)) if wanted(item)}
    assert names == {item.id for item in make(range(60)) if matches(item, where)}
    expected = [[name for name in row if name in names][:4] for row in everything]
    assert [list(row) for row in found(retriever, top_k=4, where=where)] == expected


def test_equal_scores_come_in_index_order(tmp_path):
    passages = [Passage(f"p{number}", "copper bridge") for number in range(9)]
    retriever = LexicalRetriever.build(passages, tmp_path / "index")
    assert retriever.search([Probe(words="bridge")], top_k=3)[0].ids == ("p0", "p1", "p2")


def test_probes_do_not_see_each_other(tmp_path):
    retriever = LexicalRetriever.build(make(range(40)), tmp_path / "index")
    together = retriever.search(probes(), top_k=5)
    assert [retriever.search([probe], top_k=5)[0] for probe in probes()] == together


def test_counts_are_those_of_the_text(tmp_path):
    retriever = LexicalRetriever.build([Passage("a", "copper copper silver", title="copper")], tmp_path / "index")
    segment = retriever.segments[0]
    assert segment.terms.to_pylist() == ["copper", "silver"]
    assert segment.counts.tolist() == [3, 1]
    assert segment.lengths.tolist() == [4]


def test_a_killed_change_leaves_the_index_as_it_was(tmp_path):
    retriever = LexicalRetriever.build(make(range(10)), tmp_path / "index")
    before = found(retriever)

    def stopped():
        yield from make(range(10, 12))
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        retriever.add(stopped())
    assert found(open_index(tmp_path / "index")) == before
    (tmp_path / "index" / "segment-00002").mkdir()  # what a killed process leaves
    retriever = open_index(tmp_path / "index")
    retriever.add(make([20]))
    retriever.add(make([21]))
    assert len(open_index(tmp_path / "index")) == 12


def test_arrays_are_memory_mapped(tmp_path):
    retriever = LexicalRetriever.build(make(range(10)), tmp_path / "index")
    assert all(isinstance(array, np.memmap) for array in (retriever.segments[0].passages, retriever.segments[0].counts))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.search([Probe(words="x")], top_k=0), "top_k=0 is too small"),
        (lambda r: r.search(Probe(words="x"), top_k=1), "give a list of probes"),
        (lambda r: r.search([Probe(words="x")], top_k=1, where={"colour": 1}), "'colour' does not occur.*rare, source"),
        (lambda r: r.add(make([1])), "'p1' already in the index; delete"),
        (lambda r: r.add([*make([50]), *make([50])]), "'p50' more than once"),
        (lambda r: r.delete(["p1", "nobody"]), "'nobody' not in the index; nothing was deleted"),
    ],
)
def test_errors_of_use(tmp_path, call, message):
    retriever = LexicalRetriever.build(make(range(10)), tmp_path / "index")
    with pytest.raises(ValueError, match=message):
        call(retriever)
    assert len(open_index(tmp_path / "index")) == 10
    assert len(list((tmp_path / "index").glob("segment-*"))) == 1


def test_a_probe_of_vectors_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    retriever = LexicalRetriever.build(make(range(3)), tmp_path / "index")
    with pytest.raises(ValueError, match="no words; lexical search needs words"):
        retriever.search([Probe(vectors=torch.zeros(1, 4))], top_k=1)


@pytest.mark.parametrize(
    ("passages", "options", "message"),
    [
        ([], {}, "no passages to index"),
        ([Passage("a", "x"), Passage("a", "y")], {}, "'a' more than once"),
        (make(range(3)), {"k1": -1.0}, "k1=-1.0 is negative"),
        (make(range(3)), {"b": 2.0}, "b=2.0 is out of range"),
        (make(range(3)), {"language": "klingon"}, "language='klingon' is not allowed; use one of: danish"),
        (make(range(3)), {"encoder": "x"}, "lexical.encoder is unknown"),
    ],
)
def test_errors_of_building(tmp_path, passages, options, message):
    with pytest.raises(ValueError, match=message):
        LexicalRetriever.build(passages, tmp_path / "index", **options)
    assert not (tmp_path / "index" / "index.json").exists()
