"""The readers that runs start from: the given one, and what is made of it where a claim needs another.

Made readers lie in a folder of their own and are made once; `claims.plan` names that folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wellread.model import Model, as_system, build_model, load_model, model_path, transfer
from wellread.nn.checkpoints import named_weights
from wellread.nn.encoder_decoder import EncoderDecoder, ReaderConfig, build_reader

__all__ = ["STARTS", "Start", "layers_of", "pretrained_path", "with_layers"]

# The hub's names of an encoder's depth.
DEPTH = ("num_hidden_layers", "num_layers")
# A made start has no question encoder of its own: each run begins with a copy of its memory encoder.
PLAIN = {"question_encoder": "shared"}


@dataclass(frozen=True)
class Start:
    """make: (the given reader's folder) -> a reader; None for the given one itself. share: of its encoder's layers.

    keeps_memory: whether its memory encoder is the given reader's, so that a memory of that one can be read.
    from_record: whether it needs what the given reader was trained from. path: where it lies, if it is made by no one
    here.
    """

    make: Callable[[Path], Model] | None = None
    share: Fraction = Fraction(1)
    keeps_memory: bool = True
    from_record: bool = False
    path: Path | None = None


def layers_of(config: Any) -> int:
    """How many layers an encoder has."""
    return next(config.encoder[key] for key in DEPTH if key in config.encoder)


def with_layers(config: Any, count: int) -> Any:
    """The same reader with an encoder of `count` layers."""
    key = next(key for key in DEPTH if key in config.encoder)
    return replace(config, encoder={**config.encoder, key: count})


def pretrained_path(base: Path) -> Path:
    """What the model in RUN/last or RUN/best was trained from, by the record in RUN. ValueError without one."""
    record = base.parent / "recipe.json"
    if not record.is_file():
        raise ValueError(
            f"this claim needs what {base} was trained from, and there is no {record} that says so; give --base the "
            "folder `last` or `best` of a training run."
        )
    return model_path(json.loads(record.read_text(encoding="utf8"))["recipe"]["init"]["from"])


def _fewer_layers(share: Fraction) -> Callable[[Path], Model]:
    def make(base: Path) -> Model:
        """The first layers of the encoder, and the decoder as it is."""
        model = load_model(base)
        reader = model.system.reader
        small = _new_reader(with_layers(reader.config, _count(layers_of(reader.config), share)))
        known = named_weights(reader)
        _copy({name: weight for name, weight in known.items() if name in named_weights(small)}, small)
        return build_model("lumen", PLAIN, small, model.frame.tokenizer, frame=model.frame.config)

    return make


def _pretrained(base: Path) -> Model:
    """The encoder as it was before the given reader was trained, with that reader's decoder."""
    model = as_system(load_model(pretrained_path(base)), "lumen", PLAIN)
    transfer(model, base, ["decoder"])
    return model


def _plain_question(base: Path) -> Model:
    """The given reader without its question encoder."""
    return as_system(load_model(base), "lumen", PLAIN)


def _new_ranker(base: Path) -> Model:
    """A GLIMMER whose separate reranker has random layers."""
    shares = {"live_share": 1 / 2, "rerank_share": 1 / 3, "mark_matches": True}
    model = as_system(load_model(base), "glimmer", {"question_encoder": "separate", "reranker": "separate", **shares})
    system = model.system
    fresh = _new_reader(system.reader.config).encoder.layers[system.cut : system.cut + system.rerank_layers]
    _copy(dict(fresh.state_dict()), system.ranker.layers)
    return model


def _count(layers: int, share: Fraction) -> int:
    return max(round(layers * share), 1)


def _new_reader(config: ReaderConfig) -> EncoderDecoder:
    """A reader with random weights, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return build_reader(config)


def _copy(weights: dict[str, Tensor], module: nn.Module) -> None:
    own = module.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, weight in weights.items():
            own[name].copy_(weight)


HALF, THIRD = Fraction(1, 2), Fraction(1, 3)
STARTS: dict[str, Start] = {
    "base": Start(),
    "first-half": Start(_fewer_layers(HALF), share=HALF, keeps_memory=False),
    "first-third": Start(_fewer_layers(THIRD), share=THIRD, keeps_memory=False),
    "pretrained": Start(_pretrained, keeps_memory=False, from_record=True),
    "plain-question": Start(_plain_question),
    "new-ranker": Start(_new_ranker),
    "realm": Start(path=Path("runs/realm/cold"), keeps_memory=False),
}
"""Name -> how a start is made."""
