"""How well a language model predicts texts: bits per byte, with paired intervals over documents, and by overlap.

Bits per byte (Borgeaud et al. 2022, section 2.6): the negative log2-likelihood of a text over its UTF-8 bytes, so that
vocabularies can be compared. Filtered evaluation: only the chunks whose overlap with their neighbours is at most r.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wellread.config import require

__all__ = ["BOUNDS", "Bits", "TextScores", "bits_difference", "bits_per_byte", "by_overlap", "document_bits"]

BOUNDS = (0.125, 0.25, 0.5, 1.0)
"""Shares of overlap up to which chunks are counted."""
SAMPLES, CONFIDENCE = 2000, 0.95


@dataclass(frozen=True)
class TextScores:
    """nats: [chunks] float64, negative log-likelihood of each; bytes, tokens: [chunks], how long it is; documents:
    [chunks], whose it is; chunks: [chunks], its number."""

    nats: np.ndarray
    bytes: np.ndarray
    tokens: np.ndarray
    documents: np.ndarray
    chunks: np.ndarray

    def only(self, chosen: np.ndarray) -> TextScores:
        """Some of the chunks, [chunks] bool."""
        return TextScores(*(getattr(self, name)[chosen] for name in ("nats", "bytes", "tokens", "documents", "chunks")))


@dataclass(frozen=True)
class Bits:
    """A number of bits per byte, or a difference of two, with a bootstrap interval over documents."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        return {"value": round(self.value, 5), "interval": [round(self.low, 5), round(self.high, 5)]}


def bits_per_byte(scores: TextScores, *, seed: int = 0, samples: int = SAMPLES) -> Bits:
    """Bits per byte of all chunks together; the interval draws documents. ValueError where there are no bytes."""
    return _drawn([scores], lambda value: value[0], seed=seed, samples=samples)


def bits_difference(scores: TextScores, other: TextScores, *, seed: int = 0, samples: int = SAMPLES) -> Bits:
    """Bits per byte of `scores` less that of `other`, over the same chunks; below 0 where `scores` is better.

    The interval draws documents, the same for both. ValueError where they are not of the same chunks.
    """
    require(
        np.array_equal(scores.chunks, other.chunks),
        f"{len(scores.chunks)} and {len(other.chunks)} chunks were scored, not the same ones; compare scores of the "
        "same texts.",
    )
    return _drawn([scores, other], lambda value: value[0] - value[1], seed=seed, samples=samples)


def by_overlap(
    scores: Mapping[str, TextScores],
    overlap: np.ndarray,
    *,
    against: str,
    bounds: Sequence[float] = BOUNDS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row per bound: bits per byte of the chunks whose overlap [chunks] is at most the bound, of every one of the
    scores by name, and its difference to `against`. Bounds that no chunk is within are left out."""
    rows = []
    for bound in bounds:
        chosen = overlap <= bound
        if not chosen.any():
            continue
        kept = {name: each.only(chosen) for name, each in scores.items()}
        row = {"overlap": bound, "chunks": int(chosen.sum()), "share": round(float(chosen.mean()), 4)}
        for name, each in kept.items():
            row[name] = bits_per_byte(each, seed=seed).to_json()
            if name != against:
                row[f"{name}-{against}"] = bits_difference(each, kept[against], seed=seed).to_json()
        rows.append(row)
    return rows


def document_bits(scores: TextScores) -> tuple[np.ndarray, np.ndarray]:
    """Bits and bytes of every document, in the order of their first chunks' numbers."""
    _, place = np.unique(scores.documents, return_inverse=True)
    count = int(place.max()) + 1 if len(place) else 0
    bits = np.bincount(place, weights=scores.nats, minlength=count) / math.log(2)
    return bits, np.bincount(place, weights=scores.bytes, minlength=count)


def _drawn(scores: Sequence[TextScores], value, *, seed: int, samples: int) -> Bits:
    parts = [document_bits(each) for each in scores]
    require(bool(len(parts[0][1]) and parts[0][1].sum() > 0), "no text was scored; give chunks that hold some.")
    whole = value([bits.sum() / lengths.sum() for bits, lengths in parts])
    generator, count = np.random.default_rng(seed), len(parts[0][0])
    found = np.empty(samples)
    for at in range(samples):
        draw = generator.integers(count, size=count)
        found[at] = value([bits[draw].sum() / lengths[draw].sum() for bits, lengths in parts])
    low, high = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Bits(float(whole), float(low), float(high))
