"""Question and passage states -> pairs the live layers read together.

Real tokens are moved to the left before attention, so a pair looks the same whatever the padding of its
batch: relative positions count real tokens only, and no layer works on holes in the middle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Pairs", "attention_mask", "join", "matches", "passages_only"]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Question-passage pairs, one row per candidate.

    states: [batch, passages, tokens, dim]. mask, from_passage: [batch, passages, tokens] bool.
    tokens: [batch, passages, tokens] int64.
    """

    states: Tensor
    mask: Tensor
    tokens: Tensor
    from_passage: Tensor

    def with_states(self, states: Tensor) -> Pairs:
        """The same pairs after some layers; `states` may come flat as [batch * passages, tokens, dim]."""
        return replace(self, states=states.reshape(*self.mask.shape, states.shape[-1]))

    def flat(self) -> tuple[Tensor, Tensor]:
        """states [batch * passages, tokens, dim] and mask [batch * passages, tokens], for an encoder."""
        return self.states.flatten(0, 1), self.mask.flatten(0, 1)

    def take(self, kept: Tensor) -> Pairs:
        """The pairs of the columns kept [batch, keep]."""
        rows = torch.arange(kept.shape[0], device=kept.device)[:, None]
        parts = (self.states, self.mask, self.tokens, self.from_passage)
        return Pairs(*(part[rows, kept] for part in parts))


def join(
    question_states: Tensor,
    question_mask: Tensor,
    question_tokens: Tensor,
    *,
    passage_states: Tensor,
    passage_mask: Tensor,
    passage_tokens: Tensor,
) -> Pairs:
    """[question; passage] for every passage (LUMEN section 3.1: H_i = [QEnc(Q); MemEnc(Passage_i)]).

    question_*: [batch, tokens(, dim)]; passage_*: [batch, passages, tokens(, dim)]. The pairs are as long as
    the longest pair in real tokens.
    """
    num_passages = passage_mask.shape[1]

    def both(question: Tensor, passage: Tensor) -> Tensor:
        repeated = question[:, None].expand(-1, num_passages, *question.shape[1:])
        return torch.cat([repeated, passage.to(repeated.dtype)], dim=2)

    mask = both(question_mask, passage_mask)
    from_passage = both(torch.zeros_like(question_mask), passage_mask)
    tokens = both(question_tokens, passage_tokens)
    states = both(question_states, passage_states)
    longest = int(mask.sum(-1).max())
    if longest == mask.shape[-1] and bool(question_mask.all()):  # a shorter question would leave a hole
        return Pairs(states, mask, tokens, from_passage)
    order = torch.argsort((~mask).to(torch.uint8), dim=-1, stable=True)[..., :longest]
    picked = order[..., None].expand(*order.shape, states.shape[-1])
    return Pairs(
        states.gather(2, picked), mask.gather(2, order), tokens.gather(2, order), from_passage.gather(2, order)
    )


def passages_only(states: Tensor, mask: Tensor, tokens: Tensor) -> Pairs:
    """Pairs without a question: what MemoryFiD's decoder attends to."""
    return Pairs(states, mask, tokens, mask)


def attention_mask(pairs: Pairs, *, q2mem: bool, mem2q: bool) -> Tensor:
    """Who may attend to whom inside a pair, for the ablations of LUMEN section 4.5 (figure 9).

    q2mem: question tokens may attend to passage tokens. mem2q: passage tokens may attend to question tokens.
    Returns [batch * passages, tokens] (both allowed) or [batch * passages, query, key] bool.
    """
    mask, passage = pairs.mask.flatten(0, 1), pairs.from_passage.flatten(0, 1)
    if q2mem and mem2q:
        return mask
    query, key = passage[:, :, None], passage[:, None, :]
    allowed = mask[:, None, :].expand(-1, mask.shape[1], -1).clone()
    if not q2mem:
        allowed &= query | ~key
    if not mem2q:
        allowed &= ~query | key
    return allowed


def matches(pairs: Pairs) -> Tensor:
    """Which tokens of a pair its other half holds too, [batch, passages, tokens] bool."""
    passage, question = pairs.mask & pairs.from_passage, pairs.mask & ~pairs.from_passage
    longest = int(question.sum(-1).max())  # the question comes first
    same = pairs.tokens[..., None] == pairs.tokens[..., None, :longest]
    same &= passage[..., None] & question[..., None, :longest]
    asked = torch.zeros_like(passage)
    asked[..., :longest] = same.any(-2)
    return same.any(-1) | asked
