"""The longest run of tokens that a chunk shares with its neighbours, against the slow way."""

from __future__ import annotations

import numpy as np
import pytest

from wellread.evaluation.overlap import longest_common_run, overlap_shares


def slow(first, second):
    """Every run of the first, looked for in the second."""
    first, second = list(first), list(second)
    for size in range(min(len(first), len(second)), 0, -1):
        runs = {tuple(second[at : at + size]) for at in range(len(second) - size + 1)}
        if any(tuple(first[at : at + size]) in runs for at in range(len(first) - size + 1)):
            return size
    return 0


def test_as_the_slow_way():
    draw = np.random.default_rng(0)
    for _ in range(200):
        first, second = (draw.integers(0, 3, draw.integers(0, 12)).astype(np.int32) for _ in range(2))
        assert longest_common_run(first, second) == slow(first, second)


def test_the_greatest_over_the_neighbours_as_a_share_of_the_chunk():
    draw = np.random.default_rng(1)
    chunks, near = draw.integers(0, 4, (20, 6)), draw.integers(0, 4, (20, 3, 12))
    lengths, real = draw.integers(1, 7, 20), draw.integers(0, 13, (20, 3))
    shares = overlap_shares(chunks, lengths, near, real)
    for row, share in enumerate(shares):
        chunk = chunks[row, : lengths[row]]
        runs = [slow(chunk, near[row, column, : real[row, column]]) for column in range(3)]
        assert share == np.float32(max(runs) / len(chunk))
    assert len(set(shares.tolist())) > 3


def test_padding_and_missing_neighbours_do_not_count():
    zeros = np.zeros((1, 4), np.int64)
    assert overlap_shares(zeros, np.array([2]), np.zeros((1, 1, 8), int), np.array([[1]]))[0] == 0.5
    assert overlap_shares(zeros, np.array([2]), np.zeros((1, 1, 8), int), np.array([[0]]))[0] == 0
    assert overlap_shares(zeros, np.array([0]), np.zeros((1, 1, 8), int), np.array([[8]]))[0] == 0
    assert overlap_shares(zeros, np.array([4]), np.zeros((1, 0, 8), int), np.zeros((1, 0), int))[0] == 0


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"have shapes \(2,\), \(1, 1, 8\) and \(1, 1\); 1 chunks need \(1,\)"):
        overlap_shares(np.zeros((1, 4), int), np.zeros(2, int), np.zeros((1, 1, 8), int), np.zeros((1, 1), int))
