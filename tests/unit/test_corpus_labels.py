"""Relevance labels as questions whose answer is a relevant document."""

from __future__ import annotations

import gzip
import json

import pytest

from wellread.corpus import read_questions
from wellread.corpus.labels import LabelsReport, relevance_questions
from wellread.corpus.writing import write_questions

DOCUMENTS = [
    {"_id": "io", "title": "Io", "text": "A moon\nof Jupiter."},
    {"_id": "mars", "title": "Is Mars red?", "text": "Because of rust."},
    {"_id": "ice", "title": "", "text": "Rings of ice."},
]
QUERIES = [{"_id": f"q{number}", "text": f"Query {number}?"} for number in range(4)]
TRAIN = [("q0", "io", 1), ("q0", "mars", 2), ("q0", "ice", 0), ("q1", "ice", 4), ("q2", "gone", 1), ("q3", "io", 0)]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path):
    with gzip.open(tmp_path / "corpus.jsonl.gz", "wt", encoding="utf8") as file:
        file.write(lines(DOCUMENTS))
    (tmp_path / "queries.jsonl").write_text(lines(QUERIES), encoding="utf8")
    (tmp_path / "qrels").mkdir()
    for name, judged in (("train", TRAIN), ("test", [("q3", "mars", 1)])):
        text = "".join(f"{query}\t{document}\t{grade}\n" for query, document, grade in judged)
        (tmp_path / "qrels" / f"{name}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{text}", encoding="utf8")
    return tmp_path


def test_every_relevant_document_is_an_answer_with_its_label(folder):
    report = LabelsReport()
    first, second = relevance_questions(folder, report=report)
    assert (first.id, first.text, first.task) == ("q0", "Query 0?", "relevance")
    assert first.answers == ("relevance: 1. Io. A moon of Jupiter.", "relevance: 2. Is Mars red? Because of rust.")
    assert first.positive == ("io", "mars")
    assert second.answers == ("relevance: 4. Rings of ice.",)
    assert (report.questions, report.passages, report.skipped) == (2, 3, 1)  # q2 names a document that is gone


def test_documents_may_be_cut(folder):
    first, _ = relevance_questions(folder, document_words=2)
    assert first.answers == ("relevance: 1. Io. A", "relevance: 2. Is Mars")


def test_splits(folder):
    assert [question.id for question in relevance_questions(folder, split="test")] == ["q3"]
    assert [question.id for question in relevance_questions(folder, split=None)] == ["q0", "q1", "q3"]
    with pytest.raises(ValueError, match=r"split='dev' is not in .*; it has: test, train\."):
        list(relevance_questions(folder, split="dev"))


def test_the_file_is_read_back(folder):
    made = list(relevance_questions(folder))
    write_questions(folder / "labels.jsonl.gz", made)
    assert read_questions(folder / "labels.jsonl.gz") == made


def test_mistakes(folder):
    with pytest.raises(ValueError, match=r"document_words=0; it must be at least 1, or None for whole documents\."):
        relevance_questions(folder, document_words=0)
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq0\tgone\t1\n", encoding="utf8")
    with pytest.raises(ValueError, match=r"no relevant document of .* is in its corpus\.jsonl \(1 judged questions\)"):
        list(relevance_questions(folder))
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(lines(DOCUMENTS).encode())[:-20])
    with pytest.raises(ValueError, match=r"corpus\.jsonl\.gz:3: is not JSON: .*\. Mend it\."):
        list(relevance_questions(folder))
    (folder / "queries.jsonl").unlink()
    with pytest.raises(ValueError, match=r"has no queries\.jsonl; give a BEIR folder: corpus\.jsonl"):
        relevance_questions(folder)


def test_scifact(shared_data):
    report = LabelsReport()
    questions = list(relevance_questions(shared_data / "retrieval" / "scifact", report=report))
    assert len(questions) == report.questions == 809
    assert sum(len(question.answers) for question in questions) == 919  # its judgements
    assert report.skipped == 0
    assert all(answer.startswith("relevance: 1. ") for question in questions for answer in question.answers)
