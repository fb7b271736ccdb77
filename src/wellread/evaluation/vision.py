"""Measures of answers about pictures: VQA accuracy, and BLEU and CIDEr of captions.

VQA accuracy is that of Antol et al. 2015 and its official evaluation: an answer is right as far as annotators gave it,
min(votes / 3, 1), averaged over all ways to leave one annotator out. BLEU and CIDEr come from libraries (the extra
`captions`): sacrebleu, and pycocoevalcap, the evaluation of MS COCO. Its tokenizer needs Java; texts are split here
after lower-casing and without punctuation, which is what that tokenizer leaves.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from wellread.extras import install_hint

__all__ = ["CaptionScores", "captions_available", "cider", "corpus_bleu", "vqa_accuracy", "vqa_normalise"]

ORDERS = 4  # of the n-grams that BLEU counts
ENOUGH = 3  # annotators that make an answer wholly right
CAPTION_PACKAGES = ("sacrebleu", "pycocoevalcap")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_BETWEEN_DIGITS = re.compile(r"(?<=\d),(?=\d)")
_PERIOD = re.compile(r"(?<!\d)\.|\.(?!\d)")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WORDS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0", "a": "", "an": "", "the": ""}
_CAPTION_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


def vqa_normalise(text: str) -> str:
    """A text as the VQA evaluation compares it: lower case, numbers to ten as digits, no articles, little punctuation.

    Punctuation is dropped beside a space and is a space elsewhere; a period stays between digits. Where the official
    script writes contractions with their apostrophe, here all go without: the same comparisons come out equal.
    """
    text = " ".join(text.lower().split()).replace("'", "")
    numbers = bool(_BETWEEN_DIGITS.search(text))
    for mark in _PUNCTUATION:
        if mark in text:
            beside = f"{mark} " in text or f" {mark}" in text
            text = text.replace(mark, "" if beside or numbers else " ")
    words = (_WORDS.get(word, word) for word in _PERIOD.sub("", text).split())
    return " ".join(filter(None, words))


def vqa_accuracy(prediction: str, answers: Sequence[str], votes: Mapping[str, int] | None = None) -> float:
    """How far a prediction is right, 0 to 1, texts compared after `vqa_normalise`.

    votes: how many annotators gave each answer; at least 3 in all. Without votes the answers are alternatives that are
    all right, of which nobody counted the annotators: 1 where the prediction is one of them, else 0.
    """
    if not answers:
        raise ValueError("there are no accepted answers to compare with; leave the question out.")
    said = vqa_normalise(prediction)
    if votes is None or sum(votes.values()) < ENOUGH:
        return float(any(said == vqa_normalise(answer) for answer in answers))
    given = [answer for answer, count in votes.items() for _ in range(count)]
    matches = [said == vqa_normalise(answer) for answer in given]
    total = sum(matches)
    # Each annotator is left out once; the others vote.
    return sum(min((total - match) / ENOUGH, 1.0) for match in matches) / len(matches)


def captions_available() -> bool:
    """Whether the packages that BLEU and CIDEr come from are installed."""
    return all(importlib.util.find_spec(name) is not None for name in CAPTION_PACKAGES)


class CaptionScores(NamedTuple):
    """score: of all captions together, 0 to 1 (CIDEr: 0 to 10). values: [captions]. samples: the score of draws with
    replacement, for its interval; None where the mean of `values` is the score."""

    score: float
    values: np.ndarray
    samples: np.ndarray | None = None


def corpus_bleu(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, samples: int = 1000, seed: int = 0
) -> CaptionScores:
    """BLEU-4 of captions (Papineni et al. 2002) by sacrebleu, lower-cased: n-grams of all captions are counted
    together. values: of each caption alone, smoothed, for comparisons."""
    from sacrebleu.metrics import BLEU

    _check(predictions, references)
    alone = BLEU(lowercase=True, effective_order=True)
    each = [alone.sentence_score(said, list(right)) for said, right in zip(predictions, references)]
    counts = np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in each], dtype=np.int64)

    def score(rows: np.ndarray) -> float:
        *grams, said, wanted = (int(value) for value in rows.sum(0))
        found = BLEU.compute_bleu(grams[:ORDERS], grams[ORDERS:], said, wanted, smooth_method="exp")
        return found.score / 100

    generator = np.random.default_rng(seed)
    drawn = [score(counts[generator.integers(len(counts), size=len(counts))]) for _ in range(samples)]
    return CaptionScores(score(counts), np.array([one.score / 100 for one in each]), np.array(drawn))


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """CIDEr-D of captions (Vedantam et al. 2015) by pycocoevalcap, 0 to 10: likeness of n-grams that are rare among the
    references of all pictures, so one picture alone scores 0."""
    from pycocoevalcap.cider.cider import Cider

    _check(predictions, references)
    said = {row: [_caption_words(text)] for row, text in enumerate(predictions)}
    right = {row: [_caption_words(text) for text in texts] for row, texts in enumerate(references)}
    score, values = Cider().compute_score(right, said)
    return CaptionScores(float(score), np.asarray(values, dtype=np.float64))


def _caption_words(text: str) -> str:
    return " ".join(_CAPTION_WORD.findall(text.lower()))


def _check(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if not captions_available():
        raise ValueError(
            f"BLEU and CIDEr need packages that are missing; install them with: {install_hint('captions')}."
        )
    if len(predictions) != len(references) or not predictions:
        raise ValueError(f"{len(predictions)} captions and {len(references)} lists of references; give one for each.")
