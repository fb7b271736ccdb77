"""Late-interaction search in one segment: the mean over question tokens of the best inner product with the passage.

    r(q, p) = mean over tokens i of q: max over tokens j of p: <q_i, k_j>           (ReAtt, equation 1)

`exhaustive` scores every passage. `two_stage` is the paper's way (section 2.2): per question token the nearest K'
passage tokens, found exactly or in the inverted lists whose centroids score best; the passages these belong to are
scored over all of their tokens. Where there are too many, those go first that would score best if a question token that
found nothing in a passage had there as much less than its K'-th nearest as its nearest have more, on average (XTR, Lee
et al. 2023, section 3.2, takes the K'-th itself, which speaks too well of passages that few tokens found).
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import torch

from wellread.retrieval.segments import Hits, best, join
from wellread.retrieval.token_codes import TokenSegment, runs

__all__ = ["exhaustive", "two_stage"]

TOKENS = 16384  # passage tokens multiplied at a time: 2 MB at 32 dimensions, which stays in the cache
COLUMNS = 256  # question tokens multiplied at a time
STRIP = 1024  # rows of a list multiplied at a time
SPAN = 65536  # passages whose scores are held at a time

# Sums and maxima may be reordered, so that they are vectorised. No number is NaN; infinity is used.
FAST = {"reassoc", "contract", "nsz", "nnan"}

# What a first stage finds: rows and scores of all question tokens one after the other, and how many each token has.
Found = tuple[np.ndarray, np.ndarray, np.ndarray]


def exhaustive(segment: TokenSegment, allowed: np.ndarray, questions: Sequence[np.ndarray], top_k: int) -> list[Hits]:
    """The best of all allowed passages, one Hits per question.

    questions: [tokens, dim] float32 each. allowed: [passages] bool, False where a passage has no tokens.
    """
    passages = np.flatnonzero(allowed)
    hits = []
    for group in _groups(questions):
        found: list[list[Hits]] = [[] for _ in group]
        for start in range(0, len(passages), SPAN):
            some = passages[start : start + SPAN]
            for row, into in zip(_scores(segment, some, group), found):
                places, values = best(row, top_k)
                into.append((some[places], values))
        hits += [join(parts, top_k) for parts in found]
    return hits


def two_stage(
    segment: TokenSegment,
    allowed: np.ndarray,
    question: np.ndarray,
    top_k: int,
    *,
    per_token: int,
    candidates: int,
    probes: int,
) -> Hits:
    """The best of the passages that the nearest tokens of one question lead to; of all, where that finds too few.

    per_token: the nearest tokens looked for per question token. probes: inverted lists looked into per question token,
    0 for an exact first stage. candidates: passages scored over all of their tokens, 0 for all that were found.
    """
    if allowed.sum() > max(top_k, candidates):
        keep = min(per_token, len(segment.keys))
        if probes and segment.inverted:
            rows, scores, counts = _probed(segment, question, allowed, keep, probes)
        else:
            rows, scores, counts = _nearest(segment, question, allowed, keep)
        found, partial = _filtered(segment.owner(rows), scores, counts, len(allowed))
        if candidates and len(found) > max(candidates, top_k):
            found = found[best(partial, max(candidates, top_k))[0]]
        if len(found) >= top_k:
            found = np.sort(found)  # equal scores in order of position
            places, values = best(_scores(segment, found, [question])[0], top_k)
            return found[places], values
    return exhaustive(segment, allowed, [question], top_k)[0]


def _groups(questions: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Questions in order, up to COLUMNS tokens together."""
    groups: list[list[np.ndarray]] = []
    width = COLUMNS
    for question in questions:
        width += len(question)
        if width > COLUMNS:
            groups.append([])
            width = len(question)
        groups[-1].append(question)
    return groups


