"""A tower: texts -> one vector each, by the first layers of an encoder and a projection.

REALM (Guu et al. 2020, section 3.2) takes the class token's state of BERT and projects it. Sentence encoders are
trained with the mean of the states instead; a projection that keeps the width starts as the identity, so that a tower
made of all layers of a sentence encoder starts as that encoder, up to a factor.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from wellread.nn.bert import BertEncoder

__all__ = ["Pool", "Tower"]

Pool = Literal["class", "mean"]


def _first(states: Tensor, mask: Tensor) -> Tensor:
    return states[:, 0]


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    total = states.float().masked_fill(~mask[..., None], 0.0).sum(1)
    return (total / mask.sum(1, keepdim=True).clamp_min(1)).to(states.dtype)


POOLS = {"class": _first, "mean": _mean}


class Tower(nn.Module):
    """(tokens, mask) -> vectors. layers: of the encoder's first. dim: of the vectors, None for the encoder's width.

    size: what the projection starts with is made so many times as large.
    """

    def __init__(
        self, encoder: BertEncoder, *, layers: int, dim: int | None = None, pool: Pool = "class", size: float = 1.0
    ) -> None:
        super().__init__()
        self.encoder = encoder.with_layers(0, layers)
        self.pool = POOLS[pool]
        self.projection = nn.Linear(encoder.dim, dim or encoder.dim, bias=False)
        with torch.no_grad():
            if dim is None or dim == encoder.dim:
                nn.init.eye_(self.projection.weight)
            else:
                nn.init.orthogonal_(self.projection.weight)
            self.projection.weight.mul_(size)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.projection.out_features

    @property
    def trained(self) -> bool:
        """Whether any of its weights learns."""
        return any(weight.requires_grad for weight in self.parameters())

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """[rows, tokens] int64 and bool -> [rows, dim]."""
        return self.projection(self.pool(self.encoder(tokens, mask), mask))
