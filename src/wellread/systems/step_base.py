"""What systems share whose losses compare all questions of a step (ReAtt, REVEAL)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from wellread.systems.base import Represented

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["gathered", "numbers", "repeated", "same"]


def gathered(parts: Sequence[Represented], kind: str, name: str) -> Tensor:
    """One tensor of all parts, along the questions; shorter ones are padded with zeros, which masks rule out."""
    tensors = [getattr(part, kind)[name] for part in parts]
    sizes = [max(tensor.shape[axis] for tensor in tensors) for axis in range(1, tensors[0].dim())]
    padded = []
    for tensor in tensors:
        missing = [(0, size - have) for size, have in zip(sizes, tensor.shape[1:])]
        padded.append(functional.pad(tensor, [amount for pair in reversed(missing) for amount in pair]))
    return torch.cat(padded)


def numbers(names: Sequence[Sequence[str]], exists: Tensor) -> Tensor:
    """[batch, names] int64 of some names per question: equal for equal ones; 0 where there is none, or "".

    exists: [batch, passages]; there are at least as many numbers as passages.
    """
    width = max(exists.shape[1], *map(len, names), 0)
    numbers = torch.zeros((len(exists), width), dtype=torch.int64)
    for row, some in enumerate(names):
        for column, name in enumerate(some):
            digest = hashlib.blake2b(name.encode("utf8", "surrogatepass"), digest_size=7).digest()
            numbers[row, column] = int.from_bytes(digest, "little") + 1 if name else 0
    return numbers.to(exists.device)


def same(right: Tensor, ids: Tensor) -> Tensor:
    """[questions, questions * passages] bool: which of all passages `ids` [questions, passages] are among a question's
    own of `right` [questions, names]; what has the number 0 is like nothing."""
    flat = ids.flatten()
    return ((flat[None, :, None] == right[:, None, :]) & (flat != 0)[None, :, None]).any(-1)


def repeated(ids: Tensor) -> Tensor:
    """[questions * passages] bool: which of all passages `ids` [questions, passages] come again; 0 is like nothing."""
    flat = ids.flatten()
    return (flat[:, None] == flat).tril(-1).any(1) & (flat != 0)
