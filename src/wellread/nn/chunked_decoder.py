"""A causal language model with chunked cross-attention in some of its layers: whole texts, and token by token.

Algorithm 1 of Borgeaud et al. 2022 (arXiv 2112.04426). A text is the start token and the tokens after it; state i
writes token i. The neighbours of chunk u are encoded under the chunk's states at the first layer that reads
neighbours, after its self-attention, and are read by the states that write chunk u + 1. Without
neighbours nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from wellread.nn.attention import score_mask
from wellread.nn.chunk_copying import NeighbourCopying
from wellread.nn.chunked_attention import ChunkedCrossAttention
from wellread.nn.llama import LlamaCache, LlamaDecoder
from wellread.nn.neighbour_encoder import NeighbourEncoder
from wellread.nn.t5_layers import compute_dtype

__all__ = ["ChunkedDecoder", "Near", "Running", "TextStates"]


@dataclass(frozen=True, slots=True)
class Near:
    """Neighbours by chunk. tokens: [batch, chunks, neighbours, tokens] int64; mask: the same, bool."""

    tokens: Tensor
    mask: Tensor

    def first(self, chunks: int) -> Near:
        """Those of exactly so many chunks; chunks beyond these have none."""
        tokens, mask = self.tokens[:, :chunks], self.mask[:, :chunks]
        shape = (len(tokens), chunks - tokens.shape[1], *tokens.shape[2:])
        return Near(
            torch.cat((tokens, tokens.new_zeros(shape)), dim=1), torch.cat((mask, mask.new_zeros(shape)), dim=1)
        )

    def rows(self, index: Tensor) -> Near:
        return Near(self.tokens[index], self.mask[index])


@dataclass(frozen=True, slots=True)
class TextStates:
    """states: [batch, tokens, dim], finished. lower: the same at the first layer that reads neighbours. found:
    [batch, chunks, neighbours, tokens, dim] with mask and tokens, the encoded neighbours; None where no chunk has any.
    weights: on request [batch, tokens, neighbours * tokens], how much every state read of each, mean over heads and
    layers."""

    states: Tensor
    lower: Tensor
    found: Tensor | None = None
    mask: Tensor | None = None
    tokens: Tensor | None = None
    weights: Tensor | None = None


@dataclass(slots=True)
class Running:
    """A text that grows. length: [rows], tokens so far, the start token counted. recent, chunk: [rows, chunk_tokens,
    dim] and [rows, chunk_tokens], lower states and tokens of the chunk being written. last: [rows], the last token.
    keys, values: by layer, of what the present block reads; mask, places, tokens: [rows, stored], which of it is real,
    its place in its neighbour, its words; copies: [rows, stored, ...], its keys for copying, if it can be copied."""

    cache: LlamaCache
    length: Tensor
    recent: Tensor
    chunk: Tensor
    last: Tensor
    keys: dict[int, Tensor]
    values: dict[int, Tensor]
    mask: Tensor
    places: Tensor
    tokens: Tensor
    copies: Tensor | None = None

    def reorder(self, index: Tensor) -> Running:
        """Continue from the rows in `index`; gives the state itself."""
        self.cache.reorder(index)
        for name in ("length", "recent", "chunk", "last", "mask", "places", "tokens", "copies"):
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name).index_select(0, index))
        for held in (self.keys, self.values):
            for layer in held:
                held[layer] = held[layer].index_select(0, index)
        return self


@dataclass(frozen=True)
class ChunkedDecoder:
    """The nets of a system, wired. cross: layer -> its chunked cross-attention. copy: for words of neighbours."""

    reader: LlamaDecoder
    cross: Mapping[int, ChunkedCrossAttention]
    encoder: NeighbourEncoder
    chunk_tokens: int
    copy: NeighbourCopying | None = None

    @property
    def first(self) -> int:
        """The first layer that reads neighbours."""
        return min(self.cross)

    def encode(self, near: Near, chunks: Tensor) -> Tensor:
        """Neighbours of rows of chunks -> [batch, chunks, neighbours, tokens, dim]. chunks: [batch, chunks, m, dim]."""
        encoded = self.encoder(self._words(near.tokens.flatten(0, 1)), near.mask.flatten(0, 1), chunks.flatten(0, 1))
        return encoded.unflatten(0, near.tokens.shape[:2])

    def _words(self, tokens: Tensor) -> Tensor:
        """Embeddings that are read but trained by the text alone: gradients of rare words would drown its own."""
        return self.reader.embed(tokens).detach()

    def read(
        self, tokens: Tensor, mask: Tensor, near: Near, *, cache: LlamaCache | None = None, scored: bool = False
    ) -> TextStates:
        """Texts [batch, tokens] that begin with the start token, padded on the right. cache: an empty one, filled."""
        reader, size = self.reader, self.chunk_tokens
        chunks = (tokens.shape[1] - 1) // size
        near = near.first(chunks)
        finished = torch.arange(chunks, device=mask.device) < (mask.sum(-1, keepdim=True) - 1) // size
        near = Near(near.tokens, near.mask & finished[..., None, None])
        states = reader.embed(tokens)
        joined = reader.joined(states, mask)
        by = reader.rotation(torch.arange(tokens.shape[1], device=tokens.device)[None])
        if cache is not None:
            cache.mask = mask
        states = reader.run(states, joined, by, stop=self.first, cache=cache)
        lower, found, weights = states, None, []
        reads = near.mask.numel() > 0 and bool(near.mask.any())
        places = torch.arange(near.tokens.shape[3], device=tokens.device).repeat(near.tokens.shape[2])
        for index in range(self.first, reader.num_layers):
            layer, held = reader.layers[index], None if cache is None else cache.layers[index]
            states = layer.read_own(states, joined, by, held)
            if index == self.first:
                lower = states
                if reads:
                    found = self.encode(near, lower[:, 1 : 1 + chunks * size].unflatten(1, (chunks, size)))
            if index in self.cross and reads:
                beside = (found.flatten(2, 3), near.mask.flatten(2, 3), places)
                read = self.cross[index].over_chunks(states, *beside, chunk_tokens=size, scored=scored)
                weights += [read[1]] if scored else []
                states = states + (read[0] if scored else read)
            states = layer.think(states)
        mean = torch.stack(weights).mean(0) if weights else None
        beside = (None, None) if found is None else (near.mask, near.tokens)
        return TextStates(reader.finish(states), lower, found, *beside, mean)

    def target_log_probs(self, text: TextStates, tokens: Tensor, target: Tensor, places: Tensor) -> Tensor:
        """log p of what the states at these places [batch, n] write, copied words counted: [batch, n] float32.

        text: what `read` gave for the tokens. tokens, target: [batch, tokens], each token and the one after it.
        """
        rows = torch.arange(len(places), device=places.device)[:, None]
        if self.copy is None or text.found is None:
            logits = self.reader.logits(text.states[rows, places]).float()
            said = -functional.cross_entropy(logits.flatten(0, 1), target[rows, places].flatten(), reduction="none")
            return said.view_as(places)
        return self._copy_over(text, tokens, target)[rows, places]

    def contributions(self, text: TextStates, tokens: Tensor, target: Tensor, places: Tensor) -> Tensor:
        """What every neighbour gave the words that the states at these places write, [batch, n, neighbours].

        The share of a word's probability that was copied from a neighbour, and of the rest the attention that the state
        paid it (`weights`, which `read` gives on request, as do texts with neighbours alone); at most 1 in all.
        """
        rows = torch.arange(len(places), device=places.device)[:, None]
        given = text.weights[rows, places]
        if self.copy is not None:
            copied = self._copy_over(text, tokens, target, shares=True)[rows, places]
            given = copied + (1 - copied.sum(-1, keepdim=True)) * given
        return given.unflatten(-1, text.mask.shape[2:]).sum(-1)

    def _copy_over(self, text: TextStates, tokens: Tensor, target: Tensor, *, shares: bool = False) -> Tensor:
        keys = self.copy.keys(self._words(text.tokens).flatten(0, 1), text.mask.flatten(0, 1))
        copies = (keys.unflatten(0, text.tokens.shape[:2]), text.tokens.flatten(2), text.mask.flatten(2))
        log_words = self.reader.logits(text.states).float().log_softmax(-1)
        asking, size = (text.states, self._words(tokens)), self.chunk_tokens
        return self.copy.over_chunks(asking, log_words, copies, target, chunk_tokens=size, shares=shares)

    def log_probs(self, states: Tensor, running: Running) -> Tensor:
        """Of the words that come next [rows, vocab] float32, at the states [rows, dim] that write them."""
        log_words = self.reader.logits(states).float().log_softmax(-1)
        if self.copy is None or running.copies is None:
            return log_words
        asking = (states[:, None], self._words(running.last)[:, None])
        copies = (running.copies, running.tokens, running.mask)
        return self.copy.log_probs(asking, log_words[:, None], copies)[:, 0]

    def begin(self, tokens: Tensor, mask: Tensor, near: Near) -> tuple[Tensor, Running]:
        """Read texts and be ready to go on: the state that writes the next token [batch, dim], and what is kept."""
        cache, size = self.reader.new_cache(len(tokens)), self.chunk_tokens
        text = self.read(tokens, mask, near, cache=cache)
        rows, length = torch.arange(len(tokens), device=tokens.device), mask.sum(-1)
        begun = (length - 1) // size * size  # tokens in finished chunks
        place = (begun[:, None] + 1 + torch.arange(size, device=tokens.device)).clamp_max(tokens.shape[1] - 1)
        running = Running(
            cache=cache,
            length=length,
            recent=text.lower[rows[:, None], place],
            chunk=tokens[rows[:, None], place],
            last=tokens[rows, length - 1],
            keys={},
            values={},
            mask=torch.zeros(len(tokens), 0, dtype=torch.bool, device=tokens.device),
            places=tokens[:, :0],
            tokens=tokens[:, :0],
        )
        chunks = 0 if text.found is None else text.found.shape[1]
        last = ((length - 1) // size - 1).clamp(0, max(chunks - 1, 0))
        if text.found is None:
            self._show(running, rows, *self._nothing(running.recent))
        else:
            # Of a text without a finished chunk the mask is False all over.
            self._show(running, rows, *(part[rows, last] for part in (text.found, text.tokens, text.mask)))
        return text.states[rows, length - 1], running

    def step(self, new: Tensor, running: Running) -> tuple[Tensor, Tensor]:
        """The lower half of a step: tokens [rows, 1] go in; (states at the first layer that reads neighbours, rows
        whose chunk they finish [rows] bool). `show` what is found for these, then `finish_step`."""
        reader, size, at = self.reader, self.chunk_tokens, running.length
        running.cache.mask = torch.cat((running.cache.mask, torch.ones_like(new, dtype=torch.bool)), dim=1)
        by, joined = self._joined(running)
        states = reader.run(reader.embed(new), joined, by, stop=self.first, cache=running.cache)
        states = reader.layers[self.first].read_own(states, joined, by, running.cache.layers[self.first])
        rows, place = torch.arange(len(new), device=new.device), (at - 1) % size
        running.recent = running.recent.index_put((rows, place), states[:, 0])
        running.chunk = running.chunk.index_put((rows, place), new[:, 0])
        running.last = new[:, 0]
        return states, at % size == 0

    def show(self, running: Running, rows: Tensor, near: Near | None) -> None:
        """What the rows [n] int64 read from now on: neighbours of the chunk they finished, [n, 1, ...], or none."""
        if near is None:
            self._show(running, rows, *self._nothing(running.recent[rows]))
        else:
            found = self.encode(near, running.recent[rows][:, None])[:, 0]
            self._show(running, rows, found, near.tokens[:, 0], near.mask[:, 0])

    def finish_step(self, states: Tensor, running: Running) -> Tensor:
        """The upper half: states that write the next token, [rows, 1, dim]."""
        reader, size, at = self.reader, self.chunk_tokens, running.length
        by, joined = self._joined(running)
        for index in range(self.first, reader.num_layers):
            layer = reader.layers[index]
            if index > self.first:
                states = layer.read_own(states, joined, by, running.cache.layers[index])
            if index in self.cross and running.mask.shape[1]:
                cross = self.cross[index]
                distance = cross.distances((at % size)[:, None], running.places, size)
                states = states + cross(states, running.keys[index], running.values[index], running.mask, distance)
            states = layer.think(states)
        running.length = at + 1
        return reader.finish(states)

    def _joined(self, running: Running) -> tuple:
        dtype = compute_dtype(self.reader.embed_tokens.weight)
        return self.reader.rotation(running.length[:, None]), score_mask(running.cache.mask, None, dtype=dtype)

    def _nothing(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encoded neighbours [n, 0, 0, dim] of nobody, their tokens and mask."""
        empty = states.new_zeros(len(states), 0, 0)
        return states.new_zeros(len(states), 0, 0, self.encoder.dim), empty.long(), empty.bool()

    def _show(self, running: Running, rows: Tensor, found: Tensor, tokens: Tensor, mask: Tensor) -> None:
        """Put encoded neighbours [n, neighbours, tokens, dim], their tokens and mask in the place of what the rows read
        before."""
        places = torch.arange(found.shape[2], device=found.device).repeat(found.shape[1]).expand(len(rows), -1)
        width = max(tokens[0].numel(), running.mask.shape[1])
        if self.copy is not None:
            new = self.copy.keys(self._words(tokens), mask)
            before = new.new_zeros(len(running.length), 0, new.shape[2]) if running.copies is None else running.copies
            running.copies = _put(before, rows, new, width)
        found, mask, tokens = found.flatten(1, 2), mask.flatten(1, 2), tokens.flatten(1, 2)
        for name, new in (("mask", mask), ("places", places), ("tokens", tokens)):
            setattr(running, name, _put(getattr(running, name)[..., None], rows, new[..., None], width)[..., 0])
        for index, cross in self.cross.items():
            for held, new in zip((running.keys, running.values), cross.keys_values(found), strict=True):
                before = held.get(index, new.new_zeros(len(running.length), new.shape[1], 0, new.shape[3]))
                held[index] = _put(before, rows, new, width)


def _put(held: Tensor, rows: Tensor, new: Tensor, width: int) -> Tensor:
    """The rows replaced, after both were padded with zeros to `width` on the axis before the last."""
    held, new = (functional.pad(part, (0, 0, 0, width - part.shape[-2])) for part in (held, new))
    return held.index_copy(0, rows, new.to(held.dtype))
