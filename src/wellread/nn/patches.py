"""Features of a picture, a vector per patch, as a reader uses them: beside the states of words, and at a glance."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Glance", "PatchStates"]


class PatchStates(nn.Module):
    """Patches [rows, patches, picture_dim], a square of them row by row -> states [rows, width * width, dim].

    Neighbouring patches are averaged so that width x width are left; each gets a learnt place.
    """

    def __init__(self, picture_dim: int, dim: int, *, width: int) -> None:
        super().__init__()
        self.width = width
        self.project = nn.Linear(picture_dim, dim)
        self.places = nn.Parameter(0.02 * self.project.weight.new_empty(width * width, dim).normal_())
        self.norm = nn.LayerNorm(dim)

    def forward(self, picture: Tensor) -> Tensor:
        return self.norm(self.project(_square(picture, self.width).flatten(2).transpose(1, 2)) + self.places)


class Glance(nn.Module):
    """A picture as a whole, by linear maps alone: patches [rows, patches, picture_dim] -> [rows, out_dim].

    Two pictures that look alike then have like vectors before anything was learnt (Johnson and Lindenstrauss), and
    pictures of things never trained on keep them. Summed are, each of length 1 first and under a learnt share: every
    kind of feature of the patches at their places (`parts`, their widths), and the mean over patches of the first kind.
    """

    def __init__(self, parts: tuple[int, ...], out_dim: int, *, patches: int, width: int = 24) -> None:
        super().__init__()
        self.parts = parts
        self.narrow = nn.ModuleList(nn.Linear(part, width, bias=False) for part in parts)
        self.wide = nn.ModuleList(nn.Linear(width * patches, out_dim, bias=False) for _ in parts)
        self.mean = nn.Linear(parts[0], out_dim, bias=False)
        self.shares = nn.Parameter(torch.ones(len(parts) + 1))

    def forward(self, picture: Tensor) -> Tensor:
        parts = picture.split(self.parts, dim=-1)
        seen = [self.mean(parts[0].mean(1))]
        for part, narrow, wide in zip(parts, self.narrow, self.wide):
            seen.append(wide(narrow(functional.layer_norm(part, part.shape[1:])).flatten(1)))
        return sum(share * functional.normalize(each.float(), dim=-1) for share, each in zip(self.shares, seen))


def _square(picture: Tensor, width: int) -> Tensor:
    """[rows, patches, dim] -> [rows, dim, width, width]."""
    side = round(picture.shape[1] ** 0.5)
    if side * side != picture.shape[1]:
        raise ValueError(f"a picture has {picture.shape[1]} patches; they must be a square, such as 49 = 7 x 7.")
    grid = picture.transpose(1, 2).unflatten(2, (side, side))
    return functional.adaptive_avg_pool2d(grid, width)
