"""A text continued by a language model that looks up every chunk it has finished, and what it found for each."""

from __future__ import annotations

import time
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wellread.model import Model
from wellread.reading.batching import to_device
from wellread.retrieval.chunk_database import ChunkDatabase
from wellread.texts import neighbour_tokens
from wellread.types import CandidateBatch, Inputs

if TYPE_CHECKING:
    from wellread.reading.decoding import Generated
    from wellread.systems.base import System

__all__ = ["Continuation", "Neighbour", "SearchedChunk", "continue_text"]


@dataclass(frozen=True)
class Neighbour:
    """A chunk of the database. distance: squared, of the keys. share: of what all neighbours gave the words that were
    written (RETRO: what these were copied from or attended to). text: the chunk's; continuation: what follows it."""

    number: int
    document: str
    title: str
    distance: float
    share: float
    text: str
    continuation: str


@dataclass(frozen=True)
class SearchedChunk:
    """A finished chunk of the text and what was found for it, nearest first."""

    text: str
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Continuation:
    """text: what was written. chunks: those looked up, in the order of the text. milliseconds: search and total."""

    text: str
    num_tokens: int
    log_likelihood: float
    chunks: tuple[SearchedChunk, ...]
    milliseconds: dict[str, float]


@dataclass
class _Lookup:
    """Searches a database for the chunks of one text; a `systems.base.Search`."""

    model: Model
    database: ChunkDatabase | None
    k: int
    texts: list[str] = field(default_factory=list)
    numbers: list[np.ndarray] = field(default_factory=list)
    distances: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0

    def __call__(self, probes: Sequence[Tensor]) -> CandidateBatch:
        """Candidates of rows with chunks [chunks, chunk_tokens] each; `group` is the chunk's place in its row."""
        began = time.perf_counter()
        words, rows = self.model.frame.tokenizer, [chunk.tolist() for row in probes for chunk in row]
        numbers = np.full((len(rows), max(self.k, 1)), -1, np.int64)
        if rows and self.k and self.database is not None:
            texts = [words.decode(row) for row in rows]
            numbers, distances = self.database.search(self.database.encode(texts), self.k)
            for kept, new in ((self.texts, texts), (self.numbers, numbers), (self.distances, distances)):
                kept.extend(new)
        self.seconds += time.perf_counter() - began
        return to_device(self._batch(probes, numbers), self.model.device)

    def told(self, system: System, asked: Inputs, written: Generated) -> tuple[SearchedChunk, ...]:
        """What was found for each chunk so far, all of them of one text, and what it gave the words written."""
        if not self.texts:
            return ()
        numbers = np.stack(self.numbers)
        found = to_device(self._batch([numbers], numbers), self.model.device)
        shares = system.shares(system.read(asked, found), written, found)[0].view(numbers.shape).tolist()
        rows = zip(self.texts, numbers, self.distances, shares, strict=True)
        return tuple(
            SearchedChunk(text, tuple(self._neighbour(*each) for each in zip(*near, strict=True) if each[0] >= 0))
            for text, *near in rows
        )

    def _batch(self, probes: Sequence[Sized], numbers: np.ndarray) -> CandidateBatch:
        width = 2 * self.model.system.config.chunk_tokens
        chunks, k = max((len(row) for row in probes), default=0), numbers.shape[1]
        placed = np.full((len(probes), max(chunks, 1), k), -1, np.int64)
        begin = 0
        for index, row in enumerate(probes):
            placed[index, : len(row)] = numbers[begin : begin + len(row)]
            begin += len(row)
        if self.database is None:
            tokens, mask = np.zeros((*placed.shape, width), np.int64), np.zeros((*placed.shape, width), bool)
        else:
            words = self.model.frame.tokenizer
            tokens, mask = neighbour_tokens(self.database.texts, placed, words, width)
        tokens, mask = (torch.from_numpy(part).flatten(1, 2) for part in (tokens, mask))
        group = torch.arange(placed.shape[1]).repeat_interleave(k).expand(len(probes), -1)
        return CandidateBatch(tokens.long(), mask, mask.any(-1), torch.zeros(group.shape), group=group)

    def _neighbour(self, number: np.int64, distance: np.float32, share: float) -> Neighbour:
        texts, chunk = self.database.texts, int(number)
        document = int(texts.documents(np.array([chunk]))[0])
        own, both = texts.chunk_text(chunk), texts.chunk_text(chunk, parts=2)
        title = texts.document_text(document).partition("\n")[0]
        return Neighbour(chunk, texts.document_id(document), title, float(distance), share, own, both.removeprefix(own))


def continue_text(
    model: Model,
    database: ChunkDatabase | None,
    text: str,
    *,
    k: int = 2,
    max_tokens: int = 64,
) -> Continuation:
    """Continue a text greedily. database: where finished chunks are looked up, None to look up nothing. k: neighbours
    of each. ValueError where the model is no language model or the text is empty."""
    if not model.system.continues:
        raise ValueError(f"{model.name} is no language model that continues texts; see `wellread systems`.")
    if not text.strip():
        raise ValueError(f"text={text!r} is empty; give a text to continue.")
    began = time.perf_counter()
    tokens = torch.tensor([model.frame.tokenizer.encode(text)], device=model.device)
    inputs, lookup = Inputs(tokens, torch.ones_like(tokens, dtype=torch.bool)), _Lookup(model, database, k)
    system = model.system.eval()
    with torch.inference_mode():
        first = lookup(system.seek(inputs))
        written = system.generate(inputs, first, max_tokens=max_tokens, search=lookup)
        whole = time.perf_counter() - began
        chunks = lookup.told(system, inputs, written)
    return Continuation(
        text=model.frame.tokenizer.decode(written.tokens[0].tolist()),
        num_tokens=int(written.lengths[0]),
        log_likelihood=float(written.scores[0]),
        chunks=chunks,
        milliseconds={"search": 1000 * lookup.seconds, "total": 1000 * whole},
    )
