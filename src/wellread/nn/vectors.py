"""One vector of length 1 for states, words and a picture: what questions and entries are compared by."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wellread.nn.patches import Glance

__all__ = ["VectorHead"]

# What the layers add to the glance at first: enough to learn from, too little to hide what looks alike.
FIRST_SHARE = 0.3
# Of the glance at the words, without and with a picture beside them.
WORD_SHARES = (1.0, 0.0)


class VectorHead(nn.Module):
    """Some layers of an encoder over states, their mean projected; beside it, where there is a picture, a glance at it,
    and one at the words.

    encoder: a copy that holds these layers only; its embeddings are dropped. words: whether words are given. The
    glances are given at each call, since two heads share them.
    """

    def __init__(self, encoder: nn.Module, out_dim: int, *, words: bool = False) -> None:
        super().__init__()
        for name in ("embed_tokens", "placing"):
            if hasattr(encoder, name):
                delattr(encoder, name)
        self.encoder = encoder
        self.project = nn.Linear(encoder.dim, out_dim)
        self.shares = nn.Parameter(torch.tensor([FIRST_SHARE, 1.0]))
        self.word_shares = nn.Parameter(torch.tensor(WORD_SHARES)) if words else None

    def forward(
        self,
        states: Tensor,
        mask: Tensor,
        places: Tensor,
        *,
        glance: Glance | None,
        picture: Tensor | None,
        words: Tensor | None = None,
    ) -> Tensor:
        """[rows, out_dim] of states [rows, tokens, dim]; places: [rows, tokens], for encoders that go by distances.

        picture: [rows, patches, picture_dim] with zeros all over in rows without one, or None. words: [rows, out_dim],
        the glance at them.
        """
        bias = self.encoder.bias_between(places, places)
        states = self.encoder.finish(self.encoder.run(states, mask, bias=bias))
        total = states.masked_fill(~mask[..., None], 0.0).sum(1)
        vector = _length_one(self.project(total / mask.sum(1, keepdim=True).clamp_min(1))) * self.shares[0]
        shown = mask.new_zeros(len(mask)) if picture is None else picture.any(-1).any(-1)
        if glance is not None and picture is not None:
            seen = _length_one(glance(picture)) * self.shares[1]
            vector = vector + seen.masked_fill(~shown[:, None], 0.0)
        if words is not None:
            vector = vector + words * self.word_shares[shown.long()][:, None]
        return _length_one(vector)


def _length_one(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors.float(), dim=-1)
