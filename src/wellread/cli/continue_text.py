"""`wellread continue`: go on with a text, looking up every finished chunk in a database."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from wellread.cli.output import POSITIVE, emit, json_option

if TYPE_CHECKING:
    from wellread.continuing import Continuation, Neighbour

SHOWN = 100  # characters of a chunk or neighbour


@click.command()
@click.argument("text")
@click.option("--model", required=True, help="Folder of a language model with neighbours (wellread train, init).")
@click.option("--database", default=None, help="Chunks with an index (wellread chunks); without it, nothing is found.")
@click.option("-k", "--neighbours", "k", default=2, show_default=True, type=click.IntRange(min=0), help="Per chunk.")
@click.option("--tokens", default=64, show_default=True, type=POSITIVE, help="The most tokens that are written.")
@json_option
def command(text: str, model: str, database: str | None, k: int, tokens: int, as_json: bool) -> None:
    """Continue TEXT, and show what was found for every finished chunk: distance, title and text of its neighbours, and
    which share of what neighbours gave the words that were written was theirs.

    A chunk is looked up when its last token is there, in TEXT as well as in what is written.

    \b
    Example:
      wellread continue "The ferry was launched in Bergen in 1931 and" --model runs/retro/with/last \\
          --database runs/retro/wiki18/database
    """
    from wellread.continuing import continue_text
    from wellread.model import load_model
    from wellread.retrieval.chunk_database import ChunkDatabase

    opened = None if database is None else ChunkDatabase.open(database)
    found = continue_text(load_model(model), opened, text, k=k, max_tokens=tokens)
    without = "no --database" if opened is None else "-k 0" if k == 0 else ""
    emit(as_mapping(text, found), as_json, as_text(text, found, without))


def as_mapping(text: str, found: Continuation) -> dict[str, Any]:
    """A continuation as the JSON object `continue --json` prints."""
    described = asdict(found)
    return {"text": text, "continuation": described.pop("text"), **described}


def as_text(text: str, found: Continuation, without: str = "") -> str:
    """A continuation for people. without: why nothing was looked up, where nothing was."""
    lines = [f"{text}|{found.text}", ""]
    for number, chunk in enumerate(found.chunks):
        lines.append(f"chunk {number}: {_short(chunk.text)}")
        lines += [f"   {_told(each)}" for each in chunk.neighbours] or ["   (nothing found)"]
    spent = ", ".join(f"{name} {value:.0f} ms" for name, value in found.milliseconds.items())
    sought = f"nothing was looked up ({without})" if without else f"{len(found.chunks)} chunks looked up"
    return "\n".join([*lines, f"{found.num_tokens} tokens, {sought}; {spent}"])


def _told(each: Neighbour) -> str:
    where = f"{each.title} ({each.document})"
    return f"{each.distance:.3f}  {each.share:4.0%}  {where}: {_short(each.text)} >> {_short(each.continuation)}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
