"""Candidates of unequal number and length as one batch; rows of like length together; devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wellread.reading.batching import CandidateRow, batch_candidates, by_length, to_device
from wellread.types import CandidateBatch, Inputs, TrainingBatch


def row(name: str, tokens, **more) -> CandidateRow:
    return CandidateRow(name, tokens, **more)


# -- batch_candidates ------------------------------------------------------------------------------------------


def test_questions_may_have_unequal_numbers_of_candidates():
    found = batch_candidates(
        [
            [row("a", [5, 6, 7], score=2.5, group=1), row("b", np.array([8], dtype=np.int32), score=-1.0, source=3)],
            [],
            [row("c", torch.tensor([9, 10]))],
        ],
        pad=4,
    )
    assert found.tokens.tolist() == [[[5, 6, 7], [8, 4, 4]], [[4, 4, 4]] * 2, [[9, 10, 4], [4, 4, 4]]]
    assert found.mask.sum(-1).tolist() == [[3, 1], [0, 0], [2, 0]]
    assert found.mask[0, 1].tolist() == [True, False, False]
    assert found.exists.tolist() == [[True, True], [False, False], [True, False]]
    assert found.scores.tolist() == [[2.5, -1.0], [0.0, 0.0], [0.0, 0.0]]
    assert found.group.tolist() == [[1, 0], [0, 0], [0, 0]]
    assert found.source.tolist() == [[0, 3], [0, 0], [0, 0]]
    assert [list(names) for names in found.ids] == [["a", "b"], [], ["c"]]
    assert found.states is None
    assert found.keys is None
    types = {"tokens": torch.int64, "group": torch.int64, "source": torch.int64, "scores": torch.float32}
    assert {name: getattr(found, name).dtype for name in types} == types


def test_one_candidate_of_one_question():
    found = batch_candidates([[row("a", [5, 6])]], pad=0)
    assert found.tokens.tolist() == [[[5, 6]]]
    assert found.mask.all()
    assert found.num_passages == 1


def test_a_candidate_without_tokens_exists():
    found = batch_candidates([[row("a", [])]], pad=3)
    assert found.tokens.tolist() == [[[3]]]
    assert found.exists.tolist() == [[True]]
    assert not found.mask.any()


def test_states_and_keys_stand_at_their_candidates():
    states = {name: torch.randn(length, 4, dtype=torch.bfloat16) for name, length in (("a", 3), ("b", 1), ("c", 2))}
    keys = {name: torch.randn(5) for name in states}

    def stored(name: str) -> CandidateRow:
        return row(name, list(range(len(states[name]))), states=states[name], key=keys[name])

    found = batch_candidates([[stored("a")], [], [stored("b"), stored("c")]], pad=0)
    assert found.states.shape == (3, 2, 3, 4)
    assert found.states.dtype == torch.bfloat16
    assert found.keys.shape == (3, 2, 5)
    for place, name in (((0, 0), "a"), ((2, 0), "b"), ((2, 1), "c")):
        length = len(states[name])
        assert torch.equal(found.states[place][:length], states[name])
        assert torch.equal(found.keys[place], keys[name])
        assert found.states[place][length:].abs().sum() == 0
    assert found.states[~found.exists].abs().sum() == 0
    assert found.keys[~found.exists].abs().sum() == 0


def test_fewer_states_than_tokens_are_kept_as_they_are():
    found = batch_candidates([[row("a", [1, 2, 3, 4], states=torch.ones(2, 3))]], pad=0)  # latents
    assert found.tokens.shape == (1, 1, 4)
    assert found.states.shape == (1, 1, 2, 3)


@pytest.mark.parametrize(
    ("name", "field"), [("states", {"states": torch.ones(1, 2)}), ("keys", {"key": torch.ones(2)})]
)
def test_all_candidates_are_stored_or_none(name, field):
    rows = [[row("a", [1], **field)], [row("b", [1]), row("c", [1], **field)]]
    with pytest.raises(ValueError, match=rf"2 of 3 candidates have stored {name}; give them for all or for none"):
        batch_candidates(rows, pad=0)


def test_questions_of_which_none_has_a_candidate_have_a_column_without_one():
    found = batch_candidates([[], []], pad=3)
    assert found.tokens.tolist() == [[[3]], [[3]]]
    assert not found.exists.any()
    assert not found.mask.any()
    assert (found.states, found.keys, found.ids) == (None, None, [[], []])


# -- by_length -------------------------------------------------------------------------------------------------


def lengths_mask(lengths: list[int], longest: int) -> torch.Tensor:
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


def attend(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Every state plus the mean of the real ones: wrong as soon as a real token is cut off or padding seen."""
    mask = mask[:, None].expand(-1, states.shape[1], -1) if mask.dim() == 2 else mask
    weights = mask.to(states.dtype)
    return states + weights @ states / weights.sum(-1, keepdim=True).clamp_min(1)


