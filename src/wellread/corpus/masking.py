"""Training questions from passages alone: a sentence with one name or date masked, which is the answer.

ReAtt (Jiang et al., 2022, section 3.3) adapts to a collection by them: "randomly choose one sentence from a document
and mask one entity"; REALM (Guu et al., 2020, section 3.4) pre-trains by them. Differences: what is masked is masked
wherever it stands in the sentence. One question masks one thing, by one mask however long it is, or, for models that
fill in every mask with one token, by as many masks as it has tokens (`tokens`); or several things, which hold a share
of the words (BERT's random words, 15 % of a text).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from wellread.corpus.salient import WORD, Span, SpanFinder, drawn, sentence_spans, span_finder
from wellread.corpus.store import Corpus
from wellread.types import Passage, Question

__all__ = ["MaskingReport", "masked_questions"]

AT_ONCE = 256  # passages; the model is faster with many sentences at a time
FEWEST_WORDS = 6
LEFT_WORDS = 3  # of the sentence, beside the mask
_WORD = re.compile(r"\w+")
_ENDS = ".!?…\"'”’»)]。！？」』"


@dataclass
class MaskingReport:
    """What came of it. passages: those looked at. skipped: those of them that gave no question."""

    passages: int = 0
    skipped: int = 0
    questions: int = 0


@dataclass
class _Source:
    """A passage and those of its sentences that were not tried yet, in the order they were drawn."""

    passage: Passage
    sentences: list[tuple[int, str]]
    made: list[Question] = field(default_factory=list)

    def next(self, share: int) -> list[tuple[int, str]]:
        """As many sentences as questions are missing."""
        missing = share - len(self.made)
        tried, self.sentences = self.sentences[:missing], self.sentences[missing:]
        return tried


def masked_questions(
    passages: Corpus | Sequence[Passage],
    *,
    limit: int | None = None,
    per_passage: int | None = None,
    finder: str | SpanFinder = "auto",
    mask: str = "[MASK]",
    hide_own: bool = False,
    most_words: int = 40,
    tokens: Callable[[str], int] | None = None,
    most_tokens: int | None = None,
    share: float | None = None,
    seed: int = 0,
    report: MaskingReport | None = None,
) -> Iterator[Question]:
    """Questions with task "masked": a sentence, the answer in it masked, and its passage as the positive.

    limit: so many questions, of passages drawn from all; None for all passages. per_passage: at most so many
    sentences of one passage; None for one, or as many as `limit` takes where there are fewer passages.
    mask: what stands in place of the answer, "[MASK]" for a BERT tokenizer and "<extra_id_0>" for T5's.
    hide_own: the passage must not be read for its own question, which would be trivial (REALM, section 3.4): it is
    named in the field `hidden` (metadata) and is no positive. Where passages overlap, its neighbours stay.
    most_words: longer sentences are left out, since questions are cut at the frame's question_tokens.
    tokens: how many tokens a text is for the model that is trained; what is masked then stands once in its sentence,
    and gets as many masks. most_tokens: sentences of more tokens are left out, so that no mask is cut off. share: mask
    this share of the sentence's words and no more, but at least one span, and the answer is all of it in order (needs
    `tokens`).
    report: filled while questions are drawn.

    Which sentence and which span is a function of the seed and the passage, whatever stands around it. ValueError
    where nothing comes out.
    """
    for name, value in (("limit", limit), ("per_passage", per_passage)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}; it must be at least 1, or None.")
    if most_words < FEWEST_WORDS:
        raise ValueError(f"most_words={most_words}; it must be at least {FEWEST_WORDS}, the length of a sentence.")
    if not mask.strip():
        raise ValueError(f"mask={mask!r} is empty; give the mask of the tokenizer, such as [MASK] or <extra_id_0>.")
    if share is not None and not (0 < share <= 1 and tokens is not None):
        raise ValueError(f"share={share}; it must be above 0, at most 1, and needs a tokenizer (--tokenizer MODEL).")
    if most_tokens is not None and tokens is None:
        raise ValueError(f"most_tokens={most_tokens} needs a tokenizer (--tokenizer MODEL) to count with.")
    masking = _Masking(span_finder(finder), mask, hide_own, most_words, seed, tokens, most_tokens, share)
    return masking.questions(passages, limit, per_passage, report or MaskingReport())


@dataclass(frozen=True)
class _Masking:
    finder: SpanFinder
    mask: str
    hide_own: bool
    most_words: int
    seed: int
    tokens: Callable[[str], int] | None = None
    most_tokens: int | None = None
    share: float | None = None

    def questions(
        self, passages: Corpus | Sequence[Passage], limit: int | None, per_passage: int | None, report: MaskingReport
    ) -> Iterator[Question]:
        order = self._order(passages)
        while order and (limit is None or report.questions < limit):
            missing = limit - report.questions if limit else len(order) * (per_passage or 1)
            share = min(-(-missing // len(order)), per_passage or missing)
            size = min(AT_ONCE, -(-missing // share))
            rows, order = order[:size], order[size:]
            for source in self._drawn(_at(passages, rows), share):
                report.passages += 1
                report.skipped += not source.made
                for question in source.made[: None if limit is None else limit - report.questions]:
                    report.questions += 1
                    yield question
        if not report.questions:
            raise ValueError(
                f"nothing to mask was found in {report.passages} passages; give passages of whole sentences with names "
                "or dates in them, or mask random words (finder random-tokens)."
            )

    def _order(self, passages: Corpus | Sequence[Passage]) -> list[int]:
        """The rows of the passages, by lot."""
        names = passages.ids() if isinstance(passages, Corpus) else [passage.id for passage in passages]
        lots = [drawn("passage", self.seed, name) for name in names]
        return sorted(range(len(names)), key=lambda row: (lots[row], names[row]))

    def _drawn(self, passages: Sequence[Passage], share: int) -> list[_Source]:
        """Up to `share` questions of every passage. A sentence without anything to mask makes way for the next."""
        sources = [_Source(passage, self._sentences(passage)) for passage in passages]
        while tried := [(source, *sentence) for source in sources for sentence in source.next(share)]:
            found = self.finder.find([sentence for _, _, sentence in tried])
            for (source, number, sentence), spans in zip(tried, found):
                if question := self._question(source.passage, number, sentence, spans):
                    source.made.append(question)
        return sources

    def _sentences(self, passage: Passage) -> list[tuple[int, str]]:
        """The sentences of a passage with their numbers, by lot; parts of sentences only where no whole one is."""
        places = enumerate(sentence_spans(passage.text))
        sentences = [(number, " ".join(passage.text[start:end].split())) for number, (start, end) in places]
        fitting = [item for item in sentences if FEWEST_WORDS <= item[1].count(" ") + 1 <= self.most_words]
        whole = [item for item in fitting if not item[1][0].islower() and item[1][-1] in _ENDS]
        return sorted(whole or fitting, key=lambda item: drawn("sentence", self.seed, passage.id, item[0]))

    def _question(self, passage: Passage, number: int, sentence: str, spans: Sequence[Span]) -> Question | None:
        if self.most_tokens is not None and self.tokens(sentence) > self.most_tokens:
            return None
        lots = sorted(spans, key=lambda span: drawn("span", self.seed, passage.id, number, span.start, span.end))
        made = self._one(sentence, lots) if self.share is None else self._several(sentence, lots)
        if made is None:
            return None
        text, answer, kind = made
        own = (passage.id,)
        return Question(
            id=f"masked-{passage.id}-{number}",
            text=text,
            answers=(answer,),
            positive=() if self.hide_own else own,
            task="masked",
            metadata={"kind": kind, "mask": self.mask, **({"hidden": list(own)} if self.hide_own else {})},
        )

    def _one(self, sentence: str, spans: Sequence[Span]) -> tuple[str, str, str] | None:
        """(text, answer, kind): the first of the spans that can be masked."""
        for span in spans:
            pieces = _around(sentence, span, self.mask)
            if pieces is not None and (self.tokens is None or len(pieces) == 2):
                answer = sentence[span.start : span.end]
                return self._masks(answer).join(pieces), answer, span.kind
        return None

    def _several(self, sentence: str, spans: Sequence[Span]) -> tuple[str, str, str] | None:
        """The same of spans that hold a share of the words, each masked where it stands."""
        missing, chosen = max(round(self.share * len(WORD.findall(sentence))), 1), []
        for span in spans:
            words = len(WORD.findall(sentence, span.start, span.end))
            apart = all(span.end <= other.start or other.end <= span.start for other in chosen)
            if apart and words <= missing:
                chosen.append(span)
                missing -= words
        chosen = sorted(chosen or spans[:1], key=lambda span: span.start)
        starts, ends = [0, *(span.end for span in chosen)], [*(span.start for span in chosen), len(sentence)]
        pieces = [sentence[start:end] for start, end in zip(starts, ends)]
        if not chosen or self.mask in sentence or sum(len(_words(each).split()) for each in pieces) < LEFT_WORDS:
            return None
        answers = [sentence[span.start : span.end] for span in chosen]
        text = "".join(piece + masks for piece, masks in zip(pieces, [*map(self._masks, answers), ""]))
        return text, " ".join(answers), chosen[0].kind

    def _masks(self, answer: str) -> str:
        """What stands for an answer."""
        return self.mask if self.tokens is None else " ".join([self.mask] * self.tokens(answer))


def _around(sentence: str, span: Span, mask: str) -> list[str] | None:
    """The sentence around the span's words, wherever they stand; None where they would still be told, or where too
    little is left."""
    answer = sentence[span.start : span.end]
    words = _words(answer)
    again = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)", re.IGNORECASE)
    pieces = [*again.split(sentence[: span.start]), *again.split(sentence[span.end :])]
    left = [_words(piece) for piece in pieces]
    if not words.strip() or mask in sentence or any(words in piece for piece in left):
        return None
    return pieces if sum(len(piece.split()) for piece in left) >= LEFT_WORDS else None


def _words(text: str) -> str:
    return f" {' '.join(_WORD.findall(text.casefold()))} "


def _at(passages: Corpus | Sequence[Passage], rows: Sequence[int]) -> list[Passage]:
    return passages.at(rows) if isinstance(passages, Corpus) else [passages[row] for row in rows]
