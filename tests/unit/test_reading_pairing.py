"""Pairs without holes, who sees whom in a pair, the best candidates, and what the decoder attends to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from wellread.reading.fusion import fuse
from wellread.reading.keeping import all_columns, check_keep, keep_best
from wellread.reading.pairing import Pairs, attention_mask, join, matches, passages_only
from wellread.types import CandidateBatch, Inputs

DIM = 3


def padded(rows: list[list[int]], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return tokens, tokens > 0


def states_of(tokens: torch.Tensor) -> torch.Tensor:
    """States that tell which token they are of."""
    return tokens[..., None].double() + torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)


def joined(questions: list[list[int]], passages: list[list[list[int]]], *, more: int = 0) -> Pairs:
    """more: padding beyond the longest question and passage."""
    q_tokens, q_mask = padded(questions, max(map(len, questions)) + more)
    flat = [row for rows in passages for row in rows]
    tokens, mask = (part.unflatten(0, (len(passages), -1)) for part in padded(flat, max(map(len, flat)) + more))
    return join(
        states_of(q_tokens),
        q_mask,
        q_tokens,
        passage_states=states_of(tokens),
        passage_mask=mask,
        passage_tokens=tokens,
    )


def check(pairs: Pairs, questions: list[list[int]], passages: list[list[list[int]]]) -> None:
    """Every pair is question, passage, padding."""
    for row, question in enumerate(questions):
        for column, passage in enumerate(passages[row]):
            both, place = question + passage, (row, column)
            assert pairs.tokens[place][: len(both)].tolist() == both
            assert pairs.mask[place].tolist() == [True] * len(both) + [False] * (pairs.mask.shape[-1] - len(both))
            assert torch.equal(pairs.states[place][: len(both)], states_of(torch.tensor(both)))
            assert pairs.from_passage[place].nonzero().flatten().tolist() == list(range(len(question), len(both)))


QUESTIONS = [[1, 2, 3], [4]]
PASSAGES = [[[5, 6, 7], [8]], [[9, 10], [11, 12, 13]]]


@pytest.mark.parametrize("more", [0, 2])
def test_pairs_have_no_holes(more):
    pairs = joined(QUESTIONS, PASSAGES, more=more)
    assert pairs.mask.shape[-1] == 6
    check(pairs, QUESTIONS, PASSAGES)


def test_a_full_pair_does_not_leave_holes_in_the_others():
    """The longest question meets the longest passage, so that one pair has no padding at all."""
    questions, passages = [[1, 2, 3, 4], [5]], [[[6, 7, 8], [9]], [[10, 11], []]]
    pairs = joined(questions, passages)
    assert pairs.mask[0, 0].all()
    check(pairs, questions, passages)


def test_pairs_of_one_question_need_no_moving():
    questions, passages = [[1, 2]], [[[3], [4, 5, 6]]]
    pairs = joined(questions, passages)
    check(pairs, questions, passages)
    assert pairs.mask.shape == (1, 2, 5)


@pytest.mark.parametrize("family", ["t5", "bert"])
@pytest.mark.parametrize("name", ["fid", "lumen", "glimmer"])
def test_a_full_batch_reads_each_question_as_if_alone(tiny, name, family):
    system = tiny.system(name, family, **({"keep": 3} if name == "glimmer" else {}))
    generator = torch.Generator().manual_seed(0)
    asked = torch.randint(3, 60, (2, 6), generator=generator)
    tokens = torch.randint(3, 60, (2, 5, 8), generator=generator)
    inputs = Inputs(asked, torch.arange(6) < torch.tensor([[6], [3]]))
    mask = torch.arange(8).expand(2, 5, 8) < torch.tensor([8, 6])[:, None, None]
    found = CandidateBatch(tokens, mask, mask.any(-1), torch.zeros(2, 5))
    target, real = tiny.target(2)
    with torch.no_grad():
        together = system.log_likelihood(inputs, found, target, real)
        second = {part: getattr(found, part)[1:] for part in ("tokens", "mask", "exists", "scores")}
        alone = system.log_likelihood(
            Inputs(asked[1:, :3], inputs.mask[1:, :3]), replace(found, **second), target[1:], real[1:]
        )
    # The same float32 sums, some in another order.
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=2e-5)


def test_memory_in_another_precision_takes_that_of_the_question():
    tokens, mask = padded([[1, 2]], 2)
    states = torch.ones(1, 1, 2, DIM, dtype=torch.bfloat16)
    pairs = join(
        torch.ones(1, 2, DIM), mask, tokens, passage_states=states, passage_mask=mask[None], passage_tokens=tokens[None]
    )
    assert pairs.states.dtype == torch.float32


def test_pairs_are_taken_by_column_and_flattened():
    pairs = joined(QUESTIONS, PASSAGES)
    taken = pairs.take(torch.tensor([[1], [0]]))
    check(taken, QUESTIONS, [[PASSAGES[0][1]], [PASSAGES[1][0]]])
    states, mask = pairs.flat()
    assert states.shape == (4, 6, DIM)
    assert torch.equal(states[2], pairs.states[1, 0])
    assert torch.equal(mask[1], pairs.mask[0, 1])
    wider = pairs.with_states(torch.zeros(4, 6, 7))
    assert wider.states.shape == (2, 2, 6, 7)
    assert wider.tokens is pairs.tokens


def test_passages_alone_are_all_from_passages():
    tokens, mask = padded([[1, 2], [3]], 3)
    pairs = passages_only(states_of(tokens)[None], mask[None], tokens[None])
    assert torch.equal(pairs.from_passage, mask[None])
    assert torch.equal(pairs.mask, mask[None])


@pytest.mark.parametrize("q2mem", [True, False])
@pytest.mark.parametrize("mem2q", [True, False])
def test_attention_inside_a_pair(q2mem, mem2q):
    pairs = joined(QUESTIONS, PASSAGES)
    allowed = attention_mask(pairs, q2mem=q2mem, mem2q=mem2q)
    mask, passage = (part.flatten(0, 1) for part in (pairs.mask, pairs.from_passage))
    if q2mem and mem2q:
        assert torch.equal(allowed, mask)
        return
    for row in range(4):
        for query in mask[row].nonzero().flatten().tolist():
            for key in range(6):
                sides = bool(passage[row, query]), bool(passage[row, key])
                seen = {(False, True): q2mem, (True, False): mem2q}.get(sides, True) and bool(mask[row, key])
                assert bool(allowed[row, query, key]) == seen, (row, query, key)


# -- keeping ---------------------------------------------------------------------------------------------------


def test_the_best_come_first_and_ties_keep_their_order():
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0], [-5.0, 9.0, -7.0, 8.0]])
    exists = torch.tensor([[True] * 4, [True, False, True, False]])
    assert keep_best(scores, exists, 3).tolist() == [[1, 2, 3], [0, 2, 1]]
    assert keep_best(scores, exists, 4).tolist() == [[1, 2, 3, 0], [0, 2, 1, 3]]
    assert keep_best(scores[:, :1], exists[:, :1], 1).tolist() == [[0], [0]]


def test_many_equal_scores_keep_their_order():
    assert keep_best(torch.zeros(1, 300), torch.ones(1, 300).bool(), 300).tolist() == [list(range(300))]


@pytest.mark.parametrize("keep", [0, 4, -1])
def test_keeping_more_than_there_are_is_refused(keep):
    message = rf"keep={keep} but 3 passages were retrieved; keep must be between 1 and 3\."
    with pytest.raises(ValueError, match=message):
        check_keep(keep, 3)
    with pytest.raises(ValueError, match=message):
        keep_best(torch.zeros(1, 3), torch.ones(1, 3).bool(), keep)


def test_all_columns_are_in_the_order_of_the_retriever():
    exists = torch.tensor([[True, False, True], [False, False, False]])
    assert all_columns(exists).tolist() == [[0, 1, 2]] * 2
    assert all_columns(exists).dtype == torch.int64


# -- fusion ----------------------------------------------------------------------------------------------------


def fused(kept=None, *, exists=None, with_question: bool = False):
    pairs = joined(QUESTIONS, PASSAGES)
    exists = torch.ones(2, 2).bool() if exists is None else torch.tensor(exists)
    kept = torch.tensor([[0, 1]] * 2 if kept is None else kept)
    q_tokens, q_mask = padded(QUESTIONS, 3)
    question = (states_of(q_tokens), q_mask, q_tokens) if with_question else None
    return fuse(pairs.take(kept), kept, exists=exists, question=question)


def rows_of(reading, name: str) -> list[list[int]]:
    return [getattr(reading, name)[row][reading.mask[row]].long().tolist() for row in range(2)]


def test_the_decoder_attends_to_all_pairs_side_by_side():
    reading = fused()
    assert rows_of(reading, "tokens") == [[1, 2, 3, 5, 6, 7, 1, 2, 3, 8], [4, 9, 10, 4, 11, 12, 13]]
    assert rows_of(reading, "passage") == [[0] * 6 + [1] * 4, [0] * 3 + [1] * 4]
    assert rows_of(reading, "copyable") == [[0] * 3 + [1] * 3 + [0] * 3 + [1], [0, 1, 1, 0, 1, 1, 1]]
    assert reading.mask.shape == (2, 10)  # padding squeezed out
    assert reading.mask[1].tolist() == [True] * 7 + [False] * 3
    for row in range(2):
        real = reading.mask[row]
        assert torch.equal(reading.states[row][real], states_of(reading.tokens[row][real]))
    assert (reading.passage[~reading.mask] == -1).all()
    assert not reading.copyable[~reading.mask].any()


def test_kept_columns_keep_their_numbers():
    reading = fused([[1], [1]])
    assert rows_of(reading, "tokens") == [[1, 2, 3, 8], [4, 11, 12, 13]]
    assert rows_of(reading, "passage") == [[1] * 4, [1] * 4]
    assert reading.kept.tolist() == [[1], [1]]
    assert rows_of(fused([[1, 0], [1, 0]]), "passage") == [[1] * 4 + [0] * 6, [1] * 4 + [0] * 3]


def test_candidates_that_do_not_exist_are_masked():
    reading = fused(exists=[[True, False], [False, False]])
    assert rows_of(reading, "tokens") == [[1, 2, 3, 5, 6, 7], []]
    assert (reading.passage[1] == -1).all()
    assert not reading.copyable[1].any()
    nothing = fused(exists=[[False, False]] * 2)
    assert nothing.mask.shape == (2, 1)
    assert not nothing.mask.any()


def test_the_question_before_the_passages_belongs_to_none_and_is_not_copied():
    reading = fused([[0], [0]], with_question=True)
    assert rows_of(reading, "tokens") == [[1, 2, 3, 1, 2, 3, 5, 6, 7], [4, 4, 9, 10]]
    assert rows_of(reading, "passage") == [[-1] * 3 + [0] * 6, [-1] + [0] * 3]
    assert rows_of(reading, "copyable") == [[0] * 6 + [1] * 3, [0, 0, 1, 1]]


def test_matches_are_the_tokens_both_halves_hold():
    pairs = joined([[5, 6, 7], [8]], [[[7, 1, 5], [2]], [[8, 8, 3], [9, 1]]], more=2)
    found = matches(pairs)
    told = [[sorted(row[mask].tolist()) for row, mask in zip(*each)] for each in zip(pairs.tokens, found)]
    assert told == [[[5, 5, 7, 7], []], [[8, 8, 8], []]]
    assert not (found & ~pairs.mask).any()
