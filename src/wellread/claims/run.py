"""A claim, run: its trainings, what they answer, the verdict, a row and a plot. Goes on where it was stopped.

A run's folder is an ordinary one of `wellread train`, and besides holds
done.json         that it was trained to the end, and how long that took
asked-HASH.json   what it answered, when it was asked in the way of that hash
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from wellread.claims.claim import Ask, Claim, Variant
from wellread.claims.measure import Asked, ask_all, dev_questions, with_gold
from wellread.claims.plan import Planned, Planner
from wellread.claims.rows import description, judged_row, number, read_rows, write_row
from wellread.claims.rules import Measured, interval
from wellread.claims.searching import SearchPlaces, forget, rank_of_right, search_all
from wellread.claims.starts import STARTS
from wellread.claims.worlds import DEV
from wellread.corpus.store import Corpus
from wellread.evaluation.metrics import recall_by_answer
from wellread.evaluation.plots import Line, Panel, check_plot, panel_plot
from wellread.evaluation.ranking import values_of
from wellread.evaluation.report import hardware
from wellread.memory.store import Memory
from wellread.model import Model, as_system, load_model, save_model
from wellread.training.candidates import open_finder
from wellread.training.checkpoint import FILE as CHECKPOINT
from wellread.training.checkpoint import replace_folder
from wellread.training.online import drop_online_memory
from wellread.training.run import run_recipe
from wellread.types import Candidates, Question

if TYPE_CHECKING:
    from wellread.claims.text_claim import TextClaim

__all__ = ["Stopped", "kept_row", "outstanding", "panels", "run_claim"]

DONE = "done.json"
Talk = Callable[[str], None]


class Stopped(Exception):
    """A signal asked a training to stop; the same call goes on from there."""


def run_claim(
    planner: Planner,
    claim: Claim,
    *,
    command: str = "",
    again: bool = False,
    progress: bool = False,
    say: Talk = lambda text: None,
) -> dict[str, Any]:
    """The row of a claim, which is also written into the folder of the results, with a plot.

    What was trained and asked before with the same budget is taken over, a whole row unless `again`. command: what the
    row says it was made by. Raises Stopped.
    """
    out = planner.settings.out
    plot = out / f"{claim.id}.svg"
    check_plot(plot)
    runs = planner.runs(claim)
    plan = plan_key(planner, claim, runs)
    if not again and (kept := kept_row(out, claim, plan)) is not None:
        return kept
    for name, variant in claim.variants.items():
        for planned in runs[name]:
            say(f"{claim.id}: {name}, seed {planned.seed}")
            train(planner, planned, progress=progress)
            asked(planner, planned, variant.ask)
    for planned in {run.key: run for each in runs.values() for run in each}.values():
        forget(planned.folder / "search")
    measured = {name: _measured(planner, runs[name], variant.ask) for name, variant in claim.variants.items()}
    row = _row(planner, claim, runs, measured) | {"plan": plan, "command": command or f"wellread reproduce {claim.id}"}
    write_row(out, row)
    panel_plot(plot, panels(claim, row))
    return row


def kept_row(out: Path, claim: Claim | TextClaim, plan: str) -> dict[str, Any] | None:
    """The row that was made by the same plan, told in the words the claim has now; None where there is none."""
    plot = out / f"{claim.id}.svg"
    kept = read_rows(out).get(claim.id)
    if kept is None or kept["plan"] != plan or not plot.is_file():
        return None
    row = kept | description(claim)
    if row != kept:
        write_row(out, row)
        panel_plot(plot, panels(claim, row))
    return row


def plan_key(planner: Planner, claim: Claim, runs: Mapping[str, Sequence[Planned]]) -> str:
    """What a row is made of: the hashes of all its runs and of how they are asked."""
    asks = {
        name: planner.ask_key(variant.ask, _top_k(runs[name][0], variant.ask))
        for name, variant in claim.variants.items()
    }
    return ",".join(f"{name}:{asks[name]}:{'+'.join(run.key for run in runs[name])}" for name in claim.variants)


def outstanding(planned: Sequence[Planned]) -> list[Planned]:
    """The runs, and those they need, that were not trained yet; each once."""
    found = {run.key: run for each in planned for run in each.chain()}
    return [run for run in found.values() if not (run.folder / DONE).is_file()]


# -- training ----------------------------------------------------------------------------------------------


def train(planner: Planner, planned: Planned, *, progress: bool = False) -> None:
    """Train a run, those before it first, unless that is done. Raises Stopped."""
    for before in planned.before:
        train(planner, before, progress=progress)
    # Claims share runs: of two processes that want the same one, one trains it and the other waits.
    with _alone(planned.folder):
        if (planned.folder / DONE).is_file():
            return
        if isinstance(planned.run.start, str):
            make_start(planner, planned.run.start)
        done = {"key": planned.key, "hardware": hardware()}
        if planned.run.steps:
            report = run_recipe(planned.recipe, planned.folder, progress=progress)
            if not report.finished:
                raise Stopped(str(planned.folder))
            done |= {"steps": report.steps, "seconds": _seconds(planned.folder)}
            # What is only needed to go on takes more room than the model itself.
            (planned.folder / CHECKPOINT).unlink()
            drop_online_memory(planned.folder)
        else:
            system = planned.recipe.system
            model = as_system(load_model(planned.recipe.init.from_), system["name"], planned.recipe.system_options)
            replace_folder(planned.last, lambda part: save_model(part, model))
            done |= {"steps": 0, "seconds": 0.0}
        (planned.folder / DONE).write_text(json.dumps(done) + "\n", encoding="utf8")


def make_start(planner: Planner, name: str) -> Path:
    """Make the reader that runs start from, unless it is there."""
    folder, make = planner.start_path(name), STARTS[name].make
    if make is None:
        return folder
    with _alone(folder):
        if not (folder / "system.json").is_file():
            model = make(planner.base)
            replace_folder(folder, lambda part: save_model(part, model))
    return folder


def _alone(folder: Path) -> FileLock:
    """While it is held, no other process works in the folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def _seconds(folder: Path) -> float:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf8").splitlines()]
    return round(sum(row["seconds"] for row in rows), 1)


