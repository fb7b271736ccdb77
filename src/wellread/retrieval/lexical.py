"""Lexical search: BM25 over title and text, with additions and deletions that need no rebuild.

Words are cut, filtered and stemmed by bm25s and PyStemmer. The index keeps how often each term occurs in each
passage, not ready-made scores: those change for every passage whenever one is added or deleted. A few probes
are scored straight from the counts of their terms; many at once are handed to bm25s's numba backend as a score
matrix of just their terms. Both give the same candidates and scores.

    score(q, p) = sum over terms t of q: idf(t) * tf / (tf + k1 * (1 - b + b * len(p) / mean len))
    idf(t) = ln(1 + (N - df + 1/2) / (df + 1/2))

(Robertson and Zaragoza 2009 in the form Lucene uses; k1 = 0.9 and b = 0.4 as in Anserini.)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from wellread.bars import progress_bar
from wellread.config import require
from wellread.retrieval.base import words_of
from wellread.retrieval.catalog import CatalogWriter, in_batches
from wellread.retrieval.segments import Hits, Segment, SegmentedRetriever, best
from wellread.types import Candidates, Passage, Probe

__all__ = ["LexicalOptions", "LexicalRetriever"]

BATCH = 8192  # passages cut into words at a time
BULK = 2048  # probes handed to bm25s's numba backend: 5 s to compile once per process, then 2.6 times as fast
BULK_STEP = 4096  # probes scored with one matrix

# The languages that have both stop words in bm25s and a Snowball stemmer.
Language = Literal[
    "danish", "dutch", "english", "french", "german", "italian", "norwegian", "portuguese", "russian",
    "spanish", "swedish", "turkish",
]  # fmt: skip


@dataclass(frozen=True)
class LexicalOptions:
    """k1: how fast repeated words saturate. b: how far long passages are marked down, 0 to 1.
    language: of stop words and stems, such as "english"."""

    k1: float = 0.9
    b: float = 0.4
    language: Language = "english"

    def __post_init__(self) -> None:
        require(self.k1 >= 0, f"k1={self.k1} is negative; it must be 0 or more (0.9 is usual).")
        require(0 <= self.b <= 1, f"b={self.b} is out of range; it must be between 0 and 1.")


def terms_of(texts: Sequence[str], language: str, *, ids: bool = False) -> Any:
    """Texts -> lists of terms, or with `ids` bm25s's (lists of ids, vocabulary)."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer(language)
    return bm25s.tokenize(list(texts), stopwords=language, stemmer=stemmer, return_ids=ids, show_progress=False)


class LexicalSegment(Segment):
    """Postings of one segment, term by term.

    terms: sorted terms. starts: [terms + 1] int64, where each term's postings begin. passages: [postings]
    int32. counts: [postings], how often the term occurs there. lengths: [passages] int32, in terms.
    """

    def __init__(self, path: Path, deleted: str | None) -> None:
        super().__init__(path, deleted)
        with pa.memory_map(str(path / "terms.arrow")) as source:
            self.terms = pa.ipc.open_file(source).read_all()["term"].combine_chunks()
        self.starts, self.passages, self.counts, self.lengths = (
            np.load(path / f"{name}.npy", mmap_mode="r") for name in ("starts", "passages", "counts", "lengths")
        )
        self.total_length = int(self.lengths[self.alive].sum(dtype=np.int64))
        self.found_in = np.diff(self.starts)
        if not self.alive.all():
            dead = np.append(0, np.cumsum(~self.alive[self.passages]))
            self.found_in = self.found_in - np.diff(dead[self.starts])

    def term(self, text: str) -> int:
        """The number of a term, -1 where it does not occur."""
        place = bisect_left(range(len(self.terms)), text, key=lambda index: self.terms[index].as_py())
        return place if place < len(self.terms) and self.terms[place].as_py() == text else -1

    def postings(self, term: int) -> slice:
        return slice(int(self.starts[term]), int(self.starts[term + 1]))


