"""How much of a chunk its neighbours give away: the longest run of tokens they share.

Borgeaud et al. 2022, section 2.6: r(C) = |longest common substring of C and [N, F]| / |C|, the greatest over the
neighbours of C, in tokens. Results on chunks with r <= some share say what retrieval gives beyond copying.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from wellread.config import require

__all__ = ["longest_common_run", "overlap_shares"]


def overlap_shares(
    chunks: np.ndarray, lengths: np.ndarray, neighbours: np.ndarray, neighbour_lengths: np.ndarray
) -> np.ndarray:
    """r(C) of every chunk, [chunks] float32 between 0 and 1; 0 of a chunk without tokens or neighbours.

    chunks: [chunks, m] tokens, of which the first `lengths` [chunks] count. neighbours: [chunks, k, 2 m] tokens
    [N, F], of which the first `neighbour_lengths` [chunks, k] count (0 where there is no neighbour).
    """
    count, k = len(chunks), neighbours.shape[1]
    given = (lengths.shape, neighbours.shape[:1], neighbour_lengths.shape)
    require(
        given == ((count,), (count,), (count, k)),
        f"lengths, neighbours and neighbour_lengths have shapes {lengths.shape}, {neighbours.shape} and "
        f"{neighbour_lengths.shape}; {count} chunks need ({count},), ({count}, k, tokens) and ({count}, k).",
    )
    as32 = (np.ascontiguousarray(values, np.int32) for values in (chunks, lengths, neighbours, neighbour_lengths))
    return _shares(*as32)


@njit(cache=True)
def longest_common_run(first: np.ndarray, second: np.ndarray) -> int:
    """Length of the longest run of tokens that two rows have in common, in time len(first) * len(second)."""
    longest = 0
    row = np.zeros(len(second) + 1, np.int32)  # row[j]: length of the common run that ends at second[j - 1]
    for token in first:
        before = 0
        for place in range(len(second)):
            above = row[place + 1]
            row[place + 1] = before + 1 if second[place] == token else 0
            longest = max(longest, row[place + 1])
            before = above
    return longest


@njit(cache=True)
def _shares(
    chunks: np.ndarray, lengths: np.ndarray, neighbours: np.ndarray, neighbour_lengths: np.ndarray
) -> np.ndarray:
    shares = np.zeros(len(chunks), np.float32)
    for number in range(len(chunks)):
        chunk = chunks[number, : lengths[number]]
        longest = 0
        for column in range(neighbours.shape[1]):
            other = neighbours[number, column, : neighbour_lengths[number, column]]
            longest = max(longest, longest_common_run(chunk, other))
        if len(chunk):
            shares[number] = longest / len(chunk)
    return shares
