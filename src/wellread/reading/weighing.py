"""Passages of a reading one by one, and the answer that is most likely over all of them.

What a reader says of each passage alone is a hypothesis, as is what it says of all together. An answer y has the
probability of a mixture whose parts are the passages z, in proportion to the softmax of their scores, and the whole:

    p(y) = weight * sum_z p(z) p(y | z) + (1 - weight) * p(y | all passages)

Where a part wrote something else, its p(y | ...) counts as 0: the fast decoding of Lewis et al. 2020 (arXiv 2005.11401,
section 2.5), which writes every hypothesis once and reads none anew. A part that was written with several beams gives
the best of them. A question without passages has the whole alone.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from wellread.reading.decoding import Generated
from wellread.reading.marginal import log_sum

if TYPE_CHECKING:
    from torch import Tensor

    from wellread.types import Reading

__all__ = ["apart", "likeliest", "posterior"]


def apart(reading: Reading) -> Reading:
    """Every kept passage as a reading of its own, [batch * keep, tokens, ...]; a question's are adjacent.

    The question's own states, where the reading has some, stay with each. A place without a passage (fewer candidates
    than the batch is wide) has nothing else to attend to; its weight is 0.
    """
    keep = reading.kept.shape[1]
    mask = (_own(reading) | (reading.mask & (reading.passage < 0))[:, None]).flatten(0, 1)
    order = torch.argsort((~mask).to(torch.uint8), dim=-1, stable=True)[:, : max(int(mask.sum(-1).max()), 1)]
    rows = torch.arange(len(mask), device=mask.device)[:, None] // keep
    mask = mask.gather(1, order)
    return replace(
        reading,
        states=reading.states[rows, order],
        mask=mask,
        tokens=reading.tokens[rows, order],
        copyable=reading.copyable[rows, order] & mask,
        passage=reading.passage[rows, order].masked_fill(~mask, -1),
        scores=None,
        kept=reading.kept.flatten()[:, None],
    )


def likeliest(reading: Reading, together: Generated, each: Generated, *, weight: float, pad_token: int) -> Generated:
    """The best of what was written from all passages and from each; its score is log p(y) as above.

    together: [batch], written from `reading`; each: [batch * keep], from `apart(reading)`. Ties go to the first.
    """
    longest = max(together.tokens.shape[1], each.tokens.shape[1])
    of_all, of_each = (
        functional.pad(part.tokens, (0, longest - part.tokens.shape[1]), value=pad_token) for part in (together, each)
    )
    keep = reading.kept.shape[1]
    said = torch.cat([of_all[:, None], of_each.unflatten(0, (-1, keep))], dim=1)
    lengths = torch.cat([together.lengths[:, None], each.lengths.unflatten(0, (-1, keep))], dim=1)
    joint = _joint(reading, together.scores, each.scores.unflatten(0, (-1, keep)), weight)
    same = (said[:, :, None] == said[:, None]).all(-1)
    worth = log_sum(joint[:, None].masked_fill(~same, -torch.inf))
    best = worth.argmax(-1, keepdim=True)
    lengths = lengths.gather(1, best)[:, 0]
    tokens = said.gather(1, best[..., None].expand(-1, -1, longest))[:, 0, : int(lengths.max())]
    return Generated(tokens, worth.gather(1, best)[:, 0], lengths)


def posterior(reading: Reading, together: Tensor, each: Tensor, *, weight: float) -> Tensor:
    """What each part of the mixture holds of an answer's probability, [batch, 1 + keep], the whole first; sums to 1.

    together: [batch], log p(y | all passages). each: [batch, keep], log p(y | z).
    """
    return _joint(reading, together, each, weight).softmax(-1)


def _joint(reading: Reading, together: Tensor, each: Tensor, weight: float) -> Tensor:
    """log of every part of the sum that p(y) is, [batch, 1 + keep] float32."""
    there = _there(reading)
    scores = reading.scores.gather(1, reading.kept).float().masked_fill(~there, -torch.inf)
    prior = scores - log_sum(scores)[:, None].masked_fill(~there.any(-1, keepdim=True), 0.0)
    whole = torch.where(there.any(-1), math.log1p(-weight) if weight < 1 else -torch.inf, 0.0)
    return torch.cat([(whole + together)[:, None], math.log(weight) + prior + each], dim=1)


def _own(reading: Reading) -> Tensor:
    """Which tokens belong to each kept passage, [batch, keep, tokens] bool."""
    return (reading.passage[:, None] == reading.kept[..., None]) & reading.mask[:, None]


def _there(reading: Reading) -> Tensor:
    """Which of the kept columns hold a passage, [batch, keep] bool."""
    return _own(reading).any(-1)
