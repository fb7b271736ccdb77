"""The hub's folder format (config.json + safetensors), strict loading, and fingerprints of weights.

Nothing here knows a particular net: the tables that translate names stand beside each net.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = [
    "fingerprint",
    "load_weights",
    "named_weights",
    "read_hub",
    "read_json",
    "read_metadata",
    "read_weights",
    "second_names",
    "weight_files",
    "write_hub",
    "write_json",
    "write_shards",
    "write_weights",
]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Many older hub folders hold only a pickle; it is read with weights_only=True, which runs no code.
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
_HASH_BYTES = 1 << 24


def read_hub(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the weights (on the CPU, hub names) of a folder in the hub's format.

    Reads model.safetensors, its sharded form, or pytorch_model.bin where there is nothing newer.
    ValueError names the missing or damaged file.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"model folder {folder} does not exist; give a folder with config.json and {SINGLE}.")
    config = read_json(folder / "config.json")
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder):
        weights.update(read_weights(file))
    return config, weights


def write_hub(
    path: str | Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    *,
    max_shard_bytes: int | None = None,
) -> None:
    """Write a folder that `read_hub` and the hub's own libraries read.

    weights: hub names. max_shard_bytes: split the weights into files of at most this size (a larger
    single tensor gets a file of its own); None writes one file. Every file is written beside its place
    and then moved there, so that a kill leaves no half-written file under its final name.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(folder, weights, max_shard_bytes=max_shard_bytes)
    write_json(folder / "config.json", config)


