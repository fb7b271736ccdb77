"""Search by one vector per token (late interaction), as ReAtt does with the queries and keys of one attention head.

Paper: Jiang et al., "Retrieval as Attention" (2022), sections 2.2 and 5. The index is compressed and searched after
ColBERTv2 and PLAID (Santhanam et al. 2021, 2022): see `token_codes` for what is kept, `token_search` for the search.

Letters: K' -> per_token, K -> top_k. Passages without a single token are never found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Protocol

import numpy as np

from wellread.bars import progress_bar
from wellread.config import require
from wellread.registry import Registry
from wellread.retrieval.catalog import CatalogWriter, in_batches
from wellread.retrieval.encoded import EncodedRetriever, OwnEncoder
from wellread.retrieval.progress import Progress
from wellread.retrieval.token_codes import LARGEST, TokenSegment, arrange
from wellread.retrieval.token_search import exhaustive, two_stage
from wellread.types import Candidates, Passage, Probe

__all__ = ["TOKEN_ENCODERS", "TokenEncoder", "TokenOptions", "TokenRetriever"]

BLOCK = 512  # passages encoded and made safe on disk at a time
ARRAYS = ("given", "lengths")  # what a build makes safe: keys in the order of passages, and tokens per passage

# What opens an encoder by its name, where nobody gave the object.
TOKEN_ENCODERS = Registry("token encoder", {"model": "wellread.token_encoder:open_token_encoder"})


class TokenEncoder(Protocol):
    """What a token index needs: vectors of the tokens of passages and questions, compared by inner product.

    An encoder may have a `fingerprint` (str), a digest of its weights: an index then refuses other weights.
    """

    name: str

    def passages(self, passages: Sequence[Passage]) -> list[np.ndarray]:
        """[tokens, dim] float32 each."""

    def questions(self, texts: Sequence[str]) -> list[np.ndarray]:
        """[tokens, dim] float32 each."""


@dataclass(frozen=True)
class TokenOptions:
    """encoder: its name, which is the folder of a model unless an encoder object was given.
    codec: how keys are stored; residual takes 8 bits a dimension. search: approximate looks for the nearest tokens in
    inverted lists, exact looks at all tokens, exhaustive scores all passages. lists: how many inverted lists, 0 for
    about twice the square root of the tokens. probes: lists looked into per question token, 0 for a thirty-second of
    them and at least 16. per_token: the nearest tokens looked for per question token, 0 for one in 1,024 and at least
    512: with a trained head all question tokens count, and a passage is known by where it stands among the nearest of
    each. candidates: passages scored over all of their tokens, None for 20 times as many as are wanted and at least
    1,000, 0 for all that the nearest tokens lead to. encoder_fingerprint: filled in by `build`."""

    encoder: str = ""
    codec: Literal["residual", "float32", "float16"] = "residual"
    search: Literal["approximate", "exact", "exhaustive"] = "approximate"
    lists: int = 0
    probes: int = 0
    per_token: int = 0
    candidates: int | None = None
    encoder_fingerprint: str = ""

    def __post_init__(self) -> None:
        require(bool(self.encoder), "encoder is missing; give the folder of a model that searches by its tokens.")
        allowed = 0 <= self.lists <= LARGEST
        require(allowed, f"lists={self.lists} is out of range; it must be between 0 (automatic) and {LARGEST}.")
        require(self.probes >= 0, f"probes={self.probes} is negative; it must be 0 (automatic) or more.")
        require(self.per_token >= 0, f"per_token={self.per_token} is negative; it must be 0 (automatic) or more.")
        allowed = self.candidates is None or self.candidates >= 0
        require(allowed, f"candidates={self.candidates} is negative; it must be 0 (all found) or more.")

    @property
    def given_type(self) -> str:
        """The type of keys that are not arranged yet."""
        return "float16" if self.codec == "float16" else "float32"

    def lists_for(self, tokens: int) -> int:
        """Inverted lists for so many tokens; 0 where neither the search nor the codec needs any."""
        if self.search != "approximate" and self.codec != "residual":
            return 0
        automatic = 1 << (int(2 * max(tokens, 1) ** 0.5).bit_length() - 1)
        return self.lists or min(automatic, LARGEST)

    def probes_for(self, lists: int) -> int:
        """Lists looked into of so many; 0 where the first stage is exact."""
        if self.search != "approximate":
            return 0
        return self.probes or max(16, lists // 32)

    def per_token_for(self, tokens: int) -> int:
        """The nearest tokens looked for per question token, of so many."""
        return self.per_token or max(512, tokens // 1024)

    def candidates_for(self, top_k: int) -> int:
        """Passages scored over all of their tokens, where so many are wanted; 0 for all that are found."""
        return max(1000, 20 * top_k) if self.candidates is None else self.candidates


class TokenRetriever(OwnEncoder, EncodedRetriever):
    """Search by token vectors. Probes need `vectors` [tokens, dim], or words, which the encoder turns into vectors.

    Scores are the mean over question tokens of the largest inner product with a token of the passage.
    """

    name = "reatt"
    Options = TokenOptions
    Part = TokenSegment
    segments: list[TokenSegment]

    @classmethod
    def open_encoder(cls, name: str) -> TokenEncoder:
        return TOKEN_ENCODERS["model"](name)

    @property
    def dim(self) -> int:
        return self.segments[0].dim

    @property
    def num_tokens(self) -> int:
        return sum(len(segment.keys) for segment in self.segments)

    def search_exhaustive(
        self, probes: Sequence[Probe], *, top_k: int, where: Mapping[str, Any] | None = None
    ) -> list[Candidates]:
        """As `search`, with every passage scored, whatever this index's own way of searching is."""
        if top_k < 1:
            raise ValueError(f"top_k={top_k} is too small; it must be at least 1.")
        vectors = self._probe_vectors(probes)
        found = [exhaustive(*pair, vectors, top_k) for pair in self._searched(dict(where or {}))]
        return self.candidates(found, top_k) if probes else []

    def recall_against_exhaustive(self, probes: Sequence[Probe], *, top_k: int = 20) -> float:
        """The share of the best `top_k` of all passages, by the stored keys, that `search` finds: 0 to 1."""
        if not probes:
            raise ValueError("there are no probes to measure recall with; give at least one.")
        if self.options.search == "exhaustive":
            return 1.0  # the two searches are one
        pairs = zip(self.search(probes, top_k=top_k), self.search_exhaustive(probes, top_k=top_k))
        return fmean(len(set(found.ids) & set(wanted.ids)) / max(1, len(wanted.ids)) for found, wanted in pairs)

    def bytes_per_token(self) -> dict[str, float]:
        """What is kept for a token. plain: its key as float32. stored: all arrays of the index; then each of them."""
        parts: Counter[str] = Counter()
        for segment in self.segments:
            parts.update(segment.bytes_of())
        tokens = max(1, self.num_tokens)
        stored = {"plain": 4.0 * self.dim, "stored": sum(parts.values()) / tokens}
        return stored | {name: size / tokens for name, size in parts.items()}

    def _search(self, probes: list[Probe], top_k: int, where: dict[str, Any]) -> list[Candidates]:
        options = self.options
        if options.search == "exhaustive":
            return self.search_exhaustive(probes, top_k=top_k, where=where)
        vectors = self._probe_vectors(probes)
        found = []
        for segment, allowed in self._searched(where):
            chosen = {
                "per_token": options.per_token_for(len(segment.keys)),
                "candidates": options.candidates_for(top_k),
                "probes": options.probes_for(segment.num_lists),
            }
            found.append([two_stage(segment, allowed, row, top_k, **chosen) for row in vectors])
        return self.candidates(found, top_k)

    def _searched(self, where: dict[str, Any]) -> list[tuple[TokenSegment, np.ndarray]]:
        """Every segment, and which of its passages may be found."""
        allowed = self.allowed(where)
        return [(segment, mask & (segment.lengths > 0)) for segment, mask in zip(self.segments, allowed)]

    def _probe_vectors(self, probes: Sequence[Probe]) -> list[np.ndarray]:
        """[tokens, dim] float32 each."""
        words = [probe.words for probe in probes if probe.vectors is None]
        encoded = iter(self.own_encoder().questions(words) if words else ())
        given = [
            next(encoded) if probe.vectors is None else probe.vectors.detach().float().cpu().numpy() for probe in probes
        ]
        for vectors in given:
            if vectors.shape[1:] != (self.dim,) or not len(vectors):
                raise ValueError(
                    f"probe vectors have shape {vectors.shape}; this token index needs (tokens, {self.dim}) with at "
                    "least one token."
                )
            if not np.isfinite(vectors).all():
                raise ValueError(
                    "probe vectors hold infinite numbers or NaN; check the model or encoder they come from."
                )
        return [np.ascontiguousarray(vectors, dtype=np.float32) for vectors in given]

    @classmethod
    def _write_segment(cls, passages: Iterable[Passage], path: Path, options: TokenOptions) -> None:
        encoder = cls.encoder_named(options.encoder)
        made_with = {"encoder": options.encoder, "fingerprint": options.encoder_fingerprint}
        progress = Progress(path, made_with | {"type": options.given_type}, ARRAYS)
        catalog = CatalogWriter(path / "catalog.arrow")
        with progress_bar(desc="token vectors", unit=" passages") as bar:
            for batch in in_batches(passages, BLOCK):
                catalog.write(batch)
                if not progress.done(batch):
                    rows = _checked(encoder.passages(batch), batch)
                    lengths = np.array([len(row) for row in rows], np.int32)
                    progress.append(given=np.concatenate(rows).astype(options.given_type), lengths=lengths)
                bar.update(len(batch))
        catalog.close()
        _finish(path, progress, options)

    @classmethod
    def _merge_segments(cls, segments: Sequence[TokenSegment], path: Path, options: TokenOptions) -> None:
        catalog = CatalogWriter(path / "catalog.arrow")
        progress = Progress(path, {}, ARRAYS)
        for segment in segments:
            catalog.copy(segment.catalog, segment.alive)
            alive = np.flatnonzero(segment.alive)
            for start in range(0, len(alive), BLOCK):
                some = alive[start : start + BLOCK]
                given = segment.keys_of(some).astype(options.given_type)
                progress.append(given=given, lengths=segment.lengths[some].astype(np.int32))
        catalog.close()
        _finish(path, progress, options)


def _finish(path: Path, progress: Progress, options: TokenOptions) -> None:
    """Make a segment of all the keys that are on disk now, in the order of passages."""
    keys, lengths = (progress.array(name) for name in ARRAYS)
    arrange(path, keys, lengths, codec=options.codec, lists=options.lists_for(len(keys)))
    progress.finish()


def _checked(rows: Sequence[np.ndarray], batch: Sequence[Passage]) -> Sequence[np.ndarray]:
    """What an encoder made of passages, as it is; ValueError where a number in it is infinite or none."""
    assert len(rows) == len(batch)
    for passage, row in zip(batch, rows):
        if not np.isfinite(row).all():
            raise ValueError(
                f"the encoder gave passage {passage.id!r} vectors with infinite numbers or NaN; read it with "
                "--precision fp32, or train the model again."
            )
    return rows
