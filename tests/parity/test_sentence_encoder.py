"""The default sentence encoder against sentence-transformers, which it comes from."""

from __future__ import annotations

import numpy as np
import pytest

from wellread import retrieval
from wellread.retrieval import encoders
from wellread.types import Passage

pytest.importorskip("sentence_transformers")
pytestmark = pytest.mark.skipif(retrieval.default_retriever() != "hybrid", reason="needs pip install '.[dense]'")

TEXTS = [
    "Which river flows through Prague?",
    "",
    "Ünïcödé — 東京, [SEP] and   spaces",
    "The Vltava, " * 200,  # longer than the 256 tokens it reads
    *(f"Passage {number} about " + "towns and rivers " * number for number in range(20)),
]


def test_vectors_are_those_of_sentence_transformers():
    ours, theirs = encoders.PackagedEncoder(batch_size=5), encoders.SentenceEncoder(str(encoders.packaged_folder()))
    # Two implementations of the same float32 layers; numbers of vectors of length 1.
    np.testing.assert_allclose(ours.questions(TEXTS), theirs.questions(TEXTS), rtol=0, atol=2e-6)
    passages = [Passage("a", "It flows through Prague.", "Vltava"), Passage("b", "Untitled.")]
    np.testing.assert_allclose(ours.passages(passages), theirs.passages(passages), rtol=0, atol=2e-6)
    assert ours.questions([]).shape == (0, 384)
    assert ours.name == encoders.DEFAULT_ENCODER
