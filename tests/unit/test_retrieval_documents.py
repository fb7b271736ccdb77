"""Passages found -> documents found, over indexes of documents that were cut."""

from __future__ import annotations

import pytest

from wellread.retrieval.documents import Documents, search_documents
from wellread.retrieval.hybrid import HybridRetriever
from wellread.retrieval.lexical import LexicalRetriever
from wellread.types import Candidates, Passage, Probe


def piece(document: str, number: int, text: str) -> Passage:
    return Passage(f"{document}-{number}", text, metadata={"document": document})


PASSAGES = [
    # Six pieces of one document, better than everything else.
    *(piece("long", number, "copper copper copper bridge") for number in range(6)),
    piece("two", 0, "a silver river"),
    piece("two", 1, "copper in a very long sentence about many other things that are not of metal"),
    Passage("whole", "copper and tin and zinc"),
    Passage("note-1", "copper and lead and gold and iron", metadata={"document": "thesis.txt"}),
    Passage("7-1", "nothing of the kind", metadata={"document": 7}),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return LexicalRetriever.build(PASSAGES, tmp_path_factory.mktemp("documents") / "index")


def test_a_piece_is_known_by_its_name_and_metadata(index):
    names = Documents(index)
    assert names.cut
    asked = ["two-1", "whole", "note-1", "7-1", "long-5", "stranger-0"]
    assert names.of(asked) == ["two", "whole", "note-1", "7-1", "long", "stranger-0"]
    assert names.of([]) == []


def test_candidates_become_documents_at_their_best_passage(index):
    found = Candidates(("two-1", "whole", "two-0", "x"), (4, 3, 2, 1))
    assert Documents(index).fold([found, Candidates((), ())]) == [
        Candidates(("two", "whole", "x"), (4, 3, 1)),
        Candidates((), ()),
    ]


def test_the_search_goes_on_until_there_are_enough_documents(index):
    probes = [Probe(words="copper"), Probe(words="silver"), Probe(words="absent")]
    assert index.search(probes, top_k=2)[0].ids == ("long-0", "long-1")
    found = search_documents(index, probes, top_k=3, documents=Documents(index))
    assert found[0].ids == ("long", "whole", "note-1")
    assert [each.ids for each in found[1:]] == [("two",), ()]
    assert found[0].scores[0] == index.search(probes[:1], top_k=1)[0].scores[0]
    everything = search_documents(index, probes[:1], top_k=50, documents=Documents(index))[0]
    assert everything.ids == ("long", "whole", "note-1", "two")
    plain = search_documents(index, probes, top_k=3)
    assert plain == index.search(probes, top_k=3)


def test_what_judgements_are_about(index):
    names = Documents(index)
    assert names.are_judged(["long", "whole"])
    assert not names.are_judged(["long-0", "whole"])
    assert names.missing(["long", "two-0", "whole", "thesis.txt", "thesis", "nobody"]) == ["thesis", "nobody"]


def test_what_was_deleted_is_missing(tmp_path):
    index = LexicalRetriever.build(PASSAGES, tmp_path / "index")
    index.delete(["two-0", "two-1", "whole"])
    assert Documents(index).missing(["long", "two", "two-0", "whole"]) == ["two", "two-0", "whole"]


def test_an_index_of_passages_has_no_documents(tmp_path):
    index = LexicalRetriever.build([Passage("a-1", "copper"), Passage("b", "tin")], tmp_path / "index")
    names = Documents(index)
    assert not names.cut
    assert not names.are_judged(["a-1"])
    assert names.of(["a-1", "b"]) == ["a-1", "b"]
    assert names.missing(["a-1", "a"]) == ["a"]


def test_a_hybrid_index_is_known_by_its_parts(index):
    class Joint(HybridRetriever):
        def __init__(self, part):
            self.parts = [part]

    assert Documents(Joint(index)).of(["two-1"]) == ["two"]
