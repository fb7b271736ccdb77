"""Writing only what stands in a passage: the best of all such texts is found, and nothing else is written."""

from __future__ import annotations

import re
from unicodedata import combining, normalize

import pytest
import torch

from wellread.nn.tokenizers import ByteTokenizer, train_tokenizer
from wellread.reading.decoding import generate
from wellread.reading.verbatim import Vocabulary, verbatim
from wellread.types import Reading

START, END, PAD, UNKNOWN = 0, 1, 2, 2
SPECIAL = {"start_token": START, "end_token": END, "pad_token": PAD}
VOCAB = 8
NONE, ALL = torch.zeros(VOCAB, dtype=torch.bool), torch.arange(VOCAB)
# 6 and 7 go on with a word; the unknown token may be a part of the words beside it; 4 and 5 are one word in this order.
WORDS = Vocabulary(
    before=(ALL >= 6) | (ALL == UNKNOWN), after=ALL == UNKNOWN, left=ALL == 5, right=ALL == 4, mute=ALL < 3
)
TOKENS = torch.tensor([[3, 4, 6, 5, END, 4, 7, 6, 3, PAD], [5, 6, 7, 3, 4, 5, UNKNOWN, 3, 7, 7]])
PASSAGE = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 1, -1], [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]])
COPYABLE = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 1, 1, 1, 1, 1, 1]], dtype=torch.bool)
LONGEST = 5


class History:
    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens

    def reorder(self, index: torch.Tensor) -> History:
        return History(self.tokens[index])


def log_probs(question: int, history: tuple[int, ...], seed: int) -> torch.Tensor:
    digits = hash((seed, question, history)) % 2**31
    return (torch.randn(VOCAB, generator=torch.Generator().manual_seed(digits)) * 2).log_softmax(-1)


def step_of(seed: int):
    def step(tokens: torch.Tensor, state: History):
        tokens = torch.cat((state.tokens, tokens), dim=1)
        each = len(tokens) // len(TOKENS)
        rows = [log_probs(row // each, tuple(history[1:]), seed) for row, history in enumerate(tokens.tolist())]
        return torch.stack(rows), History(tokens)

    return step


def reading(copyable: torch.Tensor = COPYABLE) -> Reading:
    states = torch.zeros(*TOKENS.shape, 4)
    return Reading(states, copyable, TOKENS, copyable, PASSAGE, None, torch.zeros(2, 1, dtype=torch.int64))


def written(seed: int, beams: int, copyable: torch.Tensor = COPYABLE):
    begun = History(torch.empty(len(TOKENS) * beams, 0, dtype=torch.int64))
    step, state = verbatim(step_of(seed), begun, reading(copyable), WORDS, max_tokens=LONGEST + 1, end_token=END)
    found = generate(
        step, state, **SPECIAL, batch=len(TOKENS), max_tokens=LONGEST + 1, num_beams=beams, length_penalty=0.0
    )
    return [tuple(row[:length]) for row, length in zip(found.tokens.tolist(), found.lengths.tolist())], found.scores


def standing(row: int) -> set[tuple[int, ...]]:
    """Whole words that stand together in one passage of a question, spelt out; what is mute may be a part of a word."""
    tokens, passage, copyable = TOKENS[row].tolist(), PASSAGE[row].tolist(), COPYABLE[row].tolist()

    def cut(place: int) -> bool:
        """Whether a word is over before the place."""
        if place in (0, len(tokens)) or passage[place - 1] != passage[place]:
            return True
        here, there = tokens[place - 1 : place + 1]
        return UNKNOWN not in (here, there) and there < 6 and (here, there) != (4, 5)

    found = set()
    for first in range(len(tokens)):
        for last in range(first, min(first + LONGEST, len(tokens))):
            places = range(first, last + 1)
            fine = all(copyable[place] and not WORDS.mute[tokens[place]] for place in places)
            if fine and len({passage[place] for place in places}) == 1 and cut(first) and cut(last + 1):
                found.add((*tokens[first : last + 1], END))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_the_best_of_all_that_stands_there_is_written(seed):
    texts, scores = written(seed, beams=40)
    for row, (text, score) in enumerate(zip(texts, scores.tolist())):
        every = {
            each: sum(float(log_probs(row, each[:place], seed)[token]) for place, token in enumerate(each))
            for each in standing(row)
        }
        assert text == max(every, key=every.get)
        assert score == pytest.approx(every[text], rel=1e-5)


@pytest.mark.parametrize("beams", [1, 2])
def test_nothing_else_is_written(beams):
    for seed in range(30):
        texts, _ = written(seed, beams)
        for row, text in enumerate(texts):
            assert text in standing(row), (seed, text)


def test_a_question_without_words_gets_an_empty_answer():
    nothing = COPYABLE.clone()
    nothing[0] = False
    texts, _ = written(0, 1, nothing)
    assert texts[0] == (END,)
    assert len(texts[1]) > 1


TEXT = 'the film (1990) "Matrix" of São Paulo, re-read'
LEARNT = ["the unbelievable readers were rereading unreadable books, all of them", TEXT] * 4


def words_of(tokenizer, text: str) -> list[str]:
    """The words that a tokenizer's joints make of a text."""
    ids = tokenizer.encode(text)
    joined = Vocabulary.of(tokenizer).joined(torch.tensor([ids]))[0].tolist()
    words = [[ids[0]]]
    for token, same in zip(ids[1:], joined):
        words[-1].append(token) if same else words.append([token])
    return [tokenizer.decode(word).strip() for word in words]


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bytes"])
def test_tokenizers_tell_the_words_of_a_text(kind):
    tokenizer = train_tokenizer(LEARNT, 300, kind=kind)
    words = words_of(tokenizer, TEXT)
    told = (
        TEXT if kind != "wordpiece" else "".join(each for each in normalize("NFD", TEXT.lower()) if not combining(each))
    )
    assert words == re.findall(r"\w+|[^\w\s]", told)


def test_bytes_are_joined_to_words():
    tokenizer = ByteTokenizer()
    words = words_of(tokenizer, TEXT + " 東京")
    assert {"film", "1990", "Matrix", "São", "Paulo", "東京"} <= set(words)
    mute = Vocabulary.of(tokenizer).mute
    assert not mute[tokenizer.encode("東京 é")].any()


def test_a_new_line_ends_a_word():
    tokenizer = train_tokenizer(LEARNT, 300, kind="bytes")
    assert {"Paulo", "the"} <= set(words_of(tokenizer, "São Paulo\nthe film"))
