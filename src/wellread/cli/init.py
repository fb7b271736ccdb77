"""`wellread init`: make a reader to train, or a copy of a model as another system or in a smaller form."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wellread.cli.output import emit, json_option
from wellread.systems import NEW_SYSTEM

if TYPE_CHECKING:
    from torch import nn

    from wellread.model import Model
    from wellread.nn.tokenizers import Tokenizer
    from wellread.reading.frame import FrameConfig

WEIGHTS = ("fp32", "bf16", "int8")


@click.command()
@click.option("--out", required=True, help="Folder of the new model.")
@click.option(
    "--system",
    default=None,
    help=f"The system; see wellread systems. Default: that of the model given as --from, else {NEW_SYSTEM}.",
)
@click.option(
    "--from",
    "source",
    default="default",
    show_default=True,
    help="A hub folder (T5, BERT or Llama family), a .gguf file, 'default' for small pretrained nets, 'scratch', or a "
    "model.",
)
@click.option(
    "--average", multiple=True, metavar="MODEL", help="With --from: the mean of its weights and these; repeatable."
)
@click.option("--corpus", default=None, help="With --from scratch: the corpus the tokenizer is trained on.")
@click.option("--tokenizer", default=None, help="With --from scratch: folder of a tokenizer to take instead.")
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
@click.option(
    "--weights",
    default="fp32",
    show_default=True,
    type=click.Choice(WEIGHTS),
    help="How weights are stored: bf16 is half as large, int8 a quarter.",
)
@click.option("--overwrite", is_flag=True, help="Replace the model that is in the folder.")
@json_option
def command(
    out: str,
    system: str | None,
    settings: tuple[str, ...],
    frames: tuple[str, ...],
    weights: str,
    overwrite: bool,
    as_json: bool,
    **choice: Any,
) -> None:
    """Make an untrained reader from a T5 checkpoint, from a BERT-family encoder, or from scratch; or another system
    around the reader of a model; or a model again, with its weights stored in another form.

    \b
    Examples:
      wellread init --system lumen --set live_share=0.33 --out model
      wellread init --from model --system memory_fid --out other
      wellread init --from model --weights int8 --out small
      wellread init --from run/last --average other/last --out mean
    """
    from wellread.config import from_mapping, parse_settings
    from wellread.model import average, build_model, save_model, take_companions
    from wellread.reading.frame import FrameConfig
    from wellread.systems import SYSTEMS

    texts = None
    if choice["corpus"] is not None:
        from wellread.corpus.store import Corpus

        texts = (f"{item.title} {item.text}" for item in Corpus.open(choice["corpus"]))
    # What is quickly told wrong comes before what takes time.
    options, frame = parse_settings(settings), from_mapping(FrameConfig, parse_settings(frames), where="frame")
    source = _model_folder(choice["source"])
    if choice["average"] and source is None:
        raise ValueError(
            f"--average {choice['average'][0]} needs a model to be averaged with; give it as --from MODEL."
        )
    if source is None and system is None:
        system = NEW_SYSTEM
    if system is not None:
        from_mapping(SYSTEMS[system].Config, options, where="system")
    if (Path(out) / "system.json").is_file() and not overwrite:
        raise ValueError(f"out={out} holds a model; give a new folder, or --overwrite to replace it.")
    if source is None:
        model = build_model(system, options, *_new_nets(SYSTEMS[system].built_on, choice, texts), frame=frame)
    else:
        model = _from_model(source, system, options, frame if frames else None)
    if choice["average"]:
        average(model, *choice["average"])
    save_model(out, model, weights=weights)
    # What is said about a trained model holds for the same model in another form, not for another one.
    take_companions(Path(out), None if system or settings or frames or choice["average"] else source)
    count = sum(weight.numel() for weight in model.system.parameters())
    emit(
        {"out": out, "system": model.name, "parameters": count, "weights": weights},
        as_json,
        f"{out}: {model.name}, {count / 1e6:.1f} M weights",
    )


def _model_folder(source: str) -> Path | None:
    """The folder of the model that `source` names; None where it names parts to make a new one of."""
    from wellread.model import NAMED, model_path

    folder = Path(source)
    if (folder / "system.json").is_file():
        return folder
    return None if folder.is_dir() or source not in NAMED else model_path(source)


def _from_model(source: Path, system: str | None, options: dict[str, Any], frame: FrameConfig | None) -> Model:
    """A model again, with these options changed; or another system, with these options, around its reader."""
    from wellread.config import to_mapping
    from wellread.model import as_system, load_model

    model = load_model(source)
    if system is None:
        options = to_mapping(model.system.config) | options
    return as_system(model, system or model.name, options, frame=frame)


def _new_nets(kind: str, choice: dict[str, Any], texts: Iterable[str] | None) -> tuple[nn.Module, Tokenizer]:
    from wellread.nn.building import build_from

    return build_from(
        choice["source"],
        kind=kind,
        texts=texts,
        tokenizer=choice["tokenizer"],
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
