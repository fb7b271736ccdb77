"""What a training run is made of: the tables of a recipe, and how a recipe file becomes them.

    [init]         where the weights come from          [training]      steps, optimiser, schedule, ...
    [system]       name and options of the system       [data]          corpus, index, curriculum
    [frame]        templates and token budgets          [tasks.NAME]    questions to train on
    [dev]          questions to choose the best by      [transfer]      parts taken from another run

A language model is trained on [texts] instead of [data] and [tasks].

Relative paths are relative to the folder the command runs in; ~ and $VARIABLES are expanded. A recipe file may
extend others (see recipes.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wellread.config import ConfigError
from wellread.reading.frame import FrameConfig
from wellread.training.optimizers import OPTIMIZERS, SCHEDULES

__all__ = [
    "DataConfig",
    "DevConfig",
    "InitConfig",
    "LiveConfig",
    "Recipe",
    "ScratchConfig",
    "StageConfig",
    "TaskConfig",
    "TextsConfig",
    "TrainingConfig",
    "TransferConfig",
]


def _check(*checks: tuple[bool, str]) -> None:
    """Raise ConfigError with the messages of all checks that failed."""
    problems = [message for holds, message in checks if not holds]
    if problems:
        raise ConfigError(problems)


def _at_least(config: Any, least: float, *names: str, where: str) -> list[tuple[bool, str]]:
    values = [(name, getattr(config, name)) for name in names]
    return [
        (value is None or value >= least, f"{where}.{name}={value}; it must be at least {least}.")
        for name, value in values
    ]


def _one_of(value: str, allowed: Any, place: str) -> tuple[bool, str]:
    return value in allowed, f"{place}={value!r} is not allowed; use one of: {', '.join(allowed)}."


@dataclass(frozen=True)
class TrainingConfig:
    """How weights are changed.

    batch_size: questions a step, over all processes. accumulate: pieces a process works through one after
    another to save room; neither it nor the number of processes changes the result, but for rounding and for
    what dropout draws. warmup: steps over which the rate rises from 0. clip: largest norm of all gradients
    together, 0 for none. precision: of the computation; weights are always fp32. save_every, evaluate_every,
    log_every: steps; saving and evaluating with 0 only at the end (before every data.refresh a run saves too).
    keep_best: the metric of the dev questions by which out/best is chosen. device: "auto" takes an accelerator where
    there is one. freeze: weights that stay as they are, by the beginnings of their names ("reader.encoder.layers.0.").
    schedule_steps: the step the schedule ends at, None for the last; where it is given, a run may be made longer or
    shorter later. losses_from: the step from which on a loss counts, by its name (as the log has it); 0 where none is
    given.
    """

    steps: int = 1000
    batch_size: int = 8
    accumulate: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 1e-4
    schedule: str = "constant"
    schedule_steps: int | None = None
    warmup: int = 0
    weight_decay: float = 0.0
    clip: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    activation_checkpointing: bool = False
    seed: int = 0
    save_every: int = 500
    evaluate_every: int = 0
    log_every: int = 10
    keep_best: str = "em"
    device: str = "auto"
    freeze: tuple[str, ...] = ()
    losses_from: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = "training"
        _check(
            *_at_least(self, 1, "steps", "batch_size", "accumulate", "log_every", where=where),
            *_at_least(self, 0, "warmup", "weight_decay", "clip", "seed", "save_every", "evaluate_every", where=where),
            (
                self.schedule_steps is None or self.schedule_steps >= self.steps,
                f"training.schedule_steps={self.schedule_steps} but steps={self.steps}; "
                "the schedule must reach at least as far as the training.",
            ),
            (self.learning_rate > 0, f"training.learning_rate={self.learning_rate}; it must be above 0."),
            (
                all(step >= 0 for step in self.losses_from.values()),
                f"training.losses_from={dict(self.losses_from)}; steps must be at least 0.",
            ),
            _one_of(self.optimizer, OPTIMIZERS, "training.optimizer"),
            _one_of(self.schedule, SCHEDULES, "training.schedule"),
            (
                self.accumulate < 1 or self.batch_size < 1 or self.accumulate <= self.batch_size,
                f"training.accumulate={self.accumulate} but batch_size={self.batch_size}; "
                f"a step of {self.batch_size} questions has at most {self.batch_size} pieces.",
            ),
            (
                self.schedule != "constant" or self.warmup == 0,
                f"training.warmup={self.warmup} with schedule='constant'; use schedule = \"warmup_constant\".",
            ),
        )


@dataclass(frozen=True)
class StageConfig:
    """From which step on how many candidates are read, and how often a positive is put among them.

    gold_share: the probability that, where no candidate is a positive, a positive takes the last place.
    """

    from_step: int = 0
    top_k: int = 20
    gold_share: float = 0.0

    def __post_init__(self) -> None:
        _check(
            *_at_least(self, 0, "from_step", where="data.stages"),
            *_at_least(self, 1, "top_k", where="data.stages"),
            (
                0 <= self.gold_share <= 1,
                f"data.stages.gold_share={self.gold_share}; it must be between 0 and 1.",
            ),
        )


@dataclass(frozen=True)
class LiveConfig:
    """Candidates found at every step, by the model's own search with the weights reached (REALM 3.3).

    every: steps between two refreshes of the index that is searched; 0 for the first one throughout. background: a
    process of its own makes the new index while training goes on with the old one; false waits for it, so that a run
    can be repeated exactly. memory: folder of a memory made by the weights the run starts with, whose keys are the
    first index; without one the corpus is read.
    """

    every: int = 0
    background: bool = True
    memory: Path | None = None

    def __post_init__(self) -> None:
        _check(*_at_least(self, 0, "every", where="data.live"))


@dataclass(frozen=True)
class DataConfig:
    """Where passages and candidates come from.

    corpus: folder of passages. index: folder of a search index over them; or candidates: a file with the
    candidates of every question, as retriever "given" reads it; or live: the model finds them itself. memory: folder
    of a memory whose states are read instead of encoded, where the memory encoder is frozen. stages: the curriculum, in
    the order of their steps. drop_unanswerable: leave out questions of which no candidate or positive holds an answer;
    claims stay.
    refresh: steps before which the model reads the corpus anew and finds the candidates of what comes next by its
    own search, where it has one (ReAtt 3.1). refresh_share: of the candidates that are its own from then on; the rest
    are the first ones of the index. pictures: folder of the pictures of questions and passages, for systems that see.
    """

    corpus: Path
    index: Path | None = None
    candidates: Path | None = None
    memory: Path | None = None
    pictures: Path | None = None
    stages: tuple[StageConfig, ...] = (StageConfig(),)
    drop_unanswerable: bool = False
    refresh: tuple[int, ...] = ()
    refresh_share: float = 1.0
    live: LiveConfig | None = None

    def __post_init__(self) -> None:
        starts = [stage.from_step for stage in self.stages]
        _check(
            (
                sum(source is not None for source in (self.index, self.candidates, self.live)) == 1
                or (self.finds_all_itself and self.live is None),
                "data.index and data.candidates: give one of them, the folder of a search index or a file of "
                "candidates; or refresh from step 0 on with refresh_share = 1; or the table [data.live].",
            ),
            (
                self.live is None or not (self.refresh or self.drop_unanswerable or self.memory),
                "data.live: what is found changes from step to step; leave out data.refresh, data.drop_unanswerable "
                "and data.memory (data.live.memory holds keys to start with).",
            ),
            (
                bool(starts) and starts[0] == 0 and starts == sorted(set(starts)),
                f"data.stages start at steps {starts}; the first must start at 0 and each later than the one before.",
            ),
            (
                all(step >= 0 for step in self.refresh) and list(self.refresh) == sorted(set(self.refresh)),
                f"data.refresh={list(self.refresh)}; steps from 0, each later than the one before.",
            ),
            (
                0 < self.refresh_share <= 1,
                f"data.refresh_share={self.refresh_share}; it must be above 0, at most 1.",
            ),
        )

    @property
    def finds_all_itself(self) -> bool:
        """Whether the model's own search finds all candidates there ever are."""
        unaided = self.index is None and self.candidates is None
        return unaided and (self.live is not None or (self.refresh[:1] == (0,) and self.refresh_share == 1))

    def stage(self, step: int) -> StageConfig:
        """The stage that a step belongs to."""
        return [stage for stage in self.stages if stage.from_step <= step][-1]

    @property
    def top_k(self) -> int:
        """The largest number of candidates any stage reads."""
        return max(stage.top_k for stage in self.stages)


