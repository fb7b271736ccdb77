"""Pictures: what an image encoder sees in pictures named by id or by file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from wellread.pictures.features import Features, feature_folders, means_of
from wellread.pictures.store import PictureStore, open_image

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from wellread.nn.vision import ImageEncoder
    from wellread.types import Question

__all__ = ["Pictures"]


class Pictures:
    """A folder of pictures with the features of one image encoder.

    A picture is named by its id in the folder or by the path of a file, or given as an image; None stands for
    no picture. Stored features are read; pictures without are encoded when they are asked for, by the net that
    made the stored ones.
    """

    def __init__(self, store: PictureStore, features: Features) -> None:
        self.store, self.stored = store, features
        self.path = store.path

    @classmethod
    def open(cls, path: str | Path, *, fingerprint: str = "") -> Pictures:
        """The pictures of a folder, with the features of the image encoder that has this fingerprint.

        `path` may also be the folder of the features themselves, FOLDER/features/NAME. Where there are those of one
        encoder alone, they are taken. ValueError where there are no pictures or no features, and where nothing says
        which.
        """
        path = Path(path)
        if (path / "about.json").is_file():
            return cls(PictureStore.open(path.parent.parent), Features(path))
        store, found = PictureStore.open(path), feature_folders(path)
        if not found:
            raise ValueError(f"pictures {path} have no features; compute them with wellread pictures {path}.")
        wanted = [folder for folder, about in found.items() if about.fingerprint == fingerprint] or list(found)
        if len(wanted) > 1:
            raise ValueError(
                f"pictures {path} have features of several image encoders; give the folder of one: "
                f"{' or '.join(map(str, wanted))}."
            )
        return cls(store, Features(wanted[0]))

    def __len__(self) -> int:
        return len(self.store)

    def __contains__(self, name: object) -> bool:
        return name in self.store

    def __repr__(self) -> str:
        return f"Pictures({str(self.path)!r}, {len(self):,} pictures, {self.fingerprint})"

    def __reduce__(self) -> tuple:
        return Pictures.open, (self.stored.path,)

    def ids(self) -> list[str]:
        """All ids, in the order the pictures were added."""
        return self.store.ids()

    @property
    def patches(self) -> int:
        return self.stored.about.patches

    @property
    def dim(self) -> int:
        return self.stored.about.dim

    @property
    def groups(self) -> tuple[int, ...]:
        """How many of a patch's features are of one kind, kind by kind; they sum to dim."""
        return self.stored.about.groups

    @property
    def fingerprint(self) -> str:
        """Of the image encoder: its weights and how it prepares a picture."""
        return self.stored.about.fingerprint

    @cached_property
    def encoder(self) -> ImageEncoder:
        """The net behind the features. ValueError where the one installed is another."""
        from wellread.nn.vision import load_image_encoder

        net = load_image_encoder(self.stored.about.encoder)
        if net.fingerprint != self.fingerprint:
            raise ValueError(
                f"image encoder {net.name!r} is {net.fingerprint}, but the features of {self.path} are of "
                f"{self.fingerprint}; compute them again with wellread pictures."
            )
        return net

    def prepare(self, name: str) -> None:
        """Make sure that a picture can be looked at, and load the net where it has no stored features: on no
        question's clock. ValueError where the name is neither an id nor a file that is a picture."""
        self.image(name)
        if name not in self.store or self.store.row(name) >= self.stored.about.done:
            self.features([name])

    def image(self, name: str | Image) -> Image:
        """A picture as it looks. ValueError where the name is neither an id nor a file."""
        if not isinstance(name, str):
            return name
        if name in self.store:
            return self.store.image(name)
        if not Path(name).is_file():
            raise ValueError(
                f"picture {name!r} is neither one of the {len(self)} ids of {self.path} nor a file; give one of them."
            )
        return open_image(name)

    def hiding_copies(self, question: Question) -> Question:
        """The question, which hides what is in this folder of its own picture under all names, where it hides it."""
        name = question.picture
        if name is None or name not in question.hidden or not (name in self.store or Path(name).is_file()):
            return question
        data = self.store.bytes(name) if name in self.store else Path(name).read_bytes()
        hidden = list(dict.fromkeys((*question.hidden, *self.store.copies(data))))
        return replace(question, metadata={**question.metadata, "hidden": hidden})

    def features(self, names: Sequence[str | Image | None]) -> tuple[Tensor, Tensor]:
        """Picture [names, patches, dim] float32 and its mask [names, patches] bool.

        Zeros, and False all over, where a name is None.
        """
        import torch

        out = torch.zeros(len(names), self.patches, self.dim)
        for places, seen in self._looked(names, means=False):
            out[places] = seen
        mask = torch.tensor([name is not None for name in names], dtype=torch.bool)
        return out, mask.unsqueeze(1).expand(-1, self.patches).contiguous()

    def means(self, names: Sequence[str | Image | None]) -> Tensor:
        """[names, dim] float32: the mean of a picture's patches at length 1; zeros where a name is None."""
        import torch

        out = torch.zeros(len(names), self.dim)
        for places, seen in self._looked(names, means=True):
            out[places] = seen
        return out

    def _looked(self, names: Sequence[str | Image | None], *, means: bool) -> list[tuple[list[int], Tensor]]:
        """Places among the names, and what is seen there: the stored ones, then the others."""
        stored, done = [], self.stored.about.done
        fresh = []
        for place, name in enumerate(names):
            if isinstance(name, str) and name in self.store and (row := self.store.row(name)) < done:
                stored.append((place, row))
            elif name is not None:
                fresh.append(place)
        found = []
        if stored:
            places, rows = map(list, zip(*stored))
            found.append((places, (self.stored.means if means else self.stored.rows)(rows)))
        if fresh:
            seen = self.encoder([self.image(names[place]) for place in fresh])
            found.append((fresh, means_of(seen) if means else seen))
        return found
