"""What may be read for a question: passages that it hides are left out, and others come in their place."""

from __future__ import annotations

import pytest

from wellread.retrieval import RETRIEVERS, open_index
from wellread.retrieval.readable import Hiding, readable, search_readable
from wellread.types import Candidates, Passage, Probe, Question

SIZE = 40
SHOWN = {"picture": "mill.png"}
PASSAGES = [
    Passage(f"p{n}", f"mill {'river ' * (SIZE - n)}", metadata=SHOWN if n < 30 else {}, source="pages")
    for n in range(SIZE)
]
PASSAGES += [Passage("q", "mill river", metadata={"asked": "mill river", "document": "q"}, source="asked")]
BY_ID = {item.id: item for item in PASSAGES}
ASKED = [
    Question("q", "mill river", metadata={"picture": "mill.png", "hidden": ["p3", "mill.png"]}, positive=("p4",)),
    Question("q", "mill river"),
    Question("", "mill river"),
]
BY_NAME = Question("z", "river mill", metadata={"hidden": ["mill.png"]})  # asks about no picture, and hides one


def looked_up(ids):
    return [BY_ID[name] for name in ids]


def hidden(question: Question) -> set[str]:
    return {item.id for item in PASSAGES if question.hides(item)}


def test_what_is_hidden():
    picture, own, typed = map(hidden, ASKED)
    assert picture == {*(f"p{n}" for n in range(30) if n != 4), "q"}
    assert (own, typed) == ({"q"}, set())


def test_a_hidden_picture_need_not_be_that_of_the_question():
    hiding = Hiding()
    for passage in PASSAGES:
        hiding.add(passage)
    found = readable([BY_NAME], [Candidates(tuple(BY_ID), (0.0,) * len(BY_ID))], looked_up)[0]
    assert set(BY_ID) - set(found.ids) == hidden(BY_NAME) == set(hiding(BY_NAME)) & set(BY_ID) != set()


def test_found_passages_are_left_out_in_their_order():
    found = Candidates(("q", "p35", "p3", "p4", "p1"), (5.0, 4.0, 3.0, 2.0, 1.0))
    picture, own, typed = readable(ASKED, [found] * 3, looked_up)
    assert picture == Candidates(("p35", "p4"), (4.0, 2.0))
    assert own.ids == ("p35", "p3", "p4", "p1")
    assert typed == found


def test_only_what_may_be_hidden_is_looked_at():
    looked = []

    def passages(ids):
        looked.extend(ids)
        return looked_up(ids)

    readable(ASKED[1:], [Candidates(("p35", "p4"), (1.0, 0.5))] * 2, passages)
    assert not looked


@pytest.mark.parametrize("top_k", [1, 3, 11, 50])
def test_as_many_are_found_as_there_are(tmp_path, top_k):
    index = RETRIEVERS["lexical"].build(PASSAGES, tmp_path / "index")
    probes = [Probe(words=question.text) for question in ASKED]
    found = search_readable(index.search, ASKED, probes, top_k=top_k, passages=index.about)
    everything = index.search(probes, top_k=len(PASSAGES))
    for question, few, every in zip(ASKED, found, everything, strict=True):
        assert few == every.without(hidden(question)).top(top_k)


def test_a_set_of_passages_tells_at_once_what_is_hidden():
    hiding = Hiding()
    for item in PASSAGES:
        hiding.add(item)
    for question in ASKED:
        assert set(hiding(question)) & BY_ID.keys() == hidden(question)
    assert hiding(ASKED[0])[:2] == ("p3", "mill.png")


@pytest.mark.parametrize("kind", ["lexical", "hybrid", "given"])
def test_an_index_knows_what_its_passages_are_about(tmp_path, kind):
    (tmp_path / "run.jsonl").write_text("")
    options = {"hybrid": {"parts": ["lexical", "given"], "run": str(tmp_path / "run.jsonl")}}
    options["given"] = {"run": str(tmp_path / "run.jsonl")}
    RETRIEVERS[kind].build(PASSAGES[:-1], tmp_path / "index", **options.get(kind, {}))
    index = open_index(tmp_path / "index")
    index.add(PASSAGES[-1:])
    index.delete(["p1"])
    known = index.about(["q", "p0", "p1", "other"])
    wanted = [(item.id, item.metadata, item.source) for item in looked_up(["q", "p0"])]
    assert [(item.id, item.metadata, item.source) for item in known] == [
        *wanted,
        ("p1", {}, "text"),
        ("other", {}, "text"),
    ]
