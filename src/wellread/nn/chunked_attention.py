"""Cross-attention with relative positions, and RETRO's chunked form of it.

Borgeaud et al. 2022 (arXiv 2112.04426), section 2.4 and listing 1. A text is cut into chunks of m tokens; what was
found for chunk u is read by the m tokens from the last one of chunk u on, those that write chunk u + 1. Here a text
begins with a token of no chunk, so that the states that write a chunk are a block of m states, and block u + 1 reads
what was found for chunk u.

Relative positions: listing 1 adds logits that depend on the distance of the two tokens alone. Ours come from a table of
buckets that grow with the distance (T5's), one per head. A neighbour's token at place m - 1 + i is as far along as
the text's token at place i of the block, which makes its distance 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wellread.nn.attention import attend_masked, merge_heads, score_mask, split_heads
from wellread.nn.t5_layers import RMSNorm, compute_dtype, relative_buckets

__all__ = ["ChunkedCrossAttention", "CrossAttention"]

NUM_BUCKETS, MAX_DISTANCE = 32, 128


class CrossAttention(nn.Module):
    """What states read of other states, after a norm of their own; relative positions; the output starts at zero.

    dim, memory_dim: widths of the reading and of the read states. key_heads: heads of keys and values, each shared by
    num_heads / key_heads heads of queries. Zero at first: a net this is put into stays what it was.
    """

    def __init__(
        self, dim: int, memory_dim: int, *, num_heads: int, key_heads: int, head_dim: int, epsilon: float
    ) -> None:
        super().__init__()
        self.heads, self.key_heads = num_heads, key_heads
        self.norm = RMSNorm(dim, epsilon)
        self.query = nn.Linear(dim, num_heads * head_dim, bias=False)
        self.key = nn.Linear(memory_dim, key_heads * head_dim, bias=False)
        self.value = nn.Linear(memory_dim, key_heads * head_dim, bias=False)
        self.output = nn.Linear(num_heads * head_dim, dim, bias=False)
        self.distance = nn.Embedding(NUM_BUCKETS, num_heads)
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.distance.weight)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """[rows, m, memory_dim] -> two of [rows, key heads, m, head_dim]."""
        return split_heads(self.key(memory), self.key_heads), split_heads(self.value(memory), self.key_heads)

    def forward(
        self,
        states: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
        distance: Tensor,
        *,
        scored: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """What is to be added to states [rows, q, dim]; nothing where a row may read nothing.

        keys, values: from `keys_values`. mask: [rows, m] bool. distance: [rows or 1, q, m] int64, place of the read
        token less that of the reading one. scored: also the attention weights, mean over heads, [rows, q, m].
        """
        query = split_heads(self.query(self.norm(states)), self.heads)
        if self.key_heads < self.heads:
            keys, values = (part.repeat_interleave(self.heads // self.key_heads, dim=1) for part in (keys, values))
        buckets = relative_buckets(distance, num_buckets=NUM_BUCKETS, max_distance=MAX_DISTANCE, both_sides=True)
        joined = score_mask(mask, self.distance(buckets).permute(0, 3, 1, 2), dtype=compute_dtype(states))
        read = self.output(merge_heads(attend_masked(query, keys, values, joined)))
        if not scored:
            return read
        scores = query.float() @ keys.float().transpose(2, 3) * query.shape[-1] ** -0.5 + joined.added.float()
        return read, scores.softmax(-1).mean(1).masked_fill(joined.empty[:, 0], 0.0)


class ChunkedCrossAttention(CrossAttention):
    """CCA: every block of a text's states reads what was found for the chunk before it."""

    def over_chunks(
        self, states: Tensor, found: Tensor, mask: Tensor, places: Tensor, *, chunk_tokens: int, scored: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """What is to be added to the states [batch, tokens, dim] of a text and its first token.

        found: [batch, chunks, stored, memory_dim], the neighbours of each finished chunk side by side, for all
        (tokens - 1) // chunk_tokens of them. mask: [batch, chunks, stored] bool. places: [stored] int64, each one's
        place in its neighbour. scored: also the weights [batch, tokens, stored].
        """
        batch, tokens, chunks = *states.shape[:2], found.shape[1]
        later = states[:, chunk_tokens:]
        later = functional.pad(later, (0, 0, 0, -later.shape[1] % chunk_tokens))
        blocks = later.unflatten(1, (chunks, chunk_tokens)).flatten(0, 1)
        distance = self.distances(torch.arange(chunk_tokens, device=states.device), places, chunk_tokens)
        keys_values = self.keys_values(found.flatten(0, 1))
        read = self(blocks, *keys_values, mask.flatten(0, 1), distance[None], scored=scored)

        def whole(part: Tensor) -> Tensor:
            part = part.unflatten(0, (batch, chunks)).flatten(1, 2)[:, : tokens - chunk_tokens]
            return functional.pad(part, (0, 0, chunk_tokens, 0))

        return (whole(read[0]), whole(read[1])) if scored else whole(read)

    @staticmethod
    def distances(offsets: Tensor, places: Tensor, chunk_tokens: int) -> Tensor:
        """[..., q, stored]: how much further along a neighbour's token is than the text's.

        offsets: [..., q], places of the text's states in their block. places: [..., stored].
        """
        return places[..., None, :] - (offsets[..., :, None] + chunk_tokens - 1)
