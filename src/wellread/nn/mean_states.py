"""One vector for a text: the mean of an encoder's states, as sentence encoders make it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wellread.nn.bert import BertEncoder
from wellread.nn.tokenizers import Tokenizer

__all__ = ["mean_states"]


def mean_states(
    net: BertEncoder,
    words: Tokenizer,
    rows: Sequence[Sequence[int]],
    *,
    layers: int | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Means of the states of texts, [rows, dim] float32.

    rows: their tokens without special ones, which are put around them and count too. layers: states after so many, None
    for all. weights: [vocab] float32, of every token in the mean.
    """
    rows = [[words.cls, *row, words.sep] for row in rows]
    device, width = net.embed_tokens.weight.device, max(map(len, rows))
    tokens = torch.tensor([row + [words.pad] * (width - len(row)) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    mask = torch.arange(width, device=device) < lengths[:, None]
    states = net.run(net.embed(tokens), mask, stop=layers).float()
    shares = mask.float() if weights is None else weights.to(device)[tokens] * mask
    return (states * shares[..., None]).sum(1) / shares.sum(1, keepdim=True)
