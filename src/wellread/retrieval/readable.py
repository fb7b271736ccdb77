"""What may be read for a question: what was found, without the passages that the question hides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain

from wellread.types import Candidates, Passage, Probe, Question

__all__ = ["Hiding", "Lookup", "readable", "search_readable"]

Lookup = Callable[[Sequence[str]], Sequence[Passage]]
"""Passages by their ids, in the order asked; their texts may be missing."""


def readable(questions: Sequence[Question], found: Sequence[Candidates], passages: Lookup) -> list[Candidates]:
    """What was found for every question, without the passages that it hides (`Question.hides`)."""
    doubtful = [_doubtful(*pair) for pair in zip(questions, found, strict=True)]
    ids = list(dict.fromkeys(chain.from_iterable(doubtful)))
    known = dict(zip(ids, passages(ids), strict=True)) if ids else {}
    return [
        each.without({*question.hidden, *(name for name in names if question.hides(known[name]))})
        for question, each, names in zip(questions, found, doubtful)
    ]


def _doubtful(question: Question, found: Candidates) -> Sequence[str]:
    """The candidates that have to be looked at: any may have a hidden picture, few may be made of the question."""
    if question.hidden:
        return found.ids
    return [name for name in found.ids if question.id and name.startswith(question.id)]


def search_readable(
    search: Callable[..., Sequence[Candidates]],
    questions: Sequence[Question],
    probes: Sequence[Probe],
    *,
    top_k: int,
    passages: Lookup,
) -> list[Candidates]:
    """The best `top_k` passages of every question that may be read for it.

    search: of a retriever; it is asked for more where too many of what it found are hidden.
    """
    found = [Candidates((), ()) for _ in questions]
    rows = list(range(len(questions)))
    depth = top_k + max((len(question.hidden) for question in questions), default=0)
    while rows:
        every = search([probes[row] for row in rows], top_k=depth)
        kept = readable([questions[row] for row in rows], every, passages)
        for row, each in zip(rows, kept):
            found[row] = each.top(top_k)
        short = (len(each.ids) < top_k and len(all_.ids) >= depth for each, all_ in zip(kept, every))
        rows, depth = [row for row, again in zip(rows, short) if again], 2 * depth
    return found


class Hiding:
    """Which of a set of passages each question hides, without a look at all of them."""

    def __init__(self) -> None:
        self._near: defaultdict[str, list[Passage]] = defaultdict(list)

    def add(self, passage: Passage) -> None:
        """Take a passage into the set."""
        if passage.picture is not None:
            self._near[passage.picture].append(passage)
        if passage.asked is not None:
            self._near[passage.document].append(passage)

    def __call__(self, question: Question) -> tuple[str, ...]:
        """The ids of the passages that are hidden from a question, those in `hidden` first."""
        near = chain.from_iterable(self._near.get(name, ()) for name in (*question.hidden, question.id))
        return tuple(dict.fromkeys((*question.hidden, *(item.id for item in near if question.hides(item)))))
