"""A trained system's own search, or another one over the same passages: where the right passage stands in it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from filelock import FileLock

from wellread.corpus.store import Corpus
from wellread.memory.store import Memory
from wellread.model import Model
from wellread.pictures import Pictures
from wellread.retrieval import RETRIEVERS, open_index
from wellread.retrieval.base import Retriever
from wellread.retrieval.readable import search_readable
from wellread.token_encoder import model_encoder
from wellread.types import Candidates, Probe, Question

__all__ = ["OWN", "SearchPlaces", "forget", "rank_of_right", "search_all"]

OWN, NOTHING = "own", "nothing"
BATCH = 256
LOOKS = frozenset({"visual"})  # searches that go by pictures
# Exact, so that what is measured is the system and not the search; what has no such option is exact anyway.

EXACT = {"reatt": {"codec": "float32", "search": "exhaustive"}}


@dataclass(frozen=True)
class SearchPlaces:
    """corpus: what is searched. own: where the index of one system lies while it is asked. shared: where indexes lie
    that do not depend on the system. memory: states of the passages, where they are that system's."""

    corpus: Corpus
    own: Path
    shared: Path
    memory: Memory | None = None


def search_all(
    model: Model,
    questions: Sequence[Question],
    places: SearchPlaces,
    *,
    search: str,
    top_k: int,
    sources: Sequence[str] = (),
) -> list[Candidates]:
    """The best `top_k` passages of every question but those hidden from it, by the system's own search ("own") or by a
    retriever's name; for "nothing", any passage. sources: only of these, where there are any."""
    if search == NOTHING:
        return [Candidates(places.corpus.ids()[:1], (0.0,)) for _ in questions]
    index = _own(model, places) if search == OWN else _shared(search, places, model.pictures)
    found: list[Candidates] = []
    for start in range(0, len(questions), BATCH):
        some = questions[start : start + BATCH]
        vectors = [None] * len(some)
        if search == OWN:
            with torch.inference_mode():
                vectors = model.system.seek(model.inputs(some))
        pairs = zip(some, vectors, strict=True)
        probes = [Probe(words=question.text, vectors=own, picture=question.picture) for question, own in pairs]
        among = partial(index.search, where={"source": list(sources)} if sources else None)
        found += search_readable(among, some, probes, top_k=top_k, passages=index.about)
    return found


def forget(places_of: Path) -> None:
    """Drop the index of one system: as large as the passages' keys, and made again in a minute."""
    shutil.rmtree(places_of, ignore_errors=True)


def rank_of_right(question: Question, found: Candidates) -> int | None:
    """The place, from 1, of the first right passage; None where none was found."""
    places = [place for place, name in enumerate(found.ids, 1) if name in question.positive]
    return min(places, default=None)


def _own(model: Model, places: SearchPlaces) -> Retriever:
    encoder = model_encoder(model, memory=places.memory, precision="bf16")
    retriever = model.system.retriever
    if (places.own / "index.json").is_file():
        index = open_index(places.own)
        if index.options.encoder_fingerprint == encoder.fingerprint:
            return index
        forget(places.own)
    return RETRIEVERS[retriever].build(places.corpus, places.own, encoder=encoder, **EXACT.get(retriever, {}))


def _shared(search: str, places: SearchPlaces, pictures: Pictures | None) -> Retriever:
    folder = places.shared / f"{search}-{places.corpus.fingerprint}"
    options = {} if pictures is None or search not in LOOKS else {"pictures": str(pictures.stored.path)}
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not (folder / "index.json").is_file():
            RETRIEVERS[search].build(places.corpus, folder, **options)
    return open_index(folder)
