"""A claim about language models, run: its trainings, their scores on held-out texts, the verdict, a row and a plot.

Trainings lie in the work folder under a hash of their recipe and what it reads; scores beside them, under a hash of how
they were asked. What is there is taken over, so a claim goes on where it was stopped.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from wellread.claims.rows import judged_row, write_row
from wellread.claims.rules import PERCENT, Measured, interval
from wellread.claims.run import Stopped, kept_row, panels
from wellread.claims.text_claim import MEASURE, TextAsk, TextClaim, TextVariant, Training
from wellread.evaluation.language import TextScores, document_bits
from wellread.evaluation.plots import check_plot, panel_plot
from wellread.evaluation.report import hardware
from wellread.model import load_model, save_model
from wellread.nn.checkpoints import read_json
from wellread.retrieval.chunk_database import ChunkDatabase
from wellread.retrieval.chunks import ChunkTexts
from wellread.retrieval.neighbours import NeighbourOptions, Neighbours, find_neighbours
from wellread.texts import NeighbourTexts, Windows, score_texts
from wellread.training.checkpoint import FILE as CHECKPOINT
from wellread.training.checkpoint import replace_folder
from wellread.training.recipes import parse_recipe
from wellread.training.run import run_recipe
from wellread.training.starting import start_model

__all__ = ["TextRuns", "TextSettings", "run_text_claim"]

DONE = "done.json"
LISTED = 4  # neighbours of a held-out chunk that are looked up
SHUFFLE = 0
COLUMNS = ("nats", "bytes", "tokens", "documents", "chunks")
MILLI = 1000.0
SECONDS_PER_STEP = 1.5  # of one core, guessed


@dataclass(frozen=True)
class TextSettings:
    """seeds: trainings of every variant. steps: of a training. limit: held-out documents. changes: of every recipe."""

    seeds: int = 1
    steps: int = 500
    limit: int = 40
    out: Path = Path("results/claims")
    work: Path = Path("runs/claims")
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TextRuns:
    """What the trainings and scores of a budget are, and where they lie."""

    settings: TextSettings

    def missing(self, claim: TextClaim) -> list[Path]:
        """Folders that the claim needs and that are not there."""
        places = []
        for training in {variant.training.name: variant.training for variant in claim.variants.values()}.values():
            tables = self.written(training, 0)
            named = [tables["texts"].get(key) for key in ("chunks", "neighbours", "database")]
            start = None if training.start else tables["init"].get("from")
            places += [training.held, training.database, *named, start]
        found = dict.fromkeys(Path(place) for place in places if place)
        return [place for place in found if not place.exists()]

    def outstanding(self, claim: TextClaim, counted: set[str]) -> dict[str, Any]:
        """The trainings of a claim that are still to be done and not counted yet, their steps, and guessed minutes."""
        found, steps = [], 0
        for variant in claim.variants.values():
            for seed in range(self.settings.seeds):
                folder = self.folder(variant.training, seed)
                if folder.name in counted or (folder / DONE).is_file():
                    continue
                counted.add(folder.name)
                taken = round(self.settings.steps * variant.training.steps)
                steps += taken
                found.append(f"{variant.training.name}, seed {seed}: {folder} ({taken} steps)")
        return {"trainings": found, "steps": steps, "minutes": round(steps * SECONDS_PER_STEP / 60)}

    def written(self, training: Training, seed: int) -> dict[str, Any]:
        """The recipe of a training, as TOML has it."""
        text = files("wellread.data").joinpath("claims", "retro.toml").read_text(encoding="utf8")
        template = tomllib.loads(text)
        for table, values in training.changes.items():
            template[table] = {**template.get(table, {}), **copy.deepcopy(dict(values))}
        for place, value in self.settings.changes.items():
            table, _, key = place.partition(".")
            template.setdefault(table, {})[key] = value
        steps = round(self.settings.steps * training.steps)
        template["training"] |= {"steps": max(steps, 1), "seed": seed}
        if training.start is not None:
            template["init"] = {"from": str(self.folder(training.start, seed) / "last")}
        return template

    def folder(self, training: Training, seed: int) -> Path:
        """Where a training lies: by its recipe and what it reads, not by where that lies."""
        tables = self.written(training, seed)
        texts = tables["texts"]
        reads = [_fingerprint(texts.get("chunks"), "chunks"), _fingerprint(texts.get("database"), "chunks")]
        reads.append(_fingerprint(texts.get("neighbours"), "neighbours") if texts.get("k", 2) else None)
        left = {name: {**table} for name, table in tables.items()}
        for table, keys in {"texts": ("chunks", "database", "neighbours"), "training": ("save_every",)}.items():
            for key in keys:
                left[table].pop(key, None)
        trained = [round(self.settings.steps * training.steps) > 0]
        if training.start is not None:
            left["init"].pop("from")
            trained.append(self.folder(training.start, seed).name)
        return self.settings.work / f"retro-{training.name}-{_hash([left, reads, *trained])}"

    def train(self, training: Training, seed: int, *, progress: bool) -> Path:
        """The trained model, trained now unless it was before. Raises Stopped."""
        folder = self.folder(training, seed)
        if (folder / DONE).is_file():
            return folder / "last"
        if training.start is not None:
            self.train(training.start, seed, progress=progress)
        folder.parent.mkdir(parents=True, exist_ok=True)
        recipe = parse_recipe(self.written(training, seed))
        seconds = 0.0
        if training.steps:
            report = run_recipe(recipe, folder, progress=progress)
            if not report.finished:
                raise Stopped(str(folder))
            rows = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf8").splitlines()]
            seconds = round(sum(row["seconds"] for row in rows), 1)
            (folder / CHECKPOINT).unlink(missing_ok=True)
        else:
            model = start_model(recipe, lambda: ())
            replace_folder(folder / "last", lambda part: save_model(part, model))
        done = {"seconds": seconds, "hardware": hardware()}
        (folder / DONE).write_text(json.dumps(done) + "\n", encoding="utf8")
        return folder / "last"

    def score(self, variant: TextVariant, seed: int, *, progress: bool) -> dict[str, list[float]]:
        """Bits and bytes of every held-out document, as far as their chunks are counted."""
        training, ask = variant.training, variant.ask
        scores = self._scores(training, replace(ask, overlap=1.0), seed, progress=progress)
        if ask.overlap < 1:
            words = load_model(self.folder(training, seed) / "last").frame.tokenizer
            whole = self._source(training, TextAsk(k=LISTED), words)
            scores = _counting(scores, whole.overlap(scores.chunks) <= ask.overlap)
        bits, lengths = document_bits(scores)
        return {"bits": bits.tolist(), "bytes": lengths.tolist()}

    def _scores(self, training: Training, ask: TextAsk, seed: int, *, progress: bool) -> TextScores:
        """The scores of all chunks of the held-out documents; made now unless they were before."""
        held = ChunkTexts.open(training.held)
        asked = {**_asked(ask), "texts": held.fingerprint, "limit": self.settings.limit, "listed": LISTED}
        asked["database"] = ChunkTexts.open(training.database).fingerprint if ask.k else None
        file = self.folder(training, seed) / f"scored-{_hash(asked)}.json"
        if not file.is_file():
            recipe = parse_recipe(self.written(training, seed))
            model = load_model(self.folder(training, seed) / "last", options=ask.options)
            windows = Windows(held, recipe.texts.sequence_chunks, documents=self.settings.limit)
            source = self._source(training, ask, model.frame.tokenizer)
            scores = score_texts(model, source, windows, precision=recipe.training.precision, progress=progress)
            rows = {name: getattr(scores, name).tolist() for name in COLUMNS}
            file.write_text(json.dumps(rows) + "\n", encoding="utf8")
        rows = json.loads(file.read_text(encoding="utf8"))
        return TextScores(**{name: np.array(rows[name]) for name in COLUMNS})

    def _source(self, training: Training, ask: TextAsk, tokenizer: Any) -> NeighbourTexts:
        if ask.k == 0:
            return NeighbourTexts.open(training.held, None, None, tokenizer=tokenizer, k=0)
        lists = self.neighbours(training, ask.share)
        return NeighbourTexts.open(
            training.held,
            lists.path,
            training.database,
            tokenizer=tokenizer,
            k=ask.k,
            shuffled=SHUFFLE if ask.shuffled else None,
        )

    def neighbours(self, training: Training, share: float) -> Neighbours:
        """The neighbours of the held-out chunks in a share of the database, found now unless they were before."""
        held, database = ChunkTexts.open(training.held), ChunkDatabase.open(training.database)
        key = _hash([held.fingerprint, database.fingerprint, share, LISTED])
        folder = self.settings.work / "neighbours" / key
        return find_neighbours(held, database, folder, NeighbourOptions(k=LISTED, share=share))


def run_text_claim(
    runs: TextRuns,
    claim: TextClaim,
    *,
    command: str = "",
    again: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """The row of a claim, also written into the folder of the results, with a plot. Raises Stopped."""
    settings = runs.settings
    plot = settings.out / f"{claim.id}.svg"
    check_plot(plot)
    plan = _hash(
        {
            name: [
                _asked(each.ask),
                settings.limit,
                *(runs.folder(each.training, n).name for n in range(settings.seeds)),
            ]
            for name, each in claim.variants.items()
        }
    )
    if not again and (kept := kept_row(settings.out, claim, plan)) is not None:
        return kept
    measured = {}
    for name, variant in claim.variants.items():
        found = []
        for seed in range(settings.seeds):
            say(f"{claim.id}: {name}, seed {seed}")
            runs.train(variant.training, seed, progress=progress)
            found.append(runs.score(variant, seed, progress=progress))
        measured[name] = _measured(found)
    row = _row(runs, claim, measured) | {"plan": plan, "command": command or f"wellread reproduce {claim.id}"}
    write_row(settings.out, row)
    panel_plot(plot, panels(claim, row))
    return row


def _measured(found: list[Mapping[str, Any]]) -> Measured:
    """A value per document, whose mean times PERCENT is the millibits per byte of all of them together.

    That is a ratio of sums. Its linear part in each document (Cochran 1977, chapter 6) varies as the ratio does over
    draws of documents, which bits that were scaled alone would not: long documents would then count as costly ones.
    """
    rows = []
    for each in found:
        bits, lengths = np.array(each["bits"]), np.array(each["bytes"])
        ratio = bits.sum() / lengths.sum()
        rows.append((ratio + (bits - ratio * lengths) / lengths.mean()) * MILLI / PERCENT)
    return Measured(np.array(rows))


def _row(runs: TextRuns, claim: TextClaim, measured: Mapping[str, Measured]) -> dict[str, Any]:
    settings = runs.settings
    return judged_row(
        claim,
        [rule.judge(measured) for rule in claim.rules],
        [_variant(runs, name, each, measured[name]) for name, each in claim.variants.items()],
        budget={
            "steps": settings.steps,
            "batch_size": runs.written(next(iter(claim.variants.values())).training, 0)["training"]["batch_size"],
            "questions": next(iter(measured.values())).em.shape[1],
            "units": ["windows", "held-out documents"],
        },
        seeds=settings.seeds,
    )


def _variant(runs: TextRuns, name: str, variant: TextVariant, measured: Measured) -> dict[str, Any]:
    low, high = interval(measured)
    folders = [runs.folder(variant.training, seed) for seed in range(runs.settings.seeds)]
    return {
        "variant": name,
        "series": variant.series,
        "x": variant.x,
        "training": variant.training.name,
        "asked": asdict(variant.ask),
        "em": round(measured.mean, 2),
        "measure": MEASURE,
        "per_seed": [round(PERCENT * float(row.mean()), 2) for row in measured.em],
        "interval": [round(low, 2), round(high, 2)],
        "gflops": 0.0,
        "recipes": [folder.name for folder in folders],
        "seconds": [json.loads((folder / DONE).read_text(encoding="utf8"))["seconds"] for folder in folders],
    }


def _asked(ask: TextAsk) -> dict[str, Any]:
    """What tells scores from others. Where a field would say the same of all scores of before, it is left out."""
    asked = asdict(ask) | {"shuffled": "other documents" if ask.shuffled else False}
    return {name: value for name, value in asked.items() if name != "options" or value}


def _counting(scores: TextScores, chosen: np.ndarray) -> TextScores:
    """The scores with nothing but the chosen chunks counted; documents without any stay, so that all can be paired."""
    if not chosen.any():
        raise ValueError("no held-out chunk has as little overlap as is asked for; score more documents (--limit).")
    return replace(scores, nats=scores.nats * chosen, bytes=scores.bytes * chosen)


def _fingerprint(folder: str | None, kind: str) -> Any:
    """What tells texts, or lists of neighbours, from others; None where they are not there."""
    if folder is None or not Path(folder, f"{kind}.json").is_file():
        return None
    info = read_json(Path(folder, f"{kind}.json"))
    return [info.get(key) for key in ("fingerprint", "database", "texts", "k", "share")]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
