"""A question and the entries found for it side by side, every entry's states under a weight of its own.

REVEAL's attentive fusion (Hu et al. 2023, appendix F, equation 4): X = [b(x), psi(b(z_1)), ... psi(b(z_K))], and the
weight of every state of z_i is p(z_i | x), of every state of the question 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Weighed", "side_by_side"]


@dataclass(frozen=True, slots=True)
class Weighed:
    """States [batch, tokens, dim] with what goes with each: [batch, tokens] all.

    mask: bool. tokens: int64, the token behind a state, any number where there is none. copyable: bool. passage: the
    column of the candidate a state belongs to, -1 for none. places: int64, for encoders that go by distances. weights:
    float.
    """

    states: Tensor
    mask: Tensor
    tokens: Tensor
    copyable: Tensor
    passage: Tensor
    places: Tensor
    weights: Tensor

    @classmethod
    def of_question(cls, states: Tensor, mask: Tensor, places: Tensor) -> Weighed:
        """Of weight 1, not to be copied."""
        none = torch.full_like(places, -1)
        ones = torch.ones(mask.shape, device=mask.device)
        return cls(states, mask, torch.zeros_like(places), torch.zeros_like(mask), none, places, ones)

    @classmethod
    def of_entries(
        cls,
        states: Tensor,
        mask: Tensor,
        *,
        columns: Tensor,
        chance: Tensor,
        at: int,
        tokens: Tensor | None = None,
    ) -> Weighed:
        """Entries in the columns [batch, entries], their states [batch, entries, tokens, dim] and mask one after the
        other; every entry begins at place `at`, so that their order says nothing. chance: [batch, passages], weights
        of all columns. tokens: [batch, entries, tokens], which can be copied; None for states that stand for none."""
        length = mask.shape[2]
        places = at + torch.arange(length, device=mask.device)
        weights = chance.gather(1, columns)
        parts = [part[..., None].expand(*columns.shape, length).flatten(1) for part in (columns, weights)]
        column, weight = parts
        flat = mask.flatten(1)
        return cls(
            states.flatten(1, 2),
            flat,
            torch.zeros_like(column) if tokens is None else tokens.flatten(1),
            torch.zeros_like(flat) if tokens is None else flat,
            column.masked_fill(~flat, -1),
            places.expand(*columns.shape, length).flatten(1),
            weight,
        )


def side_by_side(parts: Sequence[Weighed]) -> Weighed:
    """The parts one after the other, padding squeezed out; what stays of it has weight 0."""
    names = Weighed.__slots__
    whole = {name: torch.cat([getattr(part, name) for part in parts], dim=1) for name in names}
    mask = whole["mask"]
    longest = max(int(mask.sum(-1).max()), 1)
    if longest < mask.shape[1]:
        order = torch.argsort((~mask).to(torch.uint8), dim=-1, stable=True)[:, :longest]
        states = whole.pop("states")
        whole = {name: part.gather(1, order) for name, part in whole.items()}
        whole["states"] = states.gather(1, order[..., None].expand(*order.shape, states.shape[-1]))
    whole["weights"] = whole["weights"].masked_fill(~whole["mask"], 0.0)
    return Weighed(**whole)
