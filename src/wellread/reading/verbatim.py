"""Writing only what stands in a passage that was read: a step function that allows no other continuation.

Of every question it remembers where in its passages the words written so far stand. The next token is one that follows
at such a place, and the end comes where a word is over. Log-probabilities stay those of the reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from wellread.reading.decoding import State, Step
from wellread.types import Reading

if TYPE_CHECKING:
    from wellread.nn.tokenizers import Tokenizer

__all__ = ["Vocabulary", "verbatim"]


@dataclass(frozen=True)
class Vocabulary:
    """What tokens are to words, [vocab] bool each.

    before, after: those that belong to one word with the token before or behind them. left, right: those that do where
    their neighbour says so of its own side too. mute: those that say nothing (start, end, padding, unknown).
    """

    before: Tensor
    after: Tensor
    left: Tensor
    right: Tensor
    mute: Tensor

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self:
        mute = torch.zeros(tokenizer.vocab_size, dtype=torch.bool)
        mute[tokenizer.special_ids()] = True
        return cls(*(torch.tensor(side) for side in tokenizer.joints()), mute)

    def joined(self, tokens: Tensor) -> Tensor:
        """[batch, tokens - 1] bool: whether a word goes on from a token to the next."""
        before, after, left, right = (
            part.to(tokens.device) for part in (self.before, self.after, self.left, self.right)
        )
        here, there = tokens[:, :-1], tokens[:, 1:]
        return before[there] | after[here] | (right[here] & left[there])


def verbatim(
    step: Step, cache: State, reading: Reading, vocabulary: Vocabulary, *, max_tokens: int, end_token: int
) -> tuple[Step, State]:
    """`step` and its state, held to what was read.

    No answer begins or ends within a word of what was read, and max_tokens are enough for all of it. A question without
    a word to copy gets an answer that is over at once.
    """
    device = reading.tokens.device
    mute = vocabulary.mute.to(device)[reading.tokens]
    inside = reading.copyable & ~mute
    same = reading.passage[:, :-1] == reading.passage[:, 1:]
    joined = torch.zeros_like(inside)  # whether a word goes on from the place to the next
    joined[:, :-1] = same & vocabulary.joined(reading.tokens)
    follows = torch.zeros_like(inside)  # whether what is written may go on from the place to the next
    follows[:, :-1] = same & inside[:, :-1] & inside[:, 1:]
    begins = inside.clone()
    begins[:, 1:] &= ~joined[:, :-1]
    over = ~joined
    order = torch.arange(over.shape[1], device=device)
    last = torch.where(over | ~follows, order, over.shape[1]).flip(1).cummin(1).values.flip(1)
    # Tokens from the place to the end of its word, with the end token; too many where that cannot be written.
    needed = torch.where(over.gather(1, last), last - order + 2, max_tokens + 1)

    def held(tokens: Tensor, state: _Held) -> tuple[Tensor, _Held]:
        log_probs, cache = step(tokens, state.cache)
        beams = len(tokens) // len(inside)
        read, first, followed, finished, left = (
            part.repeat_interleave(beams, 0) for part in (reading.tokens, begins, follows, over, needed)
        )
        if state.open is None:
            places, ends = first, torch.zeros(len(tokens), dtype=torch.bool, device=device)
        else:
            written = state.open & (read == tokens)
            ends = (written & finished).any(1)
            places = torch.zeros_like(written)
            places[:, 1:] = (written & followed)[:, :-1]
        places = places & (state.written + left <= max_tokens)
        allowed = torch.zeros_like(log_probs, dtype=torch.bool)
        row, place = places.nonzero(as_tuple=True)
        allowed[row, read[row, place]] = True
        allowed[:, end_token] = ends | ~places.any(1)  # also of rows that have ended
        return log_probs.masked_fill(~allowed, -torch.inf), _Held(cache, places, state.written + 1)

    return held, _Held(cache, None, 0)


@dataclass
class _Held:
    """cache: the step's own state. open: [rows, tokens] bool, where the next token may stand; None at the start.
    written: tokens so far."""

    cache: Any
    open: Tensor | None
    written: int

    def reorder(self, index: Tensor) -> Self:
        self.cache = self.cache.reorder(index)
        if self.open is not None:
            self.open = self.open[index]
        return self
