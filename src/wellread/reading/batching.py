"""Candidates of several questions, of any number and length -> one CandidateBatch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from wellread.types import CandidateBatch, Inputs, TrainingBatch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CandidateRow", "batch_candidates", "by_length", "take_rows", "to_device"]


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """One candidate of one question: its tokens, the retriever's score, and what memory holds of it.

    tokens: token ids. states: [stored, dim] or None. key: [dim] or None. picture: [patches, dim] or None.
    """

    id: str
    tokens: Sequence[int]
    score: float = 0.0
    states: Tensor | None = None
    key: Tensor | None = None
    group: int = 0
    source: int = 0
    picture: Tensor | None = None


def batch_candidates(questions: Sequence[Sequence[CandidateRow]], pad: int) -> CandidateBatch:
    """Rows per question, best first -> tensors as wide as the question with most candidates.

    Questions with fewer get columns whose `exists` is False; where no question has any, all get one such column.
    Candidates either all have states or none have.
    """
    batch, width = len(questions), max((len(rows) for rows in questions), default=0) or 1
    flat = [row for rows in questions for row in rows]
    longest = max(max((len(row.tokens) for row in flat), default=1), 1)
    tokens = torch.full((batch, width, longest), pad, dtype=torch.int64)
    mask = torch.zeros((batch, width, longest), dtype=torch.bool)
    exists = torch.zeros((batch, width), dtype=torch.bool)
    scores = torch.zeros((batch, width))
    group, source = torch.zeros((2, batch, width), dtype=torch.int64)
    for index, rows in enumerate(questions):
        for column, row in enumerate(rows):
            length = len(row.tokens)
            tokens[index, column, :length] = torch.as_tensor(row.tokens, dtype=torch.int64)
            mask[index, column, :length] = True
            exists[index, column] = True
            scores[index, column] = row.score
            group[index, column], source[index, column] = row.group, row.source
    return CandidateBatch(
        tokens=tokens,
        mask=mask,
        exists=exists,
        scores=scores,
        states=_stack("states", [row.states for row in flat], exists),
        keys=_stack("keys", [row.key for row in flat], exists),
        group=group,
        source=source,
        ids=[[row.id for row in rows] for rows in questions],
        **_pictures([row.picture for row in flat], exists),
    )


def _stack(name: str, parts: Sequence[Tensor | None], exists: Tensor) -> Tensor | None:
    """[stored, dim] or [dim] of each candidate that exists -> [batch, passages, (stored,) dim], zeros elsewhere."""
    given = [part for part in parts if part is not None]
    if not given:
        return None
    if len(given) != len(parts):
        raise ValueError(f"{len(given)} of {len(parts)} candidates have stored {name}; give them for all or for none.")
    size = [max(sizes) for sizes in zip(*(part.shape for part in given), strict=True)]
    out = given[0].new_zeros((*exists.shape, *size))
    for place, part in zip(exists.nonzero().tolist(), given, strict=True):
        row = out[tuple(place)]
        (row[: len(part)] if part.dim() == 2 else row).copy_(part)
    return out


def _pictures(parts: Sequence[Tensor | None], exists: Tensor) -> dict[str, Tensor]:
    """The pictures of the candidates that exist, which may lack them, and their mask; nothing where none has one."""
    given = next((part for part in parts if part is not None), None)
    if given is None:
        return {}
    picture = given.new_zeros((*exists.shape, *given.shape))
    mask = torch.zeros((*exists.shape, len(given)), dtype=torch.bool)
    for place, part in zip(exists.nonzero().tolist(), parts, strict=True):
        if part is not None:
            picture[tuple(place)], mask[tuple(place)] = part, True
    return {"picture": picture, "picture_mask": mask}


def by_length(run: Callable[[Tensor, Tensor], Tensor], states: Tensor, mask: Tensor, *, rows: int = 8) -> Tensor:
    """`run(states, mask)` over rows of like length together, so that little work goes into padding.

    states: [batch, tokens, dim]; mask: [batch, tokens], or [batch, q, k] bool, real tokens first. run gives
    [rows, tokens, dim] or fewer tokens. The result is that of one call, with zeros behind the longest row of
    each group. rows: rows of a group.
    """
    batch, longest = mask.shape[0], mask.shape[-1]
    real = mask if mask.dim() == 2 else mask.any(1)
    lengths = real.sum(-1).clamp_min(1)
    if batch <= rows or int(lengths.min()) == longest:
        return run(states, mask)
    order = lengths.argsort(stable=True)
    parts, whole = [], True
    for some in order.split(rows):
        length = int(lengths[some].max())
        seen = mask[some][:, :length] if mask.dim() == 2 else mask[some][:, :length, :length]
        parts.append(run(states[some][:, :length], seen))
        whole = whole and parts[-1].shape[1] == length
    width = longest if whole else max(part.shape[1] for part in parts)
    padded = [functional.pad(part, (0, 0, 0, width - part.shape[1])) for part in parts]
    return torch.cat(padded)[order.argsort()]


def take_rows(value: Inputs | CandidateBatch, rows: Tensor) -> Inputs | CandidateBatch:
    """The same of some questions alone; rows: [batch] bool."""
    parts = {name: getattr(value, name) for name in value.__slots__}
    parts = {name: part[rows] for name, part in parts.items() if isinstance(part, torch.Tensor)}
    if isinstance(value, CandidateBatch) and value.ids:
        parts["ids"] = [ids for ids, kept in zip(value.ids, rows.tolist()) if kept]
    return replace(value, **parts)


def to_device(value: Inputs | CandidateBatch | TrainingBatch, device: torch.device | str):
    """The same value with every tensor on `device`."""
    ahead = torch.device(device).type != "cpu"  # a copy to the CPU must have arrived before it is read
    moved = {}
    for name in value.__slots__:
        part = getattr(value, name)
        if isinstance(part, torch.Tensor):
            moved[name] = part.to(device, non_blocking=ahead)
        elif isinstance(part, (Inputs, CandidateBatch)):
            moved[name] = to_device(part, device)
    return replace(value, **moved)
