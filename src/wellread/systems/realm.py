"""REALM: one passage at a time, the answer's probability summed over passages. Signature only.

Paper: Guu et al., "REALM: Retrieval-Augmented Language Model Pre-Training" (2020), arXiv 2002.08909.

    p(y | x) = sum_z p(y | z, x) p(z | x)                      -> Realm.log_likelihood
    p(z | x) = softmax_z of Embed_input(x)^T Embed_doc(z)      -> Realm.read: scores, extras["null"]
    Embed_input(x), Embed_doc(z)                               -> Realm.seek, Realm.remember
    p(y | z, x), a transformer over join(x, z)                 -> Realm.read: states; Realm.log_likelihood

Letters: x -> inputs, z -> passage, y -> target, k -> top_k, the empty document -> null_passage.
Stored: tokens and one key per passage. Sought: one vector. Read: every pair apart, and its log p(z | x).

The sum runs over the candidates and the null passage, and p(z | x) is normalised over these. In training the
candidates come without stored keys; theirs are made anew, so that the gradient reaches Embed_doc.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn.functional import pad

from wellread.losses import log_softmax_over
from wellread.reading.decoding import Generated
from wellread.reading.keeping import all_columns
from wellread.reading.pairing import join
from wellread.systems.base import Paper, Remembered
from wellread.systems.signature_base import DECODER, SignatureSystem
from wellread.types import CandidateBatch, Inputs, Reading, TrainingBatch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Realm", "RealmConfig"]


@dataclass(frozen=True)
class RealmConfig:
    """null_passage: the tokens of an empty passage, read beside the candidates; () leaves it out."""

    null_passage: tuple[int, ...] = ()


class Realm(SignatureSystem):
    """Sums over passages what each says alone."""

    paper = Paper("REALM: Retrieval-Augmented Language Model Pre-Training", "Guu et al.", 2020, "2002.08909")
    Config = RealmConfig
    stores = frozenset({"tokens", "keys"})
    nets: ClassVar = {
        "question_encoder": "(tokens, mask) -> [rows, dim]",
        "key_encoder": "(tokens, mask) -> [rows, dim]",
        "reader": "(tokens, mask) -> states [rows, tokens, dim]",
        "head": DECODER,
    }
    memory_nets = ("key_encoder",)

    def remember(
        self, tokens: Tensor, mask: Tensor, *, picture: Tensor | None = None, picture_mask: Tensor | None = None
    ) -> Remembered:
        return Remembered(keys=self.key_encoder(tokens, mask))

    def seek(self, inputs: Inputs) -> Sequence[Tensor] | None:
        return list(self.question_encoder(inputs.tokens, inputs.mask)[:, None])

    def read(self, inputs: Inputs, candidates: CandidateBatch) -> Reading:
        """Every pair apart, the null passage last: states [batch, columns * tokens, dim].

        scores: log p(z | x), [batch, passages]; extras["null"]: that of the null passage, [batch, 0 or 1].
        """
        count, null = candidates.num_passages, candidates.tokens.new_tensor(self.config.null_passage)
        more = (0, max(len(null) - candidates.tokens.shape[2], 0), 0, int(len(null) > 0))
        tokens, mask = pad(candidates.tokens, more), pad(candidates.mask, more)
        tokens[:, count:, : len(null)], mask[:, count:, : len(null)] = null, True
        prior = self._log_prior(inputs, candidates, tokens, mask)
        # Of the pairs only the joined tokens are wanted: the reader embeds them itself.
        pairs = join(
            inputs.tokens[..., None],
            inputs.mask,
            inputs.tokens,
            passage_states=tokens[..., None],
            passage_mask=mask,
            passage_tokens=tokens,
        )
        named = pad(candidates.exists, more[2:])[..., None] & pairs.mask
        return Reading(
            states=self.reader(pairs.tokens.flatten(0, 1), pairs.mask.flatten(0, 1))
            .unflatten(0, pairs.mask.shape[:2])
            .flatten(1, 2),
            mask=pairs.mask.flatten(1, 2),
            tokens=pairs.tokens.flatten(1, 2),
            copyable=(pairs.from_passage & named).flatten(1, 2),
            passage=all_columns(named[..., 0])[..., None].where(named, -1).flatten(1, 2),
            scores=prior[:, :count],
            kept=all_columns(candidates.exists),
            extras={"null": prior[:, count:]},
        )

    def _log_prior(self, inputs: Inputs, candidates: CandidateBatch, tokens: Tensor, mask: Tensor) -> Tensor:
        """log p(z | x) of all columns, [batch, columns] float32; -inf where there is no passage."""
        stored = 0 if candidates.keys is None else candidates.num_passages
        keys = self.key_encoder(tokens[:, stored:].flatten(0, 1), mask[:, stored:].flatten(0, 1))
        keys = keys.unflatten(0, (tokens.shape[0], -1))
        if candidates.keys is not None:
            keys = torch.cat([candidates.keys.to(keys.dtype), keys], dim=1)
        relevance = torch.einsum("bd,bcd->bc", self.question_encoder(inputs.tokens, inputs.mask), keys)
        exists = pad(candidates.exists, (0, tokens.shape[1] - candidates.num_passages), value=True)
        return log_softmax_over(relevance, exists).masked_fill(~exists, -torch.inf)

    def shares(self, reading: Reading, written: Generated, candidates: CandidateBatch) -> Tensor:
        """p(z | x, y): what each passage holds of the answer's probability, without the null passage's."""
        order = torch.arange(written.tokens.shape[1], device=written.tokens.device)
        given = self._given_each(reading, written.tokens, order < written.lengths[:, None])
        return (given + self._prior(reading)).softmax(1)[:, : candidates.num_passages]

    def log_likelihood(
        self,
        inputs: Inputs,
        candidates: CandidateBatch,
        target: Tensor,
        target_mask: Tensor,
        *,
        per_passage: bool = False,
    ) -> Tensor:
        reading = self.read(inputs, candidates)
        given = self._given_each(reading, target, target_mask)
        return given[:, : candidates.num_passages] if per_passage else (given + self._prior(reading)).logsumexp(1)

    def _prior(self, reading: Reading) -> Tensor:
        return torch.cat([reading.scores, reading.extras["null"]], dim=1)

    def _given_each(self, reading: Reading, target: Tensor, target_mask: Tensor) -> Tensor:
        """log p(y | z, x), [batch, columns] float32."""
        columns = self._prior(reading).shape[1]
        states, mask = (part.unflatten(1, (columns, -1)).flatten(0, 1) for part in (reading.states, reading.mask))
        log_probs = self.head(states, mask, target.repeat_interleave(columns, dim=0)).float()
        each = log_probs.masked_fill(~target_mask.repeat_interleave(columns, dim=0), 0.0).sum(-1)
        return each.unflatten(0, (-1, columns))

    def losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The marginal's negative log-likelihood, mean over questions; its gradient reaches both encoders."""
        return {"nll": -self.log_likelihood(batch.inputs, batch.candidates, batch.target, batch.target_mask).mean()}
