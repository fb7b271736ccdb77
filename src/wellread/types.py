"""The values that cross from one step to the next, checked at the door.

Text-level values (Passage, Question, Probe, Candidates, Answer) are plain frozen dataclasses. Tensor-level
values (Inputs, CandidateBatch, Reading, TrainingBatch) are what a system sees; their shapes are written
beside every field. `mask` is True on real tokens, everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Answer",
    "CandidateBatch",
    "Candidates",
    "CitedPassage",
    "Inputs",
    "Passage",
    "Probe",
    "Question",
    "Reading",
    "TrainingBatch",
]


def _text(value: object, name: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name}={value!r} is {type(value).__name__}; it must be text (str).")


def _texts(values: object, name: str) -> tuple[str, ...]:
    if isinstance(values, str):  # would become a list of its letters
        raise ValueError(f"{name}={values!r} is a single text; give a list: [{values!r}].")
    values = tuple(values)
    for value in values:
        _text(value, f"one of {name}")
    return values


def _picture(metadata: Mapping[str, Any], *keys: str) -> str | None:
    """The first of these fields that is text and not empty."""
    return next((value for key in keys if isinstance(value := metadata.get(key), str) and value), None)


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document, the unit that is remembered, retrieved and cited."""

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = "text"

    def __post_init__(self) -> None:
        for name in ("id", "text", "title", "source"):
            _text(getattr(self, name), f"passage {name}")
        if not self.id:
            raise ValueError("passage id='' is empty; every passage needs an id of its own.")

    @property
    def picture(self) -> str | None:
        """The picture that belongs to it (`metadata["picture"]`): an id in a folder of pictures, or a file."""
        return _picture(self.metadata, "picture")

    @property
    def document(self) -> str:
        """The id of what it was cut from (`metadata["document"]`), its own where it is a whole."""
        return str(self.metadata.get("document", self.id))

    @property
    def asked(self) -> str | None:
        """The question that it was made of (`metadata["asked"]`), where it is one with its answer."""
        return self.metadata.get("asked")


@dataclass(frozen=True, slots=True)
class Question:
    """What a reader is asked: a question, a claim, a slot, a text to continue.

    answers: the accepted texts (the first one is the training target unless a recipe samples);
    positive: ids of passages known to hold the answer, when somebody knows.
    """

    id: str
    text: str
    answers: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    task: str = "qa"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("id", "text", "task"):
            _text(getattr(self, name), f"question {name}")
        for name in ("answers", "positive"):
            object.__setattr__(self, name, _texts(getattr(self, name), f"question {name}"))

    @property
    def words(self) -> str:
        """What a search by words goes by: the text, less the mask (`metadata["mask"]`) in place of an answer."""
        mask = self.metadata.get("mask")
        return " ".join(self.text.replace(mask, " ").split()) if mask else self.text

    @property
    def hidden(self) -> tuple[str, ...]:
        """What must not be read for this question (`metadata["hidden"]`): passages by id, and those of pictures."""
        return tuple(self.metadata.get("hidden", ()))

    def hides(self, passage: Passage) -> bool:
        """Whether a passage must not be read for this question.

        That is one in `hidden`, one with a picture in `hidden` that is not known to hold the answer (`positive`), and
        one that was made of this very question: of its text, under its id.
        """
        shown = passage.picture in self.hidden and passage.id not in self.positive
        itself = (passage.document, passage.asked) == (self.id, self.text)
        return passage.id in self.hidden or shown or itself

    @property
    def picture(self) -> str | None:
        """The picture that is asked about (`metadata["picture"]`, else `"image"`): an id or a file."""
        return _picture(self.metadata, "picture", "image")