def _scores(segment: TokenSegment, passages: np.ndarray, questions: Sequence[np.ndarray]) -> np.ndarray:
    """r(q, p) for all questions and passages: [questions, passages] float32. Every passage has a token."""
    stacked = torch.from_numpy(np.concatenate(questions))
    bounds = np.append(0, np.cumsum([len(question) for question in questions]))
    ends = np.cumsum(segment.lengths[passages])
    scores = np.empty((len(questions), len(passages)), np.float32)
    start = 0
    while start < len(passages):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + TOKENS, side="right")))
        keys = torch.from_numpy(segment.keys_of(passages[start:stop]))
        # [question tokens, passage tokens]: the maxima run along the contiguous axis.
        products = (stacked @ keys.T).numpy()
        scores[:, start:stop] = _pooled(products, np.append(0, ends[start:stop] - before), bounds)
        start = stop
    return scores


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _pooled(products, offsets, bounds):
    """Mean over a question's tokens of the maximum over a passage's: [questions, passages] float32.

    products: [question tokens, passage tokens] float32. offsets: [passages + 1]. bounds: [questions + 1].
    """
    pooled = np.zeros((len(bounds) - 1, len(offsets) - 1), np.float32)
    for question in range(len(bounds) - 1):
        for token in range(bounds[question], bounds[question + 1]):
            for passage in range(len(offsets) - 1):
                most = np.float32(-np.inf)
                for place in range(offsets[passage], offsets[passage + 1]):
                    most = max(most, products[token, place])
                pooled[question, passage] += most
        pooled[question] /= np.float32(bounds[question + 1] - bounds[question])
    return pooled


def _nearest(segment: TokenSegment, question: np.ndarray, allowed: np.ndarray, keep: int) -> Found:
    """Per question token the `keep` rows of allowed passages with the highest inner products, by blocks."""
    hits: list[Hits] = [join([], keep) for _ in question]
    for start in range(0, len(segment.keys), TOKENS):
        rows = np.arange(start, min(start + TOKENS, len(segment.keys)))
        rows = rows[allowed[segment.owner(rows)]]
        products = question @ segment.decode(rows).T
        for token, row in enumerate(products):
            places, values = best(row, keep)
            hits[token] = join([hits[token], (rows[places], values)], keep)
    rows, scores = (np.concatenate(parts) for parts in zip(*hits))
    return rows, scores, np.array([len(row) for row, _ in hits])