# -- asking ------------------------------------------------------------------------------------------------


def asked(planner: Planner, planned: Planned, ask: Ask) -> dict[str, Any]:
    """What a trained run answers: {"em", "kept", "flops", "top_k", ...}; asked now unless it was before."""
    top_k = _top_k(planned, ask)
    file = planned.folder / f"asked-{planner.ask_key(ask, top_k)}.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf8"))
    with _alone(planned.folder):
        if not file.is_file():
            row = _ask(planner, planned, ask, top_k)
            file.write_text(json.dumps(row) + "\n", encoding="utf8")
    return json.loads(file.read_text(encoding="utf8"))


def _ask(planner: Planner, planned: Planned, ask: Ask, top_k: int) -> dict[str, Any]:
    dev, recipe = planner.dev(ask)
    data, corpus = recipe.data, Corpus.open(recipe.data.corpus)
    questions = dev_questions(dev, answered=ask.measure.startswith(("em", "answer@")))
    model = load_model(planned.last, options=dict(ask.options)).with_pictures(data.pictures)
    memory = _memory(planner, model, DEV[ask.questions][1])
    row = {"top_k": top_k, "gold": ask.gold, "options": dict(ask.options), "questions": len(questions)}
    if ask.search:
        places = SearchPlaces(corpus, planned.folder / "search", planner.settings.work, memory)
        candidates = search_all(model, questions, places, search=ask.search, top_k=ask.depth, sources=ask.sources)
    else:
        finder = open_finder(index=data.index, candidates=None, cache=planner.settings.work, progress=False)
        candidates = with_gold(questions, finder, corpus, top_k=max(top_k, ask.depth), gold=ask.gold and not ask.depth)
    if ask.depth:
        row["ranks"] = [rank_of_right(*pair) for pair in zip(questions, candidates, strict=True)]
        row |= {name: list(each) for name, each in values_of(questions, candidates, measures=["ndcg@10"]).items()}
    if ask.measure.startswith("answer@"):
        row[ask.measure] = [_holds_answer(corpus, *pair, ask.measure) for pair in zip(questions, candidates)]
    read = Asked([], [None] * len(questions), 0.0)
    if ask.measure == "em":
        read = ask_all(
            model,
            questions,
            [found.top(top_k) for found in candidates],
            corpus=corpus,
            memory=memory,
            precision=recipe.training.precision,
        )
    return row | {"flops": read.flops, "em": read.em, "kept": read.kept}


def _holds_answer(corpus: Corpus, question: Question, found: Candidates, measure: str) -> float:
    first = int(measure.removeprefix("answer@"))
    texts = [passage.text for passage in corpus.get(found.ids[:first])]
    return recall_by_answer(texts, question.answers, first)


