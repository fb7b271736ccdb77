"""Losses that compare all questions of a step, with memory for one piece of them at a time.

Gao et al. 2021 (gradient cache), as ReAtt appendix A uses it: all pieces are represented once without gradient; the
joint loss is differentiated by those representations alone; then every piece is represented again, with gradient,
and passes on what it was given. The sum of the pieces' gradients is that of the undivided step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from wellread.systems.base import Represented, System
from wellread.types import TrainingBatch

if TYPE_CHECKING:
    from torch import Tensor

    from wellread.training.processes import Processes

__all__ = ["JointGradients", "joint_gradients", "passed_on"]

JointGradients = list[dict[str, "Tensor"]]
"""Per piece, by name: the joint losses' gradient by each of its vectors."""


def joint_gradients(
    system: System,
    parts: Sequence[TrainingBatch],
    *,
    seed: Callable[[int], None],
    context: Callable[[], AbstractContextManager],
    weights: Mapping[str, float],
    processes: Processes,
) -> tuple[JointGradients, dict[str, Tensor]]:
    """Gradients for `passed_on`, and this process's share of the joint losses; weights used by the losses
    themselves get their gradients at once.

    seed: sets the random numbers of a piece, so that dropout is the same in both passes. context: what the system
    computes in (autocast). weights: of the losses, by name, 1 where none is given.
    """
    seen = []
    for index, part in enumerate(parts):
        seed(index)
        with torch.no_grad(), context():
            seen.append(system.represent(part, with_losses=False))
    own = [_as_leaves(each) for each in seen]
    everyone: list[Represented] = []
    for rank, others in enumerate(processes.gather([_plain(each) for each in seen])):
        everyone += own if rank == processes.rank else others
    with context():
        losses = system.joint_losses(everyone)
    # Every process computes all of the loss: it passes back a share of it, which the sum over processes makes whole.
    losses = {name: value * weights.get(name, 1.0) / processes.count for name, value in losses.items()}
    sum(losses.values()).backward()
    gradients = [
        {name: leaf.grad * processes.count for name, leaf in each.vectors.items() if leaf.grad is not None}
        for each in own
    ]
    return gradients, {name: value.detach() for name, value in losses.items()}


def passed_on(part: Represented, gradients: Mapping[str, Tensor]) -> Tensor:
    """A scalar whose gradient is what the joint losses pass on to a piece."""
    flows = [(part.vectors[name].float() * gradient.float()).sum() for name, gradient in gradients.items()]
    return sum(flows, torch.zeros(()).to(next(iter(part.vectors.values())).device))


def _as_leaves(part: Represented) -> Represented:
    return replace(part, vectors={name: value.detach().requires_grad_() for name, value in part.vectors.items()})


def _plain(part: Represented) -> Represented:
    return replace(part, vectors={name: value.detach() for name, value in part.vectors.items()})
