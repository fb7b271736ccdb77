"""Claims to check, made of questions with answers: half of them true, half with another question's answer.

Sets of checked claims are small; sets of answered questions are not. A question is turned into a statement by its word
order alone ("Who wrote Emma?" and "Jane Austen": "Jane Austen wrote Emma."), which is often clumsy and nearly always
says what it should. The wrong answer is that of another question about the same passage where there is one of the same
shape, so that the passage holds it too and has to be read; else that of another question with the same relation or the
same beginning. The idea of making claims of questions is FEVER's and its followers' (Thorne et al., 2018, section 3:
claims are mutated by putting in like entities).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from wellread.corpus.questions import evenly
from wellread.corpus.salient import drawn
from wellread.types import Question

__all__ = ["LABELS", "StatementsReport", "as_statement", "statements"]

LABELS = ("SUPPORTS", "REFUTES")
"""Of a true and of a false statement."""
MOST_WORDS = 8
"""Longer answers make no statement."""
SAME_PASSAGE = 0.8
"""The share of wrong answers that are taken from the same passage, where it has one."""
AUXILIARIES = frozenset(
    (
        *("did", "do", "does", "has", "have", "had", "is", "are", "was", "were", "am"),
        *("can", "could", "will", "would", "shall", "should", "may", "might", "must"),
    )
)
COPULAS = frozenset(("is", "are", "was", "were"))
SUBJECTS = frozenset(("who", "what", "which", "whose"))
BEFORE_AUXILIARY = 8  # words in which the auxiliary of a question is looked for
SEPARATOR = "[SEP]"


@dataclass
class StatementsReport:
    """What came of it. passages: those the statements rest on. skipped: questions that gave no statement."""

    passages: int = 0
    skipped: int = 0
    questions: int = 0


def as_statement(question: str, answer: str) -> str | None:
    """The question and an answer as one sentence; None where its word order gives none.

    `entity [SEP] relation` becomes "The relation of entity is answer."
    """
    entity, separator, relation = question.partition(SEPARATOR)
    if separator:
        return f"The {relation.strip()} of {entity.strip()} is {answer}."
    words = question.strip().rstrip("?. ").split()
    low = [word.lower() for word in words]
    if len(words) < 3:
        return None
    if low[0] in SUBJECTS:
        if low[0] in ("who", "what") and low[1] in COPULAS:
            return _sentence(*words[2:], words[1], answer)
        verb = next((at for at, word in enumerate(low[1:BEFORE_AUXILIARY], 1) if word in AUXILIARIES), None)
        if verb is not None and verb + 1 < len(words):
            return _sentence(*words[verb + 1 :], words[verb], answer)
        if low[0] != "whose":  # the answer is the subject: "Which river flows through ...", "Who wrote ..."
            return _sentence(answer, *words[2 if low[0] == "which" else 1 :])
    verb = next((at for at, word in enumerate(low[:BEFORE_AUXILIARY]) if word in AUXILIARIES), None)
    if verb is None or verb + 1 >= len(words):
        return None
    return _sentence(*words[verb + 1 :], words[verb], answer)


def _sentence(*parts: str) -> str:
    text = " ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def statements(
    questions: Iterable[Question],
    *,
    limit: int | None = None,
    seed: int = 0,
    report: StatementsReport | None = None,
) -> Iterator[Question]:
    """Questions with task "claim", one of each given question that allows it, in the order given.

    Text: the statement; answer: SUPPORTS or REFUTES, drawn evenly; positive: the question's. limit: so many questions
    to make them of, at even distances. report: filled while statements are made. ValueError where nothing comes out,
    and for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}; it must be at least 1, or None.")
    asked = list(questions)
    pool = _Answers.of(asked)
    report = StatementsReport() if report is None else report
    passages: set[str] = set()
    for question in evenly(asked, limit):
        made = _statement(question, pool, seed)
        if made is None:
            report.skipped += 1
            continue
        report.questions += 1
        passages.update(made.positive)
        report.passages = len(passages)
        yield made
    if not report.questions:
        raise ValueError(f"none of {len(asked)} questions became a statement; give questions with short answers.")


def _statement(question: Question, pool: _Answers, seed: int) -> Question | None:
    answer = question.answers[0] if question.answers else ""
    false = drawn("label", seed, question.id) < 0.5
    if false:
        answer = pool.wrong(question, seed)
    if not answer or len(answer.split()) > MOST_WORDS:
        return None
    text = as_statement(question.text, answer)
    if text is None:
        return None
    name = f"statement-{question.id}"
    return Question(id=name, text=text, answers=(LABELS[false],), positive=question.positive, task="claim")


@dataclass(frozen=True)
class _Answers:
    """The short answers of all questions: by passage and shape, and by relation or beginning and shape."""

    of_passage: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    of_kind: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, questions: Sequence[Question]) -> _Answers:
        made = cls()
        for question in questions:
            for answer in question.answers[:1]:
                if len(answer.split()) <= MOST_WORDS:
                    for passage in question.positive:
                        made.of_passage[passage, shape(answer)].append(answer)
                    made.of_kind[_kind(question), shape(answer)].append(answer)
        return made

    def wrong(self, question: Question, seed: int) -> str:
        """An answer of the same shape that is none of the question's; "" where there is none."""
        right = {_plain(answer) for answer in question.answers}
        if not right:
            return ""
        form = shape(question.answers[0])
        near = [answer for name in question.positive for answer in self.of_passage.get((name, form), ())]
        near = [answer for answer in near if not _alike(_plain(answer), right)]
        if near and drawn("near", seed, question.id) < SAME_PASSAGE:
            return near[int(drawn("which", seed, question.id) * len(near))]
        others = self.of_kind.get((_kind(question), form), [])
        for attempt in range(8):
            some = others[int(drawn("other", seed, question.id, attempt) * len(others))] if others else ""
            if some and not _alike(_plain(some), right):
                return some
        return near[0] if near else ""


def shape(answer: str) -> str:
    """What sort of thing an answer looks like: a year, a number, a name or a word."""
    if re.search(r"\b[12]\d{3}\b", answer):
        return "year"
    if re.search(r"\d", answer):
        return "number"
    return "name" if answer[:1].isupper() else "word"


def _kind(question: Question) -> str:
    """What is asked for: a slot's relation, else the first two words."""
    _, separator, relation = question.text.partition(SEPARATOR)
    return relation.strip() if separator else " ".join(question.text.lower().split()[:2])


def _plain(answer: str) -> str:
    return " ".join(re.sub(r"\W+", " ", answer.lower()).split())


def _alike(answer: str, right: set[str]) -> bool:
    """Whether one of the two says the other as well: then it would not be wrong."""
    return any(answer in each or each in answer for each in right)
