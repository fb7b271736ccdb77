"""`wellread init`: make a reader to train."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wellread.cli.output import emit, json_option

if TYPE_CHECKING:
    from wellread.nn.encoder_decoder import EncoderDecoder
    from wellread.nn.tokenizers import Tokenizer


@click.command()
@click.option("--out", required=True, help="Folder of the new model.")
@click.option("--system", default="glimmer", show_default=True, help="The system; see wellread systems.")
@click.option(
    "--from",
    "source",
    default="default",
    show_default=True,
    help="A hub folder (T5 or BERT family), 'default' for the small pretrained encoder, 'scratch', or a model.",
)
@click.option("--corpus", default=None, help="With --from scratch: the corpus the tokenizer is trained on.")
@click.option("--family", default="t5", type=click.Choice(["t5", "bert"]), help="With --from scratch.")
@click.option("--vocabulary", default=8000, show_default=True, help="With --from scratch: tokens.")
@click.option("--dim", default=256, show_default=True, help="With --from scratch: width.")
@click.option("--layers", default=6, show_default=True, help="With --from scratch: encoder layers.")
@click.option("--heads", default=4, show_default=True, help="With --from scratch: attention heads.")
@click.option("--decoder-layers", default=3, show_default=True, help="Decoder layers (BERT family and scratch).")
@click.option("--copy-head/--no-copy-head", default=None, help="A copy head over passage tokens; T5 has none.")
@click.option("--dropout", default=None, type=float, help="Dropout while training (BERT family); default: its own.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="An option of the system.")
@click.option("--frame", "frames", multiple=True, metavar="KEY=VALUE", help="An option of the frame.")
@click.option("--seed", default=0, show_default=True, help="Seed of the new weights.")
@click.option("--overwrite", is_flag=True, help="Replace the model that is in the folder.")
@json_option
def command(
    out: str, system: str, settings: tuple[str, ...], frames: tuple[str, ...], overwrite: bool, as_json: bool, **choice
) -> None:
    """Make an untrained reader from a T5 checkpoint, from a BERT-family encoder, or from scratch; or another system
    around the reader of a model.

    \b
    Examples:
      wellread init --system lumen --set live_share=0.33 --out model
      wellread init --from model --system memory_fid --out other
    """
    from wellread.config import from_mapping, parse_settings
    from wellread.model import as_system, build_model, load_model, save_model
    from wellread.reading.frame import FrameConfig
    from wellread.systems import SYSTEMS

    texts = None
    if choice["corpus"] is not None:
        from wellread.corpus.store import Corpus

        texts = (f"{item.title} {item.text}" for item in Corpus.open(choice["corpus"]))
    # What is quickly told wrong comes before what takes time.
    options, frame = parse_settings(settings), from_mapping(FrameConfig, parse_settings(frames), where="frame")
    from_mapping(SYSTEMS[system].Config, options, where="system")
    if (Path(out) / "system.json").is_file() and not overwrite:
        raise ValueError(f"out={out} holds a model; give a new folder, or --overwrite to replace it.")
    if (Path(choice["source"]) / "system.json").is_file():
        model = as_system(load_model(choice["source"]), system, options, frame=frame if frames else None)
    else:
        model = build_model(system, options, *_new_reader(choice, texts), frame=frame)
    save_model(out, model)
    weights = sum(weight.numel() for weight in model.system.parameters())
    emit(
        {"out": out, "system": system, "parameters": weights},
        as_json,
        f"{out}: {system}, {weights / 1e6:.1f} M weights",
    )


def _new_reader(choice: dict[str, Any], texts: Iterable[str] | None) -> tuple[EncoderDecoder, Tokenizer]:
    from wellread.nn.building import build_from

    return build_from(
        choice["source"],
        texts=texts,
        family=choice["family"],
        vocab_size=choice["vocabulary"],
        dim=choice["dim"],
        layers=choice["layers"],
        heads=choice["heads"],
        decoder_layers=choice["decoder_layers"],
        copy_head=choice["copy_head"],
        dropout=choice["dropout"],
        seed=choice["seed"],
    )
