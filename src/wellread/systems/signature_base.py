"""A paper on the contract before it is built: its shapes are real, its nets are plugged in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from wellread.reading.decoding import Generated
from wellread.systems.base import Search, System
from wellread.types import CandidateBatch, Inputs, Reading, TrainingBatch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DECODER", "SignatureSystem"]

DECODER = "(states, mask, target) -> log p of every target token, [rows, target tokens]"
"""What a net that writes is called with and gives."""


class SignatureSystem(System):
    """A system that shows how its paper fits the contract. It is not in the table of systems.

    Verbs that are short and standard run, with the nets given by name to the constructor; verbs that are not
    built raise NotImplementedError with the paper's name.
    """

    nets: ClassVar[Mapping[str, str]]
    """name of a net -> what it is called with and gives."""
    memory_nets: ClassVar[tuple[str, ...]]
    """Those that decide what is stored."""

    def __init__(self, config: Any, **nets: nn.Module) -> None:
        super().__init__()
        if set(nets) != set(self.nets):
            raise ValueError(f"nets={sorted(nets)}; {type(self).__name__} needs {', '.join(self.nets)}.")
        self.config = config
        for name, net in nets.items():
            self.add_module(name, net)

    def not_built(self, verb: str) -> NotImplementedError:
        """The error of a verb that is only a signature."""
        return NotImplementedError(
            f"{verb} of {type(self).__name__} ({self.paper.title}, arXiv {self.paper.arxiv}) is a signature only; "
            "use one of the systems that `wellread systems` lists."
        )

    def memory_weights(self) -> Mapping[str, Tensor]:
        stored = tuple(f"{name}." for name in self.memory_nets)
        return {name: weight.detach() for name, weight in self.named_parameters() if name.startswith(stored)}

    def generate(
        self,
        inputs: Inputs,
        candidates: CandidateBatch,
        *,
        max_tokens: int,
        num_beams: int = 1,
        reading: Reading | None = None,
        search: Search | None = None,
    ) -> Generated:
        raise self.not_built("generate")

    def shares(self, reading: Reading, written: Generated, candidates: CandidateBatch) -> Tensor:
        raise self.not_built("shares")

    def target_log_probs(
        self, inputs: Inputs, candidates: CandidateBatch, target: Tensor, target_mask: Tensor
    ) -> Tensor:
        """log p of every target token, [batch, target tokens] float32: the net `decoder` over what was read."""
        reading = self.read(inputs, candidates)
        return self.decoder(reading.states, reading.mask, target).float()

    def log_likelihood(
        self,
        inputs: Inputs,
        candidates: CandidateBatch,
        target: Tensor,
        target_mask: Tensor,
        *,
        per_passage: bool = False,
    ) -> Tensor:
        if per_passage:
            raise self.not_built("log_likelihood per passage")
        log_probs = self.target_log_probs(inputs, candidates, target, target_mask)
        return log_probs.masked_fill(~target_mask, 0.0).sum(-1)

    def losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        raise self.not_built("losses")
