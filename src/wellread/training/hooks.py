"""What the loop is given beside a model: batches, what is renewed while it goes on, and what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from wellread.model import Model
from wellread.types import TrainingBatch

__all__ = ["BatchSource", "Evaluate", "Live", "Refresh"]

Evaluate = Callable[[Model], Mapping[str, float]]
"""Measures by name; one of them chooses the best weights."""


class BatchSource(Protocol):
    """Where batches come from: data.Batches, or anything with this method."""

    def batch(self, step: int, part: int = 0, parts: int = 1) -> TrainingBatch:
        """Part `part` of the `parts` that the questions of a step are divided into; the same every time. Where a Live
        completes it, what that takes."""
        ...


class Refresh(Protocol):
    """What is renewed with the weights reached, before the step it is called with: candidates, an index.

    Called for every one of `steps`, and at the start of a resumed run for those behind it, to take up what was
    renewed then.
    """

    steps: Sequence[int]

    def __call__(self, model: Model, step: int) -> None: ...


class Live(Refresh, Protocol):
    """A refresh that also completes what a step reads, with the weights that step begins with.

    now: the step the run is at, which the loop says.
    """

    now: int

    def complete(self, model: Model, part: Any) -> TrainingBatch:
        """What `BatchSource.batch` gave, with its candidates."""
        ...

    def facts(self, step: int) -> Mapping[str, int]:
        """What the log says about it."""
        ...

    def saved(self, step: int) -> None:
        """A checkpoint of this step was written: what only earlier ones need may go."""
        ...

    def close(self) -> None:
        """The run is over, or stopped."""
        ...