@dataclass(frozen=True)
class TaskConfig:
    """Questions to train on. weight: its share of the questions drawn, relative to the other tasks'.

    questions: a file or folder; split: only this part of it. target: the first of a question's answers, or one
    drawn anew each time. limit: only so many questions, at even distances over the file.
    """

    questions: Path
    split: str | None = None
    weight: float = 1.0
    target: Literal["first", "sample"] = "first"
    limit: int | None = None

    def __post_init__(self) -> None:
        _check(
            (
                self.weight > 0,
                f"tasks.*.weight={self.weight}; it must be above 0 (leave the task out instead).",
            ),
            *_at_least(self, 1, "limit", where="tasks.*"),
        )


@dataclass(frozen=True)
class DevConfig:
    """Questions to choose the best weights by. limit: so many of them, at even distances over the file.

    questions: a file or folder; split: only this part of it. batch_size: questions at a time. top_k: candidates;
    None for as many as the last stage of training reads.
    """

    questions: Path
    split: str | None = None
    limit: int = 200
    batch_size: int = 8
    top_k: int | None = None

    def __post_init__(self) -> None:
        _check(*_at_least(self, 1, "limit", "batch_size", "top_k", where="dev"))


@dataclass(frozen=True)
class TextsConfig:
    """Texts that a language model is trained on, and the neighbours of their chunks.

    chunks: folder of the texts (wellread chunks). neighbours: folder of the lists of neighbours of their chunks, None
    to read none. database: folder of the chunks the lists name, None for `chunks`. k: neighbours read of every chunk.
    sequence_chunks: chunks of a text that are read at once. documents: only the first so many. dev, dev_neighbours:
    held-out texts (from the same database), of which dev_documents are scored.
    """

    chunks: Path
    neighbours: Path | None = None
    database: Path | None = None
    k: int = 2
    sequence_chunks: int = 8
    documents: int | None = None
    dev: Path | None = None
    dev_neighbours: Path | None = None
    dev_documents: int = 20

    def __post_init__(self) -> None:
        _check(
            *_at_least(self, 0, "k", where="texts"),
            *_at_least(self, 1, "sequence_chunks", "documents", "dev_documents", where="texts"),
            (
                self.dev_neighbours is None or self.dev is not None,
                "texts.dev_neighbours are given without texts.dev, the chunks they are of; give both.",
            ),
        )


