"""Inverse cloze questions: a sentence asks for the passage it is from.

ORQA (Lee et al., 2019, section 4) trains a retriever so, and REALM (Guu et al., 2020, section 3.4) starts from it. The
sentence is taken out of its passage, but for one in ten, so that the retriever learns to match words too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wellread.corpus.salient import drawn, sentence_spans
from wellread.corpus.store import Corpus
from wellread.types import Passage, Question

__all__ = ["ClozeReport", "cloze_questions"]

AT_ONCE = 256
FEWEST_WORDS = 5
KEPT = 0.1


@dataclass
class ClozeReport:
    """What came of it. passages: those looked at. skipped: those of them that gave no question."""

    passages: int = 0
    skipped: int = 0
    questions: int = 0


def cloze_questions(
    corpus: Corpus,
    *,
    limit: int | None = None,
    kept_share: float = KEPT,
    seed: int = 0,
    report: ClozeReport | None = None,
) -> Iterator[Question]:
    """Questions with task "cloze": a sentence, its passage as the positive, and in `metadata["cut_out"]` the place
    [start, end) that is left out when this passage is read for it.

    limit: so many questions, one of a passage, of passages drawn from all; None for all passages. kept_share: of the
    questions, those whose passage is read whole. A passage of one sentence gives none. ValueError where nothing comes
    out, and for options out of range.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}; it must be at least 1, or None.")
    if not 0 <= kept_share <= 1:
        raise ValueError(f"kept_share={kept_share}; it must be between 0 and 1.")
    report = ClozeReport() if report is None else report
    names = corpus.ids()
    order = sorted(range(len(names)), key=lambda row: (drawn("cloze", seed, names[row]), names[row]))
    for start in range(0, len(order), AT_ONCE):
        for passage in corpus.at(order[start : start + AT_ONCE]):
            if limit is not None and report.questions == limit:
                return
            question = _question(passage, kept_share, seed)
            report.passages += 1
            report.skipped += question is None
            if question is not None:
                report.questions += 1
                yield question
    if not report.questions:
        raise ValueError(
            f"none of the {report.passages} passages has two sentences; give passages of several sentences."
        )


def _question(passage: Passage, kept_share: float, seed: int) -> Question | None:
    places: Sequence[tuple[int, int]] = sentence_spans(passage.text)
    long = [place for place in places if passage.text[slice(*place)].count(" ") + 1 >= FEWEST_WORDS]
    if len(places) < 2 or not long:
        return None
    place = min(long, key=lambda each: drawn("sentence", seed, passage.id, each[0]))
    kept = drawn("kept", seed, passage.id) < kept_share
    return Question(
        id=f"cloze-{passage.id}",
        text=" ".join(passage.text[slice(*place)].split()),
        answers=(passage.title or passage.id,),
        positive=(passage.id,),
        task="cloze",
        metadata={} if kept else {"cut_out": list(place)},
    )
