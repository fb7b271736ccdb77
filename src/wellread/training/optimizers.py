"""Optimisers and schedules, as tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from wellread.training.config import TrainingConfig

__all__ = ["ENDLESS", "OPTIMIZERS", "SCHEDULES", "learning_rate", "make_optimizer", "trained_parameters"]


def _adamw(groups: list[dict], learning_rate: float) -> torch.optim.Optimizer:
    # One kernel over all weights where there is one; the same numbers, several times as fast.
    devices = {weight.device.type for group in groups for weight in group["params"]}
    return torch.optim.AdamW(groups, lr=learning_rate, fused=devices <= {"cpu", "cuda"})


def _adafactor(groups: list[dict], learning_rate: float) -> torch.optim.Optimizer:
    """Adafactor as the papers use it (Shazeer & Stern 2018): factored second moments, no momentum, updates
    clipped at 1 and scaled by the size of the weight.

    PyTorch takes min(learning_rate, 1 / sqrt(step)), which is the constant the papers ask for until step
    learning_rate ** -2 (1e-4: never). Its first epsilon is squared: 1e-15 is the 1e-30 of the paper.
    """
    return torch.optim.Adafactor(groups, lr=learning_rate, eps=(1e-15, 1e-3), beta2_decay=-0.8, d=1.0)


OPTIMIZERS: dict[str, Callable[[list[dict], float], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adafactor": _adafactor,
}

SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "constant": lambda step, warmup, steps: 1.0,
    "warmup_constant": lambda step, warmup, steps: _rise(step, warmup),
    "linear": lambda step, warmup, steps: _rise(step, warmup) * (1 - _done(step, warmup, steps)),
    "cosine": lambda step, warmup, steps: (
        _rise(step, warmup) * 0.5 * (1 + math.cos(math.pi * _done(step, warmup, steps)))
    ),
    "inverse_sqrt": lambda step, warmup, steps: (
        _rise(step, warmup) * math.sqrt(max(warmup, 1) / max(step + 1, warmup, 1))
    ),
}
"""name -> share of the learning rate at a step (from 0), given the warm-up and the number of steps."""

ENDLESS = frozenset({"constant", "warmup_constant", "inverse_sqrt"})
"""Schedules that do not depend on the last step, so that a run may be continued beyond it."""


def _rise(step: int, warmup: int) -> float:
    return min((step + 1) / (warmup + 1), 1.0)


def _done(step: int, warmup: int, steps: int) -> float:
    return min(max(step - warmup, 0) / max(steps - warmup, 1), 1.0)


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of a step, counted from 0."""
    length = config.schedule_steps or config.steps
    return config.learning_rate * SCHEDULES[config.schedule](step, config.warmup, length)


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The weights that training may change, each once."""
    return [weight for weight in module.parameters() if weight.requires_grad]


def make_optimizer(module: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """An optimiser over the trained weights. Norms and biases (vectors) get no weight decay.

    Frozen weights are left out; weights that happen to get no gradient are skipped, decay included.
    """
    weights = trained_parameters(module)
    if not weights:
        raise ValueError("no weight is trained; all parts of the system are frozen. Unfreeze one in [system].")
    groups = [
        {"params": [weight for weight in weights if weight.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [weight for weight in weights if weight.dim() < 2], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[config.optimizer]([group for group in groups if group["params"]], config.learning_rate)
