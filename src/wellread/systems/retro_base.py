"""What RETRO varies."""

from __future__ import annotations

from dataclasses import dataclass

from wellread.config import require

__all__ = ["RetroConfig"]


@dataclass(frozen=True)
class RetroConfig:
    """chunk_tokens: tokens between two searches. cross_layers: the layers of the decoder that read neighbours, counted
    from 0; none given: every third one from the middle on. encoder_layers, encoder_dim, encoder_heads: of the encoder
    of neighbours, 0 for the decoder's width and heads. encoder_cross: its layers that read the chunk. copy_reader: its
    layers, and the queries, keys and values of the cross-attention, start as copies of the decoder's. read_words: the
    encoder adds nothing to its words at first, and these are compared with states, and read, as they are. seed: of the
    first weights of encoder and cross-attention. copy_neighbours: words are also copied from the neighbours.
    use_copy_head: false leaves that aside in a trained model, which shows what the cross-attention gives alone.
    """

    chunk_tokens: int = 64
    cross_layers: tuple[int, ...] = ()
    encoder_layers: int = 2
    encoder_dim: int = 0
    encoder_heads: int = 0
    encoder_cross: tuple[int, ...] = (0,)
    copy_reader: bool = False
    read_words: bool = False
    copy_neighbours: bool = False
    use_copy_head: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("chunk_tokens", "encoder_layers"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}; it must be at least 1.")
        layers = list(self.encoder_cross)
        require(
            all(0 <= layer < self.encoder_layers for layer in layers),
            f"encoder_cross={layers}, but the encoder has {self.encoder_layers} layers; count from 0.",
        )
        require(
            not ((self.copy_reader or self.read_words) and (self.encoder_dim or self.encoder_heads)),
            f"copy_reader or read_words with encoder_dim={self.encoder_dim} and encoder_heads={self.encoder_heads}; "
            "they need the decoder's sizes, leave both at 0.",
        )
        require(not (self.copy_reader and self.read_words), "copy_reader and read_words are two starts; choose one.")
        require(
            self.use_copy_head or self.copy_neighbours,
            "use_copy_head=false without copy_neighbours; there is no copy head to leave aside.",
        )
