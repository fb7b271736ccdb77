"""Search by inner product over keys that lie on several processes, as if they were one.

Hu et al. (REVEAL, 2212.05221), appendix F.1, algorithm 3: every process searches its own keys for the questions of
all, the finds are gathered and the best of all are taken, and the values come from the process that owns them. In the
hierarchical form the finds of a host are joined first, and only a host's best travel between hosts.

The result is that of one process, bit by bit, however the keys are dealt out: a matrix product, whose last bits depend
on its shape, only chooses what is looked at, and inner products are then summed up in one fixed order. Equal scores
are ordered by id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["Found", "Hierarchy", "Lookup", "ShardedSearch", "inner_product"]

Lookup = Callable[[Tensor], Tensor]
"""Rows [n] int64 of a process's own keys -> their values [n, ...]; of no rows, an empty tensor of the same shape."""

BLOCK = 1 << 16  # keys compared at once
TERMS = 1 << 24  # terms of exact inner products in memory at once
NOBODY = -1  # the id where fewer keys exist than are asked for


class Found(NamedTuple):
    """scores, ids: [batch, top_k], best first; -inf and -1 where there are fewer keys. values: [batch, top_k, ...] of
    the owners, zeros where there is nothing; None where none were asked for."""

    scores: Tensor
    ids: Tensor
    values: Tensor | None = None


