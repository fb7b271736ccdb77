"""A text at a glance: what its words are, without their order; rare words count most."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["WordGlance"]

# A token's first weight is log(1 + RARITY * rank / vocabulary): vocabularies are in the order of frequency, but for
# what was added at their end, which hardly any text has.
RARITY = 30


class WordGlance(nn.Module):
    """Tokens [rows, tokens] and their mask -> [rows, out_dim] float32, of length 1.

    The sum of a fixed vector of random signs per token, each under the token's learnt weight: texts with the same rare
    words have like vectors before anything was learnt (Johnson and Lindenstrauss). The signs are the same everywhere
    and are made, not stored.
    """

    def __init__(self, vocab_size: int, out_dim: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.log1p(RARITY * torch.arange(vocab_size) / vocab_size))
        self.register_buffer("signs", _signs(vocab_size, out_dim), persistent=False)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        weights = self.weights.float()[tokens].masked_fill(~mask, 0.0)
        return functional.normalize((weights[..., None] * self.signs[tokens]).sum(1), dim=-1)


def _signs(rows: int, dim: int) -> Tensor:
    """[rows, dim] int8 of -1 and 1, from bits that no version of a library changes."""
    words = np.random.Philox(0).random_raw(-(-rows * dim // 64)).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8), count=rows * dim, bitorder="little").reshape(rows, dim)
    return torch.from_numpy(bits.astype(np.int8) * 2 - 1)
