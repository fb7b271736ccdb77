"""Optimisers, schedules, and which weights they may touch."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from wellread.training.config import TrainingConfig
from wellread.training.optimizers import ENDLESS, SCHEDULES, learning_rate, make_optimizer


def rates(schedule: str, *, warmup: int = 0, steps: int = 100) -> list[float]:
    config = TrainingConfig(learning_rate=2.0, schedule=schedule, warmup=warmup, steps=steps)
    return [learning_rate(config, step) for step in range(steps)]


def test_constant_is_constant():
    assert set(rates("constant")) == {2.0}


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "constant"])
def test_a_warm_up_rises_evenly_to_the_full_rate(name):
    found = rates(name, warmup=9)
    assert found[:9] == pytest.approx([2.0 * (step + 1) / 10 for step in range(9)])
    assert found[9] == pytest.approx(2.0, rel=0.06)  # inverse_sqrt has begun to fall: sqrt(9 / 10)
    assert max(found) <= 2.0


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_falling_schedules_fall_to_nothing(name):
    found = rates(name, warmup=10)
    assert all(later < earlier for earlier, later in pairwise(found[10:]))
    assert 0 < found[-1] < 0.03 * 2.0


def test_linear_is_linear_and_cosine_is_half_way_in_the_middle():
    assert rates("linear")[25] == pytest.approx(1.5)
    assert rates("cosine")[50] == pytest.approx(1.0)


def test_inverse_sqrt_is_t5s():
    found = rates("inverse_sqrt", warmup=4)
    assert found[63] == pytest.approx(2.0 * math.sqrt(4 / 64))


def test_endless_schedules_do_not_know_the_last_step():
    for name in SCHEDULES:
        same = [SCHEDULES[name](50, 5, 100) == SCHEDULES[name](50, 5, 200)]
        assert same == [name in ENDLESS]


def test_a_schedule_may_be_longer_than_the_training():
    whole = TrainingConfig(learning_rate=2.0, schedule="linear", warmup=2, steps=10)
    part = TrainingConfig(learning_rate=2.0, schedule="linear", warmup=2, steps=6, schedule_steps=10)
    assert [learning_rate(part, step) for step in range(6)] == [learning_rate(whole, step) for step in range(6)]


def test_norms_and_biases_get_no_weight_decay_and_frozen_weights_are_left_out():
    net = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    net[2].requires_grad_(False)
    optimizer = make_optimizer(net, TrainingConfig(weight_decay=0.1))
    decay = {id(w): group["weight_decay"] for group in optimizer.param_groups for w in group["params"]}
    assert decay == {id(net[0].weight): 0.1, id(net[0].bias): 0.0, id(net[1].weight): 0.0, id(net[1].bias): 0.0}


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_a_weight_without_a_gradient_keeps_every_bit(name):
    used, unused = nn.Linear(3, 3), nn.Linear(3, 3)
    net = nn.ModuleList([used, unused])
    before = unused.weight.clone()
    optimizer = make_optimizer(net, TrainingConfig(optimizer=name, weight_decay=0.5, learning_rate=0.1))
    used(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(unused.weight, before)


def test_nothing_to_train_is_told():
    with pytest.raises(ValueError, match="no weight is trained; all parts of the system are frozen"):
        make_optimizer(nn.Linear(2, 2).requires_grad_(False), TrainingConfig())


def test_adafactor_is_the_one_of_transformers():
    rival_of = pytest.importorskip("transformers.optimization").Adafactor
    torch.manual_seed(0)
    shapes = [(7, 5), (5,), (1, 4), (60, 8)]
    start = [torch.randn(shape) for shape in shapes]
    ours = nn.ParameterList([nn.Parameter(value.clone()) for value in start])
    theirs = [nn.Parameter(value.clone()) for value in start]
    config = TrainingConfig(optimizer="adafactor", learning_rate=1e-3)
    optimizer = make_optimizer(ours, config)
    rival = rival_of(theirs, lr=1e-3, scale_parameter=True, relative_step=False, warmup_init=False)
    for step in range(20):
        for index, (mine, other) in enumerate(zip(ours, theirs)):
            grad = torch.randn(shapes[index]) * 10.0 ** (-(step % 5))
            if index == 3:  # like an embedding of which most words do not occur
                grad[8:] = 0.0
            mine.grad, other.grad = grad.clone(), grad.clone()
        optimizer.step()
        rival.step()
    for mine, other, first in zip(ours, theirs, start):
        moved = (other - first).norm()
        assert moved > 0
        # The same update computed in another order of fp32 operations.
        assert (mine - other).norm() < 1e-4 * moved
