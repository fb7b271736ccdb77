"""`wellread train`: train a reader by a recipe, or go on with a run that was stopped."""

from __future__ import annotations

import os

import click

from wellread.cli.output import emit, json_option, say


@click.command()
@click.argument("recipe")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a value of the recipe.")
@click.option("--out", default=None, help="Folder of the run; default: `out` of the recipe.")
@click.option("--restart", is_flag=True, help="Begin anew and forget the run that is in the folder.")
@json_option
def command(recipe: str, settings: tuple[str, ...], out: str | None, restart: bool, as_json: bool) -> None:
    """Train a reader by a recipe. The same command goes on where a run was stopped.

    Several processes are started by torchrun, on GPUs and on CPUs.

    \b
    Examples:
      wellread train recipes/example.toml
      wellread train recipes/example.toml --set training.steps=2000 --out runs/longer
      torchrun --nproc_per_node 2 $(which wellread) train recipes/example.toml
    """
    from wellread.training.recipes import load_recipe
    from wellread.training.run import run_recipe

    loaded = load_recipe(recipe, settings)
    report = run_recipe(loaded, out, restart=restart)
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes only the first one talks
    if not report.finished:
        say(f"stopped after step {report.steps} of {loaded.training.steps}; run the same command again to go on.")
    result = {
        "steps": report.steps,
        "best": report.best,
        "checkpoint": str(report.checkpoint),
        "finished": report.finished,
    }
    best = "" if report.best is None else f", best {loaded.training.keep_best} {report.best:.2f}"
    emit(result, as_json, f"{report.steps} steps{best}: {report.checkpoint}")
