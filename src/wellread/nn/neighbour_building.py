"""What RETRO adds to a decoder: the encoder of neighbours and the cross-attention of some layers, new or as copies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import nn

from wellread.nn.chunked_attention import ChunkedCrossAttention
from wellread.nn.llama import LlamaDecoder
from wellread.nn.neighbour_encoder import NeighbourEncoder

__all__ = ["build_neighbour_nets", "copy_reader", "read_words"]


def build_neighbour_nets(
    reader: LlamaDecoder,
    *,
    cross_layers: Sequence[int],
    encoder_layers: int,
    encoder_dim: int = 0,
    encoder_heads: int = 0,
    encoder_cross: Sequence[int] = (0,),
    normed: bool = True,
    words: bool = False,
    seed: int = 0,
) -> tuple[NeighbourEncoder, nn.ModuleDict]:
    """The encoder, and layer number -> cross-attention. encoder_dim, encoder_heads: 0 for the reader's. normed: of the
    words the encoder begins with, see there. words: begin with identities, see `read_words`."""
    sizes = reader.config
    dim, heads = encoder_dim or sizes.dim, encoder_heads or sizes.num_heads
    shape = {"num_layers": encoder_layers}
    if (dim, heads) != (sizes.dim, sizes.num_heads):
        inner = 8 * max(1, dim * sizes.inner_dim // sizes.dim // 8)
        shape |= {"dim": dim, "inner_dim": inner, "num_heads": heads, "num_key_heads": heads, "head_dim": dim // heads}
    shared = sizes.num_heads if words else sizes.num_key_heads
    of_heads = {"num_heads": sizes.num_heads, "key_heads": shared, "head_dim": sizes.head_dim}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        encoder = NeighbourEncoder(
            replace(sizes, **shape),
            embedded_dim=sizes.dim,
            chunk_dim=sizes.dim,
            cross_layers=encoder_cross,
            normed=normed,
        )
        cross = {
            str(layer): ChunkedCrossAttention(sizes.dim, dim, **of_heads, epsilon=sizes.norm_epsilon)
            for layer in cross_layers
        }
    if words:
        read_words(encoder, cross.values())
    return encoder, nn.ModuleDict(cross)


def read_words(encoder: NeighbourEncoder, cross: Iterable[ChunkedCrossAttention]) -> None:
    """Let the encoder's layers add nothing at first, and queries, keys and values be the states themselves: a state
    then looks for words it is about to say, and reads their embeddings. All widths must be the reader's."""
    for layer in encoder.layers:
        nn.init.zeros_(layer.attention.output.weight)
        nn.init.zeros_(layer.feed.down.weight)
    for attention in cross:
        for projection in (attention.query, attention.key, attention.value):
            nn.init.eye_(projection.weight)


def copy_reader(reader: LlamaDecoder, encoder: NeighbourEncoder, cross: nn.ModuleDict) -> None:
    """Let the encoder's layers be copies of the reader's first ones, and queries, keys and values of every
    cross-attention copies of its layer's. The sizes must be the reader's."""
    for mine, theirs in zip(encoder.layers, reader.layers):
        mine.load_state_dict(theirs.state_dict())
    for layer, attention in cross.items():
        theirs = reader.layers[int(layer)]
        attention.norm.load_state_dict(theirs.attention_norm.state_dict())
        for name in ("query", "key", "value"):
            getattr(attention, name).weight.data.copy_(getattr(theirs.attention, name).weight)
