"""A model: a system with its weights, its tokenizer and its frame, as one folder on disk.

system.json         the system's name, its options, the frame's options, how many candidates it was trained with
reader.json         the shape of the nets
model.safetensors   all weights, under the names the system gives them; many int8 weights are in several files
tokenizer.json      the tokenizer

A trained model may have more beside these (see COMPANIONS). Models that come with wellread have names (see NAMED),
which do wherever the folder of a model is asked for.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wellread.config import from_mapping, to_mapping
from wellread.memory.build import Encoded
from wellread.memory.fingerprint import Fingerprint
from wellread.nn import checkpoints
from wellread.nn.building import empty_reader, load_saved_weights, save_config, save_weights, saved_weights
from wellread.nn.precision import precision_dtype
from wellread.nn.tokenizers import Tokenizer
from wellread.reading.batching import to_device
from wellread.reading.frame import Frame, FrameConfig, pad_rows
from wellread.systems import SYSTEMS
from wellread.types import Inputs, Passage, Question

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wellread.pictures import Pictures
    from wellread.systems.base import System

__all__ = [
    "COMPANIONS",
    "NAMED",
    "Model",
    "as_system",
    "average",
    "build_model",
    "holds_weights",
    "is_model",
    "load_model",
    "model_path",
    "save_model",
    "take_companions",
    "transfer",
]

logger = logging.getLogger(__name__)
FORMAT = 1
TOP_K = 20  # candidates read where nothing says how many
NAMED: dict[str, Path] = {"wellread-mini": Path(__file__).parent / "data" / "mini"}
"""The models that come with wellread, by name."""
COMPANIONS = ("confidence.json", "CARD.md", "recipe.toml", "run.json")
"""What else may stand beside a trained model: how sure it may be, what it is, how it was made."""


def model_path(name: str | Path) -> Path:
    """The folder of a model given by its folder or by its name in NAMED; a folder that exists goes first.

    ValueError where there is neither, and for a named model whose weights this version comes without.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    advice = "give the folder of a model (wellread init, wellread train)"
    if str(name) not in NAMED:
        raise ValueError(f"model {name} does not exist; {advice}, or a name: {', '.join(NAMED)}.")
    if not holds_weights(NAMED[str(name)]):
        raise ValueError(f"model {name} has no weights in this version of wellread; {advice}.")
    return NAMED[str(name)]


def is_model(name: str | Path) -> bool:
    """Whether `model_path` finds something by this name."""
    return Path(name).is_dir() or str(name) in NAMED


def holds_weights(folder: Path) -> bool:
    """Whether there are weights in the folder of a model."""
    return any((folder / name).is_file() for name in (checkpoints.SINGLE, checkpoints.INDEX))


