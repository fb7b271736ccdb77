"""The weights a run starts from: a sentence encoder, a T5, another model, or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wellread.memory.fingerprint import check
from wellread.memory.store import Memory
from wellread.model import NAMED, Model, as_system, build_model, load_model, transfer
from wellread.nn import t5_hub
from wellread.nn.building import build_from
from wellread.systems import SYSTEMS
from wellread.training.config import InitConfig, Recipe

if TYPE_CHECKING:
    from torch import nn

    from wellread.nn.tokenizers import Tokenizer

__all__ = ["freeze", "open_memory", "start_model"]


def start_model(recipe: Recipe, texts: Callable[[], Iterable[str]]) -> Model:
    """The untrained model of a recipe. texts: gives what a reader from scratch learns its vocabulary from."""
    kind = _kind(recipe.init)
    if kind == "model":
        loaded = load_model(recipe.init.from_)
        model = as_system(loaded, recipe.system_name, recipe.system_options, frame=recipe.frame)
    else:
        reader, tokenizer = _new_nets(_with_tokenizer(recipe), texts, SYSTEMS[recipe.system_name].built_on)
        model = build_model(recipe.system_name, recipe.system_options, reader, tokenizer, frame=recipe.frame)
    if recipe.transfer is not None:
        transfer(model, recipe.transfer.from_, recipe.transfer.parts)
    return model


def freeze(model: Model, beginnings: Sequence[str]) -> None:
    """Stop training the weights whose names begin so; ValueError where a beginning names none."""
    weights = dict(model.system.named_parameters())
    for beginning in beginnings:
        named = [name for name in weights if name.startswith(beginning)]
        if not named:
            known = ", ".join(sorted({".".join(name.split(".")[:3]) for name in weights}))
            raise ValueError(f"training.freeze={beginning!r} is the beginning of no weight's name; there are: {known}.")
        for name in named:
            weights[name].requires_grad_(False)


def open_memory(path: Path, model: Model) -> Memory:
    """The memory in a folder, if this model may read its states while it trains."""
    system = model.system
    if "states" not in system.stores:
        raise ValueError(f"data.memory={str(path)!r}, but {model.name} reads no stored states; leave data.memory out.")
    prefixes = tuple(system.parts().get("memory", ()))
    if any(weight.requires_grad for name, weight in system.named_parameters() if name.startswith(prefixes)):
        raise ValueError(
            f"data.memory={str(path)!r}, but the memory encoder is trained, which would make stored states stale; "
            "leave data.memory out, or set system.train_memory = false."
        )
    memory = Memory.open(path)
    check(memory.fingerprint, model.fingerprint(), system.bound_to)
    return memory


def _kind(init: InitConfig) -> str:
    """What init.from holds."""
    if init.kind != "auto":
        return init.kind
    if init.from_ == "default":
        return "bert"
    folder = Path(init.from_)
    if folder.suffix == ".gguf":
        return "decoder"
    if (folder / "system.json").is_file() or (init.from_ in NAMED and not folder.is_dir()):
        return "model"
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"init.from={init.from_!r} holds neither system.json nor config.json; give a model folder, the folder "
            'of a BERT or T5 checkpoint, or "default".'
        )
    family = json.loads((folder / "config.json").read_text(encoding="utf8")).get("model_type", "bert")
    return "t5" if family in t5_hub.FAMILIES else "bert"


def _with_tokenizer(recipe: Recipe) -> InitConfig:
    """Nets from scratch that are trained on texts have the vocabulary of these, unless another one is named."""
    init = recipe.init
    if recipe.texts is None or init.scratch.tokenizer is not None:
        return init
    return replace(init, scratch=replace(init.scratch, tokenizer=recipe.texts.chunks))


def _new_nets(init: InitConfig, texts: Callable[[], Iterable[str]], kind: str) -> tuple[nn.Module, Tokenizer]:
    """New nets of a kind, and their tokenizer. T5 folders come without a copy head: theirs would be untrained."""
    choices = {
        "decoder_layers": init.decoder_layers,
        "copy_head": None if init.copy_head else False,
        "dropout": init.dropout,
        "seed": init.seed,
    }
    if init.kind == "scratch":
        return build_from("scratch", kind=kind, texts=texts(), **choices, **asdict(init.scratch))
    return build_from(init.from_, kind=kind, **choices)
