"""Search by a model's own vectors: one key per passage, exact inner products (REALM section 3.3, MIPS).

The same index as dense search, but for what makes its vectors: a model with a question tower and a passage tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wellread.config import require
from wellread.retrieval.dense import DenseOptions, DenseRetriever
from wellread.retrieval.encoded import OwnEncoder
from wellread.retrieval.encoders import Encoder
from wellread.retrieval.tokens import TOKEN_ENCODERS
from wellread.types import Probe

__all__ = ["VectorOptions", "VectorRetriever"]


@dataclass(frozen=True)
class VectorOptions(DenseOptions):
    """As of dense search. encoder: the folder of a model, unless an encoder object was given. encoder_fingerprint:
    filled in by `build`."""

    encoder: str = ""
    encoder_fingerprint: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.encoder), "encoder is missing; give the folder of a model that searches by one vector.")


class VectorRetriever(OwnEncoder, DenseRetriever):
    """Search by one vector of a model. Probes need one row of `vectors`, or words, which the model turns into one."""

    name = "vectors"
    Options = VectorOptions

    @classmethod
    def open_encoder(cls, name: str) -> Encoder:
        return TOKEN_ENCODERS["model"](name)

    def _probe_vectors(self, probes: Sequence[Probe]) -> np.ndarray:
        if any(probe.vectors is None for probe in probes):
            self.own_encoder()
        return super()._probe_vectors(probes)
