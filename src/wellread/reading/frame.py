"""How questions, passages and answers become tokens: templates and budgets.

A frame belongs to a model; its fingerprint is part of what a memory is bound to, since stored states are
states of framed passages.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from string import Formatter
from typing import TYPE_CHECKING

import torch

from wellread.config import require
from wellread.types import Inputs, Passage

if TYPE_CHECKING:
    from torch import Tensor

    from wellread.nn.tokenizers import Tokenizer

__all__ = ["Frame", "FrameConfig", "pad_rows"]


# template -> what it may hold; the first it must hold
_FIELDS = {"question": ("question",), "passage": ("text", "title")}


@dataclass(frozen=True)
class FrameConfig:
    """Templates and token budgets (LUMEN section 4.1: 48 for the question, 208 for the passage).

    question: template over {question}. passage: template over {title} and {text}. The budgets count special
    tokens. answer_tokens is the longest target and the longest generated answer.
    """

    question: str = "question: {question}"
    passage: str = "title: {title} context: {text}"
    question_tokens: int = 48
    passage_tokens: int = 208
    answer_tokens: int = 24

    def __post_init__(self) -> None:
        for name, known in _FIELDS.items():
            template = getattr(self, name)
            found = _fields(name, template)
            require(known[0] in found, f"frame {name}={template!r} lacks {{{known[0]}}}; the template must hold it.")
            listed = " and ".join(f"{{{item}}}" for item in known)
            for item in found:
                require(item in known, f"frame {name}={template!r} has {{{item}}}; it may hold {listed} only.")
        for name in ("question_tokens", "passage_tokens", "answer_tokens"):
            value = getattr(self, name)
            require(value >= 4, f"frame {name}={value}; it must be at least 4.")


def _fields(name: str, template: str) -> list[str]:
    """The fields of a template."""
    try:
        return [field for _, field, _, _ in Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ValueError(f"frame {name}={template!r}: {error}; write {{{{ or }}}} for a brace.") from error


def pad_rows(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token lists -> tokens [rows, longest] int64 padded on the right, and mask [rows, longest] bool."""
    longest = max((len(row) for row in rows), default=0) or 1
    tokens = torch.full((len(rows), longest), pad, dtype=torch.int64)
    mask = torch.zeros((len(rows), longest), dtype=torch.bool)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.as_tensor(list(row), dtype=torch.int64)
        mask[index, : len(row)] = True
    return tokens, mask


class Frame:
    """A tokenizer with templates and budgets.

    Families with a class token (BERT) wrap both segments as [CLS] ... [SEP]; the others end the passage, not
    the question, with the end token, so that question and passage joined are one T5 input.
    """

    def __init__(self, config: FrameConfig, tokenizer: Tokenizer) -> None:
        self.config = config
        self.tokenizer = tokenizer

    @property
    def fingerprint(self) -> str:
        """Hash of what decides the tokens of a passage, the tokenizer aside: template and budget."""
        parts = asdict(self.config)
        kept = {name: parts[name] for name in ("passage", "passage_tokens")}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]

    def questions(self, texts: Sequence[str]) -> Inputs:
        """Questions -> Inputs, tokens [batch, <= question_tokens]."""
        tokens, mask = pad_rows(self._questions(texts, self.config.question_tokens), self.tokenizer.pad)
        return Inputs(tokens=tokens, mask=mask)

    def left_out(self, texts: Sequence[str]) -> str | None:
        """That not all of some questions is read, as they are longer than `question_tokens`; None where all is."""
        limit = self.config.question_tokens
        longer = [len(row) for row in self._questions(texts, sys.maxsize) if len(row) > limit]
        if not longer:
            return None
        if len(texts) == 1:
            return f"the question has {longer[0]} tokens; the first {limit} are read"
        return f"{len(longer)} of the {len(texts)} questions have more than {limit} tokens; the first {limit} are read"

    def _questions(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        return self._wrap([self.config.question.format(question=text) for text in texts], limit, ends=False)

    def passages(self, passages: Sequence[Passage]) -> list[list[int]]:
        """Passages -> token lists of at most `passage_tokens` tokens."""
        framed = [self.config.passage.format(title=item.title, text=item.text) for item in passages]
        return self._wrap(framed, self.config.passage_tokens, ends=True)

    def targets(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Answers -> target [batch, <= answer_tokens] with the end token, and its mask."""
        limit = self.config.answer_tokens - 1
        rows = [[*row[:limit], self.tokenizer.end] for row in self.tokenizer.encode_batch(list(texts))]
        return pad_rows(rows, self.tokenizer.pad)

    def text(self, tokens: Sequence[int]) -> str:
        """Generated tokens -> text, specials left out."""
        return self.tokenizer.decode([int(token) for token in tokens]).strip()

    def _wrap(self, texts: list[str], limit: int, *, ends: bool) -> list[list[int]]:
        rows = self.tokenizer.encode_batch(texts)
        if self.tokenizer.cls is not None:
            return [[self.tokenizer.cls, *row[: limit - 2], self.tokenizer.sep] for row in rows]
        if ends:
            return [[*row[: limit - 1], self.tokenizer.end] for row in rows]
        return [row[:limit] for row in rows]
