"""Questions with known answers as entries of a memory: what was asked, and what was right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wellread.corpus.documents import Document, Problem

__all__ = ["read_pairs"]

MOST_ANSWERS = 8  # of a question; more are other ways to say the same


def read_pairs(path: Path) -> Iterator[Document | Problem]:
    """One entry per question that has answers, under the question's id; its picture is the question's.

    It says which question it was made of (`asked`), for it is never read for that one.
    """
    from wellread.corpus.questions import iter_questions

    for line, item in enumerate(iter_questions(path), start=1):
        if isinstance(item, Problem):
            yield item
        elif not item.answers:
            yield Problem(str(path), line, f"question {item.id!r} has no answers")
        else:
            kept = {key: value for key, value in item.metadata.items() if key not in ("hidden", "image", "picture")}
            picture = {"picture": _as_written(item.picture, path.parent)} if item.picture else {}
            yield Document(
                text=f"Question: {item.text} Answer: {', '.join(item.answers[:MOST_ANSWERS])}.",
                id=item.id,
                source="questions",
                metadata={**kept, **picture, "asked": item.text},
                file=str(path),
                line=line,
            )


def _as_written(picture: str, folder: Path) -> str:
    """The name of a picture as its row has it: what lies beside the file of a question is read as a path."""
    place = Path(picture)
    return str(place.relative_to(folder)) if place.is_file() and place.is_relative_to(folder) else picture
