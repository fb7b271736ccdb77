"""What retrievers share that turn texts into vectors: encoder objects known by name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

from wellread.retrieval.segments import SegmentedRetriever
from wellread.types import Passage

__all__ = ["EncodedRetriever", "OwnEncoder"]


class EncodedRetriever(SegmentedRetriever):
    """A retriever whose option `encoder` names what makes its vectors.

    `build(encoder=...)` also takes an encoder object, which is then known by its name for as long as the process
    lives; a name that nobody made known is opened by `open_encoder`.
    """

    _encoders: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._encoders = {}

    @classmethod
    @abstractmethod
    def open_encoder(cls, name: str) -> Any:
        """The encoder of that name; ValueError where there is none."""

    @classmethod
    def build(cls, passages: Iterable[Passage], out: str | Path, *, overwrite: bool = False, **options: Any) -> Self:
        """As `Retriever.build`; `encoder` may also be an object (`open` the index later with `use_encoder`)."""
        encoder = options.get("encoder")
        if encoder is not None and not isinstance(encoder, str):
            options["encoder"] = cls.use_encoder(encoder)
        return super().build(passages, out, overwrite=overwrite, **options)

    @classmethod
    def use_encoder(cls, encoder: Any) -> str:
        """Make an encoder object known by its name to all such indexes in this process; gives the name."""
        cls._encoders[encoder.name] = encoder
        return encoder.name

    @classmethod
    def encoder_named(cls, name: str) -> Any:
        """The encoder known by that name, opened where it is not known yet."""
        if name not in cls._encoders:
            cls._encoders[name] = cls.open_encoder(name)
        return cls._encoders[name]


class OwnEncoder:
    """For retrievers whose vectors belong to one model: the index knows the fingerprint of the encoder it was built
    with (its option `encoder_fingerprint`), and refuses another one. Comes before EncodedRetriever among the bases."""

    of_a_model: ClassVar[bool] = True
    _checked = False

    @classmethod
    def build(cls, passages: Iterable[Passage], out: str | Path, *, overwrite: bool = False, **options: Any) -> Self:
        encoder = options.get("encoder")
        if encoder and isinstance(encoder, str):
            encoder = cls.encoder_named(encoder)
        if encoder:
            options |= {"encoder": encoder, **cls.facts_of(encoder)}
        return super().build(passages, out, overwrite=overwrite, **options)

    @classmethod
    def facts_of(cls, encoder: Any) -> dict[str, Any]:
        """The options of an index that follow from the encoder it is built with."""
        return {"encoder_fingerprint": getattr(encoder, "fingerprint", "")}

    def _load(self) -> None:
        super()._load()
        self._checked = False

    def own_encoder(self) -> Any:
        """The encoder this index was built with; ValueError where that name now stands for other weights, or for
        nothing."""
        encoder = self._opened()
        if not self._checked:
            wanted, found = self.options.encoder_fingerprint, getattr(encoder, "fingerprint", "")
            if wanted != found:
                raise ValueError(
                    f"encoder {self.options.encoder!r} has fingerprint {found!r}, but this index was built with "
                    f"{wanted!r}; build the index again, or bring back the model it was built with."
                )
            self._checked = True
        return encoder

    def _opened(self) -> Any:
        name = self.options.encoder
        try:
            return self.encoder_named(name)
        except ValueError as error:
            if Path(name).is_dir():  # it says itself what is wrong with it
                raise
            raise ValueError(
                f"index {self.directory} needs the model it was built with, which is no longer at {name}; put it back "
                "there (a link will do), or build the index again with `wellread index`."
            ) from error

    def add(self, passages: Iterable[Passage]) -> int:
        """As `Retriever.add`; ValueError where the encoder's name now stands for other weights."""
        self.own_encoder()
        return super().add(passages)