@dataclass(frozen=True, slots=True)
class Probe:
    """What a retriever gets for one question.

    words: text for lexical search and for retrievers that own their encoder.
    vectors: [probes, dim] for search by vectors: one row for a single vector (dense), one per token (late
        interaction), one per chunk (RETRO).
    picture: what is asked about, by id or by file, for search by looks.
    """

    words: str | None = None
    vectors: Tensor | None = None
    picture: str | None = None

    def __post_init__(self) -> None:
        if self.words is None and self.vectors is None and self.picture is None:
            raise ValueError("the probe is empty; give words, vectors, or both.")
        if self.vectors is not None and self.vectors.dim() != 2:
            shape = tuple(self.vectors.shape)
            raise ValueError(f"probe vectors have shape {shape}; they must be [probes, dim].")


@dataclass(frozen=True, slots=True)
class Candidates:
    """What retrieval found for one question, best first.

    ids, scores: one per candidate. group: which probe row a candidate answers (RETRO: its chunk), 0 for all
    where a question has a single probe.
    """

    ids: tuple[str, ...]
    scores: tuple[float, ...]
    group: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(self.ids))
        object.__setattr__(self, "scores", tuple(float(score) for score in self.scores))
        object.__setattr__(self, "group", tuple(self.group) or (0,) * len(self.ids))
        if not len(self.ids) == len(self.scores) == len(self.group):
            raise ValueError(
                f"{len(self.ids)} ids, {len(self.scores)} scores and {len(self.group)} groups; "
                "candidates need one of each."
            )

    def top(self, count: int) -> Candidates:
        """The first `count` candidates."""
        return Candidates(self.ids[:count], self.scores[:count], self.group[:count])

    def without(self, ids: Collection[str]) -> Candidates:
        """The candidates less some, in the same order."""
        if not ids or not set(ids).intersection(self.ids):
            return self
        rows = [row for row, name in enumerate(self.ids) if name not in ids]
        return Candidates(*(tuple(part[row] for row in rows) for part in (self.ids, self.scores, self.group)))


@dataclass(frozen=True, slots=True)
class CitedPassage:
    """A passage an answer rests on. score: the system's own (reranker) score where it has one, else the
    retriever's. kept: whether the reader read it to the end. share: the share of the answer that it gave, 0 to 1: of
    the decoder's attention, of what was copied, or of the answer's probability. span: [start, end) characters of the
    answer in the text. source: of the passage; gate: how far the system trusts that source for this question, None
    where it does not tell sources apart. picture: of the passage, by id or by file. metadata: of the passage, such as
    the file it comes from."""

    id: str
    title: str
    text: str
    score: float
    kept: bool = True
    share: float = 0.0
    span: tuple[int, int] | None = None
    source: str = "text"
    gate: float | None = None
    picture: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """A short answer, what it rests on and what it cost.

    log_likelihood: of the answer: the sum of its tokens' log-probabilities, or the logarithm of what it has in a
    mixture over passages, where the system weighs them so; num_tokens: how many these are, its end
    included. milliseconds: per stage (retrieve, fetch, read, generate, explain, total). flops: counted for
    reading and generating; flops_by_stage: of each.
    confidence: the probability that the answer is right, None where the model was not calibrated. abstained:
    the confidence was below what was asked for; `text` is then empty and `withheld` holds what would have been
    said, which `passages` and `support` are still about.
    """

    text: str
    passages: tuple[CitedPassage, ...] = ()
    log_likelihood: float = 0.0
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    flops: int = 0
    flops_by_stage: Mapping[str, int] = field(default_factory=dict)
    num_tokens: int = 0
    confidence: float | None = None
    abstained: bool = False
    withheld: str = ""

    @property
    def support(self) -> CitedPassage | None:
        """The passage that stands for the answer; its `span` is the answer's place in it, None where it has none.

        Of the passages read to the end, in the order cited: the first whose text contains the answer, else the
        one with the largest share. None where nothing was found, and where all passages together have less than half
        of the answer: the weights gave it (REALM's null passage).
        """
        if sum(passage.share for passage in self.passages) < 0.5:
            return None
        kept = [passage for passage in self.passages if passage.kept]
        containing = (passage for passage in kept if passage.span is not None)
        return next(containing, max(kept, key=lambda passage: passage.share, default=None))

    @property
    def quote(self) -> str | None:
        """The answer as the passage that stands for it writes it (case, accents, marks), on one line; None where it
        does not, or where the answer is withheld."""
        support = self.support
        if self.abstained or support is None or support.span is None:
            return None
        return " ".join(support.text[slice(*support.span)].split())


