"""What the readers share whose encoder is divided into memory and live layers: LUMEN, GLIMMER and ReAtt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from wellread.config import require
from wellread.evaluation import flops
from wellread.evaluation.flops import FlopFormula
from wellread.reading.pairing import Pairs, matches
from wellread.systems.fusion_base import FusionSystem
from wellread.types import CandidateBatch, Inputs

if TYPE_CHECKING:
    from torch import Tensor

    from wellread.nn.encoder_decoder import EncoderDecoder

__all__ = ["LiveConfig", "LiveSystem", "live_layers"]

# The mean size of an entry of a MiniLM state is .3: a match is seen from the first step, and drowns nothing.
MATCH_SIZE = 0.2


@dataclass(frozen=True)
class LiveConfig:
    """What the paper varies.

    live_share: share of the encoder's layers that is live, 0 to 1 (figures 1, 3); live_layers: their number
    instead, for a memory encoder deeper than the live one, "24-12" (table 1). train_memory: fine-tune the
    memory encoder (figure 8). condition_memory: let the memory encoder see the question, which no stored
    memory can do (figure 8). question_encoder, train_question: a copy of the memory encoder or the memory
    encoder itself, fine-tuned or frozen (figure 10). q2mem, mem2q: attention from question to passage and back
    (figure 9). question_to_decoder: put the question's states before the passages. mark_matches: add a learned
    vector to the tokens that question and passage share, before the live layers (not in the paper: few live
    layers find hard what joint lower layers see at once, that a word of the question stands in the passage).
    """

    live_share: float = 1 / 3
    live_layers: int | None = None
    train_memory: bool = False
    condition_memory: bool = False
    question_encoder: Literal["separate", "shared"] = "separate"
    train_question: bool = True
    q2mem: bool = True
    mem2q: bool = True
    question_to_decoder: bool = False
    mark_matches: bool = False

    def __post_init__(self) -> None:
        require(
            0 <= self.live_share <= 1,
            f"live_share={self.live_share}; it must be between 0 (all in memory) and 1 (all live).",
        )


def live_layers(config: LiveConfig, layers: int) -> int:
    """How many of `layers` are live. A share is rounded to whole layers, and one above 0 keeps at least one."""
    if config.live_layers is not None:
        if not 0 <= config.live_layers <= layers:
            raise ValueError(
                f"live_layers={config.live_layers} but the encoder has {layers} layers; "
                f"it must be between 0 and {layers}."
            )
        return config.live_layers
    return max(round(config.live_share * layers), 1 if config.live_share > 0 else 0)


class LiveSystem(FusionSystem):
    """A fusion reader whose encoder is divided into memory and live layers (LUMEN section 3.1)."""

    config: LiveConfig

    def __init__(self, config: LiveConfig, reader: EncoderDecoder) -> None:
        layers = reader.encoder.num_layers
        super().__init__(
            config,
            reader,
            cut=layers - live_layers(config, layers),
            question=config.question_encoder,
            train_memory=config.train_memory,
            train_question=config.train_question,
        )
        self.match = None
        if config.mark_matches:
            always_the_same = torch.Generator().manual_seed(0)
            self.match = nn.Parameter(torch.randn(reader.encoder.dim, generator=always_the_same) * MATCH_SIZE)

    def parts(self) -> dict[str, list[str]]:
        parts = super().parts()
        return parts if self.match is None else {**parts, "live": [*parts["live"], "match"]}

    @property
    def stores(self) -> frozenset[str]:
        return frozenset({"tokens"}) if self.config.condition_memory else super().stores

    @property
    def live_share(self) -> float:
        """The share of layers that is live, in whole layers."""
        return 1 - self.cut / self.reader.encoder.num_layers

    def formula(
        self, *, question_tokens: float, passage_tokens: float, target_tokens: float, top_k: int
    ) -> FlopFormula:
        return flops.lumen(
            passage_tokens=question_tokens + passage_tokens,
            top_k=top_k,
            target_tokens=target_tokens,
            live_share=self.live_share,
            **self.sizes,
        )

    @property
    def sight(self) -> dict[str, bool]:
        """Which attention between question and passage is on (LUMEN figure 9)."""
        return {"q2mem": self.config.q2mem, "mem2q": self.config.mem2q}

    def pairs(self, inputs: Inputs, candidates: CandidateBatch, question: Tensor) -> Pairs:
        """H_i = [QEnc(Q); MemEnc(Passage_i)]; with condition_memory, MemEnc([Q; Passage_i])."""
        if not self.config.condition_memory:
            return self.marked(self.pair(inputs, question, candidates, self.passage_states(candidates)))
        encoder = self.reader.encoder
        passages = encoder.embed(candidates.tokens.flatten(0, 1), segment=0)
        passages = passages.unflatten(0, candidates.tokens.shape[:2])
        embedded = encoder.embed(inputs.tokens, segment=1)
        pairs = self.pair(inputs, embedded, candidates, passages)
        return self.live(pairs, 0, self.cut, **self.sight) if self.cut else pairs

    def marked(self, pairs: Pairs) -> Pairs:
        """The pairs with the tokens marked that question and passage share, where mark_matches asks for it."""
        if self.match is None:
            return pairs
        return pairs.with_states(pairs.states + matches(pairs)[..., None] * self.match)
