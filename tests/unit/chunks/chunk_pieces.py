"""What the tests of chunks share: small texts, a kill, brute force."""

from __future__ import annotations

import numpy as np

from wellread.retrieval.chunks import documents_of, write_chunks
from wellread.types import Passage

NAMES = "stone river light cloud étoile 東京 moss wind amber field lamp ridge salt fern dune coral"
WORDS = NAMES.split()
M = 8


def text(seed, words):
    draw = np.random.default_rng(seed)
    return " ".join(WORDS[number] for number in draw.integers(0, len(WORDS), words))


def corpus(count=30, split="train", first=0):
    for number in range(first, first + count):
        for part in range(3):
            metadata = {"split": split}
            yield Passage(f"w-{number}-{part}", text((number, part), 20), title=f"Page {number}", metadata=metadata)


def cut(out, tokenizer, documents=None, **options):
    documents = list(documents_of(corpus())) if documents is None else documents
    return write_chunks(lambda: iter(documents), tokenizer, out, chunk_tokens=M, **options)


class Killed(BaseException):
    """A kill, as far as a process can play one to itself."""


def dying(function, calls):
    """The function, which dies when it is called once more than `calls` times."""
    left = [calls]

    def call(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return function(*arguments, **options)

    return call


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix == ".bin"}


def brute(database, keys, k, allowed=None, own=None):
    """The k nearest by comparing with everything, in float64."""
    stored = database.keys[:].astype(np.float64)
    distances = ((keys[:, None].astype(np.float64) - stored[None]) ** 2).sum(-1)
    if allowed is not None:
        distances[:, ~allowed] = np.inf
    if own is not None:
        distances[database.texts.documents(np.arange(len(stored)))[None] == own[:, None]] = np.inf
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distances, order, 1)
