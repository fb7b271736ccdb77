"""What REVEAL is set up with, and what it holds of the entries of a question while it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from wellread.config import require
from wellread.systems.step_base import same

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Entries", "RevealConfig", "judged"]


@dataclass(frozen=True)
class RevealConfig:
    """What the paper varies, and the sizes of what is added to the reader.

    lower_layers: of the encoder's layers, those that are b; the others are F. head_layers: of the query and of the key
    head, begun as copies of the first of F. key_dim: of queries and keys. num_latents, compress: value tokens per
    entry, made by a Perceiver of perceiver_layers or the first of b(z) (appendix B, table 1). sources: of entries, by
    name; gated: weigh them by the question, not all alike. temperature: divides the gated relevance. fusion:
    attentive; plain: without p(z | x) (appendix F); or none: the question and its picture alone. reencoded: of so
    many of the best entries the text is read beside the values; renewed: so many of them, and no fewer, are made anew
    in training, with gradients. train_encoder: b's text layers. picture_dim: width of a patch's features, 0 to read
    text alone; picture_colours: how many of them, the last ones, are plain colours. patches: of a picture;
    patch_width: to the width of so many they are averaged. words: find texts by their rare words too. *_weight: of the
    losses; generation_weight 0 reads nothing (warm start). picture_encoder: the fingerprint of what made the features,
    filled in by training.
    """

    lower_layers: int | None = None
    head_layers: int = 1
    key_dim: int = 256
    num_latents: int = 8
    compress: Literal["perceiver", "first"] = "perceiver"
    perceiver_layers: int = 1
    sources: tuple[str, ...] = ("text",)
    gated: bool = True
    temperature: float = 0.05
    fusion: Literal["attentive", "plain", "none"] = "attentive"
    reencoded: int = 2
    renewed: int = 2
    train_encoder: bool = False
    picture_dim: int = 0
    picture_colours: int = 0
    patches: int = 49
    patch_width: int = 3
    words: bool = False
    picture_encoder: str = ""
    generation_weight: float = 1.0
    contrastive_weight: float = 1.0
    decorrelation_weight: float = 0.01
    alignment_weight: float = 0.01

    def __post_init__(self) -> None:
        sizes = ("head_layers", "key_dim", "num_latents", "perceiver_layers", "patches", "patch_width", "renewed")
        for name in sizes:
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}; it must be at least 1.")
        for name in ("reencoded", "picture_dim", "picture_colours"):
            require(getattr(self, name) >= 0, f"{name}={getattr(self, name)}; it must not be negative.")
        for name in ("generation_weight", "contrastive_weight", "decorrelation_weight", "alignment_weight"):
            require(getattr(self, name) >= 0, f"{name}={getattr(self, name)}; it must not be negative.")
        require(self.temperature > 0, f"temperature={self.temperature}; it must be above 0.")
        require(
            len(self.sources) > 0 and len(set(self.sources)) == len(self.sources),
            f"sources={list(self.sources)}; name at least one, and each once.",
        )
        require(
            self.picture_colours <= self.picture_dim,
            f"picture_colours={self.picture_colours} but picture_dim={self.picture_dim}; they are a part of it.",
        )

    def with_features(self, image_encoder: str, *, patches: int, groups: Sequence[int]) -> RevealConfig:
        """The same for the features of an image encoder. ValueError where it was trained with those of another, or they
        are not as it reads them."""
        require(
            self.picture_dim > 0, "picture_dim=0 reads text alone; set system.picture_dim to the width of the features."
        )
        require(
            self.picture_encoder in ("", image_encoder),
            f"the pictures' features are of {image_encoder}, the model was trained with those of "
            f"{self.picture_encoder}; make the folder of pictures again with that image encoder.",
        )
        wanted = {"picture_dim": sum(groups), "patches": patches}
        if not self.picture_encoder:  # what was trained reads colours as it was trained to
            wanted["picture_colours"] = sum(groups[1:])
        wrong = [f"{name}={getattr(self, name)}" for name, value in wanted.items() if getattr(self, name) != value]
        require(
            not wrong,
            f"{', '.join(wrong)}, but the features of {image_encoder} need "
            f"{', '.join(f'{name}={value}' for name, value in wanted.items())}; set these options of system.",
        )
        return replace(self, picture_encoder=image_encoder)


@dataclass(frozen=True, slots=True)
class Entries:
    """keys [batch, passages, key_dim]; values [batch, passages, stored, dim] and which are real; the columns that are
    best, [batch, reencoded], and the text states of these, [batch, reencoded, tokens, dim]."""

    keys: Tensor
    values: Tensor
    real: Tensor
    best: Tensor
    text: Tensor


def judged(facts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Of all entries of a step, which are right for each question, and which it is compared with: [questions, entries].

    Neither right nor wrong is what is about the very thing that a right entry is, and what is hidden from a question.
    """
    ids, positive = facts["ids"], facts["positive"]
    own = torch.eye(len(ids), dtype=torch.bool, device=ids.device).repeat_interleave(positive.shape[1], dim=1)
    right = own & positive.flatten() | same(facts["known"], ids)
    neither = same(facts["known"], facts["about"]) | same(facts["hidden"], ids)
    return right, facts["exists"].flatten() & (right | ~neither)
