"""Greedy and beam search over step functions small enough to know the answer."""

from __future__ import annotations

import itertools

import pytest
import torch

from wellread.reading.decoding import Generated, generate

END, PAD, START = 1, 0, 0
SPECIAL = {"start_token": START, "end_token": END, "pad_token": PAD}


class History:
    """A state that holds all tokens of every row, so that a row that is not followed gives wrong numbers."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens

    def reorder(self, index: torch.Tensor) -> History:
        return History(self.tokens[index])


def language(vocab: int, batch: int, seed: int = 0, spread: float = 2.0):
    """A random language: log-probabilities of the next token given the question and everything so far."""

    def log_probs(question: int, history: tuple[int, ...]) -> torch.Tensor:
        digits = hash((seed, question, history)) % 2**31
        return (torch.randn(vocab, generator=torch.Generator().manual_seed(digits)) * spread).log_softmax(-1)

    def step(tokens: torch.Tensor, state: History | None):
        tokens = tokens if state is None else torch.cat((state.tokens, tokens), dim=1)
        each = len(tokens) // batch
        rows = [log_probs(row // each, tuple(history[1:])) for row, history in enumerate(tokens.tolist())]
        return torch.stack(rows), History(tokens)

    return log_probs, step


def hypotheses(log_probs, question: int, vocab: int, max_tokens: int):
    """Every text the search could end with, and its sum of log-probabilities."""
    inner = [token for token in range(vocab) if token != END]
    for length in range(1, max_tokens + 1):
        for body in itertools.product(inner, repeat=length - 1):
            for last in range(vocab) if length == max_tokens else [END]:
                text = (*body, last)
                yield text, sum(float(log_probs(question, text[:i])[token]) for i, token in enumerate(text))


def text(found: Generated, row: int) -> tuple[int, ...]:
    return tuple(found.tokens[row, : found.lengths[row]].tolist())


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_beams_wide_enough_find_the_best_of_all_texts(length_penalty):
    vocab, batch, max_tokens = 3, 3, 4
    log_probs, step = language(vocab, batch)
    found = generate(
        step,
        **SPECIAL,
        batch=batch,
        max_tokens=max_tokens,
        num_beams=16,  # more than the 2^3 texts that can be open at once
        length_penalty=length_penalty,
        early_stopping="never",
    )
    for question in range(batch):
        ranked = hypotheses(log_probs, question, vocab, max_tokens)
        best, score = max(ranked, key=lambda pair: pair[1] / len(pair[0]) ** length_penalty)
        assert text(found, question) == best
        # the same few float32 numbers, summed in another order
        assert found.scores[question].item() == pytest.approx(score, rel=1e-5)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_scores_are_the_sums_of_what_was_written(num_beams):
    log_probs, step = language(5, 4, seed=1)
    found = generate(step, **SPECIAL, batch=4, max_tokens=6, num_beams=num_beams)
    assert found.tokens.shape == (4, int(found.lengths.max()))
    for question in range(4):
        written = text(found, question)
        total = sum(float(log_probs(question, written[:i])[token]) for i, token in enumerate(written))
        assert found.scores[question].item() == pytest.approx(total, rel=1e-5)


def test_greedy_takes_the_best_token_each_time_and_stops_when_all_have_ended():
    calls = []
    table = torch.full((4, 4), -5.0)
    table[START, 2] = table[2, 3] = table[3, END] = -0.1

    def step(tokens, state):
        calls.append(tokens[:, 0].tolist())
        scores = table[tokens[:, 0]].clone()
        if len(calls) == 1:
            scores[1, END] = -0.01  # the second question ends at once
        return scores, None

    found = generate(step, **SPECIAL, batch=2, max_tokens=10)
    assert found.tokens.tolist() == [[2, 3, END], [END, PAD, PAD]]
    assert found.lengths.tolist() == [3, 1]
    torch.testing.assert_close(found.scores, torch.tensor([-0.3, -0.01]))
    assert calls == [[START, START], [2, END], [3, PAD]]  # a finished row is only given pad


@pytest.mark.parametrize("num_beams", [1, 4])
def test_questions_do_not_see_each_other(num_beams):
    log_probs, step = language(5, 3, seed=2)
    together = generate(step, **SPECIAL, batch=3, max_tokens=5, num_beams=num_beams)
    for question in range(3):

        def alone(tokens, state, question=question):
            tokens = tokens if state is None else torch.cat((state.tokens, tokens), dim=1)
            rows = [log_probs(question, tuple(history[1:])) for history in tokens.tolist()]
            return torch.stack(rows), History(tokens)

        single = generate(alone, **SPECIAL, batch=1, max_tokens=5, num_beams=num_beams)
        assert text(single, 0) == text(together, question)
        assert single.scores[0] == together.scores[question]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_no_end_before_min_tokens(num_beams):
    def step(tokens, state):
        scores = torch.full((len(tokens), 4), -9.0)
        scores[:, END], scores[:, 2] = -0.1, -3.0
        return scores, state or History(tokens)

    common = {**SPECIAL, "batch": 2, "max_tokens": 6, "num_beams": num_beams}
    assert generate(step, **common).tokens.tolist() == [[END]] * 2
    assert generate(step, **common, min_tokens=4).tokens.tolist() == [[2, 2, 2, 2, END]] * 2


def test_length_penalty_moves_the_choice():
    def step(tokens, state):
        scores = torch.full((len(tokens), 4), -50.0)
        scores[:, END], scores[:, 2] = -1.0, -0.7
        return scores, state or History(tokens)

    lengths = {
        penalty: int(generate(step, **SPECIAL, batch=1, max_tokens=5, num_beams=2, length_penalty=penalty).lengths[0])
        for penalty in (0.0, 3.0)
    }
    assert lengths == {0.0: 1, 3.0: 5}


def test_early_stopping_takes_fewer_steps():
    def steps_taken(early_stopping):
        count = 0

        def step(tokens, state):
            nonlocal count
            count += 1
            scores = torch.full((len(tokens), 4), -1.5)
            return scores, state or History(tokens)

        options = {"num_beams": 2, "length_penalty": 2.0, "early_stopping": early_stopping}
        generate(step, **SPECIAL, batch=1, max_tokens=12, **options)
        return count

    assert steps_taken(True) < steps_taken("never") == 12


def test_the_first_state_is_the_callers():
    seen = []

    def step(tokens, state):
        seen.append(state)
        return torch.zeros(len(tokens), 3), "next"

    generate(step, "first", **SPECIAL, batch=1, max_tokens=2, min_tokens=2)
    assert seen == ["first", "next"]


def test_text_is_made_without_gradients():
    weight = torch.zeros(3, requires_grad=True)
    found = generate(lambda tokens, state: (weight.expand(len(tokens), 3), state), **SPECIAL, batch=1, max_tokens=2)
    assert not found.scores.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams=0; it must be at least 1"),
        ({"max_tokens": 0}, "max_tokens=0; it must be at least 1"),
        ({"batch": 0}, "batch=0; it must be at least 1"),
        ({"min_tokens": -1}, "min_tokens=-1; it must be at least 0"),
        ({"min_tokens": 9}, "min_tokens=9 is more than max_tokens=4; lower it"),
        ({"early_stopping": "always"}, "early_stopping='always'; it must be True, False or 'never'"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    _, step = language(3, 1)
    with pytest.raises(ValueError, match=message):
        generate(step, **{**SPECIAL, "batch": 1, "max_tokens": 4, **options})
