"""What nets of all families do alike: run a layer, and check the memory that a decoder is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["apply_layer", "check_memory"]


def apply_layer(owner: nn.Module, layer: Callable[..., Any], *inputs: Any) -> Any:
    """Run one layer, recomputing its activations in the backward pass where the owner asks for it."""
    if owner.gradient_checkpointing and owner.training and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)


def check_memory(memory: Tensor | None, memory_mask: Tensor | None, dim: int) -> None:
    """ValueError unless a decoder that reads states of width `dim` can read memory [batch, m, dim]."""
    if memory is None or memory_mask is None:
        raise ValueError("the decoder got no memory; give memory and memory_mask, or a cache made from them.")
    if memory.dim() != 3 or memory.shape[2] != dim or memory_mask.shape != memory.shape[:2]:
        raise ValueError(
            f"memory {tuple(memory.shape)} with mask {tuple(memory_mask.shape)}; "
            f"they must be [batch, m, {dim}] and [batch, m]."
        )