def _probed(segment: TokenSegment, question: np.ndarray, allowed: np.ndarray, keep: int, probes: int) -> Found:
    """As `_nearest`, but only in the `probes` lists whose centroids score best."""
    bases = question @ segment.centroids.T
    count = min(probes, bases.shape[1])
    lists = np.argpartition(-bases, count - 1, axis=1)[:, :count]
    # The best list first: it sets a bar that most rows of the others do not pass.
    lists = np.take_along_axis(lists, np.argsort(-np.take_along_axis(bases, lists, 1), axis=1), 1)
    begins, ends = segment.starts[lists], segment.starts[lists + 1]
    if segment.sizes is not None:
        bases = np.take_along_axis(bases, lists, 1)
        keys, factors = (segment.keys, segment.sizes), question * segment.steps
        return _scan(*keys, factors, bases, begins, ends, segment.owners, allowed, keep)
    keys, owners, taken, none = segment.keys, segment.owners, None, np.empty(0, np.uint8)
    if keys.dtype == np.float16:  # unknown to numba: the lists are copied as float32
        used, lists = np.unique(lists, return_inverse=True)
        lengths = np.diff(segment.starts)[used]
        taken = runs(segment.starts[used], lengths)
        keys, owners = segment.decode(taken), owners[taken]
        ends = np.cumsum(lengths)[lists].reshape(begins.shape)
        begins = ends - lengths[lists].reshape(begins.shape)
    rows, scores, counts = _scan(keys, none, question, np.zeros_like(bases), begins, ends, owners, allowed, keep)
    return rows if taken is None else taken[rows], scores, counts


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _scan(keys, sizes, question, bases, begins, ends, owners, allowed, keep):
    """Per question token the `keep` best rows of its lists: score = base of the list + (size + 1) * <question, key>.

    keys: [rows, dim]. sizes: [rows] uint8, or empty where every size is 1. question: [tokens, dim] float32.
    bases, begins, ends: [tokens, lists]. owners: [rows]. allowed: [passages] bool. Returns what `Found` says.
    """
    tokens = len(question)
    rows, scores = np.empty(2 * keep, np.int64), np.empty(2 * keep, np.float32)
    all_rows, all_scores = np.empty(tokens * keep, np.int64), np.empty(tokens * keep, np.float32)
    counts, total = np.zeros(tokens, np.int64), 0
    products = np.empty(STRIP, np.float32)
    for token in range(tokens):
        count, least = 0, np.float32(-np.inf)
        for place in range(begins.shape[1]):
            end = ends[token, place]
            for begin in range(begins[token, place], end, STRIP):
                _multiply(keys, sizes, question[token], begin, min(end, begin + STRIP), products)
                for row in range(begin, min(end, begin + STRIP)):
                    score = bases[token, place] + products[row - begin]
                    if score > least and allowed[owners[row]]:
                        rows[count], scores[count] = row, score
                        count += 1
                        if count == 2 * keep:
                            count, least = _halve(rows, scores, count, keep)
        if count > keep:
            count, least = _halve(rows, scores, count, keep)
        all_rows[total : total + count], all_scores[total : total + count] = rows[:count], scores[:count]
        counts[token] = count
        total += count
    return all_rows[:total], all_scores[:total], counts


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _multiply(keys, sizes, vector, begin, end, products):
    """products[: end - begin] = (size + 1) * <vector, key> of the rows begin .. end - 1."""
    for row in range(begin, end):
        product = np.float32(0)
        for column in range(len(vector)):
            product += vector[column] * np.float32(keys[row, column])
        products[row - begin] = product
    if len(sizes):
        for row in range(begin, end):
            products[row - begin] *= np.float32(sizes[row]) + np.float32(1)


@numba.njit(cache=True, nogil=True)
def _halve(rows, scores, count, keep):
    """Move the `keep` best of the first `count` to the front, in their order; gives `keep` and the lowest of them."""
    least = np.partition(scores[:count], count - keep)[count - keep]
    equal = keep - (scores[:count] > least).sum()
    kept = 0
    for place in range(count):
        if scores[place] == least:
            equal -= 1
        if scores[place] > least or (scores[place] == least and equal >= 0):
            rows[kept], scores[kept] = rows[place], scores[place]
            kept += 1
    return keep, least


@numba.njit(cache=True, nogil=True)
def _filtered(owners, scores, counts, num_passages):
    """The passages that rows belong to, and how far each is above one that no question token found.

    That is the sum over the question tokens that found it of how far it is above the token's worst row, and of how far
    the token's rows are above that on average: so far below it others are taken to be.

    owners, scores: [rows], the rows of one question token after those of another. counts: [question tokens].
    """
    partial = np.zeros(num_passages, np.float32)
    most = np.empty(num_passages, np.float32)
    last = np.full(num_passages, -1, np.int32)
    found, number, start = np.empty(len(owners), np.int64), 0, 0
    for token in range(len(counts)):
        stop = start + counts[token]
        if stop == start:
            continue
        least = scores[start:stop].min()
        missed = scores[start:stop].mean() - least
        for place in range(start, stop):
            passage, score = owners[place], scores[place]
            if last[passage] < token:
                if last[passage] < 0:
                    found[number] = passage
                    number += 1
                last[passage], most[passage] = token, least
                partial[passage] += missed
            if score > most[passage]:
                partial[passage] += score - most[passage]
                most[passage] = score
        start = stop
    return found[:number], partial[found[:number]]
