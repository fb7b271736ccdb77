"""Where an answer stands in the passages it was read from, and the citations made of that."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

from wellread.types import CitedPassage, Passage

__all__ = ["cite", "find_span"]


def cite(
    answer: str,
    ids: Sequence[str],
    passages: Mapping[str, Passage],
    *,
    scores: Sequence[float],
    shares: Sequence[float],
    kept: Collection[int],
    gates: Sequence[float] | None = None,
) -> tuple[CitedPassage, ...]:
    """The candidates of one question, those the answer rests on most first.

    ids: the candidates; scores, shares, gates: one for each, in their order. passages: by id. kept: places in `ids` of
    those that were read to the end.
    """
    cited = [
        CitedPassage(
            id=name,
            title=passages[name].title,
            text=passages[name].text,
            score=float(scores[place]),
            kept=place in kept,
            share=float(shares[place]),
            span=find_span(answer, passages[name].text),
            source=passages[name].source,
            gate=None if gates is None else float(gates[place]),
            picture=passages[name].picture,
            metadata=passages[name].metadata,
        )
        for place, name in enumerate(ids)
    ]
    return tuple(sorted(cited, key=lambda passage: (not passage.kept, -passage.share)))


def find_span(answer: str, text: str) -> tuple[int, int] | None:
    """Where the answer stands in the text, as [start, end) characters: first letter for letter, else first of all; case
    and accents do not matter then, since many tokenizers drop them.

    Generated text may be spaced differently around punctuation ("3 . 5" for "3.5"), so spaces match any run
    of them, none included, next to punctuation.
    """
    words = re.findall(r"\w+|[^\w\s]", _folded(answer)[0])
    if not words:
        return None
    pattern = re.escape(words[0])
    for before, word in pairwise(words):
        pattern += (r"\s+" if before[-1].isalnum() and word[0].isalnum() else r"\s*") + re.escape(word)
    left = r"\b" if words[0][0].isalnum() else ""
    right = r"\b" if words[-1][-1].isalnum() else ""
    folded, places = _folded(text)
    found = []
    for match in re.finditer(left + pattern + right, folded):
        start, end = places[match.start()], places[match.end() - 1] + 1
        while end < len(text) and unicodedata.combining(text[end]):
            end += 1
        if text[start:end] == answer:
            return start, end
        found.append((start, end))
    return found[0] if found else None


def _folded(text: str) -> tuple[str, Sequence[int]]:
    """A text without case and accents, and the place in it that each character left comes from."""
    if text.isascii():
        return text.lower(), range(len(text))
    letters: list[str] = []
    places: list[int] = []
    for place, letter in enumerate(text):
        plain = unicodedata.normalize("NFKD", letter).casefold()
        kept = [part for part in plain if not unicodedata.combining(part)]
        letters += kept
        places += [place] * len(kept)
    return "".join(letters), places
