"""What nets compute in, by name."""

from __future__ import annotations

import torch

__all__ = ["computing_in"]


def computing_in(precision: str) -> torch.autocast:
    """A context in which nets compute in "fp32", as their weights are, or "bf16", on the accelerator or the CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    kind = "cpu" if found is None else found.type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16")
