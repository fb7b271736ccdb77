"""Claims that bring their own sentences: the corpus made of them and the ids that claims name agree."""

from __future__ import annotations

import json

import pytest

from wellread.corpus import Corpus, Problem, ingest, read_documents, read_questions
from wellread.corpus.evidence import JOINED_WORDS, Evidence, brings_passages, is_evidence_row
from wellread.corpus.readers import format_of


def sentence(title, text, **more):
    return {"title": title, "text": text, **more}


TALL = sentence("Mont Blanc", "It is 4,806 m tall.")
BORDER = sentence("Mont Blanc", "It stands on a border.")
CLIMB = sentence("Mont Blanc | Ascents", "Balmat climbed it in 1786.")
ROWS = [
    {"id": "c1", "claim": "Blanc is tall.", "label": "SUPPORTS", "evidence": [TALL], "candidates": [CLIMB, TALL]},
    {"id": "c2", "claim": "Nobody climbed it.", "label": "REFUTES", "evidence": [BORDER, CLIMB], "candidates": []},
]


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_sentences_of_a_title_become_one_passage_that_claims_name(tmp_path):
    path = written(tmp_path / "claims.jsonl", ROWS)
    report = ingest(path, tmp_path / "corpus", progress=False)
    corpus = Corpus.open(tmp_path / "corpus")
    assert (report.passages, report.skipped, report.duplicates) == (2, 0, 0)
    assert [(item.title, item.text) for item in corpus] == [
        ("Mont Blanc", "It is 4,806 m tall. It stands on a border."),
        ("Mont Blanc | Ascents", "Balmat climbed it in 1786."),
    ]
    mountain, ascents = corpus.ids()
    first, second = read_questions(path)
    assert (first.text, first.answers, first.positive, first.task) == (
        "Blanc is tall.",
        ("SUPPORTS",),
        (mountain,),
        "claim",
    )
    assert second.positive == (mountain, ascents)
    assert second.metadata == {"provenance_sets": [[mountain, ascents]]}  # its evidence counts together


def test_ids_do_not_depend_on_the_other_rows_of_other_titles(tmp_path):
    alone = read_questions(written(tmp_path / "a.jsonl", ROWS))[1]
    more = {"claim": "x", "label": "SUPPORTS", "evidence": [sentence("Other", "Else.")]}
    assert read_questions(written(tmp_path / "b.jsonl", [more, *ROWS]))[2].positive == alone.positive


def test_long_titles_are_parted_and_untitled_sentences_never_joined():
    half = "word " * (JOINED_WORDS // 2)
    rows = [
        {"claim": "x", "evidence": [sentence("T", f"{half}a"), sentence("T", f"{half}b"), sentence("T", "short")]},
        {"claim": "y", "evidence": [sentence("", "One."), sentence("", "Two."), sentence(None, "One.")]},
    ]
    found = Evidence.of(_rows(rows))
    assert list(found.passages.values()) == [
        ("T", f"{half}a"),
        ("T", f"{half}b short"),
        ("", "One."),
        ("", "Two."),
    ]
    assert found.lines == dict(zip(found.passages, (1, 1, 2, 2)))
    assert found.sets(rows[0]) == [list(found.passages)[:2]]


def test_labelled_evidence_stands_alone():
    items = [
        sentence("A", "a.", label="SUPPORTS"),
        sentence("B", "b.", label="NOT ENOUGH INFO"),
        sentence("C", "c.", label="REFUTES"),
        sentence("A", "again.", label="SUPPORTS"),
    ]
    row = {"claim": "x", "label": "DISPUTED", "evidence": items}
    found = Evidence.of(_rows([row]))
    a, _, c = found.passages
    assert found.sets(row) == [[a], [c]]
    assert found.sets({**row, "evidence": items[1:2]}) == []


def _rows(rows):
    from wellread.corpus.documents import Row

    return [Row(row, line) for line, row in enumerate(rows, start=1)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (ROWS[0], True),
        ({"question": "q", "candidates": [{"text": "t"}]}, True),
        ({"claim": "c", "label": "SUPPORTS"}, False),
        ({"claim": "c", "evidence": "text"}, False),
        ({"claim": "c", "evidence": [[["1", "2", "Page", 0]]]}, False),  # FEVER: places in a dump, no texts
        ({"claim": "c", "evidence": [{"title": "T", "text": " "}]}, False),
        ({"text": "a passage", "claim": "c", "evidence": [TALL]}, False),
        ({"evidence": [TALL]}, False),
        ([1], False),
    ],
)
def test_which_rows_bring_passages(tmp_path, row, expected):
    assert is_evidence_row(row) is expected
    path = written(tmp_path / "a.jsonl", [row])
    assert brings_passages(path) is expected
    assert format_of(path) == ("evidence" if expected else "jsonl")


def test_other_rows_in_such_a_file_are_named(tmp_path):
    path = written(tmp_path / "a.jsonl", [ROWS[0], {"claim": "bare", "label": "REFUTES"}])
    assert [item.positive == () for item in read_questions(path)] == [False, True]
    (problem,) = [item for item in read_documents(path) if isinstance(item, Problem)]
    assert str(problem).endswith("a.jsonl:2: brings no passage; evidence or candidates must hold texts")
    with pytest.raises(ValueError, match=r"split='dev' is not in .*; it has: no split field"):
        read_questions(path, split="dev")


@pytest.mark.parametrize(
    ("name", "passages", "claims", "joined"),
    [("fm2_dev", 3392, 1169, 161), ("fever_symmetric_dev", 340, 708, 0), ("climate_fever", 2337, 1535, 0)],
)
def test_real_claims(tmp_path, shared_data, name, passages, claims, joined):
    path = shared_data / "kilt" / f"{name}.jsonl.gz"
    assert ingest(path, tmp_path / "c", progress=False).passages == passages
    corpus = Corpus.open(tmp_path / "c")
    questions = read_questions(path)
    assert len(questions) == claims
    assert all(place in corpus for item in questions for place in item.positive)
    sets = [each for item in questions for each in item.metadata["provenance_sets"]]
    assert sum(len(each) > 1 for each in sets) == joined
