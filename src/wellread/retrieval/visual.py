"""Search by looks alone: the passages whose picture looks like the one that is asked about.

Hu et al. (REVEAL, 2212.05221), appendix D: a frozen image encoder as the retriever, the baseline that a trained search
by picture and text is compared with. Passages without a picture are not in the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from wellread.config import require
from wellread.pictures import Pictures
from wellread.pictures.looks import VIEWS, looks
from wellread.retrieval.base import Synced
from wellread.retrieval.dense import DenseOptions, DenseRetriever
from wellread.types import Passage, Probe

__all__ = ["VisualEncoder", "VisualOptions", "VisualRetriever"]


@dataclass(frozen=True)
class VisualOptions(DenseOptions):
    """pictures: the folder of pictures, with features (of several encoders: the folder of one's); without it, that of
    the corpus. view: what is compared, "grid" (large vectors, for up to some ten thousand pictures) or "mean". The
    others are those of dense search; encoder and features (their fingerprint) are filled in."""

    encoder: str = ""
    pictures: str = ""
    view: str = "grid"
    features: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.pictures != "", "visual search needs pictures, a folder that wellread pictures made.")
        require(self.view in VIEWS, f"view={self.view!r} is unknown; use one of: {', '.join(VIEWS)}.")
        folder = str(Path(self.pictures).resolve())
        object.__setattr__(self, "pictures", folder)
        if not self.features:
            object.__setattr__(self, "features", Pictures.open(folder).fingerprint)
        object.__setattr__(self, "encoder", f"{self.view}|{self.features}|{folder}")


class VisualEncoder:
    """Vectors of passages and of pictures that are asked about. name: VIEW|FINGERPRINT|FOLDER."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.view, self.features, self.folder = name.split("|", 2)

    @cached_property
    def pictures(self) -> Pictures:
        return Pictures.open(self.folder, fingerprint=self.features)

    def passages(self, passages: Sequence[Passage]) -> np.ndarray:
        return self.of([passage.picture for passage in passages])

    def of(self, names: Sequence[Any]) -> np.ndarray:
        """Pictures by id, by file or as images -> [pictures, dim] float32."""
        seen = self.pictures
        return looks(seen.features(names)[0], seen.stored.about.groups, view=self.view).numpy()


class VisualRetriever(DenseRetriever):
    """Search by one vector per picture. Probes need a `picture`; scores are from -1 to 1."""

    name = "visual"
    Options = VisualOptions

    @classmethod
    def build(cls, passages: Iterable[Passage], out: str | Path, *, overwrite: bool = False, **options: Any) -> Self:
        """As `Retriever.build`; without the option `pictures`, those that the corpus keeps."""
        own = getattr(passages, "pictures", None)
        if "pictures" not in options and own is not None:
            options["pictures"] = str(own)
        return super().build(_WithPicture(passages), out, overwrite=overwrite, **options)

    def add(self, passages: Iterable[Passage]) -> int:
        return super().add(_WithPicture(passages))

    def sync(self, passages: Iterable[Passage]) -> Synced:
        """As `Retriever.sync`, of the passages that have a picture."""
        once = iter(passages) is passages  # which is refused
        return super().sync(passages if once else _WithPicture(passages))

    @classmethod
    def open_encoder(cls, name: str) -> VisualEncoder:
        return VisualEncoder(name)

    def _probe_vectors(self, probes: Sequence[Probe]) -> np.ndarray:
        without = next((probe for probe in probes if probe.picture is None), None)
        if without is not None:
            raise ValueError(f"the question {without.words!r} has no picture; visual search needs one.")
        encoder = self.encoder_named(self.options.encoder)
        if encoder.pictures.fingerprint != self.options.features:
            raise ValueError(
                f"the features of {encoder.folder} are of {encoder.pictures.fingerprint}, the index was built with "
                f"those of {self.options.features}; build it again with wellread index --overwrite."
            )
        return encoder.of([probe.picture for probe in probes])


class _WithPicture(Iterable[Passage]):
    """The passages that have a picture, every time anew."""

    def __init__(self, passages: Iterable[Passage]) -> None:
        self.passages = passages

    def __iter__(self) -> Iterator[Passage]:
        return (passage for passage in self.passages if passage.picture is not None)
