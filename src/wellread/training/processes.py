"""One process or several that train together.

Every process works on its part of each step's questions; gradients are added up before the optimiser runs, so
all keep the same weights. Alone, every call here does nothing.

torchrun starts them, on GPUs and on CPUs. `accelerate launch` does so too where there are several GPUs; without
any it starts a single process, whatever --num_processes says.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Processes", "find_processes", "pick_device"]

# Gradients travel in blocks of this many numbers: few enough calls, little extra room.
BLOCK = 1 << 24
# The others wait this long while the first one finds candidates or writes files.
PATIENCE = timedelta(hours=4)


class Processes:
    """The processes of a run, seen from one of them.

    rank: its number. count: how many there are. device: what it computes on; None for a process alone.
    """

    def __init__(self, rank: int = 0, count: int = 1, device: torch.device | None = None) -> None:
        self.rank = rank
        self.count = count
        self.device = device

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.count > 1:
            values = values.to(self.device, copy=True)
            torch.distributed.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """What all processes give here, in the order of their ranks; tensors come on this one's device."""
        if self.count == 1:
            return [value]
        sent = io.BytesIO()
        torch.save(value, sent)
        given: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(given, sent.getvalue())
        return [torch.load(io.BytesIO(each), map_location=self.device, weights_only=False) for each in given]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            torch.distributed.barrier()

    def end(self) -> None:
        """Part from the other processes; nothing can be shared after."""
        if self.count > 1:
            torch.distributed.destroy_process_group()

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
    """The processes this one was started with by torchrun (or `accelerate launch`), else itself alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Processes()
    if not torch.distributed.is_initialized():
        device = _own_device()
        if device.type != "cpu":
            torch.accelerator.set_device_index(device.index)
        backend = torch.distributed.get_default_backend_for_device(device)
        torch.distributed.init_process_group(backend, timeout=PATIENCE)
    return Processes(torch.distributed.get_rank(), torch.distributed.get_world_size(), _own_device())


def _own_device() -> torch.device:
    """The accelerator of this process's number on its machine, or the CPU where there is none or none is wanted."""
    found = torch.accelerator.current_accelerator(check_available=True)
    unwanted = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if found is None or unwanted:
        return torch.device("cpu")
    return torch.device(found.type, int(os.environ.get("LOCAL_RANK", "0")))


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
