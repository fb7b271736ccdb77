"""MemoryFiD: read every passage once, ahead of all questions; only the decoder sees the question.

Paper: Li et al., "Decoupled Context Processing for Context Augmented Language Modeling" (2022), arXiv
2210.05758, with the name and the form LUMEN section 2.3 gives it:

    G = Dec[Q; MemEnc(Passage_1); ... MemEnc(Passage_k)]       -> MemoryFiD.read

Letters: k -> top_k, L -> layers, n_p -> passage tokens, d -> dim.

Differences: the input reaches the decoder as the states of a question encoder put before the passages, not as
tokens before the target. `memory_layers` stops the memory encoder early, so that MemoryFiD can read the very
memory of a LUMEN cut at the same layer; None is the paper's (all layers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from wellread.evaluation import flops
from wellread.evaluation.flops import FlopFormula
from wellread.reading.pairing import passages_only
from wellread.systems.base import Paper
from wellread.systems.fusion_base import FusionSystem
from wellread.types import CandidateBatch, Inputs, Reading

if TYPE_CHECKING:
    from wellread.nn.encoder_decoder import EncoderDecoder

__all__ = ["MemoryFiD", "MemoryFiDConfig"]


@dataclass(frozen=True)
class MemoryFiDConfig:
    """memory_layers: layers the memory has run, None for all. train_memory: LUMEN 2.3 freezes it.

    question_encoder: "separate" is a copy of the memory encoder, fine-tuned unless train_question is false.
    """

    memory_layers: int | None = None
    train_memory: bool = False
    question_encoder: Literal["separate", "shared"] = "separate"
    train_question: bool = True


class MemoryFiD(FusionSystem):
    """Reads nothing live but the question; its memory holds the encoder's final states."""

    paper = Paper(
        title="Decoupled Context Processing for Context Augmented Language Modeling",
        authors="Li et al.",
        year=2022,
        arxiv="2210.05758",
    )
    Config = MemoryFiDConfig

    def __init__(self, config: MemoryFiDConfig, reader: EncoderDecoder) -> None:
        layers = reader.encoder.num_layers
        cut = layers if config.memory_layers is None else config.memory_layers
        if not 1 <= cut <= layers:
            raise ValueError(
                f"memory_layers={cut} but the encoder has {layers} layers; it must be between 1 and {layers}."
            )
        super().__init__(
            config,
            reader,
            cut=cut,
            question=config.question_encoder,
            train_memory=config.train_memory,
            train_question=config.train_question,
        )

    def read(self, inputs: Inputs, candidates: CandidateBatch) -> Reading:
        passages = passages_only(self.passage_states(candidates), candidates.mask, candidates.tokens)
        return self.fuse(inputs, candidates, passages, question=self.question_states(inputs))

    def formula(
        self, *, question_tokens: float, passage_tokens: float, target_tokens: float, top_k: int
    ) -> FlopFormula:
        return flops.memory_fid(
            passage_tokens=passage_tokens,
            top_k=top_k,
            target_tokens=target_tokens,
            **self.sizes,
        )
