"""A step divided into pieces has the gradients of the undivided one, also where a loss compares all its questions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from wellread.model import Model
from wellread.nn.tokenizers import train_tokenizer
from wellread.reading.frame import Frame, FrameConfig
from wellread.systems.reatt import ReAtt
from wellread.training.config import TrainingConfig
from wellread.training.loop import train
from wellread.types import CandidateBatch, Inputs, TrainingBatch

QUESTIONS = 6
ONE_STEP = TrainingConfig(steps=1, batch_size=QUESTIONS, clip=0.0, log_every=1)


class Source:
    """One step of six questions; two of them share a passage."""

    def __init__(self, tiny) -> None:
        inputs, candidates = tiny.batch(batch=QUESTIONS, passages=3)
        ids = [list(row) for row in candidates.ids]
        ids[4][1] = ids[0][0]
        self.whole = TrainingBatch(inputs, replace(candidates, ids=ids), *tiny.target(QUESTIONS))
        self.largest = 0

    def batch(self, step: int, part: int = 0, parts: int = 1) -> TrainingBatch:
        mine = np.array_split(np.arange(QUESTIONS), parts)[part]
        self.largest = max(self.largest, len(mine))
        rows = slice(int(mine[0]), int(mine[-1]) + 1)
        whole, found = self.whole, self.whole.candidates
        # Pieces are padded to their own longest rows, as pieces of a real step are.
        longest = int(found.mask[rows].sum(-1).max())
        asked = int(whole.inputs.mask[rows].sum(-1).max())
        return TrainingBatch(
            Inputs(whole.inputs.tokens[rows, :asked], whole.inputs.mask[rows, :asked]),
            CandidateBatch(
                tokens=found.tokens[rows, :, :longest],
                mask=found.mask[rows, :, :longest],
                exists=found.exists[rows],
                scores=found.scores[rows],
                ids=found.ids[rows],
            ),
            whole.target[rows],
            whole.target_mask[rows],
        )


def gradients(
    tiny, tmp_path, family: str, *, accumulate: int, config: TrainingConfig = ONE_STEP, dropout: float = 0.0, **options
):
    """Of one step: every weight's gradient, the losses as logged, and the most questions worked on at once."""
    system = tiny.system("reatt", family, **options)
    for part in system.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = dropout
    tokenizer = train_tokenizer(["a few words are enough for this"], 100)
    model, source, found = Model("reatt", system, Frame(FrameConfig(), tokenizer)), Source(tiny), {}
    for name, weight in system.named_parameters():
        if not weight.requires_grad:
            continue
        # Called after every piece with the sum so far: the last call has it all.
        weight.register_post_accumulate_grad_hook(
            lambda weight, name=name: found.__setitem__(name, weight.grad.clone())
        )
    out = tmp_path / f"{family}-{accumulate}"
    train(model, source, replace(config, accumulate=accumulate), out=out, progress=False)
    row = (out / "log.jsonl").read_text().splitlines()[0]
    return found, row, source.largest


@pytest.mark.parametrize("family", ["t5", "bert"])
@pytest.mark.parametrize("accumulate", [2, 4, 6])
def test_gradients_of_pieces_are_those_of_the_undivided_step(tiny, tmp_path, family, accumulate):
    whole, _, all_of_them = gradients(tiny, tmp_path, family, accumulate=1)
    pieces, _, most = gradients(tiny, tmp_path, family, accumulate=accumulate)
    assert (all_of_them, most) == (QUESTIONS, -(-QUESTIONS // accumulate))
    assert set(whole) == set(pieces)
    assert whole["head_weights"].abs().max() > 0
    for name, gradient in whole.items():
        # The same float32 terms summed in another order.
        torch.testing.assert_close(pieces[name], gradient, rtol=1e-5, atol=1e-5, msg=lambda text: f"{name}: {text}")  # noqa: B023


@pytest.mark.parametrize("options", [{"trained_passages": 1}, {"train_memory": False}])
def test_pieces_of_cheaper_steps_too(tiny, tmp_path, options):
    whole, *_ = gradients(tiny, tmp_path, "bert", accumulate=1, **options)
    pieces, *_ = gradients(tiny, tmp_path, "bert", accumulate=3, **options)
    assert set(whole) == set(pieces)
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=1e-5, atol=1e-5)  # the same sums in another order


def test_dropout_is_the_same_in_both_passes(tiny, tmp_path, monkeypatch):
    """Each piece is represented twice, and differs from itself in nothing."""
    seen, plain = [], ReAtt.represent

    def represent(self, batch, *, with_losses=True):
        found = plain(self, batch, with_losses=with_losses)
        seen.append({name: value.detach().clone() for name, value in found.vectors.items()})
        return found

    monkeypatch.setattr(ReAtt, "represent", represent)
    gradients(tiny, tmp_path, "bert", accumulate=2, dropout=0.3)
    first, second, again, once_more = seen
    for before, after in ((first, again), (second, once_more)):
        for name, value in before.items():
            assert torch.equal(value, after[name])
    monkeypatch.setattr("wellread.training.loop._Run._seed", lambda self, index: None)
    seen.clear()
    gradients(tiny, tmp_path / "unseeded", "bert", accumulate=2, dropout=0.3)
    assert not torch.equal(seen[0]["key"], seen[2]["key"])


def test_bf16_pieces_are_close(tiny, tmp_path):
    config = replace(ONE_STEP, precision="bf16")
    whole, *_ = gradients(tiny, tmp_path, "bert", accumulate=1, config=config)
    pieces, *_ = gradients(tiny, tmp_path, "bert", accumulate=2, config=config)
    for name, gradient in whole.items():
        # bf16 keeps 8 bits: gradients of sums agree to a few percent of their size.
        assert (pieces[name] - gradient).norm() <= 0.1 * gradient.norm() + 1e-3, name


def test_pieces_by_themselves_would_see_fewer_passages(tiny, tmp_path):
    """What the cache is for: without the other pieces' passages the gradients are others."""
    whole, *_ = gradients(tiny, tmp_path, "bert", accumulate=1)
    own, *_ = gradients(tiny, tmp_path / "own", "bert", accumulate=1, random_passages=False)
    name = "reader.encoder.layers.1.attention.key.weight"
    assert not torch.allclose(whole[name], own[name], rtol=1e-2, atol=1e-4)


def test_a_loss_counts_from_its_step_on(tiny, tmp_path):
    waiting = replace(ONE_STEP, losses_from={"cross_document": 5})
    off, log, _ = gradients(tiny, tmp_path, "bert", accumulate=2, config=waiting)
    assert '"cross_document": 0.0' in log
    assert not off["head_weights"].any()
    on, log, _ = gradients(tiny, tmp_path / "on", "bert", accumulate=2)
    assert '"cross_document": 0.0' not in log
    assert on["head_weights"].any()
    reader, *_ = gradients(tiny, tmp_path / "reader", "bert", accumulate=2, distillation_weight=0.0)
    for name in reader:
        torch.testing.assert_close(off[name], reader[name], rtol=1e-5, atol=1e-6)  # the same sums in another order


def test_a_loss_that_is_waited_for_must_exist(tiny, tmp_path):
    waiting = replace(ONE_STEP, losses_from={"distillation": 5})
    with pytest.raises(ValueError, match=r"training.losses_from names 'distillation', which reatt does not have"):
        gradients(tiny, tmp_path, "bert", accumulate=1, config=waiting)


def test_steps_of_losses_are_not_negative():
    with pytest.raises(ValueError, match=r"training.losses_from=.*; steps must be at least 0"):
        TrainingConfig(losses_from={"cross_document": -1})
