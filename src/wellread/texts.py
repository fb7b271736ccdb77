"""Texts for language models that read neighbours: windows of chunks with what was found for each, and their scores.

A window is some chunks of a document, one after the other; its text is scored from its first token on, with nothing to
its left, and its first chunk without neighbours: a chunk is written with those of the chunk before it. The neighbours
of a chunk come from stored lists (`retrieval.neighbours`), their tokens from the database the lists are of. Where the
database was tokenised with another vocabulary than the model's, the text of a neighbour is tokenised anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wellread.bars import progress_bar
from wellread.config import require
from wellread.evaluation.language import TextScores
from wellread.evaluation.overlap import overlap_shares
from wellread.model import Model
from wellread.nn.precision import precision_dtype
from wellread.nn.tokenizers import Tokenizer
from wellread.reading.batching import to_device
from wellread.retrieval.chunk_database import fingerprint_of
from wellread.retrieval.chunk_keys import KEYS, Keys
from wellread.retrieval.chunks import ChunkTexts
from wellread.retrieval.neighbours import Neighbours
from wellread.types import CandidateBatch, Inputs, TrainingBatch

__all__ = ["LOSSY", "NeighbourTexts", "Windows", "check_language_model", "lossless", "neighbour_tokens", "score_texts"]

LOSSY = (
    "the tokens of {path} do not decode to its texts: bits per byte leave out what is lost and do not compare with "
    "those of another tokenizer. Cut the texts with one that loses nothing (wellread chunks cut --learn-tokenizer)."
)


def check_language_model(model: Model, texts: ChunkTexts) -> None:
    """ValueError where a model cannot be trained on, or score, these texts."""
    if not model.system.continues:
        raise ValueError(f"{model.name} is no language model that continues texts; see `wellread systems`.")
    if texts.tokenizer_fingerprint != model.frame.tokenizer.fingerprint:
        raise ValueError(
            f"the chunks in {texts.path} were cut with another tokenizer than this model's; cut them with it: "
            "wellread chunks cut CORPUS --tokenizer MODEL."
        )
    size = model.system.config.chunk_tokens
    if texts.chunk_tokens != size:
        raise ValueError(
            f"the chunks in {texts.path} have {texts.chunk_tokens} tokens, but this {model.name} reads {size} at once;"
            f" cut them again with --chunk-tokens {size}."
        )


def lossless(texts: ChunkTexts, documents: int | None = None) -> bool:
    """Whether the first documents (None: all) are what their tokens decode to: only then are bits per byte theirs."""
    count = texts.num_documents if documents is None else min(documents, texts.num_documents)
    decode = texts.tokenizer.decode
    return all(decode(texts.document_tokens(each)) == texts.document_text(each) for each in range(count))


def neighbour_tokens(
    database: ChunkTexts, numbers: np.ndarray, tokenizer: Tokenizer, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask [..., width] of the chunks of these numbers [...] and what follows each, -1 for none, in the
    vocabulary of `tokenizer`."""
    if database.tokenizer_fingerprint == tokenizer.fingerprint:
        tokens, mask = database.values(numbers)
        return tokens[..., :width], mask[..., :width]
    wanted = [int(number) for number in np.unique(numbers) if number >= 0]
    rows = tokenizer.encode_batch([database.chunk_text(each, parts=2) for each in wanted], max_tokens=width)
    known = dict(zip(wanted, rows, strict=True))
    tokens, mask = np.zeros((*numbers.shape, width), np.int32), np.zeros((*numbers.shape, width), bool)
    for place in map(tuple, np.argwhere(numbers >= 0)):
        row = known[int(numbers[place])]
        tokens[place][: len(row)], mask[place][: len(row)] = row, True
    return tokens, mask


