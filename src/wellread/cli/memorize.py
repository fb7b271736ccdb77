"""`wellread memorize`: read a corpus ahead and store what was understood."""

from __future__ import annotations

from typing import Any

import click

from wellread.cli.opening import model_option, pictures_option
from wellread.cli.output import emit, json_option


@click.command()
@click.argument("corpus")
@model_option
@click.option("--codec", default="bf16", show_default=True, help="How states are stored: bf16, int8, pq8, pq16.")
@click.option("--out", required=True, help="Folder of the memory; an unfinished build in it is resumed.")
@click.option(
    "--retriever",
    default=None,
    help="Index kept in the memory: lexical, dense, hybrid, the model's own, or none. Default: its own, else "
    "hybrid where a dense encoder is installed.",
)
@click.option("--batch-size", default=32, show_default=True, help="Passages encoded together.")
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "bf16"]),
    help="Of the reading; bf16 is faster where the processor knows it.",
)
@pictures_option
@json_option
def command(corpus: str, model: str, out: str, as_json: bool, **options: Any) -> None:
    """Read a corpus ahead; resumes after an interruption.

    \b
    Examples:
      wellread memorize corpus --codec int8 --out memory
      wellread memorize corpus --model model --codec int8 --out memory
    """
    from dataclasses import asdict

    from wellread.corpus.store import Corpus
    from wellread.pipeline import load_model, memorize_corpus

    report = memorize_corpus(Corpus.open(corpus), load_model(model), out, **options)
    human = (
        f"{out}: {report.passages} passages, {report.tokens} tokens, {report.bytes / 2**20:.1f} MiB, "
        f"{report.passages_per_second:.1f} passages/s"
    )
    if report.resumed_from:
        human += f" (resumed from {report.resumed_from})"
    emit({**asdict(report), "out": out}, as_json, human)
