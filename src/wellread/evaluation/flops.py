"""FLOPs of a question, by the papers' formulas and counted while a model runs.

The formulas (LUMEN sections 2.2, 2.3, 3.2; GLIMMER section 3.3) count what grows with the tokens times dim^2 and
leave out attention scores, norms, embeddings and the output layer. Per token and layer they take 4 dim^2 for
the projections of self-attention (query, key, value, output), 8 dim^2 for the feed-forward block and 2 dim^2 for
cross-attention: on the passage side its keys and values, on the target side its queries and outputs. A weight
matrix of dim x dim costs dim^2 multiplications and dim^2 additions per token, so the papers' "FLOPs" are
multiply-adds; FLOPs as hardware and counters give them are twice as many. Both are returned.

The papers' letters: n_s = top_k * passage_tokens (all passage tokens), n_p = passage_tokens (of one passage, with the
question before it where the system puts it there), n_t = target_tokens, L = layers, d = dim, k = top_k, m = keep,
alpha = live_share, beta = rerank_share.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NotRequired, TypedDict, Unpack

__all__ = ["FlopCount", "FlopFormula", "Sizes", "count_flops", "fid", "glimmer", "lumen", "memory_fid", "precompute"]

SELF_ATTENTION, FEED_FORWARD, CROSS_ATTENTION = 4, 8, 2
ENCODER = SELF_ATTENTION + FEED_FORWARD
DECODER = SELF_ATTENTION + FEED_FORWARD + CROSS_ATTENTION


@dataclass(frozen=True)
class FlopFormula:
    """What a question costs by a paper's formula, in multiply-adds, by part of the model.

    encoder: passages through the live layers. rerank: passages that were read in part and then dropped.
    cross_attention: keys and values of passages for the decoder. decoder: the target.
    """

    encoder: float
    cross_attention: float
    decoder: float
    rerank: float = 0.0

    @property
    def paper(self) -> float:
        """In the papers' unit, which they call FLOPs: multiply-adds."""
        return self.encoder + self.rerank + self.cross_attention + self.decoder

    @property
    def flops(self) -> float:
        """Floating point operations, a multiply-add being two of them: twice the papers' unit."""
        return 2 * self.paper


class Sizes(TypedDict):
    """What the formula of every reader asks for.

    decoder_layers: for readers whose decoder is not as deep as the encoder (the papers' is).
    """

    passage_tokens: float
    top_k: int
    target_tokens: float
    layers: int
    dim: int
    decoder_layers: NotRequired[int | None]


def fid(**sizes: Unpack[Sizes]) -> FlopFormula:
    """Fusion-in-Decoder: n_s L 14 d^2 + n_t L 14 d^2 (LUMEN, section 2.2), which is LUMEN's with alpha = 1."""
    return lumen(live_share=1.0, **sizes)


def memory_fid(**sizes: Unpack[Sizes]) -> FlopFormula:
    """MemoryFiD: n_s L 2 d^2 + n_t L 14 d^2 (LUMEN, section 2.3), which is LUMEN's with alpha = 0."""
    return lumen(live_share=0.0, **sizes)


def lumen(*, live_share: float, **sizes: Unpack[Sizes]) -> FlopFormula:
    """LUMEN: n_s alpha L 12 d^2 + n_s L 2 d^2 + n_t L 14 d^2 (LUMEN, section 3.2). live_share: alpha."""
    _check_shares(live_share=live_share)
    _check_counts(**sizes)
    source, layers, dim = sizes["top_k"] * sizes["passage_tokens"], sizes["layers"], sizes["dim"]
    depth = layers if sizes.get("decoder_layers") is None else sizes["decoder_layers"]
    return FlopFormula(
        encoder=_encoder(source, live_share * layers, dim),
        cross_attention=source * depth * CROSS_ATTENTION * dim**2,
        decoder=sizes["target_tokens"] * depth * DECODER * dim**2,
    )


def glimmer(*, keep: int, live_share: float, rerank_share: float, **sizes: Unpack[Sizes]) -> FlopFormula:
    """GLIMMER: LUMEN with m passages, + (k - m) n_p beta alpha L 12 d^2 (GLIMMER, section 3.3).

    keep: m, the passages read to the end. rerank_share: beta, the share of the live layers that all k passages go
    through.
    """
    _check_shares(rerank_share=rerank_share)
    top_k = sizes["top_k"]
    if not 1 <= keep <= top_k:
        raise ValueError(f"keep={keep} but {top_k} passages are retrieved; keep must be between 1 and {top_k}.")
    kept = lumen(live_share=live_share, **{**sizes, "top_k": keep})
    dropped = (top_k - keep) * sizes["passage_tokens"]
    return replace(kept, rerank=_encoder(dropped, rerank_share * live_share * sizes["layers"], sizes["dim"]))


def precompute(
    *, num_passages: int, passage_tokens: float, layers: int, dim: int, live_share: float = 0.0
) -> FlopFormula:
    """Reading a corpus ahead once: corpus n_p (1 - alpha) L 12 d^2 (LUMEN, sections 2.3 and 3.2)."""
    _check_shares(live_share=live_share)
    _check_counts(num_passages=num_passages, passage_tokens=passage_tokens, layers=layers, dim=dim)
    encoder = _encoder(num_passages * passage_tokens, (1 - live_share) * layers, dim)
    return FlopFormula(encoder=encoder, cross_attention=0.0, decoder=0.0)


def _encoder(tokens: float, layers: float, dim: int) -> float:
    """Tokens through encoder layers: 12 d^2 each."""
    return tokens * layers * ENCODER * dim**2


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share} is out of range; it must be between 0 and 1.")


def _check_counts(**counts: float | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 0:
            raise ValueError(f"{name}={count} is negative; it must be 0 or more.")


class FlopCount:
    """FLOPs counted so far. `with count("read"):` adds what runs inside to that stage; stages may nest.

    total: everything inside `count_flops`. stages: by name. Products of matrices, convolutions and attention
    are counted, two operations per multiply-add; elementwise work is not.
    """

    def __init__(self, mode: Any | None) -> None:
        self._mode = mode
        self.stages: dict[str, int] = {}

    @property
    def total(self) -> int:
        return 0 if self._mode is None else int(self._mode.get_total_flops())

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        before = self.total
        try:
            yield
        finally:
            self.stages[stage] = self.stages.get(stage, 0) + self.total - before


@contextmanager
def count_flops(*, enabled: bool = True) -> Iterator[FlopCount]:
    """Count the FLOPs of what runs inside.

    >>> with count_flops() as count:                      # doctest: +SKIP
    ...     with count("read"):
    ...         reading = system.read(inputs, candidates)
    >>> count.stages["read"], count.total                 # doctest: +SKIP

    enabled: False runs at full speed and leaves all counts at 0.
    """
    if not enabled:
        yield FlopCount(None)
        return
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    def attention(query, key, value, *args, out_val=None, **options) -> int:
        return sdpa_flop_count(query, key, value)

    def attention_backward(grad, query, key, value, *args, out_val=None, **options) -> int:
        return sdpa_backward_flop_count(grad, query, key, value)

    # torch counts fused attention on GPUs; on CPUs it would count nothing at all.
    on_cpu = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    }
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as mode:
        torch.zeros(())  # a process's first operation under a counter imports much; keep that off the stages' clocks
        yield FlopCount(mode)
