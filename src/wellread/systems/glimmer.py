"""GLIMMER: a memory reader whose first live layers also rerank, so that few passages are read to the end.

Paper: de Jong et al., "GLIMMER: generalized late-interaction memory reranker" (2023), arXiv 2306.10231.

    H_i  = [MemEnc(Q); MemEnc(Passage_i)]                      -> LiveSystem.pairs (section 3.1)
    H'_i = LiveEncA(H_i)                                       -> Glimmer._first_stage
    R_j  = H'_i such that Rank[Score(H'_i)] = j                -> Glimmer.score, keep_best
    G    = Dec[Q; LiveEncB(R_1); ... LiveEncB(R_m)]            -> Glimmer.read
    L_pdist = KL(p_rank, p_LM)                                 -> losses.perplexity_distillation (section 3.2)

Letters: alpha -> live_share, beta -> rerank_share, k -> top_k, m -> keep, tau -> distillation_temperature.

The memory encoder is trained, over all tasks at once, and also reads the question.

Differences: score="question", the mean over the question's tokens, is not in the paper: where LiveEncA is one
layer, the first token alone sees too little. While answering, a score needs only some rows of the last layer of
LiveEncA, so that layer is run in full only for the passages that are kept; the function is the same, the
reranking cheaper than section 3.3 counts. distill_over="kept" scores only kept passages alone against the
answer; "all" takes every candidate through LiveEncB while training. The Q of Dec[Q; ...] is part of every pair,
as in lumen.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from wellread.config import require
from wellread.evaluation import flops
from wellread.evaluation.flops import FlopFormula
from wellread.losses import nll, perplexity_distillation
from wellread.reading.keeping import all_columns, keep_best, ranks_behind, scores_behind
from wellread.reading.weighing import apart, likeliest, posterior
from wellread.systems.base import Paper
from wellread.systems.live_base import LiveConfig, LiveSystem
from wellread.types import CandidateBatch, Inputs, Reading, TrainingBatch

if TYPE_CHECKING:
    from torch import Tensor

    from wellread.nn.encoder_decoder import EncoderDecoder
    from wellread.reading.decoding import Generated
    from wellread.reading.pairing import Pairs

__all__ = ["Glimmer", "GlimmerConfig"]


@dataclass(frozen=True)
class GlimmerConfig(LiveConfig):
    """What the paper varies, besides what LUMEN varies.

    rerank_share: share of the live layers in LiveEncA, at least one layer (figure 4). keep: passages read to
    the end (figure 5). score: from the first token of the pair, the mean of the question's tokens, or the mean
    of all (table 3 has the first and the last). reranker: "shared" uses LiveEncA, "separate" a copy of those
    layers for scoring only (table 1). distillation_weight, _temperature, distill_over: the auxiliary loss;
    weight 0 switches it off (table 3).

    Not in the paper: retrieval_prior, score_prior: how much the retriever counts beside the score, by the logarithm of
    its rank and by how many standard deviations of the candidates' scores one is behind the best; a reranker of one
    small layer is better than the retriever only together with it. weigh_alone: how much that counts which each kept
    passage says alone, 0 to 1; above 0 the answer is the likeliest of what all kept passages say together and each
    alone, these in proportion to the softmax of their scores (reading/weighing.py).
    """

    train_memory: bool = True
    question_encoder: Literal["separate", "shared"] = "shared"
    rerank_share: float = 0.25
    keep: int = 5
    score: Literal["first", "question", "mean"] = "first"
    reranker: Literal["shared", "separate"] = "shared"
    distillation_weight: float = 1.0
    distillation_temperature: float = 1.0
    distill_over: Literal["kept", "all"] = "all"
    retrieval_prior: float = 0.0
    score_prior: float = 0.0
    weigh_alone: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.rerank_share <= 1, f"rerank_share={self.rerank_share}; it must be above 0, at most 1.")
        require(self.keep >= 1, f"keep={self.keep}; it must be at least 1.")
        for name in ("retrieval_prior", "score_prior"):
            require(getattr(self, name) >= 0, f"{name}={getattr(self, name)}; it must not be negative.")
        require(0 <= self.weigh_alone <= 1, f"weigh_alone={self.weigh_alone}; it must be between 0 and 1.")
        require(
            self.distillation_temperature > 0,
            f"distillation_temperature={self.distillation_temperature}; it must be above 0.",
        )


SCORED: dict[str, Callable[[Pairs], Tensor]] = {
    "first": lambda pairs: pairs.mask & (torch.arange(pairs.mask.shape[-1], device=pairs.mask.device) == 0),
    "question": lambda pairs: pairs.mask & ~pairs.from_passage,
    "mean": lambda pairs: pairs.mask,
}
"""Which tokens of a pair its score is made from: [batch, passages, tokens] bool."""


class Glimmer(LiveSystem):
    """Scores all candidates after the first live layers and reads the best `keep` to the end."""

    paper = Paper(
        title="GLIMMER: generalized late-interaction memory reranker",
        authors="de Jong et al.",
        year=2023,
        arxiv="2306.10231",
    )
    Config = GlimmerConfig
    config: GlimmerConfig

    def __init__(self, config: GlimmerConfig, reader: EncoderDecoder) -> None:
        super().__init__(config, reader)
        live = reader.encoder.num_layers - self.cut
        if live == 0:
            raise ValueError("live_share=0 leaves no live layer to rerank with; GLIMMER needs at least one.")
        self.rerank_layers = min(max(round(config.rerank_share * live), 1), live)
        self.scorer = nn.Linear(reader.encoder.dim, 1)
        with torch.no_grad():
            self.scorer.weight.zero_()
            self.scorer.bias.zero_()
        self.ranker = None
        if config.reranker == "separate":
            self.ranker = reader.encoder.with_layers(self.cut, self._border)
            for module in self.ranker.embedding_modules():
                module.requires_grad_(False)

    def parts(self) -> dict[str, list[str]]:
        return {**super().parts(), "scorer": ["scorer.", "ranker."]}

    def read(self, inputs: Inputs, candidates: CandidateBatch) -> Reading:
        question = self.question_states(inputs)
        pairs = self.pairs(inputs, candidates, question)
        first, scores = self._first_stage(pairs)
        scores = self._with_prior(scores, candidates)
        keep = min(self.config.keep, candidates.num_passages)
        kept = keep_best(scores, candidates.exists, keep)
        if first is None:
            best = self.live(pairs.take(kept), self.cut, self._border, **self.sight)
        else:
            best = first.take(kept)
        return self._finish(inputs, candidates, best, kept, scores, question)

    def write(self, reading: Reading, **limits: Any) -> Generated:
        together = super().write(reading, **limits)
        if not self._weighs(reading):
            return together
        each = super().write(apart(reading), **limits)
        pad_token = self.reader.decoder.pad_token
        return likeliest(reading, together, each, weight=self.config.weigh_alone, pad_token=pad_token)

    def shares(self, reading: Reading, written: Generated, candidates: CandidateBatch) -> Tensor:
        """Attention as in every fusion reader. With weigh_alone what each passage alone holds of the answer's
        probability, and what all together hold of it shared out by attention."""
        attended = super().shares(reading, written, candidates)
        if not self._weighs(reading):
            return attended
        keep = reading.kept.shape[1]
        said = torch.arange(written.tokens.shape[1], device=written.tokens.device) < written.lengths[:, None]
        target = [part.repeat_interleave(keep, 0) for part in (written.tokens, said)]
        each = self.likelihood_of(apart(reading), *target).unflatten(0, (-1, keep))
        together = self.likelihood_of(reading, written.tokens, said)
        held = posterior(reading, together, each, weight=self.config.weigh_alone).to(attended.dtype)
        held = held * (written.lengths > 0)[:, None]
        return (held[:, :1] * attended).scatter_add(1, reading.kept, held[:, 1:])

    def _weighs(self, reading: Reading) -> bool:
        return self.config.weigh_alone > 0 and reading.kept.shape[1] > 1

    def losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        inputs, candidates, config = batch.inputs, batch.candidates, self.config
        if config.distillation_weight == 0 or candidates.num_passages == 1:  # nothing to rank
            return super().losses(batch)
        question = self.question_states(inputs)
        first, scores = self._first_stage(self.pairs(inputs, candidates, question), full=True)
        scores = self._with_prior(scores, candidates)
        kept = keep_best(scores, candidates.exists, min(config.keep, candidates.num_passages))
        columns = all_columns(candidates.exists) if config.distill_over == "all" else kept
        deep = self._second_stage(first.take(columns))
        best = deep.take(kept) if config.distill_over == "all" else deep
        reading = self._fuse(inputs, candidates, best, kept, scores, question)
        distilled = perplexity_distillation(
            scores.gather(1, columns),
            self._alone(deep, batch),
            exists=candidates.exists.gather(1, columns),
            temperature=config.distillation_temperature,
        )
        return {
            "nll": nll(self.target_log_probs(reading, batch.target), batch.target_mask),
            "distillation": config.distillation_weight * distilled,
        }

    def formula(
        self, *, question_tokens: float, passage_tokens: float, target_tokens: float, top_k: int
    ) -> FlopFormula:
        live = self.reader.encoder.num_layers - self.cut
        return flops.glimmer(
            passage_tokens=question_tokens + passage_tokens,
            top_k=top_k,
            keep=min(self.config.keep, top_k),
            target_tokens=target_tokens,
            live_share=self.live_share,
            rerank_share=self.rerank_layers / live,
            **self.sizes,
        )

    # -- the two stages ------------------------------------------------------------------------------------

    @property
    def _border(self) -> int:
        """The first layer of LiveEncB."""
        return self.cut + self.rerank_layers

    def _first_stage(self, pairs: Pairs, *, full: bool = False) -> tuple[Pairs | None, Tensor]:
        """LiveEncA and the scores [batch, passages]; no pairs where a score is all that was computed."""
        scored = SCORED[self.config.score](pairs)
        if self.ranker is not None:
            ranked = pairs.with_states(self.ranker.run(*pairs.flat()))
            return self._all_first(pairs) if full else None, self.score(ranked.states, scored)
        if self.config.score != "mean" and not full and not torch.is_grad_enabled():
            needed = int(scored.sum(-1).max())  # these tokens come first in every pair
            top = self.live(pairs, self.cut, self._border, first=needed, **self.sight)
            return None, self.score(top, scored[..., :needed])
        ranked = self._all_first(pairs)
        return ranked, self.score(ranked.states, scored)

    def _all_first(self, pairs: Pairs) -> Pairs:
        return self.live(pairs, self.cut, self._border, **self.sight)

    def score(self, states: Tensor, scored: Tensor) -> Tensor:
        """Relevance of every pair, [batch, passages] float32: a projection of the mean of its `scored` tokens
        (section 3.1). states: [batch, passages, tokens, dim]; scored: [batch, passages, tokens] bool."""
        chosen = scored[..., None].to(states.dtype)
        pooled = (states * chosen).sum(2) / chosen.sum(2).clamp_min(1)
        return self.scorer(pooled).squeeze(-1).float()

    def _with_prior(self, scores: Tensor, candidates: CandidateBatch) -> Tensor:
        for weight, behind in ((self.config.retrieval_prior, ranks_behind), (self.config.score_prior, scores_behind)):
            if weight > 0:
                scores = scores - weight * behind(candidates.scores, candidates.exists)
        return scores

    def _second_stage(self, pairs: Pairs) -> Pairs:
        layers = self.reader.encoder.num_layers
        if self._border == layers:
            return pairs
        return self.live(pairs, self._border, layers, **self.sight)

    def _finish(
        self, inputs: Inputs, candidates: CandidateBatch, best: Pairs, kept: Tensor, scores: Tensor, question: Tensor
    ) -> Reading:
        return self._fuse(inputs, candidates, self._second_stage(best), kept, scores, question)

    def _fuse(
        self, inputs: Inputs, candidates: CandidateBatch, best: Pairs, kept: Tensor, scores: Tensor, question: Tensor
    ) -> Reading:
        shown = question if self.config.question_to_decoder else None
        return self.fuse(inputs, candidates, best, kept=kept, scores=scores, question=shown)

    def _alone(self, deep: Pairs, batch: TrainingBatch) -> Tensor:
        """log p(answer | question, one passage) of every pair: [batch, passages], without gradient."""
        count = deep.mask.shape[1]
        target = batch.target.repeat_interleave(count, dim=0)
        mask = batch.target_mask.repeat_interleave(count, dim=0)
        states, real = deep.flat()
        reading = Reading(
            states=states,
            mask=real,
            tokens=deep.tokens.flatten(0, 1),
            copyable=deep.from_passage.flatten(0, 1),
            passage=torch.zeros_like(deep.tokens.flatten(0, 1)),
            scores=None,
            kept=torch.zeros_like(target[:, :1]),
        )
        with torch.no_grad():
            return self.likelihood_of(reading, target, mask).unflatten(0, (-1, count))