@dataclass(frozen=True, slots=True)
class Inputs:
    """A batch of questions as tokens.

    tokens: [batch, tokens] int64. mask: [batch, tokens] bool. picture: [batch, patches, dim] or None.
    picture_mask: [batch, patches] bool, or None where every patch is real.
    """

    tokens: Tensor
    mask: Tensor
    picture: Tensor | None = None
    picture_mask: Tensor | None = None

    @property
    def batch(self) -> int:
        return self.tokens.shape[0]


@dataclass(frozen=True, slots=True)
class CandidateBatch:
    """Retrieved passages of a batch of questions as tensors.

    tokens: [batch, passages, tokens] int64. mask: [batch, passages, tokens] bool.
    exists: [batch, passages] bool, False where a question got fewer passages than the batch is wide.
    scores: [batch, passages] float32, the retriever's.
    states: [batch, passages, stored, dim] read from memory, or None (the system then encodes the tokens
        itself); `stored` equals `tokens` for token memories, `num_latents` for compressed ones.
    keys: [batch, passages, dim] stored key vectors, or None (the system then makes those it needs).
    group: [batch, passages] int64, the probe row each candidate answers (RETRO: the chunk), or None.
    source: [batch, passages] int64, the source each candidate comes from (REVEAL), or None.
    ids: per question, the ids in the same order.
    picture: [batch, passages, patches, dim], for systems that see and encode the passages themselves.
    picture_mask: [batch, passages, patches] bool, False all over where a passage has no picture.
    """

    tokens: Tensor
    mask: Tensor
    exists: Tensor
    scores: Tensor
    states: Tensor | None = None
    keys: Tensor | None = None
    group: Tensor | None = None
    source: Tensor | None = None
    ids: Sequence[Sequence[str]] = ()
    picture: Tensor | None = None
    picture_mask: Tensor | None = None

    @property
    def num_passages(self) -> int:
        return self.tokens.shape[1]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the decoder attends to, and everything a reader can say about how it came to be.

    states: [batch, tokens, dim], the states of all passages that were kept, one after the other: fused, or
        those of each where a system reads passages apart (REALM) or chunk by chunk (RETRO).
    mask: [batch, tokens] bool.
    tokens: [batch, tokens] int64, the token behind each state (for the copy head); any number where there is
        none (latents, patches), which is never copyable.
    copyable: [batch, tokens] bool, True on passage tokens (a question is not copied from).
    passage: [batch, tokens] int64, which candidate (column of the CandidateBatch) each state belongs to,
        -1 where it belongs to none (question states, padding).
    scores: [batch, passages] float, the system's own score of each candidate, or None.
    kept: [batch, keep] int64, columns of the candidates read to the end, best first.
    extras: anything else, by name.
    """

    states: Tensor
    mask: Tensor
    tokens: Tensor
    copyable: Tensor
    passage: Tensor
    scores: Tensor | None
    kept: Tensor
    extras: Mapping[str, Any] = field(default_factory=dict)

    def with_extras(self, **extras: Any) -> Reading:
        return replace(self, extras={**self.extras, **extras})


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """One step's worth of work for a system.

    target: [batch, tokens] int64, the answer with its end token; target_mask: [batch, tokens] bool.
    positive: [batch, passages] bool, True on candidates known to hold the answer (never needed to train).
    task: the task of every question. known: the ids of all passages known to hold its answer; hidden: of those that
    must not be read for it. about: of each of its candidates, the id of the thing it is about, "" where nobody knows.
    """

    inputs: Inputs
    candidates: CandidateBatch
    target: Tensor
    target_mask: Tensor
    positive: Tensor | None = None
    task: Sequence[str] = ()
    known: Sequence[Sequence[str]] = ()
    hidden: Sequence[Sequence[str]] = ()
    about: Sequence[Sequence[str]] = ()
