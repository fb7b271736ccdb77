"""Document -> passages: cut by words, by tokens or at blank lines, or kept whole.

Every piece keeps the title and the metadata of its document. A document that the source gave an id keeps it
where it stays whole; cut, its pieces are named id-0, id-1, ... and carry the id as metadata `document`.
Without an id of the source, a passage is named after its content, so the same text gets the same name in
every build.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from wellread.config import require
from wellread.corpus.documents import Document
from wellread.types import Passage

__all__ = ["RULES", "Cutting", "content_id", "cutting_from", "looks_like_passages", "num_words"]

RULES = ("auto", "words", "tokens", "paragraph", "none")
DEFAULT_SIZE = {"auto": 100, "words": 100, "tokens": 128, "paragraph": 300, "none": 0}
PASSAGE_WORDS = 300  # texts up to this long that carry ids are taken for passages by "auto"
PASSAGE_SHARE = 0.9

# Scripts that put no spaces between words: each of their letters counts as a word. In the others a run
# without spaces counts once per 50 letters, so that a text without spaces is cut like any other.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
_UNIT = rf"(?:[{_UNSPACED}]|[^\s{_UNSPACED}]{{1,50}})"
_WORD = re.compile(_UNIT)
_BLANK = re.compile(r"\n[^\S\n]*\n\s*")


@dataclass(frozen=True)
class Cutting:
    """How documents become passages.

    rule: "words", "tokens" (of `tokenizer`), "paragraph" (at blank lines; longer ones are cut by words),
        "none", or "auto": a source whose rows carry ids and are nearly all of at most 300 words is kept as it
        is (it holds passages already), everything else is cut by words.
    size: words or tokens in a piece; None for the rule's default (100 words, 128 tokens, 300 words). A piece
        that is tokenised on its own may come out a token longer than it was in its document.
    overlap: words or tokens that a piece repeats from the one before it.
    tokenizer: path of a tokenizer.json; only for "tokens". tokenizer_digest is filled from that file.
    """

    rule: str = "auto"
    size: int | None = None
    overlap: int = 0
    tokenizer: str | None = None
    tokenizer_digest: str = ""

    def __str__(self) -> str:
        """The rule as text, the same for the same cuts: part of what a memory is bound to."""
        parts = [self.rule, str(self.size), f"overlap {self.overlap}", self.tokenizer_digest]
        return " ".join(part for part in parts if part)

    def __post_init__(self) -> None:
        require(self.rule in RULES, f"cut={self.rule!r} is unknown; use one of: {', '.join(RULES)}.")
        if self.size is None:
            object.__setattr__(self, "size", DEFAULT_SIZE[self.rule])
        if self.rule == "none":
            object.__setattr__(self, "size", 0)
            object.__setattr__(self, "overlap", 0)
        else:
            require(self.size >= 1, f"size={self.size} is too small; a piece needs at least 1 word or token.")
            require(
                0 <= self.overlap < self.size,
                f"overlap={self.overlap} does not fit size={self.size}; it must be between 0 and {self.size - 1}.",
            )
        if self.rule != "tokens":
            require(self.tokenizer is None, f"tokenizer={self.tokenizer!r} is only for cut='tokens'.")
            return
        require(self.tokenizer is not None, "cut='tokens' needs tokenizer, the path of a tokenizer.json.")
        if not self.tokenizer_digest:
            path = Path(self.tokenizer)
            require(path.is_file(), f"tokenizer {path} does not exist; give the path of a tokenizer.json.")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            object.__setattr__(self, "tokenizer_digest", digest)
            _load_tokenizer(str(path))

    def cut(self, document: Document, *, whole: bool = False) -> Iterator[Passage]:
        """The passages of a document, in order. whole: keep it in one piece ("auto" found passages)."""
        keep = whole or self.rule == "none"
        pieces = [document.text.strip()] if keep else self._pieces(document.text)
        single = document.id is not None and len(pieces) < 2 and document.part == 0
        for number, text in enumerate(pieces or [""]):
            if single:
                yield _passage(document, document.id, text)
            elif document.id is not None:
                place = f"{document.part}-{number}" if document.part else number
                extra = {**document.metadata, "document": document.id}
                yield _passage(replace(document, metadata=extra), f"{document.id}-{place}", text)
            else:
                yield _passage(document, content_id(document.title, text, f"{document.part}.{number}"), text)

    def _pieces(self, text: str) -> list[str]:
        if self.rule == "tokens":
            encoding = _load_tokenizer(self.tokenizer).encode(text, add_special_tokens=False)
            return self._windows(text, encoding.offsets, whole_words=True)
        parts = _BLANK.split(text) if self.rule == "paragraph" else [text]
        if not self.overlap:  # the same windows, found faster inside one expression
            windows = _word_windows(self.size)
            return [match.group().strip() for part in parts for match in windows.finditer(part)]
        return [piece for part in parts for piece in self._windows(part, _word_spans(part))]

    def _windows(self, text: str, spans: Sequence[tuple[int, int]], *, whole_words: bool = False) -> list[str]:
        """Windows of at most `size` units, `spans` being the units. A window reaches up to where the unit
        after it starts, so nothing falls between two. whole_words: move ends back to where a word starts."""
        pieces = []
        first, after = 0, 0
        while after < len(spans):
            after = min(first + self.size, len(spans))
            if whole_words and after < len(spans):
                after = _word_start(text, spans, after, least=first + self.overlap + 1)
            left = spans[first][0] if first else 0
            right = spans[after][0] if after < len(spans) else len(text)
            pieces.append(text[left:right].strip())
            least, first = first + 1, after - self.overlap
            if whole_words and self.overlap:
                first = _word_start(text, spans, first, least=least)
        return [piece for piece in pieces if piece]


def _passage(document: Document, name: str, text: str) -> Passage:
    return Passage(id=name, text=text, title=document.title, metadata=document.metadata, source=document.source)


@lru_cache(maxsize=16)
def _word_windows(size: int) -> re.Pattern[str]:
    return re.compile(rf"(?:{_UNIT}\s*){{1,{size}}}")


def _word_spans(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in _WORD.finditer(text)]


def _word_start(text: str, spans: Sequence[tuple[int, int]], index: int, *, least: int) -> int:
    """The nearest unit at or before `index` that begins a word; `index` where there is none near."""
    for candidate in range(index, max(least, index - 16) - 1, -1):
        start = spans[candidate][0]
        if start == 0 or text[start - 1].isspace() or text[start : start + 1].isspace():
            return candidate
    return index


def num_words(text: str) -> int:
    """Words of a text, counted as the cutting counts them."""
    return sum(1 for _ in _WORD.finditer(text))


def content_id(title: str, text: str, place: str = "0.0") -> str:
    """A name made of what a passage says and where in its document it stands: 20 hexadecimal digits."""
    joined = "\0".join((title, text, place)).encode("utf-8")
    return hashlib.blake2b(joined, digest_size=10).hexdigest()


def looks_like_passages(documents: Sequence[Document]) -> bool:
    """Whether the first documents of a source are passages already: all have ids, nearly all are short."""
    if not documents or any(document.id is None or document.part for document in documents):
        return False
    short = sum(num_words(document.text) <= PASSAGE_WORDS for document in documents)
    return short >= PASSAGE_SHARE * len(documents)


@lru_cache(maxsize=4)
def _load_tokenizer(path: str) -> Any:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # the library raises the bare class
        raise ValueError(f"tokenizer {path} cannot be read ({error}); give a tokenizer.json.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def cutting_from(mapping: Mapping[str, Any]) -> Cutting:
    """The rule that a corpus was cut with, read back from its corpus.json."""
    known = asdict(Cutting())
    return Cutting(**{key: value for key, value in mapping.items() if key in known})
