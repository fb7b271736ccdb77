"""Fusion-in-Decoder: read every passage together with the question, fuse in the decoder.

Paper: Izacard & Grave, "Leveraging Passage Retrieval with Generative Models for Open Domain Question
Answering" (2021), arXiv 2007.01282; as LUMEN section 2.2 and GLIMMER section 2.1 state it:

    G = Dec[Enc(Q; Passage_1); ... Enc(Q; Passage_k)]          -> FiD.read

Letters: k -> top_k (candidates given), n_s -> source tokens, n_t -> target tokens, L -> layers, d -> dim.

Differences: none for the T5 family. With a BERT encoder both segments count positions from 0 and the question
carries the second token type, so that the same encoder can also be cut and store passages on their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wellread.evaluation import flops
from wellread.evaluation.flops import FlopFormula
from wellread.systems.base import Paper
from wellread.systems.fusion_base import FusionSystem
from wellread.types import CandidateBatch, Inputs, Reading

if TYPE_CHECKING:
    from wellread.nn.encoder_decoder import EncoderDecoder

__all__ = ["FiD", "FiDConfig"]


@dataclass(frozen=True)
class FiDConfig:
    """FiD has no options of its own beyond the question given to the decoder as well.

    question_to_decoder: put the question's own states (read alone) before the passages.
    """

    question_to_decoder: bool = False


class FiD(FusionSystem):
    """Reads every candidate from scratch; its memory holds tokens only."""

    paper = Paper(
        title="Leveraging Passage Retrieval with Generative Models for Open Domain Question Answering",
        authors="Izacard & Grave",
        year=2021,
        arxiv="2007.01282",
    )
    Config = FiDConfig

    def __init__(self, config: FiDConfig, reader: EncoderDecoder) -> None:
        super().__init__(config, reader, cut=0)

    def read(self, inputs: Inputs, candidates: CandidateBatch) -> Reading:
        encoder = self.reader.encoder
        question = self.question_states(inputs)
        pairs = self.pair(inputs, question, candidates, self.passage_states(candidates))
        read = self.live(pairs, 0, encoder.num_layers)
        alone = encoder.finish(encoder.run(question, inputs.mask)) if self.config.question_to_decoder else None
        return self.fuse(inputs, candidates, read, question=alone)

    def formula(
        self, *, question_tokens: float, passage_tokens: float, target_tokens: float, top_k: int
    ) -> FlopFormula:
        return flops.fid(
            passage_tokens=question_tokens + passage_tokens,
            top_k=top_k,
            target_tokens=target_tokens,
            **self.sizes,
        )
