"""`wellread index CORPUS`: build a search index over a corpus."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from wellread.cli.output import emit, json_option
from wellread.retrieval import RETRIEVERS, default_retriever

__all__ = ["command"]


@click.command("index")
@click.argument("corpus", type=click.Path(path_type=Path))
@click.option(
    "--retriever",
    metavar="NAME",
    help=f"One of: {', '.join(RETRIEVERS)}; without it, hybrid where a dense encoder is installed, else lexical.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory for the index.")
@click.option("--encoder", metavar="NAME", help="Dense: name or folder of a sentence-transformers model.")
@click.option("--approximate", is_flag=True, default=None, help="Dense: search with an inverted file.")
@click.option("--run", metavar="FILE", help="Given: the file of candidates (JSON lines or a TREC run).")
@click.option("--overwrite", is_flag=True, help="Replace the index that is in the directory.")
@json_option
def command(corpus: Path, retriever: str | None, out: Path, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Build a search index over the CORPUS directory that `wellread corpus` made.

    A build that was stopped is resumed by the same command.

    \b
    Example:
      wellread index corpus --out index
      wellread index corpus --retriever dense --approximate --out index
    """
    from wellread.corpus.store import Corpus

    name = retriever or default_retriever()
    kind = RETRIEVERS[name]
    given = {key: value for key, value in options.items() if value is not None}
    start = time.perf_counter()
    index = kind.build(Corpus.open(corpus), out, overwrite=overwrite, **given)
    result = {
        "retriever": name,
        "passages": len(index),
        "seconds": round(time.perf_counter() - start, 3),
        "bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
        "fingerprint": index.fingerprint,
        "out": str(out),
    }
    human = "{passages} passages in a {retriever} index of {bytes} bytes at {out}, {seconds} s".format(**result)
    emit(result, as_json, human)
