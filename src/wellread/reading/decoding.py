"""Writing text token by token: greedy and beam search over any incremental step function.

The search knows no net. `step` gets the new tokens of every row and a state of its own making, and gives
log-probabilities and the next state; a reader with caches and a copy head fits behind it:

    def step(tokens, cache):                                   # tokens [batch * beams, 1]
        states = decoder(tokens, cache=cache)
        return reader.log_probs(states)[:, -1], cache

    generate(step, decoder.new_cache(memory, memory_mask), ...)

Rows of one question are adjacent. A step may keep its memory per question and share it among the beams
(`DecoderCache` does); a state is only ever reordered within a question.

Beam search follows the transformers library: twice as many continuations as beams are looked at, those among
the first `num_beams` that end are kept as finished, scored by  sum of log-probabilities / length^penalty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor

__all__ = ["Generated", "State", "Step", "generate"]

# Far below any sum of log-probabilities, yet finite: sums and differences of it stay numbers.
NEVER = -1.0e9


class State(Protocol):
    """What a step function carries from one step to the next."""

    def reorder(self, index: Tensor) -> Self:
        """The state with its rows replaced by those in `index` [rows] int64 (may be itself, changed)."""


# (tokens [rows, new] int64, state) -> (log-probabilities [rows, vocab] float32, state)
Step = Callable[[Tensor, Any], tuple[Tensor, Any]]


class Generated(NamedTuple):
    """What was written.

    tokens: [batch, longest] int64, without the start token, with the end token where it was reached, padded.
    scores: [batch] float32, sum of the log-probabilities of these tokens (not divided by the length), or log of what
        they have in a mixture (reading/weighing.py).
    lengths: [batch] int64, number of tokens with the end token.
    """

    tokens: Tensor
    scores: Tensor
    lengths: Tensor


@torch.no_grad()
def generate(
    step: Step,
    state: Any = None,
    *,
    start_token: int,
    end_token: int,
    pad_token: int,
    batch: int,
    max_tokens: int,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool | Literal["never"] = False,
    min_tokens: int = 0,
    device: torch.device | str | None = None,
) -> Generated:
    """Write at most max_tokens tokens for each of `batch` questions.

    step: called with [batch * num_beams, 1] tokens, first the start token, and the state. num_beams: 1 is
    greedy. length_penalty: exponent of the length by which a finished hypothesis' score is divided; above 0
    favours longer ones. early_stopping: True ends a question at its num_beams-th finished hypothesis; False
    when the best open one, at its present length, is no better than the worst finished one; "never" when it
    cannot become better at any length. min_tokens: so many tokens come before an end token. device: where the
    tokens live; None is the CPU. A finished row only gets pad tokens. ValueError for numbers out of range.
    """
    _check(batch=batch, max_tokens=max_tokens, num_beams=num_beams, min_tokens=min_tokens)
    if early_stopping not in (True, False, "never"):
        raise ValueError(f"early_stopping={early_stopping!r}; it must be True, False or 'never'.")

    def scored(tokens: Tensor, state: Any, written: int) -> tuple[Tensor, Any]:
        log_probs, state = step(tokens, state)
        log_probs = log_probs.float()
        if written < min_tokens:
            log_probs = log_probs.index_fill(1, torch.tensor(end_token, device=log_probs.device), -torch.inf)
        return log_probs, state

    start = torch.full((batch * num_beams, 1), start_token, dtype=torch.int64, device=device)
    ends = (end_token, pad_token, max_tokens)
    if num_beams == 1:
        return _greedy(scored, state, start, *ends)
    search = _Beams(start, *ends, num_beams, length_penalty, early_stopping)
    return search.run(scored, state)


def _greedy(scored: Callable, state: Any, start: Tensor, end_token: int, pad_token: int, max_tokens: int) -> Generated:
    scores = torch.zeros(start.shape[0], device=start.device)
    lengths = torch.zeros(start.shape[0], dtype=torch.int64, device=start.device)
    running = torch.ones_like(lengths, dtype=torch.bool)
    written: list[Tensor] = []
    new = start
    while len(written) < max_tokens and bool(running.any()):
        log_probs, state = scored(new, state, len(written))
        best, token = log_probs.max(dim=-1)
        token = token.masked_fill(~running, pad_token)
        scores = scores + best.masked_fill(~running, 0.0)
        lengths = lengths + running
        running = running & (token != end_token)
        written.append(token)
        new = token[:, None]
    return Generated(torch.stack(written, dim=1), scores, lengths)


class _Beams:
    """One beam search. Open hypotheses still grow; finished ones wait in order of their final score.

    [batch, beams] unless said otherwise. `sums` are log-probabilities, `finals` divided by length^penalty.
    """

    def __init__(
        self,
        start: Tensor,
        end_token: int,
        pad_token: int,
        max_tokens: int,
        num_beams: int,
        length_penalty: float,
        early_stopping: bool | str,
    ) -> None:
        self.start, self.end_token, self.max_tokens, self.num_beams = start, end_token, max_tokens, num_beams
        self.length_penalty, self.early_stopping = length_penalty, early_stopping
        shape, device = (start.shape[0] // num_beams, num_beams), start.device
        self.open_tokens = torch.full((*shape, max_tokens), pad_token, dtype=torch.int64, device=device)
        self.open_sums = torch.full(shape, NEVER, device=device)
        self.open_sums[:, 0] = 0.0  # all beams start alike: only the first may be continued
        self.done_tokens = self.open_tokens.clone()
        self.done_sums = torch.zeros(shape, device=device)
        self.done_finals = torch.full(shape, NEVER, device=device)
        self.done_lengths = torch.zeros(shape, dtype=torch.int64, device=device)
        self.done = torch.zeros(shape, dtype=torch.bool, device=device)
        self.hopeful = torch.ones(shape[0], 1, dtype=torch.bool, device=device)

    def run(self, scored: Callable, state: Any) -> Generated:
        new = self.start
        for written in range(self.max_tokens):
            log_probs, state = scored(new, state, written)
            sums, tokens, origin = self._continuations(log_probs, written)
            ended = (tokens[:, :, written] == self.end_token) | (written + 1 == self.max_tokens)
            self._finish(sums, tokens, ended, written + 1)
            origin = self._carry_on(sums, tokens, ended, origin)
            if self._is_over(ended, written + 1):
                break
            state = state.reorder(origin.flatten())
            new = self.open_tokens[:, :, written].reshape(-1, 1)
        lengths = self.done_lengths[:, 0]
        longest = int(lengths.max())
        return Generated(self.done_tokens[:, 0, :longest], self.done_sums[:, 0], lengths)

    def _continuations(self, log_probs: Tensor, written: int) -> tuple[Tensor, Tensor, Tensor]:
        """The best 2 * beams continuations: sums, tokens [batch, 2 * beams, max_tokens], rows they come from.

        Twice the beams, so that enough remain open when all of the first `beams` end.
        """
        batch, beams = self.open_sums.shape
        vocab = log_probs.shape[-1]
        sums = (log_probs.view(batch, beams, vocab) + self.open_sums[:, :, None]).flatten(1)
        sums, chosen = sums.topk(2 * beams)
        beam = chosen // vocab
        tokens = _rows(self.open_tokens, beam)
        tokens[:, :, written] = chosen % vocab
        first = torch.arange(batch, device=beam.device)[:, None] * beams
        return sums, tokens, first + beam

    def _carry_on(self, sums: Tensor, tokens: Tensor, ended: Tensor, origin: Tensor) -> Tensor:
        """Keep the best open continuations; gives the rows they come from, [batch, beams]."""
        sums = sums + ended * NEVER
        self.open_sums, kept = sums.topk(self.num_beams)
        self.open_tokens = _rows(tokens, kept)
        return _rows(origin, kept)

    def _finish(self, sums: Tensor, tokens: Tensor, ended: Tensor, length: int) -> None:
        """Put continuations that ended among the finished, where they are good enough and still wanted."""
        ended = ended.clone()
        ended[:, self.num_beams :] = False  # the second half is there only to be continued
        full = self.done.all(dim=1, keepdim=True) & (self.early_stopping is True)
        finals = sums / length**self.length_penalty
        for unwanted in (full, ~self.hopeful, ~ended):
            finals = finals + unwanted * NEVER
        self.done_finals, kept = torch.cat((self.done_finals, finals), dim=1).topk(self.num_beams)
        lengths = torch.full_like(tokens[:, :, 0], length)
        self.done_tokens = _rows(torch.cat((self.done_tokens, tokens), dim=1), kept)
        self.done_sums = _rows(torch.cat((self.done_sums, sums), dim=1), kept)
        self.done_lengths = _rows(torch.cat((self.done_lengths, lengths), dim=1), kept)
        self.done = _rows(torch.cat((self.done, ended), dim=1), kept)

    def _is_over(self, ended: Tensor, length: int) -> bool:
        """Whether no question can gain from another step; remembers which ones still can."""
        longest = self.early_stopping == "never" and self.length_penalty > 0
        best_open = self.open_sums[:, :1] / (self.max_tokens if longest else length) ** self.length_penalty
        worst_done = self.done_finals.min(dim=1, keepdim=True).values
        worst_done = torch.where(self.done, worst_done, NEVER)
        self.hopeful = self.hopeful & (best_open > worst_done).any(dim=1, keepdim=True)
        stopped = self.done.all() & (self.early_stopping is True)
        return bool(~self.hopeful.any() | stopped | ended.all())


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """values[b, index[b, j]] as [batch, j, ...]."""
    index = index.view(*index.shape, *(1,) * (values.dim() - 2)).expand(*index.shape, *values.shape[2:])
    return values.gather(1, index)


def _check(**counts: int) -> None:
    smallest = {"batch": 1, "max_tokens": 1, "num_beams": 1, "min_tokens": 0}
    for name, least in smallest.items():
        if counts[name] < least:
            raise ValueError(f"{name}={counts[name]}; it must be at least {least}.")
    if counts["min_tokens"] > counts["max_tokens"]:
        raise ValueError(f"min_tokens={counts['min_tokens']} is more than max_tokens={counts['max_tokens']}; lower it.")
