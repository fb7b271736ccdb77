"""How nets of all families run one of their layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["apply_layer"]


def apply_layer(owner: nn.Module, layer: Callable[..., Any], *inputs: Any) -> Any:
    """Run one layer, recomputing its activations in the backward pass where the owner asks for it."""
    if owner.gradient_checkpointing and owner.training and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)
