"""One vector per picture, by which pictures are compared by their looks alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["VIEWS", "looks"]

CELLS = 3  # of the grid, on a side


def looks(features: Tensor, groups: Sequence[int], *, view: str = "grid") -> Tensor:
    """Features [pictures, patches, dim] -> [pictures, size], of length 1; their inner product is the likeness.

    groups: dimensions of one kind (see `ImageEncoder.groups`); each kind counts the same. view: a name in VIEWS.
    """
    import torch
    from torch.nn.functional import normalize

    if view not in VIEWS:
        raise ValueError(f"view={view!r} is unknown; use one of: {', '.join(VIEWS)}.")
    first, *rest = features.float().split(list(groups), dim=-1)
    parts = [VIEWS[view](first), *(_flat(part) if view == "grid" else _mean(part) for part in rest)]
    return torch.cat([normalize(part, dim=-1) for part in parts], dim=-1) / len(parts) ** 0.5


def _mean(part: Tensor) -> Tensor:
    return part.mean(1)


def _grid(part: Tensor) -> Tensor:
    """What is seen in each cell of a grid; the mean of all, where the patches form no square."""
    from torch.nn.functional import adaptive_avg_pool2d

    side = round(part.shape[1] ** 0.5)
    if side * side != part.shape[1]:
        return part.mean(1)
    square = part.transpose(1, 2).unflatten(2, (side, side))
    return adaptive_avg_pool2d(square, min(CELLS, side)).flatten(1)


def _flat(part: Tensor) -> Tensor:
    """All values (of pixels) less their mean, so that bright and dark pictures can be alike."""
    return (part - part.mean((1, 2), keepdim=True)).flatten(1)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {"grid": _grid, "mean": _mean}
"""What is kept of where things are: a grid of 3 x 3 (and every pixel), or nothing."""
