"""Scores of spans by what stands at both ends: MLP([h_start; h_end]), as ORQA and REALM extract answers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["SpanHead"]


class SpanHead(nn.Module):
    """States -> one score per span. The first layer of the MLP over [h_start; h_end] is the sum of two projections,
    each made once per token."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.start = nn.Linear(dim, hidden)
        self.end = nn.Linear(dim, hidden, bias=False)
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, 1, bias=False)

    def forward(self, states: Tensor, longest: int) -> Tensor:
        """[rows, tokens, dim] -> [rows, tokens, longest] float32: of the span from a token, 1, 2, ... tokens long.

        Spans that reach beyond the last token get a number all the same.
        """
        ends = functional.pad(self.end(states), (0, 0, 0, longest - 1)).unfold(1, longest, 1).transpose(2, 3)
        hidden = functional.relu(self.start(states)[:, :, None] + ends)
        return self.out(self.norm(hidden)).squeeze(-1).float()
