"""wellread corpus: documents -> passages."""

from __future__ import annotations

from pathlib import Path

import click

from wellread.cli.output import emit, json_option, say_some
from wellread.extras import install_hint

HELP = f"""Read documents, cut them into passages and write a corpus.

SOURCE is a file or a folder: JSON lines, JSON, CSV, TSV, Parquet, text, Markdown, HTML (plain, .gz or .zst), PDF
and Word (docx; both need {install_hint("documents")}), SQuAD, KILT and BEIR collections, folders saved by the
datasets library, or another corpus. Captioned pictures (a Parquet table with picture bytes; a folder with
captions.jsonl) and triples (TSV or JSON lines with subject, relation and object) are entries like any other.

--source names a source, so that a reader can learn which to trust, and may choose rows and a format:
NAME=[FORMAT:]PATH[?FIELD=VALUE&FIELD!=VALUE]. The format "pairs" takes questions with answers as entries.

What cannot be read is skipped and listed with its file and line.

\b
Example:
  wellread corpus notes/ --out corpora/notes
  wellread corpus --source facts=facts.jsonl --source "photos=photos/?split=train" --out corpora/all
  wellread corpus wiki.jsonl.gz --cut tokens --size 128 --tokenizer tokenizer.json --out corpora/wiki
"""


@click.command("corpus", help=HELP)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the new corpus.")
@click.option("--source", "named", multiple=True, metavar="NAME=PATH", help="A source under a name of its own.")
@click.option(
    "--illustrate",
    multiple=True,
    metavar="PATH",
    help="Captioned pictures whose field `entity` is the id of an entry: its picture, where it has none.",
)
@click.option("--format", "format_", metavar="NAME", help="Read all sources as this format instead of guessing.")
@click.option(
    "--cut",
    default="auto",
    show_default=True,
    metavar="auto|words|tokens|paragraph|none",
    help="How documents become passages. auto: keep rows that are passages already (they carry ids and nearly "
    "all have at most 300 words), cut everything else by words.",
)
@click.option("--size", type=int, help="Words or tokens in a passage [100 words, 128 tokens, paragraphs of 300 words].")
@click.option("--overlap", type=int, default=0, show_default=True, help="Words or tokens that passages share.")
@click.option("--tokenizer", metavar="FILE", help="tokenizer.json for --cut tokens.")
@click.option("--strict", is_flag=True, help="Stop at the first thing that cannot be read.")
@click.option("--overwrite", is_flag=True, help="Replace the corpus that is in the folder.")
@json_option
def command(
    sources: tuple[Path, ...],
    out: Path,
    named: tuple[str, ...],
    illustrate: tuple[str, ...],
    format_: str | None,
    cut: str,
    size: int | None,
    overlap: int,
    tokenizer: str | None,
    strict: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    from wellread.corpus import Cutting, Source, ingest

    if not sources and not named:
        raise ValueError("nothing to read; give at least one SOURCE, or --source NAME=PATH.")
    report = ingest(
        [*sources, *map(Source.parse, named)],
        out,
        illustrate=[Source.parse(item, named=False) for item in illustrate],
        cutting=Cutting(cut, size=size, overlap=overlap, tokenizer=tokenizer),
        format=format_,
        strict=strict,
        overwrite=overwrite,
    )
    say_some("skipped", report.problems, total=report.skipped)
    say_some("repaired", report.repairs, total=report.repaired)
    result = {
        "passages": report.passages,
        "documents": report.documents,
        "by_source": report.by_source,
        "skipped": report.skipped,
        "duplicates": report.duplicates,
        "repaired": report.repaired,
        "seconds": round(report.seconds, 3),
        "fingerprint": report.fingerprint,
        "out": str(out),
    }
    human = (
        f"{report.passages:,} passages{_shares(report.by_source)} from {report.documents:,} documents in {out} "
        f"({report.skipped:,} skipped, {report.duplicates:,} duplicates, {report.repaired:,} repaired, "
        f"{report.seconds:.1f} s)"
    )
    emit(result, as_json, human)


def _shares(by_source: dict[str, int]) -> str:
    """How many of each source, where there are several."""
    if len(by_source) < 2:
        return ""
    return " (" + ", ".join(f"{name} {count:,}" for name, count in by_source.items()) + ")"
