"""REALM: one passage at a time, the answer's probability summed over passages. Signature only.

Paper: Guu et al., "REALM: Retrieval-Augmented Language Model Pre-Training" (2020), arXiv 2002.08909.

    p(y | x) = sum_z p(y | z, x) p(z | x)                      -> Realm.log_likelihood
    p(z | x) = softmax_z of Embed_input(x)^T Embed_doc(z)      -> Realm.read: scores, extras["null"]
    Embed_input(x), Embed_doc(z)                               -> Realm.seek, Realm.remember
    p(y | z, x), a transformer over join(x, z)                 -> Realm.read: states; Realm.log_likelihood

Letters: x -> inputs, z -> passage, y -> target, k -> top_k, the empty document -> null_passage.
Stored: tokens and one key per passage. Sought: one vector. Read: every pair apart, with its probability.

The sum runs over the candidates and the null passage, and p(z | x) is normalised over these. While training,
candidates come without stored keys: those of the few are made anew, so that the gradient reaches Embed_doc.

Shows how the paper fits the contract: it is not in the table of systems, and verbs that are not built raise
NotImplementedError with the paper's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import pad

from wellread.losses import log_softmax_over
from wellread.reading.decoding import Generated
from wellread.reading.keeping import all_columns
from wellread.reading.pairing import join
from wellread.systems.base import Paper, Remembered, Search, System, not_built
from wellread.types import CandidateBatch, Inputs, Reading, TrainingBatch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Realm", "RealmConfig"]


@dataclass(frozen=True)
class RealmConfig:
    """null_passage: the tokens of an empty passage, read beside the candidates; () leaves it out."""

    null_passage: tuple[int, ...] = ()


class Realm(System):
    """Sums over passages what each alone says; its memory holds one key per passage.

    question_encoder, key_encoder: (tokens, mask) -> [rows, dim]. reader: (tokens, mask) -> states [rows, tokens,
    dim]. head: (states, mask, target) -> log p of every target token, [rows, target tokens].
    """

    paper = Paper(
        title="REALM: Retrieval-Augmented Language Model Pre-Training",
        authors="Guu et al.",
        year=2020,
        arxiv="2002.08909",
    )
    Config = RealmConfig
    stores = frozenset({"tokens", "keys"})

    def __init__(
        self,
        config: RealmConfig,
        *,
        question_encoder: nn.Module,
        key_encoder: nn.Module,
        reader: nn.Module,
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.config = config
        self.question_encoder, self.key_encoder = question_encoder, key_encoder
        self.reader, self.head = reader, head

    def memory_weights(self) -> Mapping[str, Tensor]:
        return {name: weight.detach() for name, weight in self.key_encoder.named_parameters(prefix="key_encoder")}

    def remember(
        self, tokens: Tensor, mask: Tensor, *, picture: Tensor | None = None, picture_mask: Tensor | None = None
    ) -> Remembered:
        return Remembered(keys=self.key_encoder(tokens, mask))

    def seek(self, inputs: Inputs) -> Sequence[Tensor] | None:
        return list(self.question_encoder(inputs.tokens, inputs.mask)[:, None])

    def read(self, inputs: Inputs, candidates: CandidateBatch) -> Reading:
        """Every pair apart: states [batch, columns * tokens, dim], the null passage in the last column.

        scores: log p(z | x) of the candidates; extras["null"]: that of the null passage, [batch, 0 or 1].
        """
        tokens, mask, exists = self._columns(candidates)
        prior = self._log_prior(inputs, candidates.keys, tokens, mask, exists)
        # Only the joined tokens are wanted of the pairs: the reader embeds them itself.
        pairs = join(
            inputs.tokens[..., None],
            inputs.mask,
            inputs.tokens,
            passage_states=tokens[..., None],
            passage_mask=mask,
            passage_tokens=tokens,
        )
        count = candidates.num_passages
        column = all_columns(exists).masked_fill(~exists, -1)[:, :, None].expand_as(pairs.tokens).clone()
        column[:, count:] = -1
        return Reading(
            states=self.reader(pairs.tokens.flatten(0, 1), pairs.mask.flatten(0, 1)).reshape(*_flat(pairs.mask), -1),
            mask=pairs.mask.flatten(1, 2),
            tokens=pairs.tokens.flatten(1, 2),
            copyable=(pairs.from_passage & exists[..., None]).flatten(1, 2),
            passage=column.masked_fill(~pairs.mask, -1).flatten(1, 2),
            scores=prior[:, :count],
            kept=all_columns(candidates.exists),
            extras={"null": prior[:, count:]},
        )

    def _columns(self, candidates: CandidateBatch) -> tuple[Tensor, Tensor, Tensor]:
        """tokens, mask and exists of the candidates, and of the null passage as one more column."""
        null = candidates.tokens.new_tensor(self.config.null_passage)
        more = (0, max(len(null) - candidates.tokens.shape[2], 0), 0, int(len(null) > 0))
        tokens, mask = pad(candidates.tokens, more), pad(candidates.mask, more)
        tokens[:, candidates.num_passages :, : len(null)] = null
        mask[:, candidates.num_passages :, : len(null)] = True
        return tokens, mask, pad(candidates.exists, more[2:], value=True)

    def _log_prior(
        self, inputs: Inputs, keys: Tensor | None, tokens: Tensor, mask: Tensor, exists: Tensor
    ) -> Tensor:
        """log p(z | x) over all columns, [batch, columns] float32, -inf where there is no passage."""
        stored = 0 if keys is None else keys.shape[1]
        fresh = self.key_encoder(tokens[:, stored:].flatten(0, 1), mask[:, stored:].flatten(0, 1))
        fresh = fresh.unflatten(0, (tokens.shape[0], -1))
        keys = fresh if keys is None else torch.cat([keys.to(fresh.dtype), fresh], dim=1)
        relevance = torch.einsum("bd,bcd->bc", self.question_encoder(inputs.tokens, inputs.mask), keys)
        return log_softmax_over(relevance, exists).masked_fill(~exists, -torch.inf)
