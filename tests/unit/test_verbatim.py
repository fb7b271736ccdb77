"""Writing only what stands in a passage: the best of all such texts is found, and nothing else is written."""

from __future__ import annotations

import pytest
import torch

from wellread.nn.tokenizers import ByteTokenizer, train_tokenizer
from wellread.reading.decoding import generate
from wellread.reading.verbatim import Vocabulary, verbatim
from wellread.types import Reading

START, END, PAD, UNKNOWN = 0, 1, 2, 2
SPECIAL = {"start_token": START, "end_token": END, "pad_token": PAD}
VOCAB = 8
WORDS = Vocabulary(goes_on=torch.arange(VOCAB) >= 6, mute=torch.arange(VOCAB) < 3, unknown=UNKNOWN)
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
        return UNKNOWN not in tokens[place - 1 : place + 1] and not WORDS.goes_on[tokens[place]]

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


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bytes"])
def test_tokenizers_tell_what_goes_on_with_a_word(kind):
    texts = ["the unbelievable readers were rereading unreadable books, all of them"] * 4
    tokenizer = train_tokenizer(texts, 300, kind=kind)
    parts = tokenizer.word_parts()
    ids = tokenizer.encode(" were rereadable, them")
    opened = sum(not parts[token] for token in ids)
    assert len(parts) == tokenizer.vocab_size
    assert opened == 4  # three words and a comma


def test_bytes_do_not_tell():
    assert not any(ByteTokenizer().word_parts())
