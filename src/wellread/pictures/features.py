"""What an image encoder sees in the pictures of a folder: computed once, kept beside them, resumable.

FOLDER/features/NAME-xxxxxxxx/   one for each encoder
    about.json    encoder, fingerprint, patches, groups, done (the commit point: rows that are whole)
    values.bin    [pictures, patches, dim] int8, in the order of the pictures
    scales.bin    [pictures, patches, groups] float32: the value of 127 in each group of dimensions
    means.bin     [pictures, dim] float32: mean over patches, length 1
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wellread.pictures.store import PictureStore

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from wellread.nn.vision import ImageEncoder

__all__ = ["About", "FeatureReport", "Features", "build_features", "feature_folders", "unpacked"]

BATCH = 16  # pictures encoded together
COMMIT_EVERY = 8  # batches between two commits
MOST = 127  # of int8


@dataclass(frozen=True, slots=True)
class About:
    """Whose features these are, their shape, and how many pictures are done.

    groups: dimensions that share a scale; they sum to dim.
    """

    encoder: str
    fingerprint: str
    patches: int
    groups: tuple[int, ...]
    done: int = 0

    @property
    def dim(self) -> int:
        return sum(self.groups)


@dataclass(frozen=True, slots=True)
class FeatureReport:
    """What came of it. resumed_from: pictures that were done before. bytes: of all features of this encoder."""

    pictures: int
    resumed_from: int
    bytes: int
    seconds: float
    encoder: str
    fingerprint: str


def build_features(path: str | Path, encoder: ImageEncoder, *, progress: bool = True) -> FeatureReport:
    """Compute the features of all pictures of a folder that have none yet; go on where a kill stopped it.

    ValueError where a picture cannot be decoded, which is named.
    """
    from wellread.bars import progress_bar
    from wellread.pictures.store import open_image

    started = time.perf_counter()
    store = PictureStore.open(path)
    folder = store.path / "features" / _folder_name(encoder)
    about = _begun(folder, encoder)
    resumed, names = about.done, store.ids()[about.done :]
    files = {name: _reopened(folder / f"{name}.bin", about.done * size) for name, size in _row_bytes(about).items()}
    try:
        with progress_bar(total=len(store), initial=resumed, unit="picture", shown=progress) as bar:
            for count, start in enumerate(range(0, len(names), BATCH), 1):
                some = names[start : start + BATCH]
                seen = encoder([open_image(store.bytes(name), name=name) for name in some])
                for file, rows in zip(files.values(), _packed(seen, about.groups), strict=True):
                    file.write(rows.tobytes())
                if count % COMMIT_EVERY == 0 or start + BATCH >= len(names):
                    about = _commit(folder, files, about, resumed + start + len(some))
                bar.update(len(some))
    finally:
        for file in files.values():
            file.close()
    total = sum((folder / f"{name}.bin").stat().st_size for name in files)
    seconds = round(time.perf_counter() - started, 3)
    return FeatureReport(about.done, resumed, total, seconds, about.encoder, about.fingerprint)


class Features:
    """The features one encoder made of a folder's pictures; memory-mapped."""

    def __init__(self, folder: Path) -> None:
        import numpy as np

        self.path, self.about = folder, _read_about(folder)
        done, patches, dim = self.about.done, self.about.patches, self.about.dim
        for name, size in _row_bytes(self.about).items():
            file = folder / f"{name}.bin"
            if not file.is_file() or file.stat().st_size < done * size:
                raise ValueError(
                    f"features {folder} are damaged ({file.name} is too short); delete the folder and "
                    "compute them again with wellread pictures."
                )
        shapes = {
            "values": (np.int8, (done, patches, dim)),
            "scales": (np.float32, (done, patches, len(self.about.groups))),
            "means": (np.float32, (done, dim)),
        }
        self._values, self._scales, self._means = (
            np.memmap(folder / f"{name}.bin", kind, "r", shape=shape) if done else np.zeros(shape, kind)
            for name, (kind, shape) in shapes.items()
        )

    def rows(self, rows: list[int]) -> Tensor:
        """[rows, patches, dim] float32."""
        return unpacked(self._values[rows], self._scales[rows], self.about.groups)

    def means(self, rows: list[int]) -> Tensor:
        """[rows, dim] float32, of length 1."""
        import torch

        return torch.from_numpy(self._means[rows])


def feature_folders(path: Path) -> dict[Path, About]:
    """The folders of features that were computed beside these pictures, and whose each is."""
    return {item.parent: _read_about(item.parent) for item in sorted((path / "features").glob("*/about.json"))}


def means_of(seen: Tensor) -> Tensor:
    """[pictures, patches, dim] -> [pictures, dim], the mean over patches at length 1."""
    from torch.nn.functional import normalize

    return normalize(seen.float().mean(1), dim=-1)


def unpacked(values: np.ndarray, scales: np.ndarray, groups: Sequence[int]) -> Tensor:
    """int8 [pictures, patches, dim] and scales [pictures, patches, groups] -> float32 features."""
    import torch

    parts = torch.from_numpy(values).split(list(groups), dim=-1)
    steps = torch.from_numpy(scales / MOST).split(1, dim=-1)
    return torch.cat([part * step for part, step in zip(parts, steps, strict=True)], dim=-1)


def _packed(seen: Tensor, groups: Sequence[int]) -> list[np.ndarray]:
    """[pictures, patches, dim] -> values, scales, means."""
    import torch

    parts = seen.split(list(groups), dim=-1)
    largest = [part.abs().amax(-1, keepdim=True) for part in parts]
    values = [(part * (MOST / most.clamp_min(1e-12))).round().char() for part, most in zip(parts, largest)]
    return [torch.cat(values, -1).numpy(), torch.cat(largest, -1).float().numpy(), means_of(seen).numpy()]


def _row_bytes(about: About) -> dict[str, int]:
    """Bytes of one picture in each file, in the order `_packed` gives them."""
    return {
        "values": about.patches * about.dim,
        "scales": 4 * about.patches * len(about.groups),
        "means": 4 * about.dim,
    }


def _folder_name(encoder: ImageEncoder) -> str:
    words = re.sub(r"[^A-Za-z0-9.]+", "-", encoder.name.partition(":")[0])
    return f"{words}-{hashlib.sha256(encoder.fingerprint.encode()).hexdigest()[:8]}"


def _begun(folder: Path, encoder: ImageEncoder) -> About:
    if (folder / "about.json").is_file():
        return _read_about(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return About(encoder.name, encoder.fingerprint, encoder.patches, tuple(encoder.groups))


def _read_about(folder: Path) -> About:
    try:
        said = json.loads((folder / "about.json").read_text(encoding="utf8"))
        return About(**{**said, "groups": tuple(said["groups"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"features {folder} are damaged ({error}); delete the folder and compute them again."
        ) from error


def _reopened(file: Path, size: int) -> Any:
    """The file, cut to what was committed, to be written on."""
    opened = open(file, "r+b" if file.exists() else "w+b")  # noqa: SIM115  (closed by the caller)
    opened.truncate(size)
    opened.seek(size)
    return opened


def _commit(folder: Path, files: dict[str, Any], about: About, done: int) -> About:
    for file in files.values():
        file.flush()
        os.fsync(file.fileno())
    about = About(**{**asdict(about), "done": done})
    waiting = folder / f".about.{os.getpid()}"
    waiting.write_text(json.dumps(asdict(about)) + "\n", encoding="utf8")
    os.replace(waiting, folder / "about.json")
    return about
