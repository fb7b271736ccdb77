"""LUMEN: most of the reading done ahead, finished by a small live encoder once the question is known.

Paper: de Jong et al., "Pre-computed memory or on-the-fly encoding? A hybrid approach to retrieval
augmentation makes the most of your compute" (2023), arXiv 2301.10448.

    H_i = [QEnc(Q); MemEnc(Passage_i)]                         -> LiveSystem.pairs (section 3.1)
    G = Dec[Q; LiveEnc(H_1); ... LiveEnc(H_k)]                 -> Lumen.read (section 3.1)

Letters: alpha -> live_share, k -> top_k, L -> layers, n_p -> passage tokens, d -> dim.

The encoder's first (1 - live_share) layers are the memory encoder, frozen unless train_memory; the question
encoder is a trained copy of them; the last layers are the live encoder. live_share=1 is FiD; live_share=0 has
no live layers at all, and the decoder attends to question and passages side by side as in MemoryFiD.

Differences: the Q before the passages in Dec[...] is already part of every pair LiveEnc(H_i), as it is in FiD;
question_to_decoder adds the question's own states once more. Positions of the pair in relative attention count
real tokens, question first.
"""

from __future__ import annotations

from wellread.reading.pairing import passages_only
from wellread.systems.base import Paper
from wellread.systems.live_base import LiveConfig, LiveSystem
from wellread.types import CandidateBatch, Inputs, Reading

__all__ = ["Lumen", "LumenConfig"]

LumenConfig = LiveConfig
"""What the paper varies; see LiveConfig."""


class Lumen(LiveSystem):
    """Reads stored states live with the question; its memory holds the states after the memory layers."""

    paper = Paper(
        title="Pre-computed memory or on-the-fly encoding? A hybrid approach to retrieval augmentation makes "
        "the most of your compute",
        authors="de Jong et al.",
        year=2023,
        arxiv="2301.10448",
    )
    Config = LumenConfig

    def read(self, inputs: Inputs, candidates: CandidateBatch) -> Reading:
        question = self.question_states(inputs)
        layers = self.reader.encoder.num_layers
        if self.cut == layers and not self.config.condition_memory:
            stored = passages_only(self.passage_states(candidates), candidates.mask, candidates.tokens)
            return self.fuse(inputs, candidates, stored, question=question)
        pairs = self.pairs(inputs, candidates, question)
        if self.cut < layers:
            pairs = self.live(pairs, self.cut, layers, **self.sight)
        return self.fuse(inputs, candidates, pairs, question=question if self.config.question_to_decoder else None)
