"""RETRO on the contract: chunks seek, neighbours answer chunks, and writing searches at every border."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from wellread.reading.batching import CandidateRow, batch_candidates
from wellread.systems.retro import RetroConfig, follow
from wellread.types import CandidateBatch, Inputs, TrainingBatch

# The same float32 terms summed in another order or in double precision: a few units in the last place.
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


def chunked(group: list[list[int]], other: int = 0) -> CandidateBatch:
    """A neighbour per entry of `group`, all different. other: other tokens in the neighbours of chunk 1."""
    rows = [
        [
            CandidateRow(
                f"n{row}{at}", [3 + (row + 5 * at + step + other * chunk) % 16 for step in range(6)], group=chunk
            )
            for at, chunk in enumerate(chunks)
        ]
        for row, chunks in enumerate(group)
    ]
    return batch_candidates(rows, pad=0)


def long_text(sig) -> Inputs:
    tokens = torch.randint(3, sig.VOCAB, (2, 11), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, 9:] = False
    return Inputs(tokens, mask)


def test_retro_seeks_with_every_finished_chunk(sig):
    system, text = sig.retro(), long_text(sig)
    sought = system.seek(text)
    assert [tuple(each.shape) for each in sought] == [(2, sig.DIM), (2, sig.DIM)]
    second = text.tokens[1, sig.CHUNK : 2 * sig.CHUNK][None]
    torch.testing.assert_close(sought[1][1], system.key_encoder(second, second > 0)[0], **CLOSE)


def test_retro_remembers_the_first_chunk_of_a_passage(sig):
    system, (tokens, mask) = sig.retro(), sig.passages()
    kept = system.remember(tokens, mask)
    longer = torch.cat([tokens, torch.full((5, 2), 7)], dim=1)
    assert torch.equal(system.remember(longer[:, [0, 1, 2, 3, 5, 6]], torch.ones(5, 6) > 0).keys[0], kept.keys[0])


def test_retro_sees_neighbours_from_the_last_token_of_their_chunk_on(sig):
    system, text = sig.retro(), long_text(sig)
    group = [[0, 1, 1], [0, 0, 1]]
    with torch.no_grad():
        plain, changed = (system.text_log_probs(text, chunked(group, other)) for other in (0, 1))
    border = 2 * sig.CHUNK - 1
    assert torch.equal(plain[:, :border], changed[:, :border])
    assert not torch.isclose(plain[:, border], changed[:, border]).all(-1).any()


def test_retro_without_neighbours_is_the_plain_language_model(sig):
    system, text = sig.retro(), long_text(sig)
    nobody = chunked([[0], [0]])
    nobody = replace(nobody, exists=torch.zeros_like(nobody.exists))
    with torch.no_grad():
        plain = system.upper.out(system.lower(text.tokens, text.mask)).log_softmax(-1)
        torch.testing.assert_close(system.text_log_probs(text, nobody), plain, **CLOSE)


def test_retro_reads_neighbours_under_their_chunk(sig):
    system, text = sig.retro(), long_text(sig)
    found = chunked([[0, 1, 1], [1, 0, 2]])
    reading = system.read(text, found)
    assert reading.extras["chunk"][:, ::6].tolist() == [[0, 1, 1], [1, 0, 2]]
    assert reading.mask[:, ::6].tolist() == [[True] * 3, [True, True, False]]  # chunk 2 is not finished
    lower = system.lower(text.tokens, text.mask)
    alone = system.neighbours(found.tokens[1, :1], found.mask[1, :1], lower[1:, sig.CHUNK : 2 * sig.CHUNK])
    torch.testing.assert_close(reading.states[1, :6], alone[0], **CLOSE)


def test_retro_scores_what_follows_the_question(sig):
    system, text = sig.retro(), long_text(sig)
    found, (wanted, real) = chunked([[0, 1, 2], [0, 1, 2]]), sig.target()
    with torch.no_grad():
        scores = system.log_likelihood(text, found, wanted, real)
        for row, length in enumerate([11, 9]):
            so_far, expected = text.tokens[row, :length].tolist(), 0.0
            one = {part: getattr(found, part)[[row]] for part in ("tokens", "mask", "exists", "scores", "group")}
            for token in wanted[row][real[row]].tolist():
                tokens = torch.tensor([so_far])
                expected += float(
                    system.text_log_probs(Inputs(tokens, tokens > 0), CandidateBatch(**one))[0, -1, token]
                )
                so_far.append(token)
            torch.testing.assert_close(scores[row], torch.tensor(expected), **CLOSE)
        losses = system.losses(TrainingBatch(text, found, wanted, real))
    torch.testing.assert_close(losses["nll"], -scores.sum() / real.sum(), **CLOSE)


def test_retro_searches_at_every_border_while_it_writes(sig):
    system, text = sig.retro(), long_text(sig)
    asked: list[list[int]] = []

    def nearest(vectors) -> list[CandidateRow]:
        """Two neighbours, decided by the vector alone."""
        starts = [int(1000 * each.abs().sum()) for each in vectors]
        return [
            CandidateRow(f"n{start}", [3 + (start + at * step) % 16 for step in range(6)], group=probe)
            for probe, start in enumerate(starts)
            for at in (1, 2)
        ]

    def search(vectors) -> CandidateBatch:
        asked.append([len(each) for each in vectors])
        return batch_candidates([nearest(each) for each in vectors], pad=0)

    first = batch_candidates([nearest(each) for each in system.seek(text)], pad=0)
    system.upper.out.bias.data[1] = -100.0  # nobody ends
    written = system.generate(text, first, max_tokens=8, search=search)
    # Rows of 11 and 9 tokens finish chunks of 4 after 1, 5 and after 3, 7 tokens.
    assert asked == [[1, 0], [0, 1], [1, 0], [0, 1]]
    assert written.tokens.shape == (2, 8)
    with torch.no_grad():
        whole = follow(text, written.tokens, torch.ones(2, 8, dtype=torch.bool))
        every = batch_candidates([nearest(each) for each in system.seek(whole)], pad=0)
        scores = system.log_likelihood(text, every, written.tokens, torch.ones(2, 8, dtype=torch.bool))
        fewer = system.log_likelihood(text, first, written.tokens, torch.ones(2, 8, dtype=torch.bool))
    # Eight log-probabilities summed in another order.
    torch.testing.assert_close(written.scores, scores, rtol=1e-5, atol=1e-5)
    assert not torch.isclose(written.scores, fewer, rtol=1e-3).any()
    silent = system.generate(text, first, max_tokens=8)
    assert not torch.allclose(silent.scores, written.scores)


def test_retro_stops_asking_for_what_has_ended(sig):
    class EndsFirst(sig.Upper):
        """The first question ends at once, the second never."""

        def forward(self, *parts: Tensor) -> Tensor:
            end = nn.functional.one_hot(torch.tensor(1), sig.VOCAB) * torch.tensor([100.0, -100.0])[:, None, None]
            return (super().forward(*parts) + end).log_softmax(-1)

    system, asked = sig.retro(), []
    system.upper = EndsFirst()

    def search(vectors) -> CandidateBatch:
        asked.append([len(each) for each in vectors])
        return chunked([[0], [0]])

    written = system.generate(long_text(sig), chunked([[0], [0]]), max_tokens=8, search=search)
    assert written.lengths.tolist() == [1, 8]
    assert asked == [[0, 1], [0, 1]]  # the end token of the first question was the last of a chunk


def test_a_retro_chunk_has_tokens():
    with pytest.raises(ValueError, match="chunk_tokens=0; it must be at least 1"):
        RetroConfig(chunk_tokens=0)