LENGTHS = [2, 5, 1, 4, 0, 3, 5, 1, 2, 6, 3]


@pytest.mark.parametrize("longest", [6, 9])
@pytest.mark.parametrize("rows", [1, 3, 8, 20])
def test_groups_of_like_length_give_what_one_call_gives(rows, longest):
    mask = lengths_mask(LENGTHS, longest)
    states = torch.randn(len(LENGTHS), longest, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = by_length(attend, states, mask, rows=rows)
    assert found.shape == states.shape
    torch.testing.assert_close(found[mask], attend(states, mask)[mask])


def test_a_mask_of_queries_and_keys_is_cut_on_both_sides():
    real = lengths_mask(LENGTHS, 6)
    mask = real[:, None].expand(-1, 6, -1) & torch.ones(6, 6).tril().bool()
    states = torch.randn(len(LENGTHS), 6, 3, dtype=torch.float64)
    found = by_length(attend, states, mask, rows=3)
    torch.testing.assert_close(found[real], attend(states, mask)[real])


def test_short_rows_are_run_at_their_length():
    seen = []

    def watched(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(mask.shape))
        return states

    by_length(watched, torch.zeros(5, 9, 1), lengths_mask([9, 1, 3, 2, 8], 9), rows=2)
    assert seen == [(2, 2), (2, 8), (1, 9)]
    seen.clear()
    by_length(watched, torch.zeros(5, 9, 1), lengths_mask([9] * 5, 9), rows=2)
    by_length(watched, torch.zeros(2, 9, 1), lengths_mask([1, 2], 9), rows=2)
    assert seen == [(5, 9), (2, 9)]  # nothing to gain


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("lengths", [[1, 1, 4, 3], [2, 4, 3, 3], [1, 1, 1, 1]])
def test_runs_that_give_their_first_tokens_only(lengths, first):
    states = torch.randn(len(lengths), 5, 2, dtype=torch.float64)
    mask = lengths_mask(lengths, 5)
    found = by_length(lambda states, mask: attend(states, mask)[:, :first], states, mask, rows=2)
    if max(lengths) > first:
        assert found.shape[1] == first
    for index, length in enumerate(lengths):
        some = min(first, length)
        torch.testing.assert_close(found[index, :some], attend(states, mask)[index, :some])


def test_gradients_go_through_the_groups():
    states = torch.randn(4, 5, 2, dtype=torch.float64, requires_grad=True)
    mask = lengths_mask([5, 2, 1, 3], 5)
    by_length(attend, states, mask, rows=2)[mask].square().sum().backward()
    grouped, states.grad = states.grad, None
    attend(states, mask)[mask].square().sum().backward()
    torch.testing.assert_close(grouped, states.grad)


# -- to_device -------------------------------------------------------------------------------------------------


def test_every_tensor_is_moved():
    """The meta device stands in for a GPU, which a test machine may lack."""
    inputs = Inputs(torch.ones(1, 2).long(), torch.ones(1, 2).bool(), picture=torch.ones(1, 3, 4))
    rows = [[row("a", [1, 2], states=torch.ones(2, 3), key=torch.ones(3))]]
    batch = TrainingBatch(
        inputs, batch_candidates(rows, 0), torch.ones(1, 1).long(), torch.ones(1, 1).bool(), task=["qa"]
    )
    moved = to_device(batch, "meta")
    tensors = 0
    for part, before in ((moved.inputs, inputs), (moved.candidates, batch.candidates), (moved, batch)):
        for name in part.__slots__:
            value, old = getattr(part, name), getattr(before, name)
            if isinstance(old, torch.Tensor):
                tensors += 1
                assert value.device.type == "meta", name
                assert (value.shape, value.dtype) == (old.shape, old.dtype), name
            elif not isinstance(old, (Inputs, CandidateBatch)):
                assert value is old, name
    assert tensors == 3 + 8 + 2
    assert moved.positive is None
    assert batch.inputs.tokens.device.type == "cpu"
