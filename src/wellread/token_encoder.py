"""A model as the encoder of an index: vectors of questions and keys of passages, one per token or one per text.

A system that names a `retriever` of its own gives both; keys follow from what a memory stores, so where there is a
memory no passage is read twice.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from wellread.memory.fingerprint import check
from wellread.memory.store import Memory
from wellread.model import Model, load_model
from wellread.nn import checkpoints
from wellread.nn.precision import precision_dtype
from wellread.reading.batching import to_device
from wellread.reading.frame import pad_rows
from wellread.types import Passage

__all__ = ["ModelTokens", "ModelVectors", "model_encoder", "open_token_encoder"]

# Passages encoded at a time.
BATCH = 32
_LOG = logging.getLogger(__name__)


class ModelTokens:
    """What a token index needs of a model: `name`, `fingerprint`, `passages`, `questions`.

    name: what the model is loaded from, so that a later process can open it again. memory: where states are taken from
    for passages it holds; the others are read. ValueError where the model's system has no search of its own, and
    where the memory is not this model's.
    """

    def __init__(
        self, model: Model, *, memory: Memory | None = None, precision: str = "fp32", name: str | None = None
    ) -> None:
        if model.system.retriever is None:
            raise ValueError(
                f"{model.name} has no search of its own; use a model of a system that retrieves, or another retriever."
            )
        if memory is not None:
            check(memory.fingerprint, model.fingerprint(), model.system.bound_to)
        self.model, self.memory, self.precision = model, memory, precision
        self._doubt = model.system.search_doubt
        self.name = name or model.source or f"{model.name} {self.fingerprint}"

    def reading(self, memory: Memory) -> ModelTokens:
        """The same with the states of a memory."""
        return type(self)(self.model, memory=memory, precision=self.precision)

    @property
    def fingerprint(self) -> str:
        """A digest of all that decides keys and queries: an index answers rightly only to the model whose keys it
        holds. What reads and writes may learn on, or be set otherwise, over an index that stays."""
        weights, frame = checkpoints.fingerprint(self.model.system.search_weights()), self.model.frame
        return _digest(weights, frame.tokenizer.fingerprint, frame.fingerprint, frame.config.question)

    def passages(self, passages: Sequence[Passage]) -> list[np.ndarray]:
        """Keys of every passage, [tokens, key dim] float32 each."""
        if self._doubt:
            _LOG.warning(self._doubt)
            self._doubt = None
        self.model.system.eval()
        rows: dict[str, np.ndarray] = {}
        held = () if self.memory is None else self.memory
        stored = [passage.id for passage in passages if passage.id in held]
        if stored:
            kept = self.memory.fetch(stored)
            rows |= zip(stored, self._keys(kept.states, kept.tokens))
        new = [passage for passage in passages if passage.id not in rows]
        for start in range(0, len(new), BATCH):
            some = new[start : start + BATCH]
            rows |= zip((passage.id for passage in some), self._read(some))
        return [rows[passage.id] for passage in passages]

    def questions(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Queries of every question, [tokens, key dim] float32 each."""
        self.model.system.eval()
        inputs = to_device(self.model.frame.questions(texts), self.model.device)
        with torch.inference_mode():
            return [_array(row) for row in self.model.system.seek(inputs)]

    def _keys(self, states: Sequence[torch.Tensor], tokens: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Keys of passages from what a memory holds of them; one projection for all."""
        system, weight = self.model.system, next(self.model.system.parameters())
        with torch.inference_mode():
            keys = system.search_keys(torch.cat(list(states)).to(weight.device, weight.dtype)[None])[0]
            found = []
            for row, ids in zip(keys.split([len(each) for each in states]), tokens, strict=True):
                ids = torch.as_tensor(np.asarray(ids), device=weight.device)
                found.append(_array(row[system.searched(ids, torch.ones_like(ids, dtype=torch.bool))]))
        return found

    def _read(self, passages: Sequence[Passage]) -> list[np.ndarray]:
        tokens, mask = pad_rows(self.model.frame.passages(passages), self.model.frame.tokenizer.pad)
        dtype, device = precision_dtype(self.precision), self.model.device
        with torch.inference_mode():
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                kept = self.model.system.remember(tokens.to(device), mask.to(device))
            keys = self.model.system.search_keys(kept.states.to(next(self.model.system.parameters()).dtype))
            searched = self.model.system.searched(tokens.to(device), kept.mask)
        return [_array(row[words]) for row, words in zip(keys, searched)]


class ModelVectors(ModelTokens):
    """The same for systems that store one key per passage and seek with one vector.

    The fingerprint is that of the passage side alone: a question tower may learn on over an index that stays.
    """

    @property
    def fingerprint(self) -> str:
        parts = self.model.fingerprint()
        return _digest(parts.encoder, parts.tokenizer, parts.template, parts.cut)

    @property
    def sources(self) -> Sequence[str]:
        """The sources a question has a probe of its own for, in the order of the probes."""
        return self.model.system.sources

    def passages(self, passages: Sequence[Passage]) -> list[np.ndarray]:
        """The key of every passage, [key dim] float32 each."""
        rows: dict[str, np.ndarray] = {}
        held = () if self.memory is None else self.memory
        stored = [passage.id for passage in passages if passage.id in held]
        if stored:
            rows |= zip(stored, map(_array, self.memory.fetch(stored, states=False).keys))
        new = [passage for passage in passages if passage.id not in rows]
        for start in range(0, len(new), BATCH):
            some = new[start : start + BATCH]
            found = self.model.encode(some, precision=self.precision)
            rows |= zip((passage.id for passage in some), (_array(each.keys) for each in found))
        return [rows[passage.id] for passage in passages]

    def questions(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The vector of every question, [key dim] float32 each."""
        return [row[0] for row in super().questions(texts)]


def model_encoder(model: Model, **options: Any) -> ModelTokens:
    """What makes the vectors of a model's own search; options: as of ModelTokens."""
    kind = ModelVectors if "keys" in model.system.stores else ModelTokens
    return kind(model, **options)


def open_token_encoder(name: str) -> ModelTokens:
    """The model in a folder as the encoder of questions (and of passages that are added later)."""
    return model_encoder(load_model(name))


def _digest(*parts: str) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def _array(vectors: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(vectors.float().cpu().numpy())