class LexicalRetriever(SegmentedRetriever):
    """BM25; probes need words. Only passages that share a term with the probe are found."""

    name = "lexical"
    tells_all = True
    Options = LexicalOptions
    Part = LexicalSegment
    segments: list[LexicalSegment]

    def _load(self) -> None:
        super()._load()
        self._num_passages = sum(segment.num_passages for segment in self.segments)
        mean = sum(segment.total_length for segment in self.segments) / max(self._num_passages, 1)
        k1, b = self.options.k1, self.options.b
        self._norms = [k1 * (1 - b + b * segment.lengths / max(mean, 1e-9)) for segment in self.segments]

    def _search(self, probes: list[Probe], top_k: int, where: dict[str, Any]) -> list[Candidates]:
        queries = terms_of([words_of(probe, self.name) for probe in probes], self.options.language)
        allowed = self.allowed(where)
        if len(queries) < BULK:
            return [self._search_one(query, allowed, top_k) for query in queries]
        steps = (queries[start : start + BULK_STEP] for start in range(0, len(queries), BULK_STEP))
        return [found for step in steps for found in self._search_many(step, allowed, top_k)]

    def _search_one(self, query: Sequence[str], allowed: Sequence[np.ndarray], top_k: int) -> Candidates:
        table = self._lookup(set(query))
        hits: list[list[Hits]] = []
        for number, segment in enumerate(self.segments):
            scores = np.zeros(len(segment.alive), dtype=np.float32)
            for text in query:
                idf, places = table[text]
                if places[number] >= 0:
                    # a passage stands once among the postings of a term, so += does not lose additions
                    passages, weights = self._weights(number, places[number], idf)
                    scores[passages] += weights
            scores *= allowed[number]
            hits.append([best(scores, top_k, floor=0.0)])
        return self.candidates(hits, top_k)[0]

    def _search_many(
        self, queries: Sequence[Sequence[str]], allowed: Sequence[np.ndarray], top_k: int
    ) -> list[Candidates]:
        table = self._lookup({text for query in queries for text in query})
        order = {text: column for column, text in enumerate(table)}
        # Column 0 is empty: bm25s wants at least one term in every query.
        columns = [[1 + order[text] for text in query] or [0] for query in queries]
        found: list[list[Hits]] = []
        for number, segment in enumerate(self.segments):
            width = min(top_k + 1, len(segment.alive))
            engine = self._engine(number, table)
            mask = allowed[number].astype(np.float32)
            positions, scores = engine.retrieve(columns, k=width, weight_mask=mask, show_progress=False)
            found.append([_in_order(*row) for row in zip(positions, scores)])
        merged = self.candidates([[(p[:top_k], s[:top_k]) for p, s in hits] for hits in found], top_k)
        for row, query in enumerate(queries):
            # Equal scores at the cut: bm25s takes any of them, so settle it the exact way.
            if any(len(s) > top_k and s[top_k - 1] == s[top_k] for _, s in (hits[row] for hits in found)):
                merged[row] = self._search_one(query, allowed, top_k)
        return merged

    def _engine(self, number: int, table: dict[str, tuple[float, list[int]]]) -> Any:
        """bm25s over one segment, with a score matrix of the terms in `table` after an empty first column."""
        import bm25s

        empty = (np.empty(0, np.int32), np.empty(0, np.float32))
        parts = [empty] + [
            self._weights(number, places[number], idf) if places[number] >= 0 else empty
            for idf, places in table.values()
        ]
        engine = bm25s.BM25(backend="numba")
        engine.scores = {
            "data": np.concatenate([weights for _, weights in parts]),
            "indices": np.concatenate([passages for passages, _ in parts]),
            "indptr": np.append(0, np.cumsum([len(weights) for _, weights in parts])),
            "num_docs": len(self.segments[number].alive),
        }
        engine.vocab_dict = {}
        engine.unique_token_ids_set = set(range(len(parts)))
        engine.nonoccurrence_array = None
        return engine

    def _lookup(self, texts: Iterable[str]) -> dict[str, tuple[float, list[int]]]:
        """Term -> (idf over all segments, its number in every segment or -1)."""
        table = {}
        for text in sorted(texts):
            places = [segment.term(text) for segment in self.segments]
            pairs = [(segment, place) for segment, place in zip(self.segments, places) if place >= 0]
            found_in = int(sum(segment.found_in[place] for segment, place in pairs))
            table[text] = (float(np.log(1 + (self._num_passages - found_in + 0.5) / (found_in + 0.5))), places)
        return table

    def _weights(self, number: int, term: int, idf: float) -> tuple[np.ndarray, np.ndarray]:
        """The passages of a term, [postings] int32, and what it adds to their scores, [postings] float32."""
        segment = self.segments[number]
        postings = segment.postings(term)
        passages, counts = segment.passages[postings], segment.counts[postings]
        return passages, (idf * (counts / (counts + self._norms[number][passages]))).astype(np.float32)

    @classmethod
    def _write_segment(cls, passages: Iterable[Passage], path: Path, options: LexicalOptions) -> None:
        vocabulary: dict[str, int] = {}
        catalog = CatalogWriter(path / "catalog.arrow")
        blocks, lengths, start = [], [], 0
        with progress_bar(desc="words", unit=" passages") as bar:
            for batch in in_batches(passages, BATCH):
                catalog.write(batch)
                block, sizes = _count(batch, options.language, vocabulary)
                block[0] += start
                blocks.append(block)
                lengths.append(sizes)
                start += len(batch)
                bar.update(len(batch))
        catalog.close()
        _write_postings(path, vocabulary, blocks, lengths)

    @classmethod
    def _merge_segments(cls, segments: Sequence[LexicalSegment], path: Path, options: LexicalOptions) -> None:
        vocabulary: dict[str, int] = {}
        catalog = CatalogWriter(path / "catalog.arrow")
        blocks, lengths, start = [], [], 0
        for segment in segments:
            catalog.copy(segment.catalog, segment.alive)
            renamed = _renumber(segment.terms.to_pylist(), vocabulary)
            kept = segment.alive[segment.passages]
            moved = start - 1 + np.cumsum(segment.alive)
            terms = np.repeat(renamed, np.diff(segment.starts))[kept]
            blocks.append(np.stack([moved[segment.passages[kept]], terms, segment.counts[kept]]))
            lengths.append(segment.lengths[segment.alive])
            start += segment.num_passages
        catalog.close()
        _write_postings(path, vocabulary, blocks, lengths)


