"""Texts read chunk by chunk: neighbours by the chunk they were found for, texts that grow, probes of chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from wellread.nn.chunked_decoder import Near
from wellread.types import CandidateBatch, Inputs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["by_chunk", "follow", "one_candidate", "row_probes"]


def by_chunk(candidates: CandidateBatch, finished: Tensor) -> tuple[Near, Tensor]:
    """The candidates by the chunk they answer, in their order.

    finished: [batch], finished chunks of the question. Where nobody says whose they are (`group`), all are the
    neighbours of the last of these; of a question without one, nobody's.
    Also [batch, chunks, neighbours] int64, the column each one comes from, -1 where there is none. There are as many
    chunks as the last one that has a neighbour asks for, maybe none.
    """
    exists, group = candidates.exists, candidates.group
    if group is None:
        exists = exists & (finished > 0)[:, None]
        group = (finished - 1)[:, None].expand_as(exists)
    rows, column = exists.nonzero(as_tuple=True)
    chunk = group[rows, column]
    # How many before it, among those that exist, answer the same chunk.
    same = (group[:, :, None] == group[:, None, :]) & exists[:, None, :]
    place = same.tril(-1).sum(-1)[rows, column]
    chunks, neighbours = (int(part.max()) + 1 if len(part) else 0 for part in (chunk, place))
    shape, tokens = (len(exists), chunks, neighbours), candidates.tokens
    columns = torch.full(shape, -1, dtype=torch.int64, device=tokens.device)
    columns[rows, chunk, place] = column
    near, mask = tokens.new_zeros(*shape, tokens.shape[2]), candidates.mask.new_zeros(*shape, tokens.shape[2])
    near[rows, chunk, place], mask[rows, chunk, place] = tokens[rows, column], candidates.mask[rows, column]
    return Near(near, mask), columns


def follow(text: Inputs, tokens: Tensor, mask: Tensor) -> Inputs:
    """The text with tokens [batch, more] written after its last real one, padding on the right."""
    tokens, mask = torch.cat([text.tokens, tokens], dim=1), torch.cat([text.mask, mask], dim=1)
    order = torch.argsort((~mask).to(torch.uint8), dim=-1, stable=True)[:, : int(mask.sum(-1).max())]
    return Inputs(tokens.gather(1, order), mask.gather(1, order))


def row_probes(chunk: Tensor, asks: Tensor) -> Sequence[Tensor]:
    """Of every row the tokens of a chunk [rows, chunk_tokens] as its one probe, or no probe where it does not ask."""
    return [row[None] if ask else row[None][:0] for row, ask in zip(chunk, asks.tolist(), strict=True)]


def one_candidate(candidates: CandidateBatch, column: int) -> CandidateBatch:
    """That one candidate of every question, its tokens alone."""
    names = ["tokens", "mask", "exists", "scores", *(["group"] if candidates.group is not None else [])]
    kept = {name: getattr(candidates, name)[:, [column]] for name in names}
    return replace(candidates, states=None, keys=None, source=None, ids=(), **kept)