def take_companions(folder: Path, source: Path | None) -> None:
    """Put what stands beside the model in `source` (None: nothing) beside the model in `folder`, and nothing else."""
    if source is not None and source.resolve() == folder.resolve():
        return
    for name in COMPANIONS:
        (folder / name).unlink(missing_ok=True)
        if source is not None and (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


@dataclass(frozen=True)
class Model:
    """name: the system's name in the table. system: the nets. frame: how text becomes tokens. source: where it was
    loaded from, a folder or one of NAMED; None for a model that is nowhere else. pictures: where the pictures of
    passages are, for systems that read them. trained_with: how many candidates a question had at the end of its
    training, where anybody knows."""

    name: str
    system: System
    frame: Frame
    source: str | None = None
    pictures: Pictures | None = None
    trained_with: int | None = None

    def with_pictures(self, pictures: Pictures | str | Path | None) -> Model:
        """The same model, which finds the pictures of passages there; in a folder, with the features of the image
        encoder that it was trained with. ValueError where it reads none, and where their features are not those."""
        if pictures is None:
            return self
        if isinstance(pictures, (str, Path)):
            from wellread.pictures import Pictures

            pictures = Pictures.open(pictures, fingerprint=self.system.picture_encoder)
        self.system.sees(pictures.fingerprint, patches=pictures.patches, groups=pictures.groups)
        return dataclasses.replace(self, pictures=pictures)

    @property
    def device(self) -> torch.device:
        return next(self.system.parameters()).device

    @property
    def dim(self) -> int | None:
        """Width of the states a memory of this model holds; None where it holds tokens only."""
        return self.system.stored_dim

    def read_at_once(self, top_k: int | None) -> int:
        """How many candidates are read for a question: `top_k`, or what is best where it is None.

        That is 20, or as many as the model was trained with where more make it read worse. ValueError below 1.
        """
        if top_k is None:
            return (self.trained_with if self.system.reads_as_trained else None) or TOP_K
        if top_k < 1:
            raise ValueError(f"top_k={top_k}; it must be at least 1.")
        return top_k

    def fingerprint(self, cutting: str = "") -> Fingerprint:
        """What a memory made by this model is bound to."""
        return Fingerprint(
            encoder=checkpoints.fingerprint(self.system.memory_weights()),
            tokenizer=self.frame.tokenizer.fingerprint,
            cut=self.system.memory_cut,
            template=self.frame.fingerprint,
            cutting=cutting,
        )

    def encode(self, passages: Sequence[Passage], *, precision: str = "fp32") -> list[Encoded]:
        """What a memory stores of each passage, in the order given.

        precision: of the computation, "fp32" or "bf16"; where the processor knows bf16 it is more than twice as
        fast, at an error of the size bf16 storage has anyway.
        """
        rows = self.frame.passages(passages)
        tokens = [np.asarray(row, dtype=np.int32) for row in rows]
        wanted = self.system.stores
        if wanted == {"tokens"}:
            return [Encoded(tokens=row) for row in tokens]
        for passage in passages:  # one of an unknown source is told now, and not when it is found
            self.system.source_of(passage)
        padded, mask = pad_rows(rows, self.frame.tokenizer.pad)
        kind, dtype = self.device.type, precision_dtype(precision)
        with torch.inference_mode(), torch.autocast(kind, dtype=dtype, enabled=dtype is not None):
            self.system.eval()
            shown = {name: part.to(self.device) for name, part in self._pictures(passages).items()}
            kept = self.system.remember(padded.to(self.device), mask.to(self.device), **shown)
        return [
            Encoded(
                tokens=row,
                states=kept.states[index][kept.mask[index]].float().cpu() if "states" in wanted else None,
                keys=kept.keys[index].float().cpu() if "keys" in wanted else None,
            )
            for index, row in enumerate(tokens)
        ]

    def inputs(self, questions: Sequence[Question]) -> Inputs:
        """Questions as the system is given them, on its device: with their pictures, where it reads any."""
        inputs = self.frame.questions([item.text for item in questions])
        asked = next((item for item in questions if item.picture is not None), None)
        if asked is not None and self.system.reads_pictures:
            if self.pictures is None:
                raise ValueError(
                    f"the question {asked.text!r} has a picture, which this {self.name} reads, but no folder of "
                    "pictures was given; give the one its features are in (--pictures DIR)."
                )
            picture, mask = self.pictures.features([item.picture for item in questions])
            inputs = dataclasses.replace(inputs, picture=picture, picture_mask=mask)
        return to_device(inputs, self.device)

    def features(self, passages: Sequence[Passage]) -> dict[int, Tensor]:
        """Features of the passages that have a picture, by place; none for a system that reads no pictures."""
        places = [place for place, passage in enumerate(passages) if passage.picture is not None]
        if not self.system.reads_pictures or self.pictures is None or not places:
            return {}
        return dict(zip(places, self.pictures.features([passages[place].picture for place in places])[0]))

    def _pictures(self, passages: Sequence[Passage]) -> dict[str, Tensor]:
        """Features of the passages' pictures, for a system that reads them."""
        if not self.system.reads_pictures:
            return {}
        if self.pictures is not None:
            return dict(zip(("picture", "picture_mask"), self.pictures.features([item.picture for item in passages])))
        shown = next((item for item in passages if item.picture is not None), None)
        if shown is not None:
            raise ValueError(
                f"passage {shown.id!r} has a picture, which this {self.name} reads, but no folder of pictures was "
                "given; give the one its features are in (--pictures DIR)."
            )
        return {}

    def encoder_for_memory(
        self, cutting: object = "", *, precision: str = "fp32"
    ) -> tuple[Callable, Fingerprint, int | None]:
        """(encode, fingerprint, dim): what building or growing a memory needs of a model."""
        return partial(self.encode, precision=precision), self.fingerprint(str(cutting)), self.dim


def build_model(
    name: str,
    options: Mapping[str, Any],
    reader: nn.Module,
    tokenizer: Tokenizer,
    *,
    frame: FrameConfig | None = None,
) -> Model:
    """A model of the system `name` around a reader of the kind it is built on. options: keys of the system's Config.

    ValueError where the frame makes longer rows of tokens than the nets have positions for.
    """
    kind, frame = SYSTEMS[name], frame or FrameConfig()
    system = kind(from_mapping(kind.Config, options, where="system"), reader)
    _check_lengths(name, system, frame)
    return Model(name=name, system=system, frame=Frame(frame, tokenizer))


def _check_lengths(name: str, system: System, frame: FrameConfig) -> None:
    read = ("question_tokens", "passage_tokens")
    rows = [("encoder", read)] if system.joins_tokens else [("encoder", (key,)) for key in read]
    for net, keys in [*rows, ("decoder", ("answer_tokens",))]:
        limit = getattr(getattr(system.reader, net, None), "max_tokens", math.inf)
        lengths = {key: getattr(frame, key) for key in keys}
        if sum(lengths.values()) > limit:
            told = " and ".join(f"{key}={length}" for key, length in lengths.items())
            raise ValueError(
                f"frame {told}, but the {net} of this {name} has positions for {limit} tokens in a row; use at most "
                f"{limit}{' together' if len(keys) > 1 else ''}."
            )


def save_model(path: str | Path, model: Model, *, weights: str = "fp32") -> Path:
    """Write a model folder. weights: "fp32", "bf16" (half the size) or "int8" (a quarter, in files below 16 MiB).

    Rounded weights remember other states: a memory belongs to the model as it is loaded, not as it was before.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    save_weights(path, model.system, weights=weights)
    save_config(path, model.system.reader)
    model.frame.tokenizer.save(path)
    described = {
        "format": FORMAT,
        "system": model.name,
        "options": to_mapping(model.system.config),
        "frame": to_mapping(model.frame.config),
    }
    if model.trained_with is not None:
        described["trained_with"] = model.trained_with
    checkpoints.write_json(path / "system.json", described)
    return path


def load_model(path: str | Path, *, system: str | None = None, options: Mapping[str, Any] | None = None) -> Model:
    """Read a model folder, or a model by its name. ValueError where something is missing, damaged or does not fit.

    system, options: open the same weights as another system, or with other options, where the weights allow
    it (a GLIMMER reads as a LUMEN: its scorer is left aside).
    """
    source = str(path) if str(path) in NAMED and not Path(path).is_dir() else str(Path(path).resolve())
    path = model_path(path)
    described = _read_description(path)
    name = system or described["system"]
    kind = SYSTEMS[name]
    other = name != described["system"]
    known = {item.name for item in dataclasses.fields(kind.Config)}
    kept = {key: value for key, value in described["options"].items() if key in known or not other}
    merged = kept | dict(options or {})
    frame = from_mapping(FrameConfig, described["frame"], where="frame")
    model = build_model(name, merged, empty_reader(path), Tokenizer.load(path), frame=frame)
    load_saved_weights(
        path,
        model.system,
        only=checkpoints.named_weights(model.system) if other else None,
        advice=f"{name} needs them: make a model that has them with `wellread init --from ... --system {name}`.",
    )
    model.system.eval()
    return dataclasses.replace(model, source=source, trained_with=described.get("trained_with"))


def as_system(model: Model, name: str, options: Mapping[str, Any], *, frame: FrameConfig | None = None) -> Model:
    """A new model of the system `name` around the reader of another.

    Weights both systems have are taken as they are, rows that belong to a source by its name; parts only the new one
    has start as it always starts them (a question encoder as a copy of the memory encoder). What has another shape is
    logged and starts anew. The reader is taken over, not copied.
    """
    needed, given = SYSTEMS[name].built_on, type(model.system).built_on
    if needed != given:
        raise ValueError(
            f"{name} is built on nets of kind {needed!r}, and this {model.name} on {given!r}; start from a hub folder "
            "or 'default' instead of a model."
        )
    reader = model.system.reader.requires_grad_(True)
    made = build_model(name, options, reader, model.frame.tokenizer, frame=frame or model.frame.config)
    known = checkpoints.named_weights(model.system)
    shared = {key: weight for key, weight in checkpoints.named_weights(made.system).items() if key in known}
    before, after = model.system.sources, made.system.sources
    pairs = [(before.index(name), row) for row, name in enumerate(after) if name in before]
    with torch.no_grad():
        for key in made.system.per_source.intersection(shared):
            if shared[key].shape[1:] == known[key].shape[1:]:
                weight = shared.pop(key)
                for theirs, ours in pairs:
                    weight[ours] = known[key][theirs]
        wrong = [key for key, weight in shared.items() if weight.shape != known[key].shape]
        for key in shared.keys() - set(wrong):
            shared[key].copy_(known[key])
    if wrong:
        logger.warning("weights of another shape start anew: %s", ", ".join(wrong))
    return dataclasses.replace(made, trained_with=model.trained_with)


def average(model: Model, *paths: str | Path) -> None:
    """Put the mean of its own weights and of those of the models in other folders into a model.

    Trainings from one start, or a training and its start, often read better together than any of them (Wortsman et al.,
    "Model soups", 2022, arXiv 2203.05482). ValueError where they are not of the same weights; nothing is changed then.
    """
    own = checkpoints.named_weights(model.system)
    sums, moved = {name: weight.detach().clone() for name, weight in own.items()}, set()
    for path in paths:
        other = saved_weights(model_path(path))
        odd = [name for name in {**own, **other} if name not in own or name not in other]
        odd += [name for name in own if name in other and own[name].shape != other[name].shape]
        if odd:
            raise ValueError(
                f"{path} is no model of the same weights ({odd[0]} is missing or of another shape in one of the two); "
                "average models that were trained from one start as the same system."
            )
        for name, weight in sums.items():
            added = other[name].to(weight.dtype)
            if not torch.equal(added, own[name]):
                moved.add(name)
            weight += added
    with torch.no_grad():
        for name in moved:  # the others stay as they are to the last bit, and memories of a frozen encoder stay good
            own[name].copy_(sums[name] / (1 + len(paths)))


def transfer(model: Model, path: str | Path, parts: Sequence[str]) -> list[str]:
    """Take the weights of some parts ("memory", "live", ...) from another run's folder (LUMEN 4.3).

    Returns the names of the weights taken. Raises ValueError for unknown parts, for parts that one of the two
    lacks, and for parts that do not fit; nothing is taken then.
    """
    known = model.system.parts()
    unknown = [part for part in parts if part not in known]
    if unknown:
        raise ValueError(f"transfer parts={unknown} are unknown; {model.name} has: {', '.join(known)}.")
    weights = saved_weights(model_path(path))
    wanted = checkpoints.named_weights(model.system)
    shared = [name for name in wanted if name in weights]
    found = {part: [name for name in shared if name.startswith(tuple(known[part]))] for part in parts}
    absent = [part for part, names in found.items() if not names]
    if absent or not found:
        raise ValueError(
            f"{path} and this {model.name} share no weights of {', '.join(absent) or 'no parts'}; "
            "name parts that both of them have."
        )
    taken = [name for names in found.values() for name in names]
    wrong = [name for name in taken if wanted[name].shape != weights[name].shape]
    if wrong:
        raise ValueError(f"{wrong[0]} has another shape in {path}; transfer needs a reader of the same size.")
    with torch.no_grad():
        for name in taken:
            wanted[name].copy_(weights[name])
    return taken


def _read_description(path: Path) -> dict[str, Any]:
    file = path / "system.json"
    if not file.is_file():
        raise ValueError(f"{path} is not a model folder: system.json is missing; make one with wellread init.")
    described = checkpoints.read_json(file)
    if described.get("format") != FORMAT:
        raise ValueError(
            f"{file} has format {described.get('format')!r}; this version reads format {FORMAT}. "
            "Install the wellread that wrote it, or make the model again."
        )
    kinds = {"system": str, "options": dict, "frame": dict}
    lacking = [key for key, kind in kinds.items() if not isinstance(described.get(key), kind)]
    if lacking:
        raise ValueError(f"{file} lacks {', '.join(lacking)}; copy it again from where the model was made.")
    if described["system"] not in SYSTEMS:
        raise ValueError(
            f"{file} names system {described['system']!r}, which this version does not have (it has: "
            f"{', '.join(SYSTEMS)}); install the wellread that wrote it."
        )
    return described
