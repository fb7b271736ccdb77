"""What reads text and picture together: both side by side, one vector of the two, a few value tokens of the two.

The nets REVEAL adds to a reader (Hu et al. 2023, section 3 and appendix E.1), without its gate.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from wellread.nn.patches import Glance, PatchStates
from wellread.nn.perceiver import Perceiver
from wellread.nn.vectors import VectorHead
from wellread.nn.words import WordGlance

__all__ = ["Multimodal", "Seen"]

# Where patches stand for encoders that go by distances: too far from any text for their order to matter.
PATCHES_AT = -1000


class Seen(NamedTuple):
    """b of some rows: states [rows, tokens + patches, dim] of text and picture, their mask, where they stand, the
    picture's features or None, the states of the text alone, and a glance at its words or None."""

    states: Tensor
    mask: Tensor
    places: Tensor
    picture: Tensor | None
    text: Tensor
    words: Tensor | None


class Multimodal(nn.Module):
    """Nets over the states of an encoder's lower layers.

    encoder: whose layers cut to cut + head_layers - 1 the two vector heads begin as. picture_dim: width of a patch's
    features, 0 for text alone; the last picture_colours of them are of another kind than the rest. patches: of a
    picture; they are averaged to a square patch_width wide. words: whether both heads get a glance at the words.
    torch's current random state decides the new weights.
    """

    def __init__(
        self,
        encoder: nn.Module,
        cut: int,
        *,
        head_layers: int,
        key_dim: int,
        num_latents: int,
        compress: Literal["perceiver", "first"],
        perceiver_layers: int,
        picture_dim: int,
        picture_colours: int,
        patches: int,
        patch_width: int,
        words: bool,
    ) -> None:
        super().__init__()
        self.num_latents, self.picture_dim, self.num_patches = num_latents, picture_dim, patches
        self.query_head, self.key_head = (
            VectorHead(encoder.with_layers(cut, cut + head_layers), key_dim, words=words).requires_grad_(True)
            for _ in range(2)
        )
        self.key_head.project.load_state_dict(self.query_head.project.state_dict())  # what is alike is near at first
        self.words = WordGlance(encoder.vocab_size, key_dim) if words else None
        self.compress = self.patches = self.glance = None
        if compress == "perceiver":
            heads = encoder.config.num_heads
            self.compress = Perceiver(encoder.dim, num_latents=num_latents, layers=perceiver_layers, heads=heads)
        if picture_dim:
            self.patches = PatchStates(picture_dim, encoder.dim, width=patch_width)
            kinds = tuple(filter(None, (picture_dim - picture_colours, picture_colours)))
            self.glance = Glance(kinds, key_dim, patches=patches)

    def see(
        self, tokens: Tensor, text: Tensor, mask: Tensor, picture: Tensor | None, picture_mask: Tensor | None
    ) -> Seen:
        """Tokens, their states [rows, tokens, dim] and picture [rows, patches, picture_dim] side by side.

        picture_mask: [rows, patches] bool, False all over in rows without a picture; None where all have one.
        """
        places = torch.arange(text.shape[1], device=text.device).expand(mask.shape)
        words = None if self.words is None else self.words(tokens, mask)
        if picture is None or self.patches is None:
            return Seen(text, mask, places, None, text, words)
        if picture.shape[1:] != (self.num_patches, self.picture_dim):
            raise ValueError(
                f"a picture has {picture.shape[1]} patches of {picture.shape[2]} features, the model reads "
                f"{self.num_patches} of {self.picture_dim}; give features of the image encoder it was trained with."
            )
        shown = mask.new_ones(mask.shape[0]) if picture_mask is None else picture_mask.any(-1)
        picture = picture.to(text.dtype).masked_fill(~shown[:, None, None], 0.0)
        states = torch.cat([text, self.patches(picture).to(text.dtype)], dim=1)
        real = shown[:, None].expand(-1, states.shape[1] - text.shape[1])
        there = torch.full(real.shape, PATCHES_AT, device=text.device)
        return Seen(states, torch.cat([mask, real], dim=1), torch.cat([places, there], dim=1), picture, text, words)

    def query(self, seen: Seen) -> Tensor:
        """[rows, key_dim] float32, of length 1: what is sought with."""
        return self._vector(self.query_head, seen)

    def key(self, seen: Seen) -> Tensor:
        """[rows, key_dim] float32, of length 1: what is found."""
        return self._vector(self.key_head, seen)

    def _vector(self, head: VectorHead, seen: Seen) -> Tensor:
        given = {"glance": self.glance, "picture": seen.picture, "words": seen.words}
        return head(seen.states, seen.mask, seen.places, **given)

    def values(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Value tokens [rows, num_latents, dim], and which are real: all that a Perceiver makes; of the first tokens
        of b(z), those there are."""
        if self.compress is not None:
            values = self.compress(seen.states, seen.mask)
            return values, seen.mask.new_ones(values.shape[:2])
        more = max(self.num_latents - seen.states.shape[1], 0)
        values = functional.pad(seen.states, (0, 0, 0, more))[:, : self.num_latents]
        real = functional.pad(seen.mask, (0, more))[:, : self.num_latents]
        return values.masked_fill(~real[..., None], 0.0), real
