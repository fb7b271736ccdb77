"""Claims and a budget -> the recipes of all their runs, where they lie, and what they will take.

A run is known by a hash of everything that decides it: the recipe, the weights it starts from, the passages, the index
and the questions, but not where any of them lies. Runs that come to the same hash are one run.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from wellread.claims.claim import Ask, Claim, Run
from wellread.claims.effort import minutes_of, training_flops
from wellread.claims.starts import STARTS, layers_of, pretrained_path, with_layers
from wellread.claims.worlds import DEV, MEMORIES, SPLITS, WORLDS, in_world
from wellread.config import from_mapping, to_mapping
from wellread.corpus.sources import conditions_of
from wellread.locking import LOCK
from wellread.memory.manifest import Manifest
from wellread.model import model_path
from wellread.nn.building import NETS, read_config
from wellread.nn.checkpoints import read_json
from wellread.systems import SYSTEMS
from wellread.systems.base import System
from wellread.training.config import DevConfig, Recipe
from wellread.training.recipes import parse_recipe

__all__ = ["Planned", "Planner", "Settings"]

# Frozen in every run: all variants then train the same words, and a step takes half of the time.
EMBEDDINGS = ("embed_tokens.", "placing.")
OWNERS = ("reader.encoder.", "question_encoder.", "question_tower.encoder.", "passage_tower.encoder.")
# What may differ between two runs with the same outcome.
FREE = ("save_every", "log_every", "activation_checkpointing", "device")
PLACES = ("corpus", "index", "memory", "pictures")


@dataclass(frozen=True)
class Settings:
    """What `wellread reproduce` was asked for.

    base: the reader that runs start from. memory: of that reader, None to encode passages while training. out: folder
    of the results; work: of the runs. seeds: trainings of every variant; steps: of a training; passages: candidates
    of a training question; limit: dev questions. changes: of the recipe, "training.batch_size" -> value.
    """

    base: Path
    memory: Path | None = None
    work: Path = Path("runs/claims")
    out: Path = Path("results/claims")
    seeds: int = 2
    steps: int = 150
    passages: int = 2
    limit: int = 200
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "passages", "limit"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; it must be at least 1.")


@dataclass(frozen=True)
class Planned:
    """A run with its seed. before: runs it needs. key: its hash. flops: what training it takes, roughly."""

    run: Run
    seed: int
    recipe: Recipe
    key: str
    folder: Path
    before: tuple[Planned, ...]
    flops: float

    @property
    def last(self) -> Path:
        """The trained model."""
        return self.folder / "last"

    @property
    def steps(self) -> int:
        return self.recipe.training.steps

    @property
    def minutes(self) -> float:
        """Guessed, of one core."""
        return minutes_of(self.flops)

    def chain(self) -> Iterator[Planned]:
        """This run and those it needs, in the order they are trained."""
        for before in self.before:
            yield from before.chain()
        yield self


class Planner:
    """Plans runs of one budget. ValueError where the base is no model, or something a recipe names is not there."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.base = model_path(settings.base)
        self.config = read_config(self.base)[1]
        places = {world: path for world, path in MEMORIES.items() if (path / "memory.json").is_file()}
        if settings.memory is not None:
            places["squad"] = settings.memory
        self.memories = {world: (path, Manifest.read(path)) for world, path in places.items()}
        self._digests: dict[Path, str] = {}
        self._systems: dict[str, System] = {}

    @cached_property
    def template(self) -> dict[str, Any]:
        """recipe.toml with the changes asked for."""
        text = files("wellread.data").joinpath("claims", "recipe.toml").read_text(encoding="utf8")
        template = tomllib.loads(text)
        for place, value in self.settings.changes.items():
            *tables, key = place.split(".")
            table = template
            for name in tables:
                table = table.setdefault(name, {})
            table[key] = value
        return template

    def missing(self, claim: Claim) -> list[Path]:
        """What a claim needs that is not there: passages, indexes, questions."""
        variants = claim.variants.values()
        runs = [each for variant in variants for each in _chain(variant.run)]
        worlds = {run.world for run in runs} | {DEV[variant.ask.questions][1] for variant in variants}
        data = [self.template["data"] | WORLDS[world] for world in sorted(worlds)]
        places = [Path(table[key], f"{key}.json") for table in data for key in ("corpus", "index") if table[key]]
        starts = [STARTS[run.start].path for run in runs if isinstance(run.start, str)]
        places += [Path(table["pictures"]) for table in data if "pictures" in table]
        places += [path / "system.json" for path in dict.fromkeys(starts) if path is not None]
        tasks = {name for run in runs for name in run.tasks}
        texts = [self.template["tasks"][name]["questions"] for name in sorted(tasks)]
        texts += [self._dev_file(variant.ask) for variant in variants]
        # A variable that is not set is told when the recipe is read.
        files = [Path(conditions_of(os.path.expandvars(text), text)[0]) for text in dict.fromkeys(texts)]
        return [path for path in [*places, *files] if not path.exists() and "$" not in str(path)]

    # -- runs ----------------------------------------------------------------------------------------------

    def runs(self, claim: Claim) -> dict[str, list[Planned]]:
        """Per variant of a claim, its run with every seed."""
        return {
            name: [self.plan(variant.run, seed) for seed in range(self.settings.seeds)]
            for name, variant in claim.variants.items()
        }

    def plan(self, run: Run, seed: int) -> Planned:
        """A run with a seed, and those before it."""
        seed = seed if run.steps else 0  # nothing is drawn where nothing is trained
        earlier = [] if isinstance(run.start, str) else [self.plan(run.start, seed)]
        given = [] if run.transfer is None else [self.plan(run.transfer[0], seed)]
        system = self.system(run)
        start = str(earlier[0].last if earlier else self.start_path(run.start))
        written = self._written(run, seed, system, start=start, given=given[0].last if given else None)
        recipe = replace(parse_recipe(written), dev=None)
        described = {
            "recipe": _placeless(written),
            "system": to_mapping(system.config),
            "start": earlier[0].key if earlier else self.start_key(run.start),
            "transfer": given[0].key if given else None,
            "passages": self._passages(recipe),
            "questions": {name: self.digest(task.questions) for name, task in recipe.tasks.items()},
            "memory": None if recipe.data.memory is None else _of_memory(self.memories[run.world][1]),
            **({} if run.steps else {"trained": False}),
        }
        key = _hash(described)
        folder = self.settings.work / f"{run.system}-{key}"
        before = (*earlier, *given)
        return Planned(run, seed, recipe, key, folder, before, training_flops(recipe, system))

    def system(self, run: Run) -> System:
        """The nets of a run without their weights: what they store, what is frozen, whether the options fit."""
        reader = self._reader(run)
        key = _hash([run.system, dict(run.options), layers_of(reader)])
        if key not in self._systems:
            kind = SYSTEMS[run.system]
            with torch.device("meta"):
                nets = NETS[kind.built_on].build(reader)
                self._systems[key] = kind(from_mapping(kind.Config, run.options, where="system"), nets)
        return self._systems[key]

    def _reader(self, run: Run) -> Any:
        """How the nets of a run are described."""
        if not isinstance(run.start, str):
            return self._reader(run.start)
        if STARTS[run.start].path is not None:
            return read_config(STARTS[run.start].path)[1]
        layers = layers_of(self.config)
        return with_layers(self.config, max(round(layers * STARTS[run.start].share), 1))

    def _written(self, run: Run, seed: int, system: System, *, start: str, given: Path | None) -> dict[str, Any]:
        """The recipe of a run, as TOML has it."""
        settings, template = self.settings, copy.deepcopy(self.template)
        steps = max(round(settings.steps * run.steps), 1)
        batch = max(round(template["training"]["batch_size"] * run.batch), 1)
        top_k = run.passages or settings.passages
        template["init"] = {**template.get("init", {}), "from": start}
        template["system"] = {"name": run.system, **run.options}
        frozen = [*_frozen(system), *run.freeze]
        template["training"] |= {"steps": steps, "seed": seed, "warmup": steps // 10, "freeze": frozen}
        template["data"] = in_world(template["data"], run.world)
        live = template["data"].get("live")
        stage = {**template["data"]["stages"][0], "top_k": top_k}
        template["data"]["stages"] = [stage if run.gold else {**stage, "gold_share": 0.0}]
        if live is not None and self._starts_with_keys(run, system):
            live["memory"] = str(self.memories[run.world][0])
        # Only where they are not as always: keys of runs that have none of this stay what they were.
        if run.batch != 1:
            template["training"]["batch_size"] = batch
        if run.rate != 1:
            template["training"]["learning_rate"] *= run.rate
        if run.delayed:
            template["training"]["losses_from"] = dict.fromkeys(run.delayed, round(steps * run.warmup))
        if run.iterations > 1 and live is not None:
            live["every"] = -(-steps // run.iterations)
        elif run.iterations > 1:
            template["data"]["refresh"] = [steps * part // run.iterations for part in range(1, run.iterations)]
            template["data"]["refresh_share"] = 0.5  # a small budget's own finds alone seldom hold an answer
        template["tasks"] = {name: {**template["tasks"][name], "weight": run.tasks[name]} for name in run.tasks}
        if run.world == "wide":  # its index is large: look for the candidates of no more questions than are drawn
            drawn = steps * batch
            for task in template["tasks"].values():
                task["limit"] = min(task.get("limit", drawn), drawn)
        if self._reads_memory(run, system):
            template["data"]["memory"] = str(self.memories[run.world][0])
        if given is not None:
            template["transfer"] = {"from": str(given), "parts": list(run.transfer[1])}
        return template

    def _reads_memory(self, run: Run, system: System) -> bool:
        """Whether the stored states are those this run's frozen memory encoder would make."""
        if run.world not in self.memories or "states" not in system.stores or system.train_memory:
            return False
        made_by = self.memories[run.world][1].fingerprint
        if made_by.cut != f"{system.cut} of {system.reader.encoder.num_layers}":
            return False
        # Other memories are the base's where they were made by the encoder that made squad's.
        base = self.memories["squad"][1].fingerprint if "squad" in self.memories else None
        return base is not None and made_by.encoder == base.encoder and self._keeps_memory(run, system.cut)

    def _starts_with_keys(self, run: Run, system: System) -> bool:
        """Whether the keys in the world's memory are those of the weights this run starts with."""
        if run.world not in self.memories or self.memories[run.world][1].fingerprint.cut != system.memory_cut:
            return False
        if isinstance(run.start, str):
            return STARTS[run.start].path is not None
        stays = all(any(name.startswith(each) for each in run.start.freeze) for name in system.memory_weights())
        return stays and self._starts_with_keys(run.start, self.system(run.start))

    def _keeps_memory(self, run: Run, cut: int) -> bool:
        """Whether the first `cut` layers that a run starts with are still the base's."""
        if isinstance(run.start, str):
            return STARTS[run.start].keeps_memory and run.transfer is None
        earlier = self.system(run.start)
        return not earlier.train_memory and earlier.cut >= cut and self._keeps_memory(run.start, cut)

    # -- starts --------------------------------------------------------------------------------------------

    def start_path(self, name: str) -> Path:
        """The folder of a start; it is not made here."""
        start = STARTS[name]
        if start.make is None:
            return start.path or self.base
        return self.settings.work / "starts" / f"{name}-{self.start_key(name)}"

    def start_key(self, name: str) -> str:
        """The hash of a start: of the base, of what is made of it, and of what that needs besides."""
        start = STARTS[name]
        if start.path is not None:
            return _hash({"base": self.digest(start.path)})
        before = self.digest(pretrained_path(self.base)) if start.from_record else None
        return _hash({"base": self.digest(self.base), "start": name if start.make else None, "before": before})

    # -- asking --------------------------------------------------------------------------------------------

    def dev(self, ask: Ask) -> tuple[DevConfig, Recipe]:
        """The dev questions, and a recipe whose [data] is where their passages are."""
        template = copy.deepcopy(self.template)
        template["dev"] |= {"questions": self._dev_file(ask), "limit": self.settings.limit}
        if ask.questions in SPLITS:
            template["dev"]["split"] = SPLITS[ask.questions]
        template["data"] = in_world(template["data"], DEV[ask.questions][1])
        template["system"] = {"name": next(iter(SYSTEMS))}
        recipe = parse_recipe(template)
        return recipe.dev, recipe

    def _dev_file(self, ask: Ask) -> str:
        return DEV[ask.questions][0] or self.template["dev"]["questions"]

    def ask_key(self, ask: Ask, top_k: int) -> str:
        """The hash of how a reader is asked, the reader aside."""
        dev, recipe = self.dev(ask)
        return _hash(
            {
                "questions": self.digest(dev.questions),
                "limit": dev.limit,
                "passages": self._passages(recipe),
                "precision": recipe.training.precision,
                "ask": {"top_k": top_k, "gold": ask.gold, "options": dict(ask.options)},
                **({"search": ask.search, "depth": ask.depth, "measure": ask.measure} if ask.depth else {}),
                **({"sources": list(ask.sources)} if ask.sources else {}),
            }
        )

    @staticmethod
    def _passages(recipe: Recipe) -> list[str]:
        """Which passages are searched, and how: the fingerprints of corpus and index."""
        passages = [read_json(recipe.data.corpus / "corpus.json")["fingerprint"]]
        if recipe.data.index is None:
            return passages
        index = read_json(recipe.data.index / "index.json")
        return [*passages, index["fingerprint"], index["retriever"]]

    def digest(self, path: Path) -> str:
        """The hash of a file, or of the files of a folder; read once."""
        if path not in self._digests:
            place = Path(conditions_of(str(path), str(path))[0])
            inside = [place]
            if place.is_dir():
                inside = sorted(file for file in place.iterdir() if file.is_file() and file.name != LOCK)
            total = hashlib.sha256()
            for file in inside:
                with open(file, "rb") as stream:
                    total.update(f"{file.name if place.is_dir() else ''}\0".encode())
                    total.update(hashlib.file_digest(stream, "sha256").digest())
            self._digests[path] = total.hexdigest()[:16]
        return self._digests[path]


def _chain(run: Run) -> Iterator[Run]:
    """A run and those it needs."""
    yield run
    if not isinstance(run.start, str):
        yield from _chain(run.start)
    if run.transfer is not None:
        yield from _chain(run.transfer[0])


def _of_memory(manifest: Manifest) -> dict[str, Any]:
    """What decides the states that a memory gives."""
    parts = manifest.fingerprint
    return {"codec": manifest.codec, **{name: getattr(parts, name) for name in parts.__slots__}}


def _frozen(system: System) -> list[str]:
    names = [name for name, _ in system.named_parameters()]
    beginnings = [owner + part for owner in OWNERS for part in EMBEDDINGS]
    return [beginning for beginning in beginnings if any(name.startswith(beginning) for name in names)]


def _placeless(written: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as written, without what does not change its outcome and without where things lie."""
    left = {name: dict(table) for name, table in written.items() if name not in ("out", "dev")}
    left["tasks"] = {name: {**task, "questions": None} for name, task in written["tasks"].items()}
    for table, keys in {"training": FREE, "data": PLACES, "init": ("from",), "transfer": ("from",)}.items():
        for key in keys:
            left.get(table, {}).pop(key, None)
    return left


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]
