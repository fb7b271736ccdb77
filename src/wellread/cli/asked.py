"""Questions of a file for verbs that measure: rows that cannot be read or judged are told, counted and left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from wellread.cli.output import say, say_some

if TYPE_CHECKING:
    from wellread.types import Question

__all__ = ["answered_questions", "readable_questions"]

SHOWN = 3  # questions without answers that are named
LENGTH = 60  # characters of each


def readable_questions(path: str | Path, *, split: str | None) -> tuple[list[Question], int]:
    """The questions of a file, and how many of its rows hold none. ValueError where nothing is left."""
    from wellread.corpus.documents import Problem
    from wellread.corpus.questions import read_questions

    problems: list[Problem] = []
    questions = read_questions(path, split=split, problems=problems)
    say_some("skipped", problems)
    return questions, len(problems)


def answered_questions(
    path: str | Path, *, split: str | None, limit: int | None, has_answer: Callable[[Question], bool]
) -> tuple[list[Question], dict[str, int]]:
    """Up to `limit` questions with answers, evenly spaced, and for --json how many were left_out for want of answers
    and how many rows were skipped. ValueError where nothing is left."""
    from wellread.corpus.questions import evenly

    read, skipped = readable_questions(path, split=split)
    answered = [question for question in read if has_answer(question)]
    if not answered:
        raise ValueError(f"{path} holds no questions with answers; give a file that does.")
    questions = list(evenly(answered, limit))
    without = [question.text for question in read if not has_answer(question)]
    if without:
        count = f"{len(questions)} question{'s' * (len(questions) != 1)}"
        named = ", ".join(f'"{text[:LENGTH]}{"..." * (len(text) > LENGTH)}"' for text in without[:SHOWN])
        say(f"{count}; {len(without)} without answers left out: {named}{', ...' * (len(without) > SHOWN)}")
    return questions, {"left_out": len(without), "skipped": skipped}
