"""`wellread reproduce`: a paper's claim at small scale: trains, measures, plots, says whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wellread.cli.output import POSITIVE, emit, json_option, say

if TYPE_CHECKING:
    from wellread.claims.budget import Budget
    from wellread.claims.claim import Claim
    from wellread.claims.text_claim import TextClaim

BASE, MEMORY = "runs/squad/start/last", "runs/squad/memory-bf16"
# What claims need, and how it is made.
ADVICE = (
    'README.md, "Real questions", has the commands that make corpus, index and reader (recipes/squad/start.toml), the '
    "first lines of recipe.toml and retro.toml in wellread/data/claims have those for what other claims need; --base "
    "takes another reader, such as wellread-mini"
)
# Asking a trained reader one dev question, beside its training: seconds, guessed.
ASKING = 0.25


@click.command()
@click.argument("claims", nargs=-1, metavar="[CLAIM]...")
@click.option("--seeds", default=2, show_default=True, type=POSITIVE, help="Trainings of every variant.")
@click.option("--steps", default=150, show_default=True, type=POSITIVE, help="Steps of a training.")
@click.option("--passages", default=2, show_default=True, type=POSITIVE, help="Candidates of a training question.")
@click.option("--limit", default=200, show_default=True, type=POSITIVE, help="Dev questions, evenly spaced.")
@click.option("--base", default=BASE, show_default=True, help="The reader that all trainings start from.")
@click.option("--memory", default=None, help=f"Its memory, read where it fits; default: {MEMORY} where that exists.")
@click.option("--out", default="results/claims", show_default=True, help="Folder of the results.")
@click.option("--work", default="runs/claims", show_default=True, help="Folder of the trainings.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a value of the recipe of all.")
@click.option("--again", is_flag=True, help="Judge and write a finished claim anew; trainings are kept.")
@click.option("--dry-run", is_flag=True, help="Say what would be trained, and about how long it takes.")
@json_option
def command(claims: tuple[str, ...], dry_run: bool, again: bool, as_json: bool, **choice: Any) -> None:
    """Try a paper's claim at small scale; without a CLAIM, list all claims and what came out.

    CLAIM is the name of a claim, a paper (lumen, glimmer), a paper and a place (lumen fig1), or all. Trainings and
    finished claims are kept: the same command goes on where it was stopped.

    Claims need a corpus, an index and a reader to start from, which the commands of README.md, "Real questions", make
    (up to `wellread train recipes/squad/start.toml`); --dry-run says what is missing.

    \b
    Examples:
      wellread reproduce
      wellread reproduce lumen --dry-run
      wellread reproduce lumen-live-share
      wellread reproduce glimmer tab3 --steps 300 --seeds 3
    """
    from wellread.claims import CLAIMS, find_claims

    asked = find_claims(claims) if claims else list(CLAIMS.values())
    if not claims and not dry_run:
        _list(asked, Path(choice["out"]), as_json)
        return
    from wellread.claims.budget import Budget

    budget = Budget(_settings(choice))
    if dry_run:
        _plan(budget, asked, as_json)
    else:
        _check(budget, asked)
        _run(budget, asked, " ".join(claims), choice, again=again, as_json=as_json)


def _settings(choice: Mapping[str, Any]) -> Any:
    from wellread.claims.plan import Settings
    from wellread.config import parse_settings
    from wellread.model import model_path

    memory = choice["memory"]
    if memory is None and Path(MEMORY, "memory.json").is_file():
        memory = MEMORY
    if choice["base"] != BASE:
        model_path(choice["base"])  # a mistyped folder is no reader that is still to be made
    numbers = {name: choice[name] for name in ("seeds", "steps", "passages", "limit")}
    places = {name: Path(choice[name]) for name in ("base", "out", "work")}
    changes = parse_settings(choice["settings"])
    return Settings(**numbers, **places, memory=None if memory is None else Path(memory), changes=changes)


def _command(claim: Claim | TextClaim, choice: Mapping[str, Any]) -> str:
    """The command line that makes the same row again: what was given and is not as it is by default."""
    from wellread.claims.run import command_of

    defaults = {option.name: option.default for option in command.params}
    changed = {name: value for name, value in choice.items() if name != "settings" and value != defaults[name]}
    words = [word for name, value in changed.items() for word in (f"--{name}", str(value))]
    return command_of([claim.id, *words, *(word for each in choice["settings"] for word in ("--set", each))])


def _check(budget: Budget, claims: Sequence[Claim | TextClaim]) -> None:
    """ValueError where a claim needs something that is not there, before the first of them takes hours."""
    lacking = {claim.id: missing[0] for claim in claims if (missing := budget.missing(claim))}
    if lacking:
        name, path = next(iter(lacking.items()))
        raise ValueError(
            f"{', '.join(lacking)}: {path} is needed for {name} and does not exist. {ADVICE}. Or name other claims."
        )


def _list(claims: Sequence[Claim | TextClaim], out: Path, as_json: bool) -> None:
    from wellread.claims.rows import read_rows, state

    rows = read_rows(out)
    found = [
        {
            "claim": each.id,
            "where": f"{each.paper.upper()}, {each.where}",
            "state": state(rows.get(each.id), each),
            "says": each.says,
        }
        for each in claims
    ]
    wide = {key: max(len(each[key]) for each in found) for key in ("claim", "where", "state")}
    lines = ["  ".join([*(f"{each[key]:<{wide[key]}}" for key in wide), each["says"]]) for each in found]
    emit({"claims": found}, as_json, "\n".join(lines))


def _plan(budget: Budget, claims: Sequence[Claim | TextClaim], as_json: bool) -> None:
    """What is to be trained for these claims; trainings that claims share are counted with the first of them."""
    from wellread.claims.run import outstanding

    counted: set[str] = set()
    rows = [_planned(budget, claim, outstanding, counted) for claim in claims]
    planned = [row for row in rows if "missing" not in row]
    lines = [_told(row) for row in rows]
    total: dict[str, int | None] = {"trainings": None, "steps": None, "minutes": None}
    if planned:
        total = {"trainings": len(counted), **{key: sum(row[key] for row in planned) for key in ("steps", "minutes")}}
        lines.append(
            f"{total['trainings']} trainings, {total['steps']} steps, about {total['minutes']} minutes of one core (a "
            "guess). A training that claims share is counted with the first of them."
        )
    if len(planned) < len(rows):
        lines.append(f"Not planned: {len(rows) - len(planned)} of {len(rows)} claims, which lack something. {ADVICE}.")
    emit({"claims": rows, **total}, as_json, "\n".join(lines))


def _planned(budget: Budget, claim: Claim | TextClaim, outstanding: Callable, counted: set[str]) -> dict[str, Any]:
    if missing := budget.missing(claim):
        return {"claim": claim.id, "missing": str(missing[0])}
    from wellread.claims.text_claim import TextClaim

    if isinstance(claim, TextClaim):
        return {"claim": claim.id, "variants": list(claim.variants), **budget.texts.outstanding(claim, counted)}
    planner = budget.planner
    runs = planner.runs(claim)
    names = {run.key: f"{name}, seed {run.seed}" for name, each in runs.items() for run in each}
    needed = [run for run in outstanding([run for each in runs.values() for run in each]) if run.key not in counted]
    counted |= {run.key for run in needed}
    asking = len(runs) * planner.settings.seeds * planner.settings.limit * ASKING / 60
    return {
        "claim": claim.id,
        "variants": list(runs),
        "trainings": [
            f"{names.get(run.key, f'before others, seed {run.seed}')}: {run.folder} ({run.steps} steps, about "
            f"{run.minutes:.0f} min)"
            for run in needed
        ],
        "steps": sum(run.steps for run in needed),
        "minutes": round(sum(run.minutes for run in needed) + asking),
    }


def _told(row: Mapping[str, Any]) -> str:
    if "missing" in row:
        return f"{row['claim']}: {row['missing']} is needed and does not exist"
    counts = f"{len(row['variants'])} variants, {len(row['trainings'])} trainings to do, {row['steps']} steps"
    return "\n".join([f"{row['claim']}: {counts}, about {row['minutes']} min", *map("  {}".format, row["trainings"])])


def _run(
    budget: Budget,
    claims: Sequence[Claim | TextClaim],
    name: str,
    choice: Mapping[str, Any],
    *,
    again: bool,
    as_json: bool,
) -> None:
    from wellread.claims.run import Stopped

    found = []
    for claim in claims:
        try:
            made_by = _command(claim, choice)
            found.append(budget.run(claim, command=made_by, again=again, progress=not as_json, say=say))
        except Stopped:
            say("stopped; run the same command again to go on.")
            raise click.Abort from None
        say(f"{claim.id}: {found[-1]['verdict']}")
    verdicts = {row["holds"] for row in found}
    result = {
        "claim": name,
        "holds": False if False in verdicts else None if None in verdicts else True,
        "rows": [{"claim": row["claim"], **each} for row in found for each in row["rows"]],
        "claims": [{key: value for key, value in row.items() if key != "rows"} for row in found],
    }
    emit(result, as_json, "\n\n".join(map(_shown, found)))


def _shown(row: Mapping[str, Any]) -> str:
    from wellread.evaluation.report import to_markdown

    variants = [
        {
            "variant": each["variant"],
            each.get("measure", "em").replace("em", "EM"): each["em"],
            "95 %": " to ".join(f"{bound:.1f}" for bound in each["interval"]),
            "per seed": " ".join(f"{value:.1f}" for value in each["per_seed"]),
            "GFLOPs": each["gflops"],
        }
        for each in row["rows"]
    ]
    rules = [f"- {each['says']}: {each['verdict']} ({each['value']})" for each in row["rules"]]
    head = f"{row['claim']} ({row['paper'].upper()}, {row['where']}): {row['verdict']}\n{row['says']}\nThe paper: "
    return "\n".join([head + row["figures"]["says"], to_markdown(variants).rstrip(), *rules])
