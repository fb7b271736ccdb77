"""Texts with neighbours -> batches, any step's at once; and held-out texts to choose the best weights by."""

from __future__ import annotations

import logging
from functools import lru_cache

import numpy as np

from wellread.evaluation.language import bits_per_byte
from wellread.model import Model
from wellread.texts import LOSSY, NeighbourTexts, Windows, check_language_model, lossless, score_texts
from wellread.training.config import TextsConfig
from wellread.types import TrainingBatch

__all__ = ["DevTexts", "TextBatches", "open_texts"]

_LOG = logging.getLogger(__name__)


class TextBatches:
    """The batches of a run over texts, a function of (seed, step). Every window comes once before any comes again."""

    def __init__(self, source: NeighbourTexts, windows: Windows, *, batch_size: int, seed: int = 0) -> None:
        self.source, self.windows, self.batch_size, self.seed = source, windows, batch_size, seed
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> TrainingBatch:
        """Part `part` of `parts` of the windows of a step (steps count from 0)."""
        mine = np.array_split(np.arange(self.batch_size), parts)[part]
        places = [divmod(step * self.batch_size + int(place), len(self.windows)) for place in mine]
        rows = [self._order(epoch)[place] for epoch, place in places]
        return self.source.batch(self.windows.numbers[rows])

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.windows))


class DevTexts:
    """Calling it with a model gives {"bits_per_byte", "n"} of held-out texts, n documents."""

    def __init__(
        self, source: NeighbourTexts, windows: Windows, *, batch_size: int = 4, precision: str = "fp32"
    ) -> None:
        self.source, self.windows, self.batch_size, self.precision = source, windows, batch_size, precision

    def __call__(self, model: Model) -> dict[str, float]:
        scores = score_texts(model, self.source, self.windows, batch_size=self.batch_size, precision=self.precision)
        return {"bits_per_byte": bits_per_byte(scores, samples=1).value, "n": len(np.unique(scores.documents))}


def open_texts(
    config: TextsConfig, model: Model, *, batch_size: int, seed: int, precision: str
) -> tuple[TextBatches, DevTexts | None]:
    """What a recipe's [texts] names, opened and checked."""
    words = model.frame.tokenizer
    where = {"tokenizer": words, "k": config.k}
    source = NeighbourTexts.open(config.chunks, config.neighbours, config.database, **where)
    check_language_model(model, source.texts)
    windows = Windows(source.texts, config.sequence_chunks, documents=config.documents)
    batches = TextBatches(source, windows, batch_size=batch_size, seed=seed)
    if config.dev is None:
        return batches, None
    held = NeighbourTexts.open(config.dev, config.dev_neighbours, config.database or config.chunks, **where)
    check_language_model(model, held.texts)
    if not lossless(held.texts, config.dev_documents):
        _LOG.warning(LOSSY.format(path=held.texts.path))
    chosen = Windows(held.texts, config.sequence_chunks, documents=config.dev_documents)
    return batches, DevTexts(held, chosen, precision=precision)
