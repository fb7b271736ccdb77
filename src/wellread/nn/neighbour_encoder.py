"""RETRO's encoder of neighbours: attention to both sides, and to the states of the chunk they were found for.

Borgeaud et al. 2022 (arXiv 2112.04426), section 2.4 and algorithm 1. Its layers are the decoder's, run without the
causal mask; in some of them the tokens of a neighbour also read the chunk's states.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from wellread.nn.attention import score_mask
from wellread.nn.chunked_attention import CrossAttention
from wellread.nn.llama import LlamaLayer, rotation
from wellread.nn.llama_hub import LlamaConfig
from wellread.nn.t5_layers import RMSNorm, compute_dtype

__all__ = ["NeighbourEncoder"]


class NeighbourEncoder(nn.Module):
    """Encodes neighbours under their chunk.

    config: sizes of its layers; the vocabulary is not used, words are embedded by the decoder. embedded_dim: width of
    those embeddings. chunk_dim: width of the chunk's states. cross_layers: the layers that read the chunk. normed:
    bring all words to one length first, so that what a rare word is (its embedding has hardly moved) does not drown in
    what the layers add; not for layers that are copies, which know the embeddings as they are.
    """

    def __init__(
        self,
        config: LlamaConfig,
        *,
        embedded_dim: int,
        chunk_dim: int,
        cross_layers: Sequence[int] = (0,),
        normed: bool = True,
    ) -> None:
        super().__init__()
        self.config, self.dim, self.normed = config, config.dim, normed
        self.widen = None if embedded_dim == config.dim else nn.Linear(embedded_dim, config.dim, bias=False)
        self.layers = nn.ModuleList(LlamaLayer(config) for _ in range(config.num_layers))
        heads = {"num_heads": config.num_heads, "key_heads": config.num_key_heads, "head_dim": config.head_dim}
        self.cross = nn.ModuleDict(
            {
                str(index): CrossAttention(config.dim, chunk_dim, **heads, epsilon=config.norm_epsilon)
                for index in cross_layers
            }
        )
        self.final_norm = RMSNorm(config.dim, config.norm_epsilon)

    def forward(self, embedded: Tensor, mask: Tensor, chunks: Tensor) -> Tensor:
        """Word states [rows, neighbours, tokens, embedded_dim] -> [rows, neighbours, tokens, dim].

        mask: [rows, neighbours, tokens] bool. chunks: [rows, chunk_tokens, chunk_dim], states of the chunk that the
        neighbours of a row were found for.
        """
        rows, neighbours, tokens = mask.shape
        if self.normed:
            embedded = functional.rms_norm(embedded, embedded.shape[-1:])
        states = embedded if self.widen is None else self.widen(embedded)
        states = states.flatten(0, 1)
        joined = score_mask(mask.flatten(0, 1), None, dtype=compute_dtype(states))
        places = torch.arange(tokens, device=mask.device)
        by = rotation(places[None], self.config.head_dim, self.config.rope_theta)
        distance = torch.arange(chunks.shape[1], device=mask.device) - places.repeat(neighbours)[:, None]
        seen = torch.ones(chunks.shape[:2], dtype=torch.bool, device=mask.device)
        for index, layer in enumerate(self.layers):
            states = layer.read_own(states, joined, by)
            if str(index) in self.cross:
                cross = self.cross[str(index)]
                together = states.unflatten(0, (rows, neighbours)).flatten(1, 2)
                read = cross(together, *cross.keys_values(chunks), seen, distance[None])
                states = states + read.unflatten(1, (neighbours, tokens)).flatten(0, 1)
            states = layer.think(states)
        return self.final_norm(states).unflatten(0, (rows, neighbours))