def _memory(planner: Planner, model: Model, world: str) -> Memory | None:
    """The states of a world's passages, where there is a memory of this model's."""
    if world not in planner.memories or not {"states", "keys"} & model.system.stores:
        return None
    memory = Memory.open(planner.memories[world][0])
    return None if memory.fingerprint.difference(model.fingerprint(), model.system.bound_to) else memory


def _top_k(planned: Planned, ask: Ask) -> int:
    return ask.top_k or planned.recipe.data.top_k


def _measured(planner: Planner, runs: Sequence[Planned], ask: Ask) -> Measured:
    rows = [asked(planner, planned, ask) for planned in runs]
    return Measured(np.array([ask.right(row) for row in rows]), float(np.mean([row["flops"] for row in rows])) / 1e9)


# -- the row -----------------------------------------------------------------------------------------------


def _row(
    planner: Planner, claim: Claim, runs: Mapping[str, Sequence[Planned]], measured: Mapping[str, Measured]
) -> dict[str, Any]:
    first = next(iter(runs.values()))[0].recipe.training
    settings = planner.settings
    return judged_row(
        claim,
        [rule.judge(measured) for rule in claim.rules],
        [_variant(planner, name, variant, runs[name], measured[name]) for name, variant in claim.variants.items()],
        budget={
            "steps": settings.steps,
            "batch_size": first.batch_size,
            "passages": settings.passages,
            "questions": next(iter(measured.values())).em.shape[1],
            "base": str(settings.base),
            "base_hash": planner.digest(planner.base),
        },
        seeds=settings.seeds,
    )


def _variant(
    planner: Planner, name: str, variant: Variant, runs: Sequence[Planned], measured: Measured
) -> dict[str, Any]:
    low, high = interval(measured)
    rows = [asked(planner, planned, variant.ask) for planned in runs]
    kept = [value for row in rows for value in row["kept"] if value is not None]
    first = runs[0].recipe
    return {
        "variant": name,
        "series": variant.series,
        "x": variant.x,
        "system": variant.run.system,
        "options": dict(variant.run.options) | dict(variant.ask.options),
        "start": variant.run.start if isinstance(variant.run.start, str) else runs[0].before[0].folder.name,
        "steps": first.training.steps,
        "trained_with": first.data.top_k,
        "asked_with": rows[0]["top_k"],
        "gold_put_in": variant.ask.gold,
        "em": round(measured.mean, 2),
        "measure": variant.ask.measure,
        "search": variant.ask.search or "the index",
        "per_seed": [round(100 * float(np.mean(variant.ask.right(row))), 2) for row in rows],
        "interval": [round(low, 2), round(high, 2)],
        "right_passage_read": round(100 * float(np.mean(kept)), 1) if kept else None,
        "gflops": round(measured.gflops, 4),
        "samples_per_tflop": number(measured.samples_per_tflop),
        "recipes": [planned.key for planned in runs],
        "seconds": [json.loads((run.folder / DONE).read_text(encoding="utf8"))["seconds"] for run in runs],
    }


# -- the plot ----------------------------------------------------------------------------------------------


def panels(claim: Claim | TextClaim, row: Mapping[str, Any]) -> list[Panel]:
    """The paper's curve, where its text gives one, beside ours with its intervals."""
    figures = claim.figures
    paper = {name: (list(points), list(points.values())) for name, points in figures.series.items()}
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for each in row["rows"]:
        lines.setdefault(each["series"], []).append(each)
    key = "x" if claim.x == "given" else claim.x
    ours = {
        name: Line(
            x=[each[key] for each in points],
            y=[each["em"] for each in points],
            low=[each["interval"][0] for each in points],
            high=[each["interval"][1] for each in points],
        )
        for name, points in ((name, sorted(each, key=lambda point: point[key])) for name, each in lines.items())
    }
    title = f"{claim.paper.upper()}, {claim.where}"
    theirs = [Panel(paper, title=title, x_label=figures.x_label, y_label=figures.y_label)] if paper else []
    told = f"ours: {row['verdict']}" if paper else f"{title} (shape only); ours: {row['verdict']}"
    return [*theirs, Panel(ours, title=told, x_label=claim.x_label, y_label=claim.y_label)]


def command_of(arguments: Sequence[str]) -> str:
    """A command line as it is typed."""
    return shlex.join(["wellread", "reproduce", *arguments])
