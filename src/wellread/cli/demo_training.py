"""What `wellread demo` does where no trained model came along: it trains two small readers for a few minutes."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wellread.cli.output import say

if TYPE_CHECKING:
    from wellread.pipeline import Pipeline

__all__ = ["trained_readers"]


def trained_readers(
    home: Path, readers: Mapping[str, tuple[str, str, int]], *, steps: int | None
) -> dict[str, tuple[Pipeline, int]]:
    """readers: name shown -> (system that is trained, system it is read as, passages retrieved)."""
    from wellread.corpus.store import Corpus
    from wellread.pipeline import load_model, memorize_corpus, open_pipeline

    say("\n2/4  readers: no trained model comes with this version, so small ones are trained now, for a few minutes")
    wanted = dict.fromkeys(trained for trained, _, _ in readers.values())
    folders = {system: _train(home, system, steps) for system in wanted}
    corpus, pipelines = Corpus.open(home / "corpus"), {}
    for name, (trained, system, top_k) in readers.items():
        model = load_model(folders[trained], system=system)
        memorize_corpus(corpus, model, home / f"memory-{trained}", retriever="none", progress=False)
        pipeline = open_pipeline(model=model, memory=home / f"memory-{trained}", index=home / "index")
        pipelines[name] = (pipeline, top_k)
    return pipelines


def _train(home: Path, system: str, steps: int | None) -> Path:
    from importlib.resources import files

    from wellread.training.recipes import parse_recipe
    from wellread.training.run import run_recipe

    mapping = tomllib.loads(files("wellread.data").joinpath("demo", "recipe.toml").read_text(encoding="utf8"))
    if mapping["system"]["name"] != system:
        mapping["system"] = {"name": system}
    mapping["data"] |= {"corpus": str(home / "corpus"), "index": str(home / "index")}
    mapping["tasks"]["almanac"]["questions"] = str(home / "questions.jsonl")
    if steps is not None:
        mapping["training"]["steps"] = steps
    report = run_recipe(parse_recipe(mapping), home / system)
    if not report.finished:
        raise click.Abort  # stopped by a signal; the same command goes on from here
    return report.checkpoint
