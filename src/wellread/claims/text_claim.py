"""Claims about language models: what is trained on texts, and how held-out texts are scored.

Values are millibits per byte, so that they can be judged by the same rules as percentages; lower is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from wellread.claims.claim import Figures
from wellread.claims.rules import Rule

__all__ = ["MEASURE", "TextAsk", "TextClaim", "TextVariant", "Training"]

MEASURE = "millibits per byte"


@dataclass(frozen=True)
class Training:
    """A training on texts: tables of a recipe laid over the template. steps: share of the budget's. held: folder of the
    held-out texts that it is judged by. database: of the chunks that neighbours come from. start: the training whose
    model it begins with, instead of what the recipe says."""

    name: str
    changes: Mapping[str, Mapping[str, Any]]
    steps: float = 1.0
    held: Path = Path("runs/retro/wiki18/test")
    database: Path = Path("runs/retro/wiki18/database")
    start: Training | None = None


@dataclass(frozen=True)
class TextAsk:
    """How a trained model reads held-out texts. k: neighbours of a chunk, 0 for none. share: of the database's
    documents. shuffled: every chunk gets the neighbours of one of another document. overlap: only chunks of which the
    neighbours (all that are listed of the whole database) hold at most this share word for word. options: of the
    system, changed for asking."""

    k: int = 2
    share: float = 1.0
    shuffled: bool = False
    overlap: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TextVariant:
    """A training and how it is asked: one point of our figure."""

    training: Training
    ask: TextAsk = field(default_factory=TextAsk)
    x: float = 0.0
    series: str = "ours"


@dataclass(frozen=True)
class TextClaim:
    """A claim of a paper about language models, and how it is tried at small scale; as `claim.Claim`."""

    id: str
    paper: str
    where: str
    tags: Sequence[str]
    says: str
    variants: Mapping[str, TextVariant]
    rules: Sequence[Rule]
    figures: Figures
    x_label: str
    note: str = ""
    x: ClassVar[str] = "given"
    y_label: str = field(default=MEASURE)
