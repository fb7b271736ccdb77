"""REALM: one passage at a time, the answer's probability summed over passages.

Paper: Guu et al., "REALM: Retrieval-Augmented Language Model Pre-Training" (2020), arXiv 2002.08909.

    p(y | x) = sum_z p(y | z, x) p(z | x)                      -> MarginalSystem.log_likelihood (equation 1)
    p(z | x) = softmax_z of Embed_input(x)^T Embed_doc(z)      -> Realm.log_prior (section 3.2)
    Embed_input(x), Embed_doc(z)                               -> Realm.seek, Realm.remember
    p(y | z, x) = prod_j p(y_j | z, x), masked-LM head         -> MarginalSystem._filled (section 3.2)
    p(y | z, x) ~ sum_{s in S(z, y)} exp(MLP(h_start; h_end))  -> MarginalSystem._extracted (3.2)
    inverse cloze task                                         -> Realm._cloze (section 3.4, ORQA section 4)

Letters: x -> inputs, z -> passage, y -> target, k -> top_k, the null document -> null_passage.
Stored: tokens and one key per passage. Sought: one vector. Read: every pair apart, and its log p(z | x).

Which head answers is seen in the question: one that holds masks is filled in, as many words as it holds masks (so a
question file has one mask per token of the answer: `wellread questions masked --tokenizer`); any other is answered by
a span. The sum runs over the candidates and the null passage, and p(z | x) is normalised over these; no span can be
cut out of an empty passage, so spans are summed over the candidates alone. In training candidates come without stored
keys where the passage tower learns; theirs are made anew, so that the gradient reaches Embed_doc.

Differences: a copy head beside the masked-LM head, where the nets have one (small nets learn to fill in from a passage
much sooner). A pair is [CLS] x [SEP] [CLS] z [SEP]. Towers may be fewer layers than the reader, and may take the mean
of the states. A fill is the best one of the passages' own, by its probability over all passages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional

from wellread.config import require
from wellread.losses import log_softmax_over
from wellread.nn.building import seeded
from wellread.nn.span_head import SpanHead
from wellread.nn.tower import Pool, Tower
from wellread.reading.batching import by_length, take_rows
from wellread.reading.keeping import all_columns
from wellread.reading.pairing import Pairs, join
from wellread.systems.base import Paper, Remembered
from wellread.systems.marginal_base import MarginalSystem
from wellread.types import CandidateBatch, Inputs, Reading, TrainingBatch

if TYPE_CHECKING:
    from torch import Tensor

    from wellread.nn.masked_lm import MaskedReader

__all__ = ["Realm", "RealmConfig"]

CLOZE = "cloze"


@dataclass(frozen=True)
class RealmConfig:
    """null_passage: read an empty passage beside the candidates. null_only: read nothing else, which shows what the
    weights know by themselves. tower_layers: of the encoder's first, in both towers; None for all. key_dim: width of
    their vectors, None for the encoder's. pool: what of a text's states is projected. span_tokens: the longest span.
    span_dim: hidden width of the span scores.
    """

    null_passage: bool = True
    null_only: bool = False
    tower_layers: int | None = None
    key_dim: int | None = None
    pool: Pool = "class"
    span_tokens: int = 10
    span_dim: int = 128

    def __post_init__(self) -> None:
        for name in ("tower_layers", "key_dim", "span_tokens", "span_dim"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name}={value}; it must be at least 1.")
        require(
            self.null_passage or not self.null_only, "null_only=true with null_passage=false leaves nothing to read."
        )


class Realm(MarginalSystem):
    """Sums over passages what each says alone."""

    paper = Paper("REALM: Retrieval-Augmented Language Model Pre-Training", "Guu et al.", 2020, "2002.08909")
    Config = RealmConfig
    config: RealmConfig
    built_on: ClassVar[str] = "encoder"
    joins_tokens: ClassVar[bool] = True
    retriever: ClassVar[str | None] = "vectors"
    stores = frozenset({"tokens", "keys"})

    def __init__(self, config: RealmConfig, reader: MaskedReader) -> None:
        super().__init__()
        self.config, self.reader = config, reader
        have = reader.encoder.num_layers
        layers = have if config.tower_layers is None else config.tower_layers
        if layers > have:
            raise ValueError(f"tower_layers={layers} but the encoder has {have}; it must be between 1 and {have}.")
        shape = {"layers": layers, "dim": config.key_dim, "pool": config.pool}
        self.question_tower = Tower(reader.encoder, **shape)
        self.passage_tower = Tower(reader.encoder, **shape)
        with seeded(0):
            self.spans = SpanHead(reader.encoder.dim, config.span_dim)

    @property
    def reads_passages(self) -> bool:
        return not self.config.null_only

    def parts(self) -> dict[str, list[str]]:
        return {
            "towers": ["question_tower.", "passage_tower."],
            "question": ["question_tower."],
            "memory": ["passage_tower."],
            "reader": ["reader.encoder."],
            "head": ["reader.head.", "reader.copy."],
            "spans": ["spans."],
        }

    def train(self, mode: bool = True) -> Realm:
        """Towers that do not learn stay in evaluation mode, so that training finds what the index holds."""
        super().train(mode)
        for tower in (self.question_tower, self.passage_tower):
            tower.train(mode and tower.trained)
        return self

    # -- retrieve ------------------------------------------------------------------------------------------

    @property
    def memory_cut(self) -> str:
        return f"{self.passage_tower.encoder.num_layers} of {self.reader.encoder.num_layers}"

    def memory_weights(self) -> Mapping[str, Tensor]:
        return {name: weight.detach() for name, weight in self.passage_tower.named_parameters(prefix="passage_tower")}

    def remember(
        self, tokens: Tensor, mask: Tensor, *, picture: Tensor | None = None, picture_mask: Tensor | None = None
    ) -> Remembered:
        def run(rows: Tensor, real: Tensor) -> Tensor:
            return self.passage_tower(rows[..., 0], real)[:, None]

        return Remembered(keys=by_length(run, tokens[..., None], mask)[:, 0])

    def seek(self, inputs: Inputs) -> Sequence[Tensor] | None:
        return list(self.question_tower(inputs.tokens, inputs.mask)[:, None])

    def log_prior(self, inputs: Inputs, candidates: CandidateBatch) -> tuple[Tensor, Tensor]:
        """log p(z | x): of the candidates [batch, passages], of the null passage [batch, 0 or 1]; -inf for none."""
        batch, count = candidates.exists.shape
        query = self.question_tower(inputs.tokens, inputs.mask).float()
        keys = candidates.keys
        if keys is None:
            keys = self.remember(candidates.tokens.flatten(0, 1), candidates.mask.flatten(0, 1)).keys
            keys = keys.unflatten(0, (batch, count))
        relevance, exists = (query[:, None] * keys.float()).sum(-1), candidates.exists
        if self.config.null_passage:
            empty = self._null(inputs.tokens)
            null = query @ self.passage_tower(empty, torch.ones_like(empty, dtype=torch.bool)).float().T
            relevance, exists = torch.cat([relevance, null], 1), functional.pad(exists, (0, 1), value=True)
        prior = log_softmax_over(relevance, exists).masked_fill(~exists, -torch.inf)
        return prior[:, :count], prior[:, count:]

    def _null(self, like: Tensor) -> Tensor:
        """The null passage, [1, tokens]: a start and an end with nothing between."""
        return like.new_tensor([[self.reader.start_token, self.reader.end_token]])

    # -- read ----------------------------------------------------------------------------------------------

    def read(self, inputs: Inputs, candidates: CandidateBatch) -> Reading:
        """Every pair apart, the null passage last: states [batch, columns * tokens, dim].

        scores: log p(z | x), [batch, passages]; extras["null"]: that of the null passage, [batch, 0 or 1].
        extras["columns"]: how many pairs of each question there are.
        """
        exists, tokens, mask = candidates.exists, candidates.tokens, candidates.mask
        if self.config.null_only:
            scores = exists.new_full(exists.shape, -torch.inf, dtype=torch.float32)
            null, tokens, mask, exists = scores.new_zeros(len(scores), 1), tokens[:, :0], mask[:, :0], exists[:, :0]
        else:
            scores, null = self.log_prior(inputs, candidates)
        kept = all_columns(exists)
        if self.config.null_passage:
            null_tokens, width = self._null(tokens).expand(len(tokens), -1), max(tokens.shape[2], 2)
            wider, more = (0, width - tokens.shape[2]), (0, width - 2)
            tokens = torch.cat([functional.pad(tokens, wider), functional.pad(null_tokens, more)[:, None]], 1)
            real = functional.pad(torch.ones_like(null_tokens, dtype=torch.bool), more)[:, None]
            mask = torch.cat([functional.pad(mask, wider), real], 1)
        exists = functional.pad(exists, (0, tokens.shape[1] - exists.shape[1]), value=False)
        pairs = self._pairs(inputs, tokens, mask)
        named = exists[..., None] & pairs.mask
        return Reading(
            states=pairs.states.flatten(1, 2),
            mask=pairs.mask.flatten(1, 2),
            tokens=pairs.tokens.flatten(1, 2),
            copyable=(pairs.from_passage & named).flatten(1, 2),
            passage=all_columns(exists)[..., None].where(named, -1).flatten(1, 2),
            scores=scores,
            kept=kept,
            extras={"null": null, "columns": tokens.shape[1]},
        )

    def _pairs(self, inputs: Inputs, tokens: Tensor, mask: Tensor) -> Pairs:
        """Every question with every passage, read by the encoder: positions run on, the passage is the second type."""
        words = {"passage_states": tokens[..., None], "passage_mask": mask, "passage_tokens": tokens}
        pairs = join(inputs.tokens[..., None], inputs.mask, inputs.tokens, **words)
        encoder = self.reader.encoder
        embedded = encoder.embed(pairs.tokens.flatten(0, 1), segment=pairs.from_passage.flatten(0, 1).long())
        return pairs.with_states(encoder.finish(by_length(encoder.run, embedded, pairs.mask.flatten(0, 1))))

    # -- learn ---------------------------------------------------------------------------------------------

    def losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """nll: of the marginal, over the tokens of what can be said. cloze: of the own passage, over questions."""
        cloze = self._are_cloze(batch)
        losses = {}
        if not bool(cloze.all()):
            losses["nll"] = self._nll(batch, ~cloze)
        if bool(cloze.any()):
            losses["cloze"] = self._cloze(batch, cloze)
        return losses

    def units(self, batch: TrainingBatch) -> dict[str, int]:
        asked = ~self._are_cloze(batch)
        said = asked & self.answerable(batch.inputs, batch.candidates, batch.target, batch.target_mask)
        counts = {"tokens": batch.target_mask[said].sum(), "asked": asked.sum(), "answerable": said.sum()}
        return super().units(batch) | {name: int(count) for name, count in counts.items()}

    def _are_cloze(self, batch: TrainingBatch) -> Tensor:
        asked = [task == CLOZE for task in batch.task] or [False] * batch.inputs.batch
        return torch.tensor(asked, device=batch.target.device)

    def _nll(self, batch: TrainingBatch, rows: Tensor) -> Tensor:
        """-log p(y | x), summed over questions and divided by their target tokens.

        Questions whose answer cannot be said (no span of it was read; [frame] cut it or some of the masks) take no
        part, and have no gradient; the log tells the share of the others (`answerable`).
        """
        inputs, candidates = take_rows(batch.inputs, rows), take_rows(batch.candidates, rows)
        target, mask = batch.target[rows], batch.target_mask[rows]
        found = self.log_likelihood(inputs, candidates, target, mask)
        silent = found.isneginf()
        return -found.masked_fill(silent, 0.0).sum() / mask[~silent].sum().clamp_min(1)

    def _cloze(self, batch: TrainingBatch, rows: Tensor) -> Tensor:
        """Which passage of the batch a sentence is from: cross-entropy over the first passages of all, a mean."""
        query = self.question_tower(batch.inputs.tokens[rows], batch.inputs.mask[rows]).float()
        keys = self.remember(batch.candidates.tokens[rows, 0], batch.candidates.mask[rows, 0]).keys.float()
        own = torch.arange(len(query), device=query.device)
        return functional.cross_entropy(query @ keys.T, own, reduction="sum") / batch.inputs.batch
