"""Provenance as KILT scores it: were the passages that prove an answer at the top, and was the answer right as well.

(KILT: Petroni et al. 2021, evaluation metrics, and its official script.) A question has one or more provenance
sets. All passages of one set together prove the answer, and one set is enough. The sets of a question are its
metadata `provenance_sets` (lists of ids) where a question file gives them (KILT, claims with evidence); else every
id in `positive` is a set of one passage, that is, an alternative.

KILT judges Wikipedia pages. Where metadata `provenance_pages` is true, the ids of the sets are pages and a passage
counts as its page (`page_of`); else passages are judged themselves, which is stricter.

Values are nan where no set is known. (The official script gives such a question 0.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from wellread.types import Answer, Candidates, Question

__all__ = ["Provenance", "kilt", "kilt_recall", "page_of", "r_precision", "ranking"]

_NUMBER = re.compile(r"-\d+$")


def page_of(id: str) -> str:
    """The page a passage was cut from, by its id: pieces are called page-0, page-1, ... An id without a number
    at its end is a page already."""
    return _NUMBER.sub("", id)


@dataclass(frozen=True)
class Provenance:
    """What proves the answer to one question. sets: no duplicates, none empty. pages: the ids are pages."""

    sets: tuple[frozenset[str], ...]
    pages: bool = False

    @classmethod
    def of(cls, question: Question) -> Provenance:
        """The provenance sets of a question, from its metadata or its positive passages."""
        pages = bool(question.metadata.get("provenance_pages"))
        given = question.metadata.get("provenance_sets")
        sets = [[name] for name in question.positive] if given is None else given
        named = (frozenset(page_of(name) if pages else name for name in each) for each in sets)
        return cls(tuple(dict.fromkeys(each for each in named if each)), pages)

    @property
    def members(self) -> frozenset[str]:
        """Everything that stands in some set."""
        return frozenset().union(*self.sets)

    def names(self, ids: Sequence[str]) -> list[str]:
        """Ids of passages as what is judged: pages or themselves, in the same order, repetitions included."""
        return [page_of(name) for name in ids] if self.pages else list(ids)


def ranking(answer: Answer, candidates: Candidates | None = None) -> list[str]:
    """The passages behind an answer, best first: the order that provenance is judged by.

    Cited passages come first, by their score: the system's own where it has one (GLIMMER's reranker), else the
    retriever's, so that a system without scores of its own is judged by the order of retrieval. Retrieved passages
    that the system was not given follow in that order. The decoder's attention is not used, though passages are
    listed by it: it says what the written words were taken from, and no system is trained to rank by it.
    """
    found = () if candidates is None else candidates.ids
    place = {name: index for index, name in reversed(list(enumerate(found)))}
    cited = sorted(answer.passages, key=lambda passage: (-passage.score, place.get(passage.id, len(place))))
    return list(dict.fromkeys([*(passage.id for passage in cited), *found]))


def r_precision(ids: Sequence[str], sets: Sequence[Collection[str]]) -> float:
    """The share of a provenance set that is among the first R names, R being the size of that set; the best of all
    sets counts. nan without a set.

    ids: ranked passages or pages, best first; a name that comes again is dropped. 1 means that a whole set stands
    at the very top.
    """
    ranked = list(dict.fromkeys(ids))
    wanted = [set(each) for each in sets if each]
    return max((len(each & set(ranked[: len(each)])) / len(each) for each in wanted), default=math.nan)


def kilt_recall(ids: Sequence[str], sets: Sequence[Collection[str]], top_k: int) -> float:
    """The share of all provenance sets that are complete among the first `top_k` entries; nan without a set.

    A set counts as one entry, at the place of its last member; its other members take no place. Every name
    outside the sets is an entry, too. (KILT reports recall@5.) With several alternative
    passages this asks for all of them, unlike `metrics.recall`, which asks for one.
    """
    if top_k < 1:
        raise ValueError(f"top_k={top_k} is too small; it must be at least 1.")
    wanted = list(dict.fromkeys(frozenset(each) for each in sets if each))
    if not wanted:
        return math.nan
    place = {name: index for index, name in enumerate(dict.fromkeys(ids))}
    known = frozenset().union(*wanted)
    entries = [(index, False) for name, index in place.items() if name not in known]
    for each in wanted:
        met = [place[name] for name in each if name in place]
        if met:
            entries.append((max(met), len(met) == len(each)))
    # Sorting by place alone keeps sets that share their last member in the order they were given.
    entries.sort(key=lambda entry: entry[0])
    return sum(complete for _, complete in entries[:top_k]) / len(wanted)


def kilt(scores: Mapping[str, float], precision: float) -> dict[str, float]:
    """Scores of an answer -> the same as kilt_NAME, kept only where R-precision is 1, else 0.

    nan where R-precision is unknown.
    """
    return {
        f"kilt_{name}": math.nan if math.isnan(precision) else score * (precision == 1)
        for name, score in scores.items()
    }