@dataclass(frozen=True)
class Hierarchy:
    """The groups of a search in two steps: `inner` holds the processes of this host, `outer` those of all hosts that
    have this one's place in theirs."""

    inner: Any
    outer: Any

    @classmethod
    def of(cls, per_host: int) -> Hierarchy:
        """Groups for hosts of `per_host` processes, numbered host by host. All processes must call this."""
        count, rank = dist.get_world_size(), dist.get_rank()
        if per_host < 1 or count % per_host:
            raise ValueError(f"per_host={per_host} does not divide {count} processes; hosts must be of equal size.")
        hosts = [list(range(start, start + per_host)) for start in range(0, count, per_host)]
        rails = [list(range(place, count, per_host)) for place in range(per_host)]
        inner, outer = ([dist.new_group(ranks) for ranks in rows] for rows in (hosts, rails))
        return cls(inner[rank // per_host], outer[rank % per_host])


def inner_product(queries: Tensor, keys: Tensor) -> Tensor:
    """Sum over the last dimension of queries * keys in float32, in an order that no shape and no device changes."""
    terms = queries.float() * keys.float()
    while terms.shape[-1] > 1:
        half = terms.shape[-1] // 2
        rest = terms[..., 2 * half :]
        terms = torch.cat([terms[..., :half] + terms[..., half : 2 * half], rest], dim=-1)
    return terms.squeeze(-1)


class ShardedSearch:
    """This process's part of the keys, and the search over all of them.

    keys: [local, dim], there may be none. ids: [local] int64, different on all processes, from 0 up. probe: [local]
    int64, which of a question's probes each key is compared with, where questions have several (one per source).
    values: what is fetched with the finds. hierarchy: search in two steps. recall: None for exact search; else the
    share of the best that is expected to be found in the approximate one, 0 to 1.

    Alone, where torch.distributed was not started, it searches its own keys.
    """

    def __init__(
        self,
        keys: Tensor,
        ids: Tensor,
        *,
        probe: Tensor | None = None,
        values: Lookup | None = None,
        hierarchy: Hierarchy | None = None,
        recall: float | None = None,
    ) -> None:
        if keys.dim() != 2 or ids.shape != keys.shape[:1]:
            raise ValueError(f"keys are {tuple(keys.shape)} and ids {tuple(ids.shape)}; give [local, dim] and [local].")
        if recall is not None and not 0 < recall < 1:
            raise ValueError(f"recall={recall}; it must be between 0 and 1, or None for exact search.")
        self.keys, self.ids, self.probe = keys, ids.to(keys.device), probe
        self.values, self.hierarchy, self.recall = values, hierarchy, recall
        alone = not dist.is_available() or not dist.is_initialized()
        self.rank, self.count = (0, 1) if alone else (dist.get_rank(), dist.get_world_size())

    @torch.no_grad()
    def search(self, queries: Tensor, *, top_k: int) -> Found:
        """The best of all keys for this process's queries [batch, dim], or [batch, probes, dim] with `probe`.

        All processes must call this together; each may bring another number of queries, even none.
        """
        if top_k < 1:
            raise ValueError(f"top_k={top_k}; it must be at least 1.")
        if (queries.dim() == 3) != (self.probe is not None):
            raise ValueError(
                f"queries are {tuple(queries.shape)}; give [batch, dim], or [batch, probes, dim] with probe."
            )
        everyones, first, last = self._queries(queries.to(self.keys.device, torch.float32))
        scores, rows = self._local(everyones, top_k)
        there = rows >= 0
        ids = torch.where(there, self.ids[rows.clamp_min(0)] if len(self.ids) else rows, NOBODY)
        places = torch.stack([ids, torch.full_like(ids, self.rank), rows], dim=-1)
        for group in self._steps():
            scores, places = _best(_side_by_side(scores, group), _side_by_side(places, group), top_k)
        if not self._steps():
            scores, places = _best(scores, places, top_k)
        scores, places = scores[first:last], places[first:last]
        values = None if self.values is None else self._fetch(places)
        return Found(scores, places[..., 0], values)

    def _steps(self) -> list[Any]:
        """The groups in which finds are joined, one after the other."""
        if self.count == 1:
            return []
        return [dist.group.WORLD] if self.hierarchy is None else [self.hierarchy.inner, self.hierarchy.outer]

    def _queries(self, mine: Tensor) -> tuple[Tensor, int, int]:
        """The queries of all processes, and where this one's begin and end among them."""
        if self.count == 1:
            return mine, 0, len(mine)
        sizes = [torch.zeros(1, dtype=torch.int64, device=mine.device) for _ in range(self.count)]
        dist.all_gather(sizes, torch.tensor([len(mine)], device=mine.device))
        counts = [int(size) for size in sizes]
        padded = mine.new_zeros((max(counts), *mine.shape[1:]))
        padded[: len(mine)] = mine
        given = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(given, padded)
        first = sum(counts[: self.rank])
        return torch.cat([part[:size] for part, size in zip(given, counts)]), first, first + len(mine)

    def _local(self, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """The best of this process's keys: scores and rows [queries, top_k], -inf and -1 where there are fewer."""
        scores = torch.full((len(queries), top_k), -torch.inf, device=queries.device)
        rows = torch.full((len(queries), top_k), -1, dtype=torch.int64, device=queries.device)
        if not len(queries):
            return scores, rows
        choose = self._exact if self.recall is None else self._approximate
        for start in range(0, len(self.keys), BLOCK):
            keys = self.keys[start : start + BLOCK].float()
            probe = None if self.probe is None else self.probe[start : start + BLOCK].to(queries.device)
            near = _products(queries, keys, probe)
            chosen = choose(near, queries, keys, probe, top_k)
            exact = _exact_products(queries, keys, probe, chosen)
            every = torch.cat([rows, chosen + start], dim=1)
            ids = torch.where(every >= 0, self.ids[every.clamp_min(0)], NOBODY)
            both, places = _best(torch.cat([scores, exact], dim=1), torch.stack([ids, every], dim=-1), top_k)
            scores, rows = both, places[..., 1]
        return scores, rows

    def _exact(self, near: Tensor, queries: Tensor, keys: Tensor, probe: Tensor | None, top_k: int) -> Tensor:
        """Rows [queries, some] that the `top_k` best inner products are among for certain.

        A matrix product and a sum in another order differ by at most `error`, which goes with the lengths of the two;
        what cannot reach the least that the last of the best may be is none of them.
        """
        lengths = queries.norm(dim=-1)
        lengths = lengths[:, None] if probe is None else lengths[:, probe]
        error = 2 * keys.shape[-1] * torch.finfo(torch.float32).eps * lengths * keys.norm(dim=-1)
        least = (near - error).topk(min(top_k, near.shape[1]), dim=1).values[:, -1:]
        most = near + error
        return most.topk(int((most >= least).sum(1).max()), dim=1).indices

    def _approximate(self, near: Tensor, queries: Tensor, keys: Tensor, probe: Tensor | None, top_k: int) -> Tensor:
        """Rows [queries, top_k or fewer]: the best of each bin, of those the best (Chern et al. 2022, TPU-KNN).

        Two of the best in one bin cost one of them; (top_k - 1) / bins of them are lost on average.
        """
        bins = max(top_k, round((top_k - 1) / (1 - self.recall)))
        size = -(-near.shape[1] // bins)
        if size <= 1:
            return near.topk(min(top_k, near.shape[1]), dim=1).indices
        padded = torch.nn.functional.pad(near, (0, size * bins - near.shape[1]), value=-torch.inf)
        best, place = padded.unflatten(1, (bins, size)).max(-1)
        chosen = best.topk(min(top_k, int(torch.isfinite(best[0]).sum())), dim=1).indices
        return chosen * size + place.gather(1, chosen)

    def _fetch(self, places: Tensor) -> Tensor:
        """The values of finds [batch, top_k, (id, owner, row)], from whoever owns them."""
        batch, top_k = places.shape[:2]
        flat = places.flatten(0, 1)
        real = (flat[:, 0] != NOBODY).nonzero()[:, 0]
        order = real[flat[real, 1].argsort(stable=True)]  # by owner
        rows = flat[order, 2]
        if self.count == 1:
            values = self.values(rows)
        else:
            wanted = torch.bincount(flat[order, 1], minlength=self.count)
            asked = torch.empty_like(wanted)
            dist.all_to_all_single(asked, wanted)
            sizes = (asked.tolist(), wanted.tolist())
            theirs = rows.new_empty(sum(sizes[0]))
            dist.all_to_all_single(theirs, rows.contiguous(), *sizes)
            given = self.values(theirs).to(places.device).contiguous()
            values = given.new_empty((len(rows), *given.shape[1:]))
            dist.all_to_all_single(values, given, sizes[1], sizes[0])
        out = values.new_zeros((batch * top_k, *values.shape[1:]))
        out[order.to(values.device)] = values
        return out.unflatten(0, (batch, top_k))


def _products(queries: Tensor, keys: Tensor, probe: Tensor | None) -> Tensor:
    """[queries, keys]: each key with the query, or with the probe of the query that it is compared with."""
    if probe is None:
        return queries @ keys.T
    out = queries.new_empty((len(queries), len(keys)))
    for number in range(queries.shape[1]):
        rows = (probe == number).nonzero()[:, 0]
        out[:, rows] = queries[:, number] @ keys[rows].T
    return out


def _exact_products(queries: Tensor, keys: Tensor, probe: Tensor | None, chosen: Tensor) -> Tensor:
    """[queries, some]: each query with the keys chosen for it, some keys at a time."""
    dim, out = keys.shape[-1], queries.new_empty(chosen.shape)
    step = max(TERMS // (len(queries) * dim), 1)
    for start in range(0, chosen.shape[1], step):
        some = chosen[:, start : start + step]
        asked = queries[:, None] if probe is None else queries.gather(1, probe[some][..., None].expand(-1, -1, dim))
        out[:, start : start + step] = inner_product(asked, keys[some])
    return out


def _side_by_side(part: Tensor, group: Any) -> Tensor:
    """What the processes of a group have found, [queries, finds of all, ...]."""
    given = [torch.empty_like(part) for _ in range(dist.get_world_size(group))]
    dist.all_gather(given, part.contiguous(), group=group)
    return torch.cat(given, dim=1)


def _best(scores: Tensor, places: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The best `top_k` of finds [queries, some] and their places [queries, some, (id, ...)]; equal scores by id."""
    by_id = places[..., 0].argsort(dim=1, stable=True)
    order = by_id.gather(1, scores.gather(1, by_id).argsort(dim=1, descending=True, stable=True))[:, :top_k]
    return scores.gather(1, order), places.gather(1, order[..., None].expand(*order.shape, places.shape[-1]))
