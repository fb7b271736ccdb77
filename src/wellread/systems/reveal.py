"""REVEAL: passages of several sources, with pictures, kept as a key and a few value tokens. Signature only.

Paper: Hu et al., "REVEAL: Retrieval-Augmented Visual-Language Pre-Training with Multi-Source Multimodal Knowledge
Memory" (2023), arXiv 2212.05221.

    Emb_Key(z) = phi_Key(b(z)), psi(b(z))                      -> Reveal.remember (appendix E.1)
    Emb_Query(x) = phi_Query(b(x))                             -> Reveal.seek
    p(z | x) = softmax of Gate_M(z)(x) Rel(x, z) / tau         -> Reveal.read: scores (appendix F, equation 1)
    F([b(x), psi(b(z_1)), ... psi(b(z_K))], Mask_att)          -> Reveal.read: states (equation 4, algorithm 2)

Letters: x -> inputs, z -> passage, M -> source, b -> encoder, psi -> compress, phi -> query_head and key_head,
c -> num_latents, K -> top_k, tau -> temperature, F -> fusion.
Stored: tokens, one key and num_latents value tokens. Sought: one vector. Read: question and values side by
side, fused under the weight p(z | x) of each passage, through which the generation loss trains the retriever.

Difference: the gate, which depends on the question, weights the candidates that were found; sources are not
searched apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from wellread.losses import log_softmax_over
from wellread.reading.keeping import all_columns
from wellread.systems.base import Paper, Remembered
from wellread.systems.signature_base import DECODER, SignatureSystem
from wellread.types import CandidateBatch, Inputs, Reading

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Reveal", "RevealConfig"]


@dataclass(frozen=True)
class RevealConfig:
    """temperature: divides the gated relevance before its softmax. num_latents is a matter of the net."""

    temperature: float = 1.0


class Reveal(SignatureSystem):
    """Reads pictures and text, of passages too, through a few value tokens per passage."""

    paper = Paper(
        "REVEAL: Retrieval-Augmented Visual-Language Pre-Training with Multi-Source Multimodal Knowledge Memory",
        "Hu et al.",
        2023,
        "2212.05221",
    )
    Config = RevealConfig
    stores = frozenset({"tokens", "states", "keys"})
    nets: ClassVar = {
        "encoder": "(tokens, mask, picture, picture_mask) -> states [rows, patches + tokens, dim], their mask",
        "query_head": "(states, mask) -> [rows, dim]",
        "key_head": "(states, mask) -> [rows, dim]",
        "compress": "(states, mask) -> [rows, num_latents, dim]",
        "gate": "(states, mask) -> [rows, sources]",
        "fusion": "(states, mask, weights [rows, tokens]) -> states",
        "decoder": DECODER,
    }
    memory_nets = ("encoder", "key_head", "compress")

    def remember(
        self, tokens: Tensor, mask: Tensor, *, picture: Tensor | None = None, picture_mask: Tensor | None = None
    ) -> Remembered:
        """One key [passages, dim] and num_latents values [passages, num_latents, dim], all of them real."""
        encoded = self.encoder(tokens, mask, picture, picture_mask)
        values = self.compress(*encoded)
        return Remembered(states=values, mask=mask.new_ones(values.shape[:2]), keys=self.key_head(*encoded))

    def seek(self, inputs: Inputs) -> Sequence[Tensor] | None:
        return list(self.query_head(*self._question(inputs))[:, None])

    def _question(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        return self.encoder(inputs.tokens, inputs.mask, inputs.picture, inputs.picture_mask)

    def _stored(self, candidates: CandidateBatch) -> tuple[Tensor, Tensor]:
        """Keys [batch, passages, dim] and values [batch, passages, num_latents, dim]: from memory, else made now."""
        if candidates.states is not None and candidates.keys is not None:
            return candidates.keys, candidates.states
        parts = (candidates.tokens, candidates.mask, candidates.picture, candidates.picture_mask)
        tokens, mask, picture, picture_mask = (None if part is None else part.flatten(0, 1) for part in parts)
        made = self.remember(tokens, mask, picture=picture, picture_mask=picture_mask)
        return tuple(part.unflatten(0, candidates.exists.shape) for part in (made.keys, made.states))

    def read(self, inputs: Inputs, candidates: CandidateBatch) -> Reading:
        """Question and values fused, states [batch, patches + tokens + passages * num_latents, dim].

        scores: gated relevance over temperature, [batch, passages] float32; -inf where there is no passage.
        """
        question, real = self._question(inputs)
        keys, values = (part.to(question.dtype) for part in self._stored(candidates))
        gates = self.gate(question, real).gather(1, candidates.source)
        relevance = torch.einsum("bd,bpd->bp", self.query_head(question, real), keys)
        scores = (gates * relevance / self.config.temperature).float().masked_fill(~candidates.exists, -torch.inf)
        chance = log_softmax_over(scores, candidates.exists).exp().masked_fill(~candidates.exists, 0.0)
        latents = values.shape[2]
        mask = torch.cat([real, candidates.exists.repeat_interleave(latents, dim=1)], dim=1)
        weights = torch.cat([torch.ones_like(real, dtype=chance.dtype), chance.repeat_interleave(latents, 1)], dim=1)
        column = all_columns(candidates.exists).repeat_interleave(latents, dim=1)
        passage = torch.cat([torch.full_like(real, -1, dtype=column.dtype), column], dim=1).masked_fill(~mask, -1)
        states = torch.cat([question, values.flatten(1, 2)], dim=1)
        return Reading(
            states=self.fusion(states, mask, weights.to(states.dtype)),
            mask=mask,
            tokens=torch.zeros_like(passage),
            copyable=torch.zeros_like(mask),
            passage=passage,
            scores=scores,
            kept=all_columns(candidates.exists),
        )
