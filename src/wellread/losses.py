"""Losses used by two or more systems. Every one says its reduction, and which side is stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "alignment",
    "attention_distillation",
    "contrastive",
    "decorrelation",
    "log_softmax_over",
    "nll",
    "perplexity_distillation",
]


def nll(log_probs: Tensor, mask: Tensor) -> Tensor:
    """Negative log-likelihood of the target, mean over all real target tokens of the batch.

    log_probs: [batch, tokens], of the target tokens; mask: [batch, tokens] bool. Returns a scalar in nats.
    """
    return -(log_probs.float().masked_fill(~mask, 0.0)).sum() / mask.sum().clamp_min(1)


def log_softmax_over(scores: Tensor, exists: Tensor) -> Tensor:
    """Log-softmax over the candidates that exist; 0 (not -inf) where they do not, so that sums stay finite.

    scores: [batch, passages]; exists: [batch, passages] bool. A row without any candidate gives zeros.
    """
    floor = torch.finfo(torch.float32).min
    filled = scores.float().masked_fill(~exists, floor)
    return torch.log_softmax(filled, dim=-1).masked_fill(~exists, 0.0)


def attention_distillation(scores: Tensor, target: Tensor, *, exists: Tensor) -> Tensor:
    """Teach scores to rank passages by how much the reader looked at each (ReAtt equation 2, after FiD-KD).

    KL(target || softmax(scores)), summed over the passages that exist, mean over questions. The target is stopped.
    scores, target: [questions, passages]; target sums to 1 over what exists, and may be 0.
    """
    target = target.detach().float().masked_fill(~exists, 0.0)
    ranked = log_softmax_over(scores, exists)
    terms = torch.xlogy(target, target) - target * ranked
    return terms.sum(-1).mean()


def perplexity_distillation(
    scores: Tensor, answer_log_likelihood: Tensor, *, exists: Tensor, temperature: float = 1.0
) -> Tensor:
    """Teach scores to rank passages by how much each alone helps the answer (GLIMMER 3.2, after Atlas).

    KL(p_LM || p_rank), summed over passages, mean over questions with at least two candidates. p_LM, the
    softmax of the answer's log-likelihood given each passage alone, is the target and is stopped; the gradient
    reaches `scores` only. GLIMMER writes the arguments the other way round; this is the direction of the
    usual distillation target, and the one that Atlas uses. scores, answer_log_likelihood: [batch, passages].
    """
    target = log_softmax_over(answer_log_likelihood.detach() / temperature, exists)
    ranked = log_softmax_over(scores / temperature, exists)
    terms = (target.exp() * (target - ranked)).masked_fill(~exists, 0.0)
    counted = exists.sum(-1) > 1
    return (terms.sum(-1) * counted).sum() / counted.sum().clamp_min(1)


def contrastive(scores: Tensor, right: Tensor, *, exists: Tensor) -> Tensor:
    """Teach scores to set the right passages above all others (REVEAL's L_contra; InfoNCE with several right ones).

    -log of the share of the softmax over all passages that falls on the right ones, mean over the questions that have
    a right one; 0 where none has. scores: [questions, passages]; right, exists: the same, bool.
    """
    ranked = log_softmax_over(scores, exists)
    right = right & exists
    found = ranked.masked_fill(~right, torch.finfo(torch.float32).min).logsumexp(-1)
    counted = right.any(-1)
    return -found.masked_fill(~counted, 0.0).sum() / counted.sum().clamp_min(1)


def decorrelation(values: Tensor) -> Tensor:
    """Teach the value tokens of an entry to say different things (REVEAL's L_decor).

    The squared covariances of different tokens, over their dimensions, summed; mean over entries, 0 without any.
    values: [entries, tokens, dim].
    """
    centred = values.float() - values.float().mean(-1, keepdim=True)
    covariance = centred @ centred.transpose(1, 2) / values.shape[-1]
    different = ~torch.eye(values.shape[1], dtype=torch.bool, device=values.device)
    return covariance.square().masked_fill(~different, 0.0).sum() / max(len(values), 1)


def alignment(values: Tensor, length: Tensor) -> Tensor:
    """Teach value tokens to be as long as the states they are read beside (REVEAL's L_align).

    (1 - mean length of an entry's tokens / length), squared; mean over entries, 0 without any. values: [entries,
    tokens, dim]. length: of the others, a scalar; stopped.
    """
    off = 1 - values.float().norm(dim=-1).mean(1) / length.detach()
    return off.square().sum() / max(len(values), 1)
