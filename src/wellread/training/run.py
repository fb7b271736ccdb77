"""A recipe, run: weights, questions, candidates, the loop, and a record of all that decided the outcome."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from wellread.config import to_mapping
from wellread.corpus.questions import evenly, read_questions
from wellread.corpus.store import Corpus
from wellread.locking import locked
from wellread.memory.store import Memory
from wellread.model import Model
from wellread.training.candidates import Finder, open_finder
from wellread.training.checkpoint import drop_checkpoint, has_checkpoint
from wellread.training.config import DevConfig, Recipe, TaskConfig
from wellread.training.data import Batches, Example, PassageTokens, Task, prepare_task
from wellread.training.dev import DevQuestions
from wellread.training.hooks import Evaluate
from wellread.training.live import LiveDev, LiveSearch, drop_keys
from wellread.training.loop import TrainReport, train
from wellread.training.online import OnlineMemory, drop_online_memory
from wellread.training.optimizers import ENDLESS
from wellread.training.processes import Processes, find_processes, pick_device
from wellread.training.refresh import OwnCandidates, drop_own_candidates
from wellread.training.starting import freeze, open_memory, start_model
from wellread.training.texts import open_texts
from wellread.types import Question

__all__ = ["EvaluateFactory", "check_resumable", "run_recipe"]

EvaluateFactory = Callable[["Recipe", Model], Evaluate]
"""Makes another evaluation than exact answers to the dev questions."""

RECORD = "recipe.json"
PACKAGES = ("wellread", "torch", "numpy", "tokenizers", "pylance", "bm25s")
# Keys that may change between two starts of one run: they do not change what is learnt.
FREE = (
    "out",
    "training.save_every",
    "training.log_every",
    "training.activation_checkpointing",
    "training.device",
)
# Passages a reader from scratch learns its vocabulary from.
VOCABULARY_PASSAGES = 50_000


def run_recipe(
    recipe: Recipe,
    out: str | Path | None = None,
    evaluate_factory: EvaluateFactory | None = None,
    *,
    restart: bool = False,
    progress: bool = True,
) -> TrainReport:
    """Train by a recipe, or go on with the run that is in the folder `out` (default: the recipe's).

    restart: begin anew, and forget the run that is there. Raises ValueError where the recipe does not fit
    what it names, where the run in `out` was started with another recipe, and where another process trains in `out`.
    """
    folder = Path(out) if out is not None else recipe.out
    if folder is None:
        raise ValueError('no folder for the run; give --out DIR, or out = "DIR" in the recipe.')
    processes = find_processes()
    with ExitStack() as held:
        refusal = ""
        if processes.main:
            try:
                held.enter_context(locked(folder, make=True))
            except ValueError as error:
                refusal = str(error)
        refusal = processes.gather(refusal)[0]
        if refusal:  # told by all of them, so that none waits for the others
            raise ValueError(refusal)
        return _run(recipe, folder, evaluate_factory, processes, restart=restart, progress=progress)


def _run(
    recipe: Recipe,
    folder: Path,
    evaluate_factory: EvaluateFactory | None,
    processes: Processes,
    *,
    restart: bool,
    progress: bool,
) -> TrainReport:
    """`run_recipe` in one of its processes, with the folder in hand."""
    if restart and processes.main:
        drop_checkpoint(folder)
    if processes.main and not has_checkpoint(folder):
        drop_own_candidates(folder)
        drop_online_memory(folder)
        drop_keys(folder)
    processes.wait()
    check_resumable(recipe, folder)
    # The first process finds the candidates; the others read what it kept.
    if not processes.main:
        processes.wait()
    prepare = _PreparedTexts if recipe.texts else _Prepared
    prepared = prepare(recipe, folder, processes, progress=progress and processes.main)
    if processes.main:
        _record(folder, recipe, prepared)
        processes.wait()
    evaluate = evaluate_factory(recipe, prepared.model) if evaluate_factory else prepared.dev
    report = train(
        prepared.model,
        prepared.batches if prepared.live is None else _Drawn(prepared.batches),
        recipe.training,
        out=folder,
        evaluate=evaluate,
        refresh=prepared.refresh,
        live=prepared.live,
        progress=progress,
        processes=processes,
    )
    processes.end()
    return report


@dataclass(frozen=True)
class _Drawn:
    """The questions of a step as they are drawn, to be completed by what the model finds."""

    batches: Batches

    def batch(self, step: int, part: int = 0, parts: int = 1) -> list[Example]:
        return self.batches.examples(step, part, parts)


class _Prepared:
    """What a recipe names, opened and checked: first what fails fast, then what takes time."""

    def __init__(self, recipe: Recipe, folder: Path, processes: Processes, *, progress: bool) -> None:
        data = recipe.data
        if recipe.dev and data.finds_all_itself and data.live is None:
            raise ValueError(
                "[dev]: with data.refresh alone nothing finds candidates for dev questions, and none would be "
                "answered; leave [dev] out and measure the trained model with `wellread eval`, or give data.index."
            )
        corpus = Corpus.open(data.corpus)
        finder = open_finder(
            index=data.index, candidates=data.candidates, cache=folder, progress=progress, passages=corpus.get
        )
        questions = {name: _questions(task) for name, task in recipe.tasks.items()}
        dev_questions = _questions(recipe.dev) if recipe.dev else []
        self.model = start_model(recipe, lambda: _texts(corpus, questions))
        self.model = replace(self.model, trained_with=data.stages[-1].top_k)
        freeze(self.model, recipe.training.freeze)
        if data.refresh and self.model.system.retriever is None:
            raise ValueError(
                f"data.refresh={list(data.refresh)}, but {self.model.name} has no search of its own to find candidates "
                "with; leave data.refresh out."
            )
        if data.live and ("keys" not in self.model.system.stores or self.model.system.sources):
            raise ValueError(
                f"[data.live] searches one key per passage with one vector, which {self.model.name} does not make; "
                "give data.index or data.candidates, or data.refresh."
            )
        self.memory: Memory | None = open_memory(data.memory, self.model) if data.memory else None
        self.model = self.model.with_pictures(data.pictures)
        if self.model.pictures is not None:
            hiding = self.model.pictures.hiding_copies
            questions = {name: list(map(hiding, rows)) for name, rows in questions.items()}
            dev_questions = list(map(hiding, dev_questions))
        self.model.system.to(pick_device(recipe.training.device, processes))
        self.tasks: list[Task] = [
            prepare_task(name, task, questions[name], data=data, finder=finder, corpus=corpus)
            for name, task in recipe.tasks.items()
        ]
        found = _dev_candidates(recipe, dev_questions, finder)
        golden = any(stage.gold_share > 0 for stage in data.stages)
        ids = chain(
            *(task.passages(positives=golden) for task in self.tasks),
            *(candidates.ids for candidates in found),
        )
        # What a model finds itself may be anything.
        passages = PassageTokens(self.model.frame, corpus, corpus.ids() if data.live else ids, progress=progress)
        settings = recipe.training
        self.batches = Batches(
            self.tasks,
            passages,
            self.model.frame,
            data=data,
            batch_size=settings.batch_size,
            seed=settings.seed,
            memory=self.memory,
            pictures=self.model.pictures,
            source_of=self.model.system.source_of,
        )
        self.live = None
        if data.live:
            self.live = LiveSearch(
                self.batches,
                passages,
                folder,
                data=data,
                last=settings.steps,
                processes=processes,
                precision=settings.precision,
                progress=progress,
            )
        self.refresh = None
        if data.refresh:
            common = {"data": data, "last": settings.steps, "processes": processes, "precision": settings.precision}
            common["progress"] = progress
            if {"keys", "states"} <= self.model.system.stores:
                self.refresh = OnlineMemory(self.batches, corpus, folder, **common)
            else:
                self.refresh = OwnCandidates(self.batches, corpus, folder, memory=self.memory, **common)
        self.dev = None
        if recipe.dev:
            how = {"batch_size": recipe.dev.batch_size, "precision": settings.precision, "processes": processes}
            if self.live is None:
                self.dev = DevQuestions(dev_questions, found, passages, memory=self.memory, **how)
            else:
                top_k = recipe.dev.top_k or data.stages[-1].top_k
                self.dev = LiveDev(dev_questions, self.live, top_k=top_k, **how)


class _PreparedTexts:
    """The same for a recipe that names texts instead of questions."""

    tasks: Sequence[Task] = ()
    refresh = live = None

    def __init__(self, recipe: Recipe, folder: Path, processes: Processes, *, progress: bool) -> None:
        settings = recipe.training
        self.model = start_model(recipe, lambda: ())
        freeze(self.model, settings.freeze)
        self.model.system.to(pick_device(settings.device, processes))
        chosen = {"batch_size": settings.batch_size, "seed": settings.seed, "precision": settings.precision}
        self.batches, self.dev = open_texts(recipe.texts, self.model, **chosen)


def _questions(config: TaskConfig | DevConfig) -> list[Question]:
    return list(evenly(read_questions(config.questions, split=config.split), config.limit))


def _dev_candidates(recipe: Recipe, questions: list[Question], finder: Finder) -> list:
    if not questions:
        return []
    top_k = recipe.dev.top_k or recipe.data.stages[-1].top_k
    return finder.find(questions, top_k=top_k, name="dev")


def _texts(corpus: Corpus, questions: Mapping[str, list[Question]]) -> Iterator[str]:
    """What a vocabulary is learnt from: passages, questions and answers."""
    for passage in islice(corpus, VOCABULARY_PASSAGES):
        yield f"{passage.title} {passage.text}"
    for asked in questions.values():
        for question in asked:
            yield " ".join([question.text, *question.answers[:1]])


# -- the record --------------------------------------------------------------------------------------------


def check_resumable(recipe: Recipe, folder: Path) -> None:
    """ValueError naming the keys that differ where the run in the folder was started with another recipe."""
    if not (folder / RECORD).is_file() or not has_checkpoint(folder):
        return
    before = _flat(json.loads((folder / RECORD).read_text(encoding="utf8"))["recipe"])
    now = _flat(recipe.resolved())
    free = set(FREE)
    if {before.get("training.schedule"), now.get("training.schedule")} <= ENDLESS:
        free.add("training.steps")
    if now.get("training.schedule_steps") is not None:
        free.add("training.steps")
    if recipe.data is not None and recipe.data.refresh:  # candidates were found for the questions of so many steps
        free.discard("training.steps")
    changed = [key for key in {**before, **now} if key not in free and before.get(key) != now.get(key)]
    if changed:
        told = "; ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in changed)
        raise ValueError(
            f"the run in {folder} was started with another recipe: {told}. "
            "Give the same values, another --out, or --restart to begin anew."
        )


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        parts = [(f"{place}.{key}" if place else key, part) for key, part in value.items()]
    elif isinstance(value, list):
        parts = [(f"{place}[{index}]", part) for index, part in enumerate(value)]
    else:
        return {place: value}
    return {key: part for name, inner in parts for key, part in _flat(inner, name).items()}


def _record(folder: Path, recipe: Recipe, prepared: _Prepared | _PreparedTexts) -> None:
    """Write recipe.json: what was asked for and what it ran on."""
    model = prepared.model
    described = {
        "recipe": recipe.resolved(),
        "system": {"name": model.name, **to_mapping(model.system.config)},
        "frame": to_mapping(model.frame.config),
        "tasks": {task.name: {"questions": len(task.questions), **task.left_out} for task in prepared.tasks},
        "weights": {
            "all": sum(weight.numel() for weight in model.system.parameters()),
            "trained": sum(weight.numel() for weight in model.system.parameters() if weight.requires_grad),
        },
        "seed": recipe.training.seed,
        "packages": {"python": platform.python_version(), **_versions()},
        "hardware": _hardware(model.device),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    waiting = folder / f".{RECORD}.part"
    waiting.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
    os.replace(waiting, folder / RECORD)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _hardware(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "device": str(device),
        "name": name or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }
