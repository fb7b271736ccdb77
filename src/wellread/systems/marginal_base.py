"""Readers that read every passage apart and sum the answer's probability over them (REALM).

A subclass gives `read`, whose Reading holds the pairs of every question one after the other, and says in its extras how
many there are ("columns") and log p of those that are no candidate ("null"). Here is what p(y | z, x) is, by the
question: what fills its masks, or what is cut out of the passage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from wellread.nn.masked_lm import Copyable
from wellread.reading.decoding import Generated
from wellread.reading.extraction import best_text, log_shares, matching, spans_within
from wellread.reading.frame import pad_rows
from wellread.reading.marginal import Columns, among_first, columns_of, log_sum, without_end
from wellread.systems.base import Search, System
from wellread.types import CandidateBatch, Inputs, Reading

if TYPE_CHECKING:
    from torch import Tensor

    from wellread.nn.masked_lm import MaskedReader
    from wellread.nn.span_head import SpanHead
    from wellread.reading.verbatim import Vocabulary

__all__ = ["MarginalSystem"]


class MarginalSystem(System):
    """p(y | x) = sum over passages of p(y | z, x) p(z | x), with masks filled in or spans cut out.

    config.span_tokens: the longest span. config.null_passage: whether an empty passage is read too.
    """

    config: Any
    reader: MaskedReader
    spans: SpanHead

    def log_likelihood(
        self,
        inputs: Inputs,
        candidates: CandidateBatch,
        target: Tensor,
        target_mask: Tensor,
        *,
        per_passage: bool = False,
    ) -> Tensor:
        """-inf where no passage has a span that reads so, and where a question has another number of masks."""
        reading = self.read(inputs, candidates)
        prior, given = self._given_each(reading, target, target_mask)
        if per_passage:
            columns = given.shape[1] - reading.extras["null"].shape[1]
            return functional.pad(given[:, :columns], (0, candidates.num_passages - columns), value=-torch.inf)
        return log_sum(prior + given)

    def answerable(self, inputs: Inputs, candidates: CandidateBatch, target: Tensor, target_mask: Tensor) -> Tensor:
        """Whether `log_likelihood` is above -inf, told without reading: [batch] bool."""
        masks, wanted = self.masks(inputs), without_end(target, target_mask, self.reader.end_token)
        tokens, count = candidates.tokens.flatten(0, 1), candidates.num_passages
        words = self._words(tokens, (candidates.mask & candidates.exists[..., None]).flatten(0, 1))
        repeated = (part.repeat_interleave(count, 0) for part in (target, wanted))
        spans = matching(tokens, *repeated, self.config.span_tokens) & spans_within(words, self.config.span_tokens)
        cut = spans.flatten(1).any(1).unflatten(0, (-1, count)).any(1) & self.reads_passages
        reads = candidates.exists.any(1) | self.config.null_passage
        return torch.where(masks > 0, (masks == wanted.sum(1)) & reads, cut)

    def masks(self, inputs: Inputs) -> Tensor:
        """How many masks every question holds, [batch]."""
        return ((inputs.tokens == self.reader.mask_token) & inputs.mask).sum(1)

    def _given_each(self, reading: Reading, target: Tensor, target_mask: Tensor) -> tuple[Tensor, Tensor]:
        """log p(z | x) as the answering head sums by it, and log p(y | z, x): [batch, columns] float32 each."""
        parts, masks = self._columns(reading), self._masks(reading)
        target_mask = without_end(target, target_mask, self.reader.end_token)
        filled = masks.any(-1).any(-1)
        prior = torch.cat([reading.scores[:, : parts.passages], reading.extras["null"]], dim=1)
        prior = prior.where(filled[:, None], among_first(prior, parts.passages))
        given = prior.new_full(prior.shape, -torch.inf)
        for rows, head in ((filled, self._filled), (~filled, self._extracted)):
            if bool(rows.any()):
                given = given.masked_scatter(rows[:, None], head(parts.of(rows), target[rows], target_mask[rows]))
        return prior, given

    def _columns(self, reading: Reading) -> Columns:
        columns = reading.extras["columns"]
        return columns_of(reading, columns, columns - reading.extras["null"].shape[1])

    def _masks(self, reading: Reading) -> Tensor:
        """The question's masks in every pair, [batch, columns, tokens] bool."""
        masks = (reading.tokens == self.reader.mask_token) & reading.mask & ~reading.copyable
        return masks.unflatten(1, (reading.extras["columns"], -1))

    def _filled(self, parts: Columns, target: Tensor, target_mask: Tensor) -> Tensor:
        """log p(y | z, x) of what stands at the masks, [batch, columns]."""
        states, copyable, real = self._at_masks(parts)
        length = real.shape[1]
        wanted = functional.pad(target, (0, max(length - target.shape[1], 0)))[:, :length]
        wanted = wanted.repeat_interleave(parts.count, 0)
        each = self.reader.target_log_probs(states, wanted, copyable).masked_fill(~real, 0.0).sum(-1)
        fits = real.sum(1) == target_mask.sum(1).repeat_interleave(parts.count, 0)
        return each.masked_fill(~fits, -torch.inf).unflatten(0, (-1, parts.count))

    def _at_masks(self, parts: Columns) -> tuple[Tensor, Copyable, Tensor]:
        """Of all pairs [rows]: states at the masks [rows, masks, dim], what may be copied, which masks are real."""
        flat = parts.flat()
        masks = (flat.tokens == self.reader.mask_token) & flat.mask & ~flat.copyable
        count = masks.sum(1)
        most = int(count.max())
        where = masks.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
        real = torch.arange(most, device=where.device) < count[:, None]
        states = flat.states.gather(1, where[..., None].expand(*where.shape, flat.states.shape[-1]))
        return states, Copyable(flat.states, flat.tokens, flat.copyable), real

    def _extracted(self, parts: Columns, target: Tensor, target_mask: Tensor) -> Tensor:
        """log p(y | z, x) of all spans that read as the target does, [batch, columns]."""
        flat, longest = parts.flat(), self.config.span_tokens
        wanted, real = (part.repeat_interleave(parts.count, 0) for part in (target, target_mask))
        same = matching(flat.tokens, wanted, real, longest)
        each = self._span_shares(parts).masked_fill(~same, -torch.inf)
        return log_sum(each.flatten(1)).unflatten(0, (-1, parts.count))

    def _span_shares(self, parts: Columns) -> Tensor:
        """log p(span | z, x) of all pairs, [rows, tokens, span_tokens]."""
        flat, longest = parts.flat(), self.config.span_tokens
        return log_shares(
            self.spans(flat.states, longest), spans_within(self._words(flat.tokens, flat.copyable), longest)
        )

    def _words(self, tokens: Tensor, real: Tensor) -> Tensor:
        """Which tokens an answer may be cut from."""
        special = [self.reader.start_token, self.reader.end_token, self.reader.pad_token, self.reader.mask_token]
        return real & ~torch.isin(tokens, tokens.new_tensor(special))

    @torch.no_grad()
    def generate(
        self,
        inputs: Inputs,
        candidates: CandidateBatch,
        *,
        max_tokens: int,
        num_beams: int = 1,
        reading: Reading | None = None,
        search: Search | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> Generated:
        """The best span, or the best fill. num_beams changes nothing: all spans are compared."""
        if vocabulary is not None:
            raise ValueError("REALM cuts its answers out of passages, or fills masks in; leave verbatim out.")
        reading = self.read(inputs, candidates) if reading is None else reading
        parts, filled = self._columns(reading), self._masks(reading).any(-1).any(-1)
        prior = torch.cat([reading.scores[:, : parts.passages], reading.extras["null"]], dim=1)
        said: list[tuple[Tensor, float]] = []
        for row in range(len(filled)):
            one, mine = parts.of(slice(row, row + 1)), prior[row : row + 1]
            said.append(self._best_fill(one, mine[0]) if filled[row] else self._best_span(one, mine))
        texts = [[*text.tolist(), self.reader.end_token][:max_tokens] for text, _ in said]
        tokens, _ = pad_rows(texts, self.reader.pad_token)
        device = prior.device
        scores = torch.tensor([score for _, score in said], device=device)
        return Generated(tokens.to(device), scores, torch.tensor([len(text) for text in texts], device=device))

    def _best_fill(self, one: Columns, prior: Tensor) -> tuple[Tensor, float]:
        states, copyable, _ = self._at_masks(one)
        log_probs = self.reader.log_probs(states, copyable)  # [columns, masks, vocab]
        fills = log_probs.argmax(-1)
        every = log_probs.gather(2, fills.T.expand(len(fills), -1, -1)).sum(1)  # [columns, fills]
        marginal = (prior[:, None] + every).logsumexp(0).masked_fill(prior.isneginf(), -torch.inf)
        best = int(marginal.argmax())
        return fills[best], float(marginal[best])

    def _best_span(self, one: Columns, prior: Tensor) -> tuple[Tensor, float]:
        prior = among_first(prior, one.passages)[0]
        return best_text(one.tokens[0], self._span_shares(one) + prior[:, None, None])

    def shares(self, reading: Reading, written: Generated, candidates: CandidateBatch) -> Tensor:
        """p(z | x, y): what each passage holds of the answer's probability, without the null passage's."""
        order = torch.arange(written.tokens.shape[1], device=written.tokens.device)
        prior, given = self._given_each(reading, written.tokens, order < written.lengths[:, None])
        joint = prior + given
        shares = (joint - log_sum(joint)[:, None]).exp().masked_fill(joint.isneginf(), 0.0)
        passages = prior.shape[1] - reading.extras["null"].shape[1]
        return functional.pad(shares[:, :passages], (0, candidates.num_passages - passages))
