"""Lloyd's k-means, on many small subspaces (product quantisation) or on whole vectors (inverted lists)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["assign", "kmeans"]

_HELD = 1 << 20  # distances held at a time: 4 MB, about a core's cache


def assign(vectors: Tensor, centroids: Tensor) -> Tensor:
    """The nearest centroid of every vector.

    vectors: [n, dim] float32. centroids: [count, dim] float32. Returns [n] int64; the first wins a tie.
    """
    # |x - c|^2 is smallest where x.c - |c|^2 / 2 is largest; |x|^2 is the same for all centroids.
    offset = centroids.square().sum(1).mul_(-0.5)
    flipped = centroids.T.contiguous()
    nearest = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    block = max(1, _HELD // len(centroids))
    for start in range(0, len(vectors), block):
        scores = torch.addmm(offset, vectors[start : start + block], flipped)
        # numpy's argmax along a contiguous axis runs four times as fast as torch's on a CPU.
        best = torch.from_numpy(scores.numpy().argmax(1)) if scores.device.type == "cpu" else scores.argmax(1)
        nearest[start : start + block] = best
    return nearest


def kmeans(vectors: Tensor, count: int, *, iterations: int, generator: torch.Generator) -> Tensor:
    """Centroids of one subspace.

    vectors: [n, dim] float32, n >= 1. Returns [count, dim] float32. With fewer vectors than centroids the
    centroids are the vectors themselves, repeated. The same generator state gives the same result.
    """
    pick = torch.randperm(len(vectors), generator=generator)
    if len(vectors) <= count:
        return vectors[pick.repeat(-(-count // len(vectors)))[:count]].clone()
    centroids = vectors[pick[:count]].clone()
    for _ in range(iterations):
        nearest = assign(vectors, centroids)
        sizes = torch.bincount(nearest, minlength=count)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, vectors)
        filled = sizes > 0
        centroids[filled] = sums[filled] / sizes[filled, None]
        # An empty centroid splits one of the largest clusters: it restarts a little beside its centre.
        empty = (~filled).nonzero().squeeze(1)
        largest = sizes.argsort(descending=True, stable=True)[: len(empty)]
        noise = torch.randn(len(empty), vectors.shape[1], generator=generator)
        centroids[empty] = centroids[largest] + 1e-3 * noise
    return centroids