def _in_order(positions: np.ndarray, scores: np.ndarray) -> Hits:
    """What was found at all, best first, equal scores in order of position."""
    positions, scores = positions[scores > 0], scores[scores > 0]
    order = np.lexsort((positions, -scores))
    return positions[order], scores[order]


def _renumber(terms: Iterable[str], vocabulary: dict[str, int]) -> np.ndarray:
    """[terms] int64: the numbers of the terms in a vocabulary that grows as needed."""
    return np.array([vocabulary.setdefault(term, len(vocabulary)) for term in terms], dtype=np.int64)


def _count(batch: Sequence[Passage], language: str, vocabulary: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Passages -> [3, postings] int64 (passage, term, count) and [passages] lengths."""
    tokenized = terms_of([f"{passage.title} {passage.text}" for passage in batch], language, ids=True)
    names = sorted(tokenized.vocab, key=tokenized.vocab.get)
    renamed = _renumber(names, vocabulary)
    # bm25s gives passages without words a single empty term; it is none of ours.
    rows = [[] if row == [tokenized.vocab.get("")] else row for row in tokenized.ids]
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    flat = np.fromiter(_chain(rows), dtype=np.int64, count=int(lengths.sum()))
    passages = np.repeat(np.arange(len(rows)), lengths)
    width = max(len(names), 1)
    pairs, counts = np.unique(passages * width + flat, return_counts=True)
    return np.stack([pairs // width, renamed[pairs % width] if len(pairs) else pairs, counts]), lengths


def _chain(rows: Iterable[Iterable[int]]) -> Iterator[int]:
    return (value for row in rows for value in row)


def _write_postings(
    path: Path, vocabulary: dict[str, int], blocks: Sequence[np.ndarray], lengths: Sequence[np.ndarray]
) -> None:
    """Sort the postings by term (terms by their text), then by passage, and write the arrays of a segment."""
    names = sorted(vocabulary)
    rank = np.empty(len(names), dtype=np.int64)
    rank[[vocabulary[name] for name in names]] = np.arange(len(names))
    passages, terms, counts = np.concatenate([np.empty((3, 0), np.int64), *blocks], axis=1)
    terms = rank[terms]
    order = np.argsort(terms, kind="stable")
    starts = np.append(0, np.cumsum(np.bincount(terms, minlength=len(names)))).astype(np.int64)
    arrays = {
        "starts": starts,
        "passages": passages[order].astype(np.int32),
        "counts": counts[order].astype(np.min_scalar_type(int(counts.max(initial=0)))),
        "lengths": np.concatenate([np.empty(0, np.int32), *lengths]).astype(np.int32),
    }
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    table = pa.table({"term": pa.array(names, pa.string())})
    with pa.OSFile(str(path / "terms.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