def write_shards(
    folder: Path,
    weights: Mapping[str, Tensor],
    *,
    max_shard_bytes: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the weights of a folder as `write_hub` does, and remove those an earlier write left there.

    metadata: a text kept in the head of every file.
    """
    shards = _shards(weights, max_shard_bytes)
    names = [SINGLE] if len(shards) == 1 else [_shard_name(i, len(shards)) for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        write_weights(folder / name, shard, metadata=metadata)
    if len(shards) > 1:
        total = sum(_num_bytes(tensor) for tensor in weights.values())
        places = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    _remove_stale(folder, {*names, *([INDEX] if len(shards) > 1 else [])})


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], *, ignore: Iterable[str] = ()) -> None:
    """Copy weights into a module, strictly.

    weights: the module's own names; converted to the module's dtype and device. ignore: names or patterns
    (`copy.*`) that may be missing or unknown. Raises ValueError that lists every missing, unknown and
    mis-shaped name, and every pair of names that share one parameter but were given different values;
    nothing is copied then.
    """
    patterns = tuple(ignore)
    own = module.state_dict(keep_vars=True)

    def wanted(name: str) -> bool:
        return not any(fnmatchcase(name, pattern) for pattern in patterns)

    problems = [f"{name} is missing" for name in own if name not in weights and wanted(name)]
    problems += [f"{name} is unknown" for name in weights if name not in own and wanted(name)]
    shared: dict[int, str] = {}
    for name, tensor in weights.items():
        if name not in own:
            continue
        expected, found = tuple(own[name].shape), tuple(tensor.shape)
        if expected != found:
            problems.append(f"{name} has shape {found} and must have {expected}")
            continue
        first = shared.setdefault(id(own[name]), name)
        if weights[first] is not tensor and not torch.equal(weights[first], tensor):
            problems.append(f"{first} and {name} are one parameter here but differ in the weights")
    if problems:
        listed = "\n  ".join(problems)
        raise ValueError(
            f"the weights do not fit {type(module).__name__}; "
            f"check that config and weights belong together:\n  {listed}"
        )
    with torch.no_grad():
        for name in shared.values():
            own[name].copy_(weights[name])


def second_names(module: nn.Module) -> dict[str, str]:
    """name -> first name of the same parameter, for parameters that have several names."""
    first: dict[Tensor, str] = {}
    seconds = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        known = first.setdefault(parameter, name)
        if known != name:
            seconds[name] = known
    return seconds


def named_weights(module: nn.Module) -> dict[str, Tensor]:
    """The module's own tensors (not copies) by name, each parameter once, under its first name."""
    second = second_names(module)
    return {name: weight for name, weight in module.state_dict(keep_vars=True).items() if name not in second}


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """16 hex digits that tell two sets of weights apart.

    SHA-256 over the sorted names, dtypes, shapes and bytes, read piece by piece; independent of device,
    strides and order.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.reshape(-1)
        step = max(1, _HASH_BYTES // flat.element_size())
        for start in range(0, flat.numel(), step):
            piece = flat[start : start + step].cpu().contiguous()
            digest.update(memoryview(piece.view(torch.uint8).numpy()))
    return digest.hexdigest()[:16]


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights, safetensors before pickles. ValueError where there are none."""
    for single, index in ((SINGLE, INDEX), (PICKLE, PICKLE_INDEX)):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            places = read_json(folder / index).get("weight_map")
            if not isinstance(places, dict) or not places:
                raise ValueError(f"{folder / index} has no weight_map; download or copy it again.")
            return [folder / name for name in sorted(set(places.values()))]
    raise ValueError(f"{folder} holds no weights; it must have {SINGLE} or {INDEX}.")


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of one .safetensors or .bin file. ValueError where it is missing or damaged."""
    if not file.is_file():
        raise ValueError(f"{file} is missing; download or copy it again.")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, EOFError, UnpicklingError, RuntimeError) as error:
        raise ValueError(f"{file} is truncated or damaged; download or copy it again ({error}).") from error


def read_metadata(file: Path) -> dict[str, str]:
    """The texts in the head of a .safetensors file that `read_weights` could read; none of other files."""
    if file.suffix != ".safetensors":
        return {}
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata() or {})


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file. ValueError where it is missing or malformed."""
    if not file.is_file():
        raise ValueError(f"{file} is missing; a model folder needs it. Download or copy it again.")
    try:
        value = json.loads(file.read_text(encoding="utf8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}; download or copy it again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file} holds {type(value).__name__}; it must be a JSON object.")
    return value


def write_weights(file: Path, weights: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as .safetensors, beside its place first, then moved there.

    metadata: one text in the head of the file, by name (the format's writer would put several in any order); none
    says what the hub's libraries look for.
    """
    seen: set[int] = set()
    plain: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        tensor = tensor.detach().cpu().contiguous()
        # The format knows no shared storage: a view or a second name of one tensor is written out in full.
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != _num_bytes(tensor):
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        plain[name] = tensor
    waiting = _beside(file)
    try:
        waiting.touch()
        mode = waiting.stat().st_mode  # the format's writer would leave the file readable by its owner only
        save_file(plain, waiting, metadata=dict(metadata or {"format": "pt"}))
        waiting.chmod(mode)
        os.replace(waiting, file)
    except SafetensorError as error:  # what the system refused stands only in its text
        refused = re.search(r"os error (\d+)", str(error))
        if refused is None:
            raise
        number = int(refused[1])
        raise OSError(number, os.strerror(number), str(file)) from error
    finally:
        waiting.unlink(missing_ok=True)


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, beside its place first, then moved there."""
    waiting = _beside(file)
    waiting.write_text(json.dumps(dict(value), indent=2, sort_keys=True) + "\n", encoding="utf8")
    os.replace(waiting, file)


def _beside(file: Path) -> Path:
    """A name for the unfinished file, of this process alone."""
    return file.with_name(f".{file.name}.{os.getpid()}.part")


def _shards(weights: Mapping[str, Tensor], limit: int | None) -> list[dict[str, Tensor]]:
    if limit is not None and limit < 1:
        raise ValueError(f"max_shard_bytes={limit}; it must be a positive number of bytes, or None for one file.")
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in weights.items():
        added = _num_bytes(tensor)
        if limit is not None and shards[-1] and size + added > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += added
    return shards


def _remove_stale(folder: Path, kept: set[str]) -> None:
    """Remove weights that an earlier write left under other names, which a reader might prefer."""
    for pattern in (SINGLE, INDEX, "model-*-of-*.safetensors"):
        for file in folder.glob(pattern):
            if file.name not in kept:
                file.unlink()


def _shard_name(index: int, count: int) -> str:
    return f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
