"""ReAtt: the attention of one layer finds the passages, the layers above it read them.

Paper: Jiang et al., "Retrieval as Attention: End-to-end Learning of Retrieval and Reading within a Single
Transformer" (2022), arXiv 2212.02027.

    E_d = {K_d^{B+1,h}}, E_q = {Q_q^{B+1,h}}                   -> ReAtt.search_keys, ReAtt.seek (section 2.2)
    r_h(q, d) = avg_0(max_1(A_{q,d}^{B+1,h}))                  -> reading.relevance (equation 1)
    r(q, d) = sum_h P_h^head r_h(q, d)                         -> ReAtt.head_shares, joint_losses (section 2.2)
    P^gen(a | E_{q,d_1}, ..., E_{q,d_k})                       -> ReAtt.read (section 2.1)
    P^tgt = avg_0(sum_2(softmax_{1,2}(C_{a,q,D_q})))           -> ReAtt.target (section 3.2)
    L_cross-doc = KL(P^tgt stopped || P^ret)                   -> losses.attention_distillation (equation 2)
    L = L_QA + alpha L_cross-doc                               -> ReAtt.losses (equation 3)

Letters: B -> layers below the live ones (`cut`), L - B -> live_share, h* -> head, tau -> head_temperature,
w -> head_weights, alpha -> distillation_weight, K -> top_k.

The states after layer B are what LUMEN stores too: one memory serves retrieval (the keys of the retrieval head
follow from the states by one projection) and reading. The random passages of section 3.1 are those of the other
questions of a step, all of them, however many pieces or processes the step is divided into: `represent` and
`joint_losses` are the two halves of the gradient cache (appendix A).

Differences: while answering, the head of the largest weight retrieves alone. It is picked for good when the model's
own search first finds passages in training: a mixture of heads can fit the target better than any, and stay. A
passage that is close to two questions of a step is no random one for either. The gradient of w is that of w / tau, so
that clipping by norm leaves something of the others. Start and end tokens take no part in retrieval: in untrained
heads they can win every maximum, and say nothing about a passage. With mark_matches the layer that retrieves is told,
after its score was taken, which tokens match. Scores are Q K^T as the paper writes them: without position bias, and
without the factor head_dim^-0.5 that BERT has and T5 has not (with it retrieval learns more slowly).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from wellread.config import require
from wellread.losses import attention_distillation, nll
from wellread.reading.relevance import all_pairs, relevance
from wellread.systems.base import Paper, Represented
from wellread.systems.fusion_base import take
from wellread.systems.live_base import LiveConfig, LiveSystem
from wellread.systems.step_base import gathered, numbers, repeated, same
from wellread.types import CandidateBatch, Inputs, Reading, TrainingBatch

if TYPE_CHECKING:
    from torch import Tensor

    from wellread.nn.encoder_decoder import EncoderDecoder

__all__ = ["ReAtt", "ReAttConfig"]

# A head of less weight is left out: it changes the scores by less than float32 can tell.
SMALLEST_WEIGHT = 1e-6
# What of the layer that retrieves makes queries and keys. T5 norms before; BERT's norm, which comes after, is in too.
SEARCHING = ("attention_norm.", "attention.query.", "attention.key.")
# With less of the weights the head that searches is not the one that was trained.
CLEAR_SHARE = 0.9
# So far above the others, in temperatures, is a head that was picked: their share is 0 in float32.
CLEAR_GAP = 120
# Passages whose scores are worked out at a time: a step's memory grows with these, not with all its passages.
BLOCK = 64


@dataclass(frozen=True)
class ReAttConfig(LiveConfig):
    """What the paper varies, besides what LUMEN varies.

    live_share: of the layers, those that read question and passage together (table 3, B). distillation_weight: of
    the cross-document adjustment (table 3, alpha); 0 trains the reader alone. random_passages: adjust over the
    passages of the other questions of a step too (table 3). head_temperature: of the head weights; a low one picks
    one head (section 2.2). head: retrieve with this one, counted from 0, instead of the one that is learnt.
    trained_passages: the reader learns from so many of a question's passages, those it looks at most; all are read
    without gradient first, which takes a third. None to learn from all of them, as in the paper.
    """

    live_share: float = 0.5
    train_memory: bool = True
    question_encoder: Literal["separate", "shared"] = "shared"
    distillation_weight: float = 8.0
    random_passages: bool = True
    head_temperature: float = 0.001
    head: int | None = None
    trained_passages: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.head_temperature > 0, f"head_temperature={self.head_temperature}; it must be above 0.")
        require(
            self.distillation_weight >= 0,
            f"distillation_weight={self.distillation_weight}; it must not be negative.",
        )
        require(
            self.trained_passages is None or self.trained_passages >= 1,
            f"trained_passages={self.trained_passages}; it must be at least 1.",
        )
        require(
            not self.condition_memory,
            "condition_memory=true leaves no states that a search could go by; ReAtt needs condition_memory = false.",
        )


class ReAtt(LiveSystem):
    """Retrieves and reads with one transformer; the token index is built over the keys of its retrieval head."""

    paper = Paper(
        title="Retrieval as Attention: End-to-end Learning of Retrieval and Reading within a Single Transformer",
        authors="Jiang et al.",
        year=2022,
        arxiv="2212.02027",
    )
    Config = ReAttConfig
    config: ReAttConfig
    retriever: ClassVar[str | None] = "reatt"

    def __init__(self, config: ReAttConfig, reader: EncoderDecoder) -> None:
        super().__init__(config, reader)
        if self.cut == reader.encoder.num_layers:
            raise ValueError("live_share=0 leaves no layer whose attention could retrieve; ReAtt needs at least one.")
        heads = reader.encoder.config.num_heads
        if config.head is not None and not 0 <= config.head < heads:
            raise ValueError(f"head={config.head} but a layer has {heads} heads; it must be between 0 and {heads - 1}.")
        self.head_weights = nn.Parameter(torch.zeros(heads))

    def parts(self) -> dict[str, list[str]]:
        return {**super().parts(), "heads": ["head_weights"]}

    # -- retrieve ------------------------------------------------------------------------------------------

    @property
    def head(self) -> int:
        """The retrieval head h*: the one of the largest weight, where none is given."""
        return int(self.head_weights.argmax()) if self.config.head is None else self.config.head

    def head_shares(self) -> Tensor:
        """P^head, [heads], summing to 1."""
        if self.config.head is None:
            weights = self.head_weights.float()
            # As if w / tau were learnt: a gradient 1 / tau times as long would take all that clipping leaves.
            return (weights.detach() / self.config.head_temperature + weights - weights.detach()).softmax(0)
        return functional.one_hot(torch.tensor(self.config.head), len(self.head_weights)).to(self.head_weights)

    @torch.no_grad()
    def settle(self) -> None:
        """Pick the head of the largest weight for good: the others get no share that training could give back. Before
        anything was learnt there is nothing to pick."""
        if self.head_weights.max() > self.head_weights.min():
            gap = max(1.0, CLEAR_GAP * self.config.head_temperature)
            self.head_weights.copy_(gap * functional.one_hot(torch.tensor(self.head), len(self.head_weights)))

    def facts(self) -> dict[str, float]:
        """The head that retrieves, and its share of the scores that are trained."""
        return {"head": self.head, "head_share": round(self._share_of_head(), 4)}

    @property
    def search_doubt(self) -> str | None:
        share = self._share_of_head()
        if share >= CLEAR_SHARE:
            return None
        return (
            f"head {self.head} searches, and has {share:.0%} of the weight of all heads: training has not picked one. "
            "Train for longer, or choose: wellread init --from MODEL --set head=NUMBER."
        )

    def _share_of_head(self) -> float:
        return self.head_shares()[self.head].item()

    def queries(self, question: Tensor, head: int | None = None) -> Tensor:
        """Queries of every head, [batch, tokens, heads, head_dim], of question states [batch, tokens, dim]; of one,
        [batch, tokens, head_dim]."""
        return self.reader.encoder.attention_queries(question, self.cut, head)

    def keys(self, passages: Tensor, head: int | None = None) -> Tensor:
        """Keys of every head, [..., tokens, heads, head_dim], of passage states [..., tokens, dim]; of one,
        [..., tokens, head_dim]."""
        keys = self.reader.encoder.attention_keys(passages.reshape(-1, *passages.shape[-2:]), self.cut, head)
        return keys.reshape(*passages.shape[:-1], *keys.shape[2:])

    def searched(self, tokens: Tensor, mask: Tensor) -> Tensor:
        special = (tokens == self.reader.start_token) | (tokens == self.reader.end_token)
        words = mask & ~special
        return torch.where(words.any(-1, keepdim=True), words, mask)

    def seek(self, inputs: Inputs) -> Sequence[Tensor] | None:
        vectors = self.queries(self.question_states(inputs), self.head)
        searched = self.searched(inputs.tokens, inputs.mask)
        return [row[words] for row, words in zip(vectors, searched, strict=True)]

    def search_keys(self, states: Tensor) -> Tensor:
        return self.keys(states, self.head)

    def search_weights(self) -> Mapping[str, Tensor]:
        """Those below the layer that retrieves, of both sides, its queries and keys, and the number of the head."""
        encoder = "reader.encoder."
        made_by = [*self.parts()["memory"], "question_encoder."]
        made_by += [f"{encoder}layers.{self.cut}.{name}" for name in SEARCHING]
        weights = {name: weight for name, weight in self.named_parameters() if name.startswith(tuple(made_by))}
        return {**weights, "head": torch.tensor(self.head)}

    # -- read ----------------------------------------------------------------------------------------------

    def read(self, inputs: Inputs, candidates: CandidateBatch) -> Reading:
        question, passages = self.question_states(inputs), self.passage_states(candidates)
        scores = relevance(
            self.queries(question, self.head),
            self.searched(inputs.tokens, inputs.mask),
            self.search_keys(passages),
            self.searched(candidates.tokens, candidates.mask),
        )
        return self._read(inputs, candidates, question, passages, scores=scores)

    def _read(
        self,
        inputs: Inputs,
        candidates: CandidateBatch,
        question: Tensor,
        passages: Tensor,
        *,
        scores: Tensor | None = None,
    ) -> Reading:
        pairs = self.marked(self.pair(inputs, question, candidates, passages))
        pairs = self.live(pairs, self.cut, self.reader.encoder.num_layers, **self.sight)
        shown = question if self.config.question_to_decoder else None
        return self.fuse(inputs, candidates, pairs, scores=scores, question=shown)

    # -- learn ---------------------------------------------------------------------------------------------

    def losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        if not self.compares_questions:
            return super().losses(batch)
        part = self.represent(batch)
        return part.losses | self.joint_losses([part])

    @property
    def compares_questions(self) -> bool:
        return self.config.distillation_weight > 0

    def represent(self, batch: TrainingBatch, *, with_losses: bool = True) -> Represented:
        """Queries and keys of all heads, and where the decoder looked for the answer."""
        inputs, candidates = batch.inputs, batch.candidates
        question, passages = self.question_states(inputs), self.passage_states(candidates)
        fewer = min(self.config.trained_passages or candidates.num_passages, candidates.num_passages)
        all_of_them = fewer == candidates.num_passages
        with torch.set_grad_enabled(torch.is_grad_enabled() and all_of_them):
            reading = self._read(inputs, candidates, question, passages)
        target = self.target(reading, candidates)
        vectors = {"query": self.queries(question), "key": self.keys(passages)}
        facts = {
            "query_mask": self.searched(inputs.tokens, inputs.mask),
            "key_mask": self.searched(candidates.tokens, candidates.mask & candidates.exists[..., None]),
            "target": target,
            "ids": numbers(candidates.ids, candidates.exists),
        }
        losses = {}
        if with_losses:
            if not all_of_them:
                most = target.topk(fewer).indices
                rows = torch.arange(len(most), device=most.device)[:, None]
                reading = self._read(inputs, take(candidates, most), question, passages[rows, most])
            losses["nll"] = nll(self.target_log_probs(reading, batch.target), batch.target_mask)
        return Represented(vectors, facts, losses)

    @torch.no_grad()
    def target(self, reading: Reading, candidates: CandidateBatch) -> Tensor:
        """Where the decoder looks before its first word: [batch, passages] float32, summing to 1.

        Cross-attention of the last layer before softmax, softmaxed over all tokens of all pairs, summed over each
        pair's, averaged over heads (section 3.2).
        """
        decoder = self.reader.decoder
        start = reading.kept.new_full((reading.states.shape[0], 1), decoder.start_token)
        _, scores = decoder(start, self.reader.memory(reading.states), reading.mask, return_attention=True)
        paired = reading.passage >= 0
        scores = scores[:, -1, :, 0].float().masked_fill(~paired[:, None], torch.finfo(torch.float32).min)
        mass = scores.softmax(-1).mean(1).masked_fill(~paired, 0.0)
        total = mass.new_zeros(candidates.exists.shape)
        return total.scatter_add(1, reading.passage.clamp_min(0), mass)

    def joint_losses(self, parts: Sequence[Represented]) -> dict[str, Tensor]:
        """The cross-document adjustment over all passages of a step, "cross_document": a mean over questions."""
        query, key = (gathered(parts, "vectors", name) for name in ("query", "key"))
        query_mask, key_mask = (gathered(parts, "facts", name) for name in ("query_mask", "key_mask"))
        target, ids = (gathered(parts, "facts", name) for name in ("target", "ids"))
        questions, close = ids.shape
        weights = self.head_shares()
        scores: Tensor | float = 0.0
        for head in (weights.detach() > SMALLEST_WEIGHT).nonzero().flatten().tolist():
            one = partial(all_pairs, query[:, :, head], query_mask)
            blocks = zip(key[:, :, :, head].flatten(0, 1).split(BLOCK), key_mask.flatten(0, 1).split(BLOCK))
            found = torch.cat([checkpoint(one, *block, use_reentrant=False) for block in blocks], 1)
            scores = scores + weights[head] * found
        own = torch.eye(questions, dtype=torch.bool, device=ids.device).repeat_interleave(close, dim=1)
        allowed = own if not self.config.random_passages else own | ~(same(ids, ids) | repeated(ids))
        allowed = allowed & key_mask.any(-1).flatten()
        full = target.new_zeros(own.shape).masked_scatter(own, target)
        loss = attention_distillation(scores, full, exists=allowed)
        return {"cross_document": self.config.distillation_weight * loss}
