"""Losses used by two or more systems. Every one says its reduction, and which side is stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["attention_distillation", "log_softmax_over", "nll", "perplexity_distillation"]


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