@dataclass(frozen=True)
class TransferConfig:
    """Weights taken from another run. from_: its model folder ("from" in a recipe). parts: such as "memory"."""

    from_: Path
    parts: tuple[str, ...]


@dataclass(frozen=True)
class ScratchConfig:
    """The sizes of a reader with random weights and a vocabulary learnt from the corpus.

    tokenizer: folder of one to take instead; that of [texts] where there are some. family: of nets with an encoder.
    """

    family: Literal["t5", "bert"] = "t5"
    vocab_size: int = 8000
    dim: int = 256
    layers: int = 6
    heads: int = 4
    tokenizer: Path | None = None

    def __post_init__(self) -> None:
        _check(*_at_least(self, 1, "vocab_size", "dim", "layers", "heads", where="init.scratch"))


@dataclass(frozen=True)
class InitConfig:
    """Where the weights come from.

    from_ ("from" in a recipe): "default" for the sentence encoder that is installed with wellread, else a
    folder. kind: what the folder holds, "auto" to look; "scratch" for random weights of the sizes in
    [init.scratch]. decoder_layers, copy_head: of decoders built from an encoder, and of "scratch". dropout: of
    a BERT reader's states, None for its checkpoint's.
    """

    from_: str = "default"
    kind: Literal["auto", "bert", "t5", "scratch", "model"] = "auto"
    decoder_layers: int = 3
    copy_head: bool = True
    dropout: float | None = None
    seed: int = 0
    scratch: ScratchConfig = ScratchConfig()

    def __post_init__(self) -> None:
        _check(
            *_at_least(self, 1, "decoder_layers", where="init"),
            (
                self.from_ != "default" or self.kind in ("auto", "bert", "scratch"),
                f'init.kind={self.kind!r} needs a folder; give it as init.from = "FOLDER".',
            ),
        )


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run. system: the system's `name` and its options."""

    system: Mapping[str, Any]
    data: DataConfig | None = None
    tasks: Mapping[str, TaskConfig] = field(default_factory=dict)
    texts: TextsConfig | None = None
    init: InitConfig = InitConfig()
    frame: FrameConfig | None = None
    training: TrainingConfig = TrainingConfig()
    dev: DevConfig | None = None
    transfer: TransferConfig | None = None
    out: Path | None = None

    @property
    def system_name(self) -> str:
        return self.system["name"]

    @property
    def system_options(self) -> dict[str, Any]:
        return {key: value for key, value in self.system.items() if key != "name"}

    def resolved(self) -> dict[str, Any]:
        """All values, defaults included, as plain JSON types under the names a recipe file uses."""
        return _plain({item.name: getattr(self, item.name) for item in dataclasses.fields(self)})


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        value = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key.rstrip("_"): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value
