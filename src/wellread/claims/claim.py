"""What a claim is made of: what is trained, what is asked of it, what the paper found, and what decides.

Nothing here runs anything: `plan` turns a claim into recipes, `run` trains and measures, `rules` judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from wellread.claims.rules import Rule

__all__ = ["Ask", "Claim", "Figures", "Run", "Variant"]

# Passages looked at for where the right one stands.
DEPTH = 100


@dataclass(frozen=True)
class Run:
    """One training. Runs that come to the same recipe are trained once, whichever claims they belong to.

    system, options: as in a recipe's [system]. start: the reader it begins with, by its name in `starts.STARTS`,
    or another run it goes on from. transfer: parts taken over from another run. tasks: name in the template ->
    weight. world: which passages are searched, a name in `plan.WORLDS`. passages: candidates of a training
    question, None for the budget's. gold: put the right passage among them where it was not found. steps: share of
    the budget's steps, 0 for a system that is not trained at all. iterations: of finding the candidates, the first
    with the world's index, in the others half of them with the system's own; in a world where systems search live, of
    the index. freeze: weights that stay as they are, by the beginnings of their names. delayed: losses that count only
    after a share `warmup` of the steps. batch, rate: questions a step and learning rate, as a share of the budget's.
    """

    system: str
    options: Mapping[str, Any] = field(default_factory=dict)
    start: str | Run = "base"
    transfer: tuple[Run, tuple[str, ...]] | None = None
    tasks: Mapping[str, float] = field(default_factory=lambda: {"squad": 1.0})
    world: str = "squad"
    passages: int | None = None
    gold: bool = True
    steps: float = 1.0
    iterations: int = 1
    delayed: tuple[str, ...] = ()
    warmup: float = 0.1
    batch: float = 1.0
    freeze: tuple[str, ...] = ()
    rate: float = 1.0


@dataclass(frozen=True)
class Ask:
    """How a trained reader is asked. top_k: candidates of a question, None for as many as it was trained with.

    gold: put the right passage in the last place where retrieval did not find it. options: of the system, other
    than it was trained with. questions: the dev questions, a name in `plan.DEV`. search: what finds the candidates:
    "" the world's index, "own" the system's own search, "nothing" for a system that reads nothing, else a name in the
    table of retrievers; sources: only in these, where given. measure: "em", "recall@K" (whether a right passage is
    among the first K found), "answer@K" (whether an answer stands in one of them) or "ndcg@10".
    """

    top_k: int | None = None
    gold: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    questions: str = "squad"
    search: str = ""
    measure: str = "em"
    sources: tuple[str, ...] = ()

    @property
    def depth(self) -> int:
        """How many passages are looked at for where the right one stands; 0 where that is not asked."""
        wanted = int(self.measure.partition("@")[2] or 0)
        return max(wanted, DEPTH) if wanted or self.search else 0

    def right(self, row: Mapping[str, Any]) -> list[float]:
        """From 0 to 1 for every question of a row of answers, by the measure."""
        if self.measure in row:
            return row[self.measure]
        first = int(self.measure.removeprefix("recall@"))
        return [float(rank is not None and rank <= first) for rank in row["ranks"]]


@dataclass(frozen=True)
class Variant:
    """A run and how it is asked: one point of our figure. x: its place; series: the line it belongs to."""

    run: Run
    x: float = 0.0
    series: str = "ours"
    ask: Ask = Ask()


@dataclass(frozen=True)
class Figures:
    """What the paper found, as far as its text gives numbers.

    series: name -> {x: value}, empty where its figure is a picture without numbers. y_label: what the values are.
    says: the numbers, or the shape, in words.
    """

    says: str
    series: Mapping[str, Mapping[float, float]] = field(default_factory=dict)
    x_label: str = ""
    y_label: str = "EM"


@dataclass(frozen=True)
class Claim:
    """A claim of a paper, and how it is tried at small scale.

    paper: its name, "lumen". where: its place in the paper; tags: the same for the command line. says: the claim in
    our words. variants: by name. rules: all must hold. x: what our figure's x axis is, the variants' own `x` or
    a measured cost. note: what differs from the paper, besides size.
    """

    id: str
    paper: str
    where: str
    tags: Sequence[str]
    says: str
    variants: Mapping[str, Variant]
    rules: Sequence[Rule]
    figures: Figures
    x_label: str
    x: Literal["given", "gflops", "samples_per_tflop"] = "given"
    note: str = ""

    @property
    def y_label(self) -> str:
        """What the values of our figure are."""
        measures = dict.fromkeys(variant.ask.measure for variant in self.variants.values())
        return ", ".join("EM" if name == "em" else name for name in measures)