class Windows:
    """The windows of the first `documents` documents (None: all). numbers: [windows, chunks] int64, -1 for no chunk."""

    def __init__(self, texts: ChunkTexts, chunks: int, *, documents: int | None = None) -> None:
        count = texts.num_documents if documents is None else min(documents, texts.num_documents)
        first = np.array([texts.first_chunk(document) for document in range(count + 1)])
        starts = [np.arange(first[document], first[document + 1], chunks) for document in range(count)]
        starts = np.concatenate([np.empty(0, np.int64), *starts])
        ends = np.repeat(first[1:], -(-np.diff(first) // chunks))
        numbers = starts[:, None] + np.arange(chunks)
        self.numbers = np.where(numbers < ends[:, None], numbers, -1)

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class NeighbourTexts:
    """Texts and the lists of neighbours of their chunks. neighbours: None for none. database: what the lists are of.

    tokenizer: the model's. k: neighbours read of every chunk. shuffled: give every chunk those of a chunk of another
    document, drawn by this seed; what is left of an improvement then does not come from retrieval.
    """

    texts: ChunkTexts
    neighbours: Neighbours | None
    database: ChunkTexts | None
    tokenizer: Tokenizer
    k: int
    shuffled: int | None = None

    @classmethod
    def open(
        cls,
        chunks: str | Path,
        neighbours: str | Path | None,
        database: str | Path | None,
        *,
        tokenizer: Tokenizer,
        k: int,
        shuffled: int | None = None,
    ) -> NeighbourTexts:
        """From folders. database: None for the chunks themselves. ValueError where they do not belong together."""
        texts = ChunkTexts.open(chunks)
        if neighbours is None or k == 0:
            return cls(texts, None, None, tokenizer, 0)
        found = Neighbours.open(neighbours)
        found.check(texts=texts)
        if k > found.k:
            raise ValueError(f"k={k}, but {neighbours} lists {found.k} neighbours of a chunk; ask for fewer.")
        source = texts if database is None else ChunkTexts.open(database)
        highest = int(found.numbers.max(initial=-1))
        if highest >= source.num_chunks:
            raise ValueError(
                f"{neighbours} names chunk {highest}, but {source.path} has {source.num_chunks}; name the database "
                "that the neighbours were found in."
            )
        known = (source.path / KEYS).is_dir()
        if known and fingerprint_of(source, Keys.open(source.path)) != found.database_fingerprint:
            raise ValueError(
                f"the neighbours in {neighbours} were not found among the chunks of {source.path}; name the database "
                "that they were found in."
            )
        return cls(texts, found, source, tokenizer, k, shuffled)

    def numbers(self, chunks: np.ndarray) -> np.ndarray:
        """The neighbours [..., k] of chunk numbers [...] in the database, nearest first, -1 for none."""
        if self.shuffled is not None:
            chunks = np.where(chunks < 0, -1, self._others[chunks])
        return self.neighbours.of(chunks)[0][..., : self.k]

    @cached_property
    def _others(self) -> np.ndarray:
        """For every chunk one of another document, [chunks] int64."""
        first, count = self.texts.first_chunks, self.texts.num_chunks
        length = np.diff(first)
        enough = np.count_nonzero(length) > 1
        require(enough, f"shuffled={self.shuffled}: {self.texts.path} has one document; it takes two or more.")
        first, length = np.repeat(first[:-1], length), np.repeat(length, length)
        drawn = np.random.default_rng(self.shuffled).integers(count - length)
        return np.where(drawn < first, drawn, drawn + length)

    def found(self, chunks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and mask [..., k, 2 m] of the neighbours of chunk numbers [...], in the model's vocabulary."""
        return neighbour_tokens(self.database, self.numbers(chunks), self.tokenizer, 2 * self.texts.chunk_tokens)

    def batch(self, windows: np.ndarray) -> TrainingBatch:
        """Windows [batch, chunks] as texts after an empty question, with the neighbours of all chunks but the last."""
        tokens, mask = self.texts.values(windows, parts=1)
        target = torch.from_numpy(tokens).long().flatten(1)
        real = torch.from_numpy(mask).flatten(1)
        empty = Inputs(target[:, :0], real[:, :0])
        return TrainingBatch(empty, self._candidates(windows[:, :-1]), target, real)

    def _candidates(self, chunks: np.ndarray) -> CandidateBatch:
        batch = len(chunks)
        if self.neighbours is None or not chunks.size:
            nobody = torch.zeros(batch, 1, 1, dtype=torch.int64)
            exists = nobody.bool()[..., 0]
            return CandidateBatch(nobody, nobody.bool(), exists, exists.float(), group=nobody[..., 0])
        tokens, mask = (torch.from_numpy(part).flatten(1, 2) for part in self.found(chunks))
        group = torch.arange(chunks.shape[1]).repeat_interleave(self.k).expand(batch, -1)
        return CandidateBatch(tokens.long(), mask, mask.any(-1), torch.zeros(group.shape), group=group)

    def overlap(self, chunks: np.ndarray) -> np.ndarray:
        """r(C) of chunk numbers [n]: the longest run of tokens a chunk shares with one of its neighbours, as a share of
        the chunk; 0 without neighbours."""
        if self.neighbours is None:
            return np.zeros(len(chunks), np.float32)
        tokens, mask = self.texts.values(chunks, parts=1)
        found, real = self.found(chunks)
        return overlap_shares(tokens, mask.sum(-1), found, real.sum(-1))


def score_texts(
    model: Model,
    source: NeighbourTexts,
    windows: Windows,
    *,
    batch_size: int = 4,
    precision: str = "fp32",
    progress: bool = False,
) -> TextScores:
    """The negative log-likelihood of every chunk in the windows, in nats, with its bytes and its document."""
    check_language_model(model, source.texts)
    model.system.eval()
    order = np.concatenate([row[row >= 0] for row in windows.numbers] or [np.empty(0, np.int64)])
    nats = np.zeros(len(order), np.float64)
    done = 0
    with progress_bar(total=len(windows), desc="texts", unit=" windows", shown=progress) as bar:
        for rows in _parts(windows.numbers, batch_size):
            found = _nats(model, source.batch(rows), source.texts.chunk_tokens, precision)
            found = found[torch.from_numpy(rows >= 0)].numpy()
            nats[done : done + len(found)] = found
            done += len(found)
            bar.update(len(rows))
    return TextScores(
        nats=nats,
        tokens=np.array([len(source.texts.chunk(int(number))) for number in order]),
        bytes=np.array([source.texts.chunk_bytes(int(number)) for number in order]),
        documents=source.texts.documents(order),
        chunks=order,
    )


def _nats(model: Model, batch: TrainingBatch, size: int, precision: str) -> Tensor:
    """[windows, chunks] float64 on the CPU."""
    batch, dtype = to_device(batch, model.device), precision_dtype(precision)
    with torch.inference_mode(), torch.autocast(model.device.type, dtype=dtype, enabled=dtype is not None):
        said = model.system.token_log_probs(batch.inputs, batch.candidates, batch.target, batch.target_mask)
    said = said.double().masked_fill(~batch.target_mask, 0.0)
    return -said.unflatten(1, (-1, size)).sum(-1).cpu()


def _parts(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
