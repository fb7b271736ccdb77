"""Weights as files hold them: fp32, bf16, or int8 with a scale for every row; equal ones stored once.

int8 takes a quarter of fp32. Every weight with two axes (embeddings, linear layers) is stored as `name`, int8
[rows, columns], and `name.scale`, float32 [rows]; its values are their product. All others are stored in bf16, and
so are tables of a few rows, which weigh nothing and hold the largest outliers (BERT's two token types).
A scale has 16 significant bits, so that products with int8 are exact in float32: every machine reads the same
values, and what was read and is written again gives the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

__all__ = ["WEIGHTS", "Packed", "pack", "unpack"]

SCALE = ".scale"
_MOST = 127
_FEWEST_ROWS = 16


@dataclass(frozen=True)
class Packed:
    """What is written of a set of weights. aliases: name -> the name under which the same tensor is stored."""

    tensors: Mapping[str, Tensor]
    aliases: Mapping[str, str] = field(default_factory=dict)


def pack(weights: Mapping[str, Tensor], kind: str) -> Packed:
    """Weights as a file of this kind ("fp32", "bf16", "int8") holds them; integers stay as they are.

    ValueError for an unknown kind, and where int8 cannot hold a weight because it is not finite.
    """
    if kind not in WEIGHTS:
        raise ValueError(f"weights={kind!r} is unknown; use one of: {', '.join(WEIGHTS)}.")
    return WEIGHTS[kind]({name: weight.detach().cpu() for name, weight in weights.items()})


def unpack(packed: Packed) -> dict[str, Tensor]:
    """The weights by all their names, int8 turned back into float32. ValueError where a row has no scale."""
    stored = packed.tensors
    scales = {name + SCALE: len(tensor) for name, tensor in stored.items() if tensor.dtype == torch.int8}
    lacking = [name for name, rows in scales.items() if name not in stored or stored[name].shape != (rows,)]
    if lacking:
        raise ValueError(f"the weights lack {', '.join(sorted(lacking))}; download or copy the model again.")
    weights = {
        name: tensor.float() * stored[name + SCALE][:, None] if tensor.dtype == torch.int8 else tensor
        for name, tensor in stored.items()
        if name not in scales
    }
    return weights | {name: weights[first] for name, first in packed.aliases.items() if first in weights}


def _cast(weights: Mapping[str, Tensor], dtype: torch.dtype) -> Packed:
    return Packed(
        {name: weight.to(dtype) if weight.is_floating_point() else weight for name, weight in weights.items()}
    )


def _quantise(weights: Mapping[str, Tensor]) -> Packed:
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    known: dict[str, str] = {}
    for name, weight in weights.items():
        if not weight.is_floating_point():
            tensors[name] = weight
        elif weight.dim() != 2 or weight.shape[0] < _FEWEST_ROWS:
            tensors[name] = weight.bfloat16()
        else:
            values, scale = _rows(name, weight.float())
            first = known.setdefault(_digest(values, scale), name)
            if first == name:
                tensors |= {name: values, name + SCALE: scale}
            else:
                aliases[name] = first
    return Packed(tensors, aliases)


def _rows(name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix as int8 and the scale of every row."""
    if not weight.isfinite().all():
        raise ValueError(f"{name} holds values that are not finite; int8 cannot store it. Train the model again.")
    scale = weight.abs().amax(dim=1) / _MOST
    # The lowest 8 of its 24 bits cleared, upwards: no value of the row then exceeds 127 scales.
    scale = ((scale.view(torch.int32) + 0xFF) & ~0xFF).view(torch.float32)
    values = (weight / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round()
    return values.clamp(-_MOST, _MOST).to(torch.int8), scale


def _digest(*parts: Tensor) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{tuple(part.shape)}\0".encode())
        digest.update(memoryview(part.contiguous().view(torch.uint8).numpy()))
    return digest.hexdigest()


WEIGHTS: dict[str, Callable[[Mapping[str, Tensor]], Packed]] = {
    "fp32": partial(_cast, dtype=torch.float32),
    "bf16": partial(_cast, dtype=torch.bfloat16),
    "int8": _quantise,
}
