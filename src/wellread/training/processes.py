"""One process or several that train together.

Every process works on its part of each step's questions; gradients are added up before the optimiser runs, so
all keep the same weights. Started by `accelerate launch` (or torchrun); alone, every call here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Processes", "find_processes", "pick_device"]

# Gradients travel in blocks of this many numbers: few enough calls, little extra room.
BLOCK = 1 << 24


class Processes:
    """The processes of a run, seen from one of them. rank: its number. count: how many there are."""

    def __init__(self, rank: int = 0, count: int = 1, state: Any = None) -> None:
        self.rank = rank
        self.count = count
        # accelerate's state owns the process group; it must live as long as this does.
        self._state = state

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    @property
    def device(self) -> torch.device | None:
        """The device accelerate chose for this process; None for a process alone."""
        return None if self._state is None else self._state.device

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.count > 1:
            values = values.to(self.device, copy=True)
            torch.distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            torch.distributed.barrier()

    def share(self, module: nn.Module) -> None:
        """Give every process the first one's weights."""
        if self.count > 1:
            for weight in module.state_dict().values():
                torch.distributed.broadcast(weight, src=0)

    def add_gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Add the gradients of all processes up, in place. A weight no process has one for keeps none."""
        if self.count == 1 or not weights:
            return
        present = self.sum(torch.tensor([float(weight.grad is not None) for weight in weights])).tolist()
        held = [weight for weight, number in zip(weights, present) if number]
        for weight in held:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        for block in _blocks([weight.grad for weight in held]):
            flat = torch.cat([grad.reshape(-1) for grad in block])
            torch.distributed.all_reduce(flat)
            for grad, part in zip(block, flat.split([grad.numel() for grad in block])):
                grad.copy_(part.view_as(grad))


def _blocks(grads: Sequence[Tensor]) -> list[list[Tensor]]:
    blocks: list[list[Tensor]] = [[]]
    size = 0
    for grad in grads:
        if blocks[-1] and size + grad.numel() > BLOCK:
            blocks.append([])
            size = 0
        blocks[-1].append(grad)
        size += grad.numel()
    return blocks


def find_processes() -> Processes:
    """The processes this one was started with: those of `accelerate launch`, else itself alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Processes()
    from accelerate import PartialState

    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    state = PartialState(cpu=on_cpu or not torch.accelerator.is_available())
    return Processes(state.process_index, state.num_processes, state)


def pick_device(name: str, processes: Processes) -> torch.device:
    """The device of a name; "auto" is the one of this process, else an accelerator, else the CPU."""
    if name != "auto":
        try:
            return torch.device(name)
        except RuntimeError as error:
            raise ValueError(f'training.device={name!r} is unknown; use "auto", "cpu" or "cuda".') from error
    if processes.device is not None:
        return processes.device
    found = torch.accelerator.current_accelerator(check_available=True)
    return found if found is not None else torch.device("cpu")
