"""What holds while a run goes on: a signal asks it to stop, layers are recomputed in the backward pass."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch import nn

from wellread.training.config import TrainingConfig

__all__ = ["Stop", "checkpointing", "stop_signals"]


class Stop:
    """Whether a signal asked to stop."""

    asked = False


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turn the first SIGTERM or SIGINT into a request; the second one acts as it always does."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may change what signals do
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.asked = True
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def checkpointing(system: nn.Module, config: TrainingConfig) -> Iterator[None]:
    """Activation checkpointing in every part that knows it, while training."""
    able: list[Any] = [part for part in system.modules() if hasattr(part, "gradient_checkpointing")]
    before = [part.gradient_checkpointing for part in able]
    for part in able:
        part.gradient_checkpointing = config.activation_checkpointing
    try:
        yield
    finally:
        for part, value in zip(able, before):
            part.gradient_checkpointing = value
