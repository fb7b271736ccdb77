"""`wellread pictures`: keep pictures in a folder, and what an image encoder sees in them."""

from __future__ import annotations

from pathlib import Path

import click

from wellread.cli.output import emit, json_option

HELP = """Keep the pictures of sources in a folder and compute what an image encoder sees in them.

SOURCE is a table with picture bytes (Parquet), a folder of picture files with captions.jsonl or metadata.jsonl, or a
corpus. A corpus keeps its pictures itself: with a corpus alone, --out is not needed. Called again it goes on where
it was stopped, and adds the pictures that are new.

\b
Example:
  wellread pictures images.parquet --out pictures
  wellread pictures corpus
  wellread pictures photos/ --out pictures --encoder vit:models/vit-base
"""


@click.command("pictures", help=HELP)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=click.Path(path_type=Path))
@click.option("--out", default=None, type=click.Path(path_type=Path), help="Folder of pictures, new or to be added to.")
@click.option(
    "--encoder",
    default="efficientnet-lite0+colours",
    show_default=True,
    metavar="NAME",
    help="efficientnet-lite0, the same with +colours (of each patch), or vit:FOLDER, a vision transformer of the hub.",
)
@json_option
def command(sources: tuple[Path, ...], out: Path | None, encoder: str, as_json: bool) -> None:
    from wellread.corpus.picture_sources import gather
    from wellread.nn.vision import load_image_encoder
    from wellread.pictures import build_features

    net = load_image_encoder(encoder)
    folder, added, problems = gather(sources, out)
    report = build_features(folder, net)
    result = {
        "pictures": report.pictures,
        "added": added,
        "skipped": len(problems),
        "resumed_from": report.resumed_from,
        "encoder": report.encoder,
        "fingerprint": report.fingerprint,
        "bytes": report.bytes,
        "seconds": report.seconds,
        "out": str(folder),
    }
    human = (
        f"{report.pictures:,} pictures in {folder} ({added:,} new, {len(problems):,} skipped), "
        f"{report.bytes / 1e6:.1f} MB of features by {report.encoder}, {report.seconds:.1f} s"
    )
    emit(result, as_json, human)
