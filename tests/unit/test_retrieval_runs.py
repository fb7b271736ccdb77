"""Runs written: read again in the same order, by this package and by anything that sorts by score."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from wellread.retrieval.given import GivenRetriever, read_run, write_run
from wellread.types import Candidates, Probe, Question

QUESTIONS = [Question("q1", "Which moon?"), Question("q2", "Which river?")]
FOUND = [Candidates(("b", "a", "c", "d"), (2.5, 2.5, 2.5, 1.0)), Candidates(("e",), (-0.5,))]


@pytest.mark.parametrize("name", ["run.trec", "deep/er/run.trec.gz", "run.jsonl", "run.jsonl.gz"])
def test_a_run_is_read_again_in_its_order(tmp_path, name):
    path = tmp_path / name
    write_run(path, QUESTIONS, FOUND, name="bm25")
    run, _ = read_run(path)
    assert {key: each.ids for key, each in run.items()} == {"q1": ("b", "a", "c", "d"), "q2": ("e",)}
    assert run["q1"].scores == pytest.approx(FOUND[0].scores, rel=1e-6)  # a few steps of single precision
    scores = np.array(run["q1"].scores, dtype=np.float32)  # what trec_eval keeps
    assert (np.diff(scores) < 0).all()
    retriever = GivenRetriever.from_run(path, QUESTIONS)
    assert retriever.search([Probe(words="Which moon?")], top_k=2)[0].ids == ("b", "a")


def test_the_lines_are_those_of_trec(tmp_path):
    write_run(tmp_path / "run", QUESTIONS, [FOUND[1], Candidates((), ())], name="bm25")
    assert (tmp_path / "run").read_text() == "q1 Q0 e 1 -0.5 bm25\n"  # a question without candidates has no line
    write_run(tmp_path / "run.jsonl.gz", QUESTIONS[:1], FOUND[1:], name="bm25")
    with gzip.open(tmp_path / "run.jsonl.gz", "rt") as file:
        row = json.loads(file.read())
    assert row == {"id": "q1", "question": "Which moon?", "candidates": [{"id": "e", "score": -0.5}]}


def test_scores_that_rise_give_way_to_the_order(tmp_path):
    write_run(tmp_path / "run", QUESTIONS[:1], [Candidates(("a", "b", "c"), (1.0, 3.0, 0.5))])
    run, _ = read_run(tmp_path / "run")
    assert run["q1"].ids == ("a", "b", "c")
    assert run["q1"].scores[2] == 0.5


def test_errors(tmp_path):
    with pytest.raises(ValueError, match=r"two questions have the id 'q1'; in a run every question needs an id"):
        write_run(tmp_path / "run", QUESTIONS[:1] * 2, FOUND)
    spaced = [Candidates(("New York",), (1.0,))]
    with pytest.raises(ValueError, match=r"'New York' is empty or holds white space, .*write JSON lines"):
        write_run(tmp_path / "run", QUESTIONS[:1], spaced)
    with pytest.raises(ValueError, match=r"'my run' is empty or holds white space"):
        write_run(tmp_path / "run", QUESTIONS, FOUND, name="my run")
    assert not (tmp_path / "run").exists()
    write_run(tmp_path / "run.jsonl", QUESTIONS[:1], spaced)
    assert read_run(tmp_path / "run.jsonl")[0]["q1"].ids == ("New York",)
