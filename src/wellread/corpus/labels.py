"""Training questions from relevance labels: given a query, write a relevant document and how relevant it is.

ReAtt (Jiang et al., 2022, section 3.3) learns from judged query-document pairs in this way: the target is
"relevance: l. d", l being the label and d the document. Of several relevant documents one is drawn each time where a
recipe says target = "sample".
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from wellread.corpus.documents import Document, Problem
from wellread.corpus.questions import read_questions
from wellread.corpus.readers import beir_file, read_beir
from wellread.types import Question

__all__ = ["LabelsReport", "relevance_questions"]


@dataclass
class LabelsReport:
    """What came of it. passages: documents that are targets. skipped: questions of which no relevant document is
    there."""

    passages: int = 0
    skipped: int = 0
    questions: int = 0


def relevance_questions(
    folder: str | Path,
    *,
    split: str | None = "train",
    document_words: int | None = None,
    report: LabelsReport | None = None,
) -> Iterator[Question]:
    """Questions with task "relevance" of a BEIR folder (corpus.jsonl, queries.jsonl, qrels): the query, one answer
    "relevance: l. title. text" per relevant document (a label above 0), and these documents as positives.

    split: the judgements to take, None for all. document_words: only so many words of a document; without it the
    target is cut where the frame's answer_tokens end. report: filled while questions are made. ValueError where the
    folder lacks a file or nothing comes out.
    """
    folder = Path(folder)
    for part in ("corpus", "queries"):
        if beir_file(folder, part) is None:
            raise ValueError(
                f"{folder} has no {part}.jsonl; give a BEIR folder: corpus.jsonl, queries.jsonl and judgements "
                "(qrels/train.tsv)."
            )
    if document_words is not None and document_words < 1:
        raise ValueError(f"document_words={document_words}; it must be at least 1, or None for whole documents.")
    return _questions(folder, split, document_words, report or LabelsReport())


def _questions(folder: Path, split: str | None, words: int | None, report: LabelsReport) -> Iterator[Question]:
    judged = [question for question in read_questions(folder, split=split) if question.positive]
    texts = _texts(folder, {name for question in judged for name in question.positive}, words)
    for question in judged:
        grades = question.metadata["relevance"]
        there = tuple(name for name in question.positive if name in texts)
        if not there:
            report.skipped += 1
            continue
        report.questions += 1
        answers = tuple(f"relevance: {grades[name]}. {texts[name]}" for name in there)
        yield replace(question, answers=answers, positive=there, task="relevance")
    report.passages = len(texts)
    if not report.questions:
        raise ValueError(
            f"no relevant document of {folder} is in its corpus.jsonl ({len(judged)} judged questions); give "
            "judgements that belong to the documents."
        )


def _texts(folder: Path, wanted: Collection[str], words: int | None) -> dict[str, str]:
    """Title and text of the wanted documents, on one line. ValueError where the file cannot be read."""
    texts: dict[str, str] = {}
    for item in read_beir(folder):
        if isinstance(item, Problem):
            raise ValueError(f"{item}. Mend it.")
        if item.id in wanted:
            texts[item.id] = " ".join(_joined(item).split()[:words])
    return texts


def _joined(document: Document) -> str:
    if not document.title:
        return document.text
    point = "" if document.title[-1] in ".!?" else "."
    return f"{document.title}{point} {document.text}"
