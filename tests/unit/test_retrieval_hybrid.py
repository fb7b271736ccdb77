"""Hybrid and given retrieval: rank fusion by the formula, options shared out, runs read from files."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from wellread.locking import locked
from wellread.retrieval import open_index
from wellread.retrieval.given import GivenRetriever, read_run
from wellread.retrieval.hybrid import HybridRetriever, fuse_ranks, fuse_scores
from wellread.retrieval.lexical import LexicalRetriever
from wellread.types import Candidates, Passage, Probe, Question

WORDS = ["moon", "planet", "orbit", "river", "valley", "castle", "bridge", "engine", "copper", "silver"]


class LetterEncoder:
    """Random but fixed vectors of texts."""

    name = "letters"

    def passages(self, passages):
        return self.questions([passage.text for passage in passages])

    def questions(self, texts):
        return np.stack([np.random.default_rng(zlib.crc32(t.encode())).standard_normal(8) for t in texts]).astype("f4")


def make(numbers):
    """No two have the same text: of equal vectors, the last bits of a product would decide which comes first."""
    return [
        Passage(f"p{n}", f"{WORDS[n % 10]} {WORDS[n * 7 % 10]} {WORDS[n % 3]} n{n}", metadata={"odd": n % 2})
        for n in numbers
    ]


def build(tmp_path, numbers=range(30), name="index", **options):
    return HybridRetriever.build(make(numbers), tmp_path / name, encoder=LetterEncoder(), **options)


PROBES = [Probe(words=word) for word in WORDS]


def same_finds(one, other):
    """Every part finds the same with the same scores; equal scores may come in another order."""
    assert len(one) == len(other)
    for part, its in zip(one.parts, other.parts, strict=True):
        for found, theirs in zip(part.search(PROBES, top_k=len(one)), its.search(PROBES, top_k=len(one)), strict=True):
            assert dict(zip(found.ids, found.scores)) == pytest.approx(dict(zip(theirs.ids, theirs.scores)), abs=1e-6)


def test_rank_fusion_follows_the_formula():
    fused = fuse_ranks([Candidates(("a", "b", "c"), (9, 8, 7)), Candidates(("c", "a"), (1, 0.5))])
    scores = {"a": 1 / 61 + 1 / 62, "b": 1 / 62, "c": 1 / 63 + 1 / 61}
    assert fused.ids == ("a", "c", "b")
    assert fused.scores == pytest.approx([scores[name] for name in fused.ids])


def test_rank_fusion_knows_ranks_only():
    one, other = Candidates(("a", "b"), (2, 1)), Candidates(("x", "y"), (200, -1))
    assert fuse_ranks([one]).scores == fuse_ranks([other]).scores


def test_score_fusion_follows_the_formula():
    fused = fuse_scores([Candidates(("a", "b", "c"), (9, 8, 4)), Candidates(("c", "d", "a"), (0.9, 0.8, 0.2))], depth=3)
    each = {"a": (9, 0.2), "b": (8, 0.2), "c": (4, 0.9), "d": (4, 0.8)}  # what was not found: the lowest
    columns = np.array(list(each.values()))
    wanted = dict(zip(each, ((columns - columns.mean(0)) / columns.std(0)).mean(1)))
    assert fused.ids == tuple(sorted(wanted, key=wanted.get, reverse=True))
    assert fused.scores == pytest.approx([wanted[name] for name in fused.ids])


def test_score_fusion_knows_no_scale():
    rankings = [Candidates(("a", "b", "c"), (9, 8, 4)), Candidates(("c", "b"), (0.9, 0.2))]
    other = [rankings[0], Candidates(("c", "b"), (900, 200))]
    one, two = fuse_scores(rankings, depth=2), fuse_scores(other, depth=2)
    assert one.ids == two.ids
    assert one.scores == pytest.approx(two.scores)


def test_what_one_retriever_alone_finds_stands_out():
    """A search that tells all found fewer than were asked for: nothing else holds the word."""
    everything = Candidates(tuple("abcdefghijklmnop"), tuple(np.linspace(0.9, 0.2, 16)))
    only = [Candidates(("p",), (3.0,)), everything]
    assert fuse_scores(only, depth=16, tells_all=[True, False]).ids[0] == "p"
    assert fuse_scores(only, depth=16).ids == everything.ids
    cut_off = [Candidates(("a", "b"), (5, 4)), Candidates(("c", "a"), (0.9, 0.2))]
    assert fuse_scores(cut_off, depth=2, tells_all=[True, False]) == fuse_scores(cut_off, depth=2)
    assert fuse_scores([Candidates((), ()), everything], depth=16).ids == everything.ids
    assert fuse_scores([Candidates(("a", "b", "c"), (0.1, 0.1, 0.1)), Candidates((), ())], depth=3).scores == (0, 0, 0)


@pytest.mark.parametrize("fusion", ["scores", "ranks"])
def test_the_hybrid_ranking_is_the_fusion_of_its_parts(tmp_path, fusion):
    retriever = build(tmp_path, depth=7, rank_constant=10.0, fusion=fusion)
    lexical, dense = (part.search(PROBES, top_k=7) for part in retriever.parts)
    by_scores = partial(fuse_scores, depth=7, tells_all=[True, False])
    join = by_scores if fusion == "scores" else partial(fuse_ranks, rank_constant=10.0)
    expected = [join(pair).top(5) for pair in zip(lexical, dense)]
    assert retriever.search(PROBES, top_k=5) == expected
    assert open_index(tmp_path / "index").search(PROBES, top_k=5) == expected


def test_add_and_delete_reach_every_part(tmp_path):
    retriever = build(tmp_path)
    retriever.add(iter(make(range(30, 40))))
    assert retriever.delete(iter(["p1", "p2", "p2", "p35"])) == 3
    assert [len(part) for part in open_index(tmp_path / "index").parts] == [37, 37]
    assert len(retriever) == 37
    fresh = build(tmp_path, [n for n in range(40) if n not in (1, 2, 35)], name="fresh")
    assert retriever.fingerprint == fresh.fingerprint
    for one, other in zip(retriever.search(PROBES, top_k=50), fresh.search(PROBES, top_k=50)):
        assert one.ids == other.ids
        assert one.scores == pytest.approx(other.scores, abs=1e-5)


def test_where_filters_every_part(tmp_path):
    found = build(tmp_path).search(PROBES, top_k=15, where={"odd": 1})
    assert all(len(item.ids) == 15 for item in found)
    assert all(int(name[1:]) % 2 for item in found for name in item.ids)


def test_an_iterator_of_passages_is_read_once(tmp_path):
    retriever = HybridRetriever.build(iter(make(range(9))), tmp_path / "index", encoder=LetterEncoder())
    assert [len(part) for part in retriever.parts] == [9, 9]


def test_parts_over_different_passages_are_refused(tmp_path):
    build(tmp_path).parts[0].delete(["p1"])
    index = open_index(tmp_path / "index")
    for use in (lambda: index.search(PROBES, top_k=1), lambda: index.delete(["p2"]), lambda: index.add(make([40]))):
        with pytest.raises(ValueError, match=r"different passages \(lexical 29, dense 30\); bring them together"):
            use()
    assert index.sync(make(range(30))) == (1, 0, 0, 29)
    same_finds(index, build(tmp_path, name="anew"))


def test_the_whole_index_is_held_while_its_parts_change(tmp_path):
    index = build(tmp_path)
    with locked(tmp_path / "index"), pytest.raises(ValueError, match="another process is changing"):
        index.add(make([40]))
    assert [len(part) for part in index.parts] == [30, 30]


def test_a_sync_gives_what_a_new_index_gives(tmp_path):
    index = build(tmp_path)
    changed = [replace(passage, text=f"{passage.text} again") for passage in make([3, 4])]
    wanted = [*make([0, 1, 2]), *changed, *make(range(20, 40))]
    assert index.sync(wanted) == (10, 2, 15, 13)
    assert index.sync(wanted) == (0, 0, 0, 25)
    anew = HybridRetriever.build(wanted, tmp_path / "anew", encoder=LetterEncoder())
    assert index.fingerprint == open_index(tmp_path / "index").fingerprint == anew.fingerprint
    same_finds(index, anew)
    with pytest.raises(ValueError, match="can be read only once"):
        index.sync(iter(wanted))
    assert index.sync(make([50, 51])) == (2, 0, 25, 0)


def test_a_hybrid_index_is_replaced_by_another_kind_and_back(tmp_path):
    build(tmp_path)
    LexicalRetriever.build(make(range(4)), tmp_path / "index", overwrite=True)
    assert not (tmp_path / "index" / "dense").exists()
    assert len(build(tmp_path, overwrite=True)) == 30
    assert not list((tmp_path / "index").glob("segment-*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ("dense",)}, "too few; name two retrievers"),
        ({"parts": ("lexical", "dens")}, "retriever='dens' is unknown"),
        ({"rank_constant": 0.0}, "rank_constant=0.0 must be above 0"),
        ({"depth": 0}, "depth=0 is too small"),
        ({"colour": 1}, "hybrid.colour is unknown"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **options)


ROWS = [
    {"id": "q1", "question": "Which moon?", "candidates": [{"id": "p1", "score": 1}, {"id": "p2", "score": 3}]},
    {"id": "q2", "candidates": [{"id": "p3", "score": 0.5}, {"id": "p9", "score": 0.5}]},
]


def write_run(path):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf8") as file:
        file.writelines(json.dumps(row) + "\n" for row in ROWS)
    return path


@pytest.mark.parametrize("name", ["run.jsonl", "run.jsonl.gz"])
def test_given_candidates_come_by_id_or_text_best_first(tmp_path, name):
    retriever = GivenRetriever.from_run(write_run(tmp_path / name), [Question("q2", "Which river?")])
    by_id = retriever.search([Probe(words="q1"), Probe(words="q2")], top_k=5)
    assert [item.ids for item in by_id] == [("p2", "p1"), ("p3", "p9")]
    assert retriever.search([Probe(words="Which moon?"), Probe(words="Which river?")], top_k=5) == by_id
    assert retriever.search([Probe(words="q1")], top_k=1)[0].ids == ("p2",)
    assert len(retriever) == 4


def test_a_trec_run_is_read(tmp_path):
    (tmp_path / "run.txt").write_text("7 Q0 a 2 1.5 bm25\n7 Q0 b 1 2.5 bm25\n\n8 Q0 c 1 .1 bm25\n", encoding="utf8")
    run, texts = read_run(tmp_path / "run.txt")
    assert run == {"7": Candidates(("b", "a"), (2.5, 1.5)), "8": Candidates(("c",), (0.1,))}
    assert texts == []


def test_a_given_index_filters_and_forgets(tmp_path):
    run = write_run(tmp_path / "run.jsonl")
    retriever = GivenRetriever.build(make(range(8)), tmp_path / "index", run=str(run))
    probes = [Probe(words="q1"), Probe(words="q2")]
    assert [item.ids for item in retriever.search(probes, top_k=5)] == [("p2", "p1"), ("p3",)]  # p9 is not a passage
    assert [item.ids for item in retriever.search(probes, top_k=5, where={"odd": 1})] == [("p1",), ("p3",)]
    retriever.delete(["p2"])
    retriever.add(make([9]))
    retriever.compact()
    again = open_index(tmp_path / "index")
    assert [item.ids for item in again.search(probes, top_k=5)] == [("p1",), ("p3", "p9")]


def test_errors_of_given_candidates(tmp_path):
    run = write_run(tmp_path / "run.jsonl")
    with pytest.raises(ValueError, match=r"no candidates are given for 'q3'; .* has 2 questions"):
        GivenRetriever.from_run(run).search([Probe(words="q3")], top_k=1)
    with pytest.raises(ValueError, match="without passages have no metadata"):
        GivenRetriever.from_run(run).search([Probe(words="q1")], top_k=1, where={"odd": 1})
    with pytest.raises(ValueError, match="'Which moon\\?' has two ids, 'q1' and 'q2'"):
        GivenRetriever.from_run(run, [Question("q2", "Which moon?")])
    with pytest.raises(ValueError, match="does not exist; give a file of candidates"):
        GivenRetriever.from_run(tmp_path / "none")
    with pytest.raises(ValueError, match="run='' is empty"):
        GivenRetriever.build(make(range(3)), tmp_path / "index")
    (tmp_path / "bad").write_text('{"id": 1, "candidates": []}\nq1 Q0 p1\n', encoding="utf8")
    with pytest.raises(ValueError, match="bad, line 2 is not a row of candidates"):
        GivenRetriever.from_run(tmp_path / "bad")
