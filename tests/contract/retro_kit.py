"""What the tests of RETRO share: small systems, texts with neighbours, and the probabilities of every word."""

from __future__ import annotations

from dataclasses import replace

import torch

from wellread.reading.batching import CandidateRow, batch_candidates
from wellread.reading.chunks import by_chunk
from wellread.types import CandidateBatch, Inputs

# The same float32 terms summed in another order: a few units in the last place of values near 1 to 10.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}
SIZE, VOCAB, LENGTH = 4, 60, 19
FAMILIES = ("t5", "t5-gated", "bert")


def made(tiny, family: str, *, copying: bool):
    system = tiny.system("retro", family, layers=4, chunk_tokens=SIZE, cross_layers=[1, 3], copy_neighbours=copying)
    if copying:  # about as much copied as said
        system.copy.head.gate.bias.data.zero_()
    return system


def text(lengths=(LENGTH, 14), seed: int = 3) -> Inputs:
    tokens = torch.randint(3, VOCAB, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Inputs(tokens.masked_fill(~mask, 0), mask)


def neighbours(groups=((0, 0, 1, 1, 2, 3), (0, 1, 1, 2)), *, other: int | None = None) -> CandidateBatch:
    """A neighbour per entry, all different, of different lengths. other: other tokens in those of this chunk."""
    rows = [
        [
            CandidateRow(
                f"n{row}-{at}",
                [3 + (7 * row + 11 * at + 5 * step + 13 * (chunk == other)) % 57 for step in range(5 + at % 4)],
                group=chunk,
            )
            for at, chunk in enumerate(chunks)
        ]
        for row, chunks in enumerate(groups)
    ]
    return batch_candidates(rows, pad=0)


def nobody(found: CandidateBatch) -> CandidateBatch:
    return replace(found, exists=torch.zeros_like(found.exists))


@torch.no_grad()
def every_log_prob(system, asked: Inputs, found: CandidateBatch) -> torch.Tensor:
    """log p of every token in every place given those before it, [batch, places, vocab]; the last is what follows."""
    near, _ = by_chunk(found, asked.mask.sum(-1) // SIZE)
    start = torch.full_like(asked.tokens[:, :1], system.reader.start_token)
    tokens = torch.cat([start, asked.tokens], dim=1)
    mask = torch.cat([torch.ones_like(start).bool(), asked.mask], dim=1)
    text = system.decoder.read(tokens, mask, near)
    places = torch.arange(tokens.shape[1]).expand(len(tokens), -1)
    targets = [torch.full_like(tokens, word) for word in range(VOCAB)]
    return torch.stack([system.decoder.target_log_probs(text, tokens, each, places) for each in targets], dim=-1)
