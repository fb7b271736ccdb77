"""What nets compute in, by name."""

from __future__ import annotations

import torch

__all__ = ["PRECISIONS", "computing_in", "precision_dtype"]

# What autocast computes in; None for what the weights are.
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def precision_dtype(precision: str) -> torch.dtype | None:
    """What autocast computes in for a precision by name; None for none. ValueError for another name."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is unknown; use one of: {', '.join(PRECISIONS)}.")
    return PRECISIONS[precision]


def computing_in(precision: str) -> torch.autocast:
    """A context in which nets compute in a precision, on the accelerator or, without one, the CPU."""
    found, dtype = torch.accelerator.current_accelerator(check_available=True), precision_dtype(precision)
    return torch.autocast("cpu" if found is None else found.type, dtype=dtype, enabled=dtype is not None)
