"""ReAtt: the attention of one layer finds the passages, the layers above it read them. Signature only.

Paper: Jiang et al., "Retrieval as Attention: End-to-end Learning of Retrieval and Reading within a Single
Transformer" (2022), arXiv 2212.02027.

    E_d = K_d^{B+1,h}, E_q = Q_q^{B+1,h}                       -> ReAtt.remember: keys; ReAtt.seek (section 2.2)
    r_h(q, d) = avg_q max_d A_{q,d}^{B+1,h}                    -> ReAtt.relevance (equation 1), read: scores
    P_gen(a | E_{q,d_1}, ... E_{q,d_k})                        -> ReAtt.read: states; log_likelihood (section 2.1)
    L = L_QA + alpha KL(P_tgt || P_ret)                        -> ReAtt.losses (equations 2, 3)

Letters: B -> layers of first_layers, L - B -> layers of last_layers, h* -> the head of query and key, a -> target,
K -> top_k, alpha -> distillation_weight.
Stored: tokens and states after layer B; the token index is built over their keys, which follow from the states
and are not stored twice. Sought: one vector per question token. Read: all pairs fused, scored by attention.

Random passages of section 3.1 are those of the other questions of a batch: `losses` sees them all.
Difference: one head is given from the start; the paper weights all heads while it finds h*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from wellread.reading.fusion import fuse
from wellread.reading.keeping import all_columns
from wellread.reading.pairing import join
from wellread.systems.base import Paper, Remembered
from wellread.systems.signature_base import DECODER, SignatureSystem
from wellread.types import CandidateBatch, Inputs, Reading

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ReAtt", "ReAttConfig"]


@dataclass(frozen=True)
class ReAttConfig:
    """distillation_weight: of the cross-document adjustment (section 5)."""

    distillation_weight: float = 8.0


class ReAtt(SignatureSystem):
    """Retrieves and reads with one transformer."""

    paper = Paper(
        "Retrieval as Attention: End-to-end Learning of Retrieval and Reading within a Single Transformer",
        "Jiang et al.",
        2022,
        "2212.02027",
    )
    Config = ReAttConfig
    stores = frozenset({"tokens", "states"})
    nets: ClassVar = {
        "first_layers": "(tokens, mask) -> states [rows, tokens, dim]",
        "query": "states -> [..., head dim]",
        "key": "states -> [..., head dim]",
        "last_layers": "(states, mask) -> states",
        "decoder": DECODER,
    }
    memory_nets = ("first_layers", "key")

    def remember(
        self, tokens: Tensor, mask: Tensor, *, picture: Tensor | None = None, picture_mask: Tensor | None = None
    ) -> Remembered:
        """States [passages, tokens, dim] and a key per token [passages, tokens, head dim]."""
        states = self.first_layers(tokens, mask)
        return Remembered(states=states, mask=mask, keys=self.key(states))

    def seek(self, inputs: Inputs) -> Sequence[Tensor] | None:
        vectors = self.query(self.first_layers(inputs.tokens, inputs.mask))
        return [row[real] for row, real in zip(vectors, inputs.mask, strict=True)]

    def relevance(self, query: Tensor, query_mask: Tensor, key: Tensor, key_mask: Tensor) -> Tensor:
        """Mean over question tokens of the best passage token's attention before softmax (equation 1).

        query: [batch, tokens, head dim]; key: [batch, passages, tokens, head dim]. [batch, passages] float32,
        -inf where a passage has no tokens.
        """
        attention = torch.einsum("bqe,bpte->bpqt", query, key).float()
        best = attention.masked_fill(~key_mask[:, :, None], -torch.inf).amax(-1)
        return best.masked_fill(~query_mask[:, None], 0.0).sum(-1) / query_mask.sum(-1, keepdim=True)

    def read(self, inputs: Inputs, candidates: CandidateBatch) -> Reading:
        question, passages = self.first_layers(inputs.tokens, inputs.mask), candidates.states
        if passages is None:
            flat = self.first_layers(candidates.tokens.flatten(0, 1), candidates.mask.flatten(0, 1))
            passages = flat.unflatten(0, candidates.exists.shape)
        passages = passages.to(question.dtype)
        scores = self.relevance(self.query(question), inputs.mask, self.key(passages), candidates.mask)
        pairs = join(
            question,
            inputs.mask,
            inputs.tokens,
            passage_states=passages,
            passage_mask=candidates.mask,
            passage_tokens=candidates.tokens,
        )
        pairs = pairs.with_states(self.last_layers(*pairs.flat()))
        return fuse(pairs, all_columns(candidates.exists), exists=candidates.exists, scores=scores)
