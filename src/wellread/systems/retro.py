"""RETRO: a language model that looks at the neighbours of the chunk it has just finished. Signature only.

Paper: Borgeaud et al., "Improving language models by retrieving from trillions of tokens" (2022), arXiv 2112.04426.

    d(C, N) = |Bert(C) - Bert(N)|, Bert frozen                 -> Retro.seek, Retro.remember
    E_u = Enc(Ret(C_u), H_u)                                   -> Retro.read: states
    CCA(H, E): a token attends to the E_u of the last finished chunk   -> Retro.text_log_probs
    L = sum of log p(x_i | x_<i, Ret(C_u')_{u' < u})           -> Retro.log_likelihood, losses

Letters: C_u -> chunk u of the text, m -> chunk_tokens, N and its continuation F -> passage (2 m tokens), k ->
neighbours (candidates of one group), H -> states below the first cross-attention, E -> Reading.states.
Stored: tokens and the frozen vector of N. Sought: one vector per finished chunk. Read: every neighbour, encoded
under the chunk it belongs to and named by extras["chunk"]; candidates.group says which chunk that is.

A text is the question and what follows it. To score a target with neighbours of its own chunks, seek with the
whole text: chunk u's neighbours are only seen from its last token on, so nothing is given away. E_u depends on
H_u, so that target chunks cannot be part of `read`: `log_likelihood` reads the text it scores. Long questions
for answers are padded so that they end with a chunk; that is the frame's work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn.functional import pad

from wellread.config import require
from wellread.losses import nll
from wellread.reading.decoding import Generated, generate
from wellread.reading.keeping import all_columns
from wellread.systems.base import Paper, Remembered, Search
from wellread.systems.signature_base import SignatureSystem
from wellread.types import CandidateBatch, Inputs, Reading, TrainingBatch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Retro", "RetroConfig"]


@dataclass(frozen=True)
class RetroConfig:
    """chunk_tokens: tokens between two searches. end_token, pad_token: of the text that is written."""

    chunk_tokens: int = 64
    end_token: int = 1
    pad_token: int = 0

    def __post_init__(self) -> None:
        require(self.chunk_tokens >= 1, f"chunk_tokens={self.chunk_tokens}; it must be at least 1.")


class Retro(SignatureSystem):
    """Retrieves per chunk, also while it writes."""

    paper = Paper(
        "Improving language models by retrieving from trillions of tokens", "Borgeaud et al.", 2022, "2112.04426"
    )
    Config = RetroConfig
    stores = frozenset({"tokens", "keys"})
    nets: ClassVar = {
        "key_encoder": "(tokens, mask) -> [rows, dim], frozen",
        "lower": "(tokens, mask) -> states [batch, tokens, dim]",
        "neighbours": "(tokens, mask, chunk states [rows, chunk_tokens, dim]) -> states [rows, tokens, dim]",
        # A token that is allowed no neighbour passes the cross-attention by.
        "upper": "(states, mask, neighbour states [batch, stored, dim], allowed [batch, tokens, stored] bool) -> "
        "log p of every next token, [batch, tokens, vocab]",
    }
    memory_nets = ("key_encoder",)

    def remember(
        self, tokens: Tensor, mask: Tensor, *, picture: Tensor | None = None, picture_mask: Tensor | None = None
    ) -> Remembered:
        """The key of N, the first chunk_tokens of a passage; the rest of it is the continuation F."""
        size = self.config.chunk_tokens
        return Remembered(keys=self.key_encoder(tokens[:, :size], mask[:, :size]))

    def seek(self, inputs: Inputs) -> Sequence[Tensor] | None:
        size = self.config.chunk_tokens
        finished = (inputs.mask.sum(-1) // size).tolist()
        chunks = [row[: count * size].reshape(count, size) for row, count in zip(inputs.tokens, finished, strict=True)]
        flat = torch.cat(chunks)
        return self.key_encoder(flat, torch.ones_like(flat, dtype=torch.bool)).split(finished)

    def read(self, inputs: Inputs, candidates: CandidateBatch) -> Reading:
        """Neighbours of the question's finished chunks: states [batch, passages * tokens, dim].

        extras: "chunk" [batch, passages * tokens], the chunk each state belongs to; "lower", the text's states.
        """
        size, lower = self.config.chunk_tokens, self.lower(inputs.tokens, inputs.mask)
        finished = inputs.mask.sum(-1, keepdim=True) // size
        group = _group(candidates)
        mask = candidates.mask & (candidates.exists & (group < finished))[..., None]
        chunks = pad(lower, (0, 0, 0, -lower.shape[1] % size)).unflatten(1, (-1, size))
        rows = torch.arange(len(group), device=group.device)[:, None]
        asked = chunks[rows, group.clamp_max(chunks.shape[1] - 1)].flatten(0, 1)
        encoded = self.neighbours(candidates.tokens.flatten(0, 1), mask.flatten(0, 1), asked)
        column = all_columns(candidates.exists)
        return Reading(
            states=encoded.unflatten(0, group.shape).flatten(1, 2),
            mask=mask.flatten(1, 2),
            tokens=candidates.tokens.flatten(1, 2),
            copyable=mask.flatten(1, 2),
            passage=column[..., None].where(mask, -1).flatten(1, 2),
            scores=None,
            kept=column,
            extras={"chunk": group[..., None].expand_as(mask).flatten(1, 2), "lower": lower},
        )

    def text_log_probs(self, text: Inputs, candidates: CandidateBatch) -> Tensor:
        """log p of every token after every token of the text, [batch, tokens, vocab] float32."""
        reading = self.read(text, candidates)
        position = torch.arange(text.tokens.shape[1], device=text.tokens.device)
        last = (position + 1) // self.config.chunk_tokens - 1  # a chunk's last token already sees its neighbours
        allowed = reading.mask[:, None] & (reading.extras["chunk"][:, None] == last[:, None])
        return self.upper(reading.extras["lower"], text.mask, reading.states, allowed).float()

    def generate(
        self,
        inputs: Inputs,
        candidates: CandidateBatch,
        *,
        max_tokens: int,
        num_beams: int = 1,
        reading: Reading | None = None,
        search: Search | None = None,
    ) -> Generated:
        """Continue the questions; at every border of a chunk `search` is asked for its neighbours.

        Without `search`, chunks that are written have no neighbours. `reading` saves nothing here: there is no
        cache yet, the whole text is read at every step.
        """
        if num_beams > 1:
            raise self.not_built("generate with beams")
        size, pad_token, end_token = self.config.chunk_tokens, self.config.pad_token, self.config.end_token

        def step(new: Tensor, state: tuple[Inputs, CandidateBatch] | None) -> tuple[Tensor, object]:
            text, found = (inputs, candidates) if state is None else state
            if state is not None:  # what comes first is the start token; the text starts with the question
                text = follow(text, new, new != pad_token)
                lengths, going = text.mask.sum(-1), ((new != pad_token) & (new != end_token))[:, 0]
                asks = going & (lengths % size == 0)
                if search is not None and bool(asks.any()):
                    probes = [row[-1:] if ask else row[:0] for row, ask in zip(self.seek(text), asks, strict=True)]
                    found = _beside(found, search(probes), lengths // size - 1)
            every = self.text_log_probs(text, found)
            return every[torch.arange(text.batch, device=new.device), text.mask.sum(-1) - 1], (text, found)

        return generate(
            step,
            start_token=pad_token,
            end_token=end_token,
            pad_token=pad_token,
            batch=inputs.batch,
            max_tokens=max_tokens,
            device=inputs.tokens.device,
        )

    def target_log_probs(
        self, inputs: Inputs, candidates: CandidateBatch, target: Tensor, target_mask: Tensor
    ) -> Tensor:
        """log p of every target token after the question: [batch, target tokens] float32."""
        log_probs = self.text_log_probs(follow(inputs, target, target_mask), candidates)
        order = torch.arange(target.shape[1], device=target.device)
        before = (inputs.mask.sum(-1, keepdim=True) - 1 + order).clamp_max(log_probs.shape[1] - 1)
        rows = torch.arange(len(target), device=target.device)[:, None]
        return log_probs[rows, before, target]

    def losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        parts = (batch.inputs, batch.candidates, batch.target, batch.target_mask)
        return {"nll": nll(self.target_log_probs(*parts), batch.target_mask)}


def follow(text: Inputs, tokens: Tensor, mask: Tensor) -> Inputs:
    """The text with tokens [batch, more] written after its last real one, padding on the right."""
    tokens, mask = torch.cat([text.tokens, tokens], dim=1), torch.cat([text.mask, mask], dim=1)
    order = torch.argsort((~mask).to(torch.uint8), dim=-1, stable=True)[:, : int(mask.sum(-1).max())]
    return Inputs(tokens.gather(1, order), mask.gather(1, order))


def _beside(candidates: CandidateBatch, found: CandidateBatch, chunk: Tensor) -> CandidateBatch:
    """The candidates and, in further columns, those found for `chunk` [batch]: tokens, and whose they are."""
    width = max(candidates.tokens.shape[2], found.tokens.shape[2])
    both = {name: [getattr(part, name) for part in (candidates, found)] for name in ("exists", "scores")}
    for name in ("tokens", "mask"):
        parts = [getattr(part, name) for part in (candidates, found)]
        both[name] = [pad(part, (0, width - part.shape[2])) for part in parts]
    both["group"] = [_group(candidates), chunk[:, None].expand_as(found.exists)]
    return CandidateBatch(**{name: torch.cat(parts, dim=1) for name, parts in both.items()})


def _group(candidates: CandidateBatch) -> Tensor:
    """The chunk of every candidate; the first one where nobody says."""
    return torch.zeros_like(candidates.exists, dtype=torch.long) if candidates.group is None else candidates.group
