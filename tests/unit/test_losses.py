"""Losses against the formulas, written out in float64."""

from __future__ import annotations

import math

import pytest
import torch

from wellread.losses import log_softmax_over, nll, perplexity_distillation

# float32 sums of a few terms against float64.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def softmax(values: list[float]) -> list[float]:
    top = max(values)
    powers = [math.exp(value - top) for value in values]
    return [power / sum(powers) for power in powers]


def divergence(target: list[float], ranked: list[float]) -> float:
    """KL(target || ranked)."""
    return sum(p * (math.log(p) - math.log(q)) for p, q in zip(target, ranked, strict=True) if p > 0)


def distilled(scores, answers, exists, temperature: float) -> float:
    """KL(p_LM || p_rank), mean over questions with two candidates or more, in plain Python floats."""
    terms = []
    for row, said, there in zip(scores.tolist(), answers.tolist(), exists.tolist(), strict=True):
        if sum(there) > 1:
            rank = softmax([value / temperature for value, real in zip(row, there) if real])
            told = softmax([value / temperature for value, real in zip(said, there) if real])
            terms.append(divergence(told, rank))
    return sum(terms) / max(len(terms), 1)


@pytest.fixture
def values():
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(4, 5, generator=generator)
    answers = -10 * torch.rand(4, 5, generator=generator)
    exists = torch.ones(4, 5).bool()
    exists[1, 2:], exists[2, 1:], exists[3] = False, False, False
    return scores, answers, exists


# -- nll -------------------------------------------------------------------------------------------------------


def test_nll_is_the_mean_over_all_real_tokens():
    log_probs = torch.tensor([[-1.0, -2.0, -9.0], [-4.0, -50.0, -70.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert nll(log_probs, mask).item() == pytest.approx((1 + 2 + 9 + 4) / 4)  # not the mean of the rows' means


def test_what_is_padding_cannot_spoil_nll():
    log_probs = torch.tensor([[-1.0, -torch.inf, torch.nan]], requires_grad=True)
    loss = nll(log_probs, torch.tensor([[True, False, False]]))
    loss.backward()
    assert loss.item() == 1.0
    assert log_probs.grad.tolist() == [[-1.0, 0.0, 0.0]]


def test_nll_of_nothing_is_zero():
    assert nll(torch.full((1, 2), -3.0), torch.zeros(1, 2).bool()).item() == 0.0


def test_nll_of_bfloat16_is_summed_in_float32():
    loss = nll(torch.full((1, 1000), -1.0, dtype=torch.bfloat16), torch.ones(1, 1000).bool())
    assert loss.dtype == torch.float32
    assert loss.item() == 1.0  # a bfloat16 sum stops at 256


# -- log_softmax_over ------------------------------------------------------------------------------------------


def test_log_softmax_is_over_what_exists(values):
    scores, _, exists = values
    found = log_softmax_over(scores, exists)
    assert found.dtype == torch.float32
    for row in range(3):
        real = scores[row][exists[row]].double()
        torch.testing.assert_close(found[row][exists[row]].double(), real - real.logsumexp(0), **CLOSE)
    assert found[~exists].tolist() == [0.0] * int((~exists).sum())


def test_log_softmax_without_any_candidate_is_zero_and_so_is_its_gradient():
    scores = torch.randn(1, 3, requires_grad=True)
    found = log_softmax_over(scores, torch.zeros(1, 3).bool())
    found.sum().backward()
    assert found.tolist() == [[0.0, 0.0, 0.0]]
    assert scores.grad.tolist() == [[0.0, 0.0, 0.0]]


def test_scores_of_what_does_not_exist_may_be_anything(values):
    scores, _, exists = values
    plain = log_softmax_over(scores, exists)
    for odd in (1e30, -torch.inf, torch.nan):
        assert torch.equal(log_softmax_over(scores.masked_fill(~exists, odd), exists), plain)


# -- perplexity distillation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.3, 5.0])
def test_distillation_is_the_formula(values, temperature):
    scores, answers, exists = values
    loss = perplexity_distillation(scores, answers, exists=exists, temperature=temperature)
    assert loss.item() == pytest.approx(distilled(scores.double(), answers.double(), exists, temperature), rel=1e-5)


def test_the_divergence_is_from_the_answers_to_the_scores():
    """KL(p_LM || p_rank): the other direction gives another number."""
    scores, answers, exists = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, -3.0]]), torch.ones(1, 2).bool()
    told, ranked = softmax([0.0, -3.0]), [0.5, 0.5]
    loss = perplexity_distillation(scores, answers, exists=exists).item()
    assert loss == pytest.approx(divergence(told, ranked), rel=1e-5)
    assert abs(loss - divergence(ranked, told)) > 0.1


def test_equal_distributions_have_no_divergence(values):
    _, answers, exists = values
    loss = perplexity_distillation(answers + 7.0, answers, exists=exists, temperature=2.0)
    # Float32 sums of logarithms near 0.
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


def test_the_answers_are_stopped_and_the_scores_learn(values):
    scores, answers, exists = values
    scores, answers = scores.requires_grad_(), answers.requires_grad_()
    perplexity_distillation(scores, answers, exists=exists, temperature=0.5).backward()
    assert answers.grad is None
    # d KL(p || softmax(s / T)) / d s = (softmax(s / T) - p) / T, over the two questions that count.
    for row in range(2):
        there = exists[row]
        rank = (scores[row][there].detach() / 0.5).softmax(0)
        told = (answers[row][there].detach() / 0.5).softmax(0)
        torch.testing.assert_close(scores.grad[row][there], (rank - told) / 0.5 / 2, **CLOSE)
    assert scores.grad[~exists].abs().sum() == 0
    assert scores.grad[2].abs().sum() == 0  # one candidate: nothing to rank


def test_what_does_not_exist_does_not_count(values):
    scores, answers, exists = values
    plain = perplexity_distillation(scores, answers, exists=exists)
    odd = (part.masked_fill(~exists, value) for part, value in ((scores, 1e9), (answers, torch.nan)))
    assert torch.equal(perplexity_distillation(*odd, exists=exists), plain)
    wider = [torch.cat([part, part[:, :1]], dim=1) for part in (scores, answers)]
    more = torch.cat([exists, torch.zeros(4, 1).bool()], dim=1)
    torch.testing.assert_close(perplexity_distillation(*wider, exists=more), plain, **CLOSE)


def test_the_mean_is_over_questions_with_something_to_rank(values):
    scores, answers, exists = values
    both = perplexity_distillation(scores, answers, exists=exists)
    torch.testing.assert_close(both, perplexity_distillation(scores[:2], answers[:2], exists=exists[:2]), **CLOSE)


def test_nothing_to_rank_costs_nothing():
    scores = torch.randn(2, 1, requires_grad=True)
    loss = perplexity_distillation(scores, torch.randn(2, 1), exists=torch.tensor([[True], [False]]))
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad.abs().sum() == 0


def test_far_apart_likelihoods_stay_numbers():
    scores = torch.tensor([[0.0, 500.0, -500.0]], requires_grad=True)
    answers = torch.tensor([[-2000.0, -1.0, -900.0]])
    loss = perplexity_distillation(scores, answers, exists=torch.ones(1, 3).bool(), temperature=0.1)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(scores.grad).all()
