"""REALM: the marginal by brute force, both heads, the null passage, both towers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from wellread.nn.masked_lm import Copyable
from wellread.types import CandidateBatch, Inputs, TrainingBatch

# Sums of some dozen float64 terms in another order.
CLOSE = {"rtol": 1e-6, "atol": 1e-6}
# The same in float32.
NEAR = {"rtol": 1e-4, "atol": 2e-5}


def make(tiny, **options):
    return tiny.system("realm", "bert", tower_layers=2, span_tokens=3, **options).double()


def plain(tiny, inputs: Inputs) -> Inputs:
    """The questions without their masks: they are answered by spans."""
    words = inputs.mask & (inputs.tokens != tiny.mask)
    return Inputs(inputs.tokens * words, words)


def passages_of(candidates: CandidateBatch, row: int) -> list[Tensor]:
    real = zip(candidates.tokens[row], candidates.mask[row], candidates.exists[row], strict=True)
    return [tokens[mask] for tokens, mask, exists in real if exists]


def vector(tower, tokens: Tensor) -> Tensor:
    return tower(tokens[None], torch.ones_like(tokens[None]).bool())[0]


def pair_states(system, question: Tensor, passage: Tensor) -> tuple[Tensor, Tensor]:
    pair = torch.cat([question, passage])[None]
    segment = torch.tensor([[0] * len(question) + [1] * len(passage)])
    encoder = system.reader.encoder
    return encoder.run(encoder.embed(pair, segment=segment), torch.ones_like(pair).bool()), pair


def brute_fill(system, tiny, question: Tensor, passage: Tensor, answer: list[int], *, null: bool) -> float:
    """log p(y | z, x), mask by mask."""
    states, pair = pair_states(system, question, passage)
    copyable = torch.zeros_like(pair).bool()
    copyable[:, len(question) :] = not null
    masks = [at for at, token in enumerate(question.tolist()) if token == tiny.mask]
    if len(masks) != len(answer):
        return -math.inf
    log_probs = system.reader.log_probs(states[:, masks], Copyable(states, pair, copyable))[0]
    return float(sum(log_probs[at, token] for at, token in enumerate(answer)))


def brute_spans(system, question: Tensor, passage: Tensor) -> dict[tuple[int, int], float]:
    """(start, end) in the passage -> p(span | z, x)."""
    states, _ = pair_states(system, question, passage)
    states = states[0, len(question) :]
    special = {system.reader.start_token, system.reader.end_token, system.reader.pad_token, system.reader.mask_token}
    scores = {}
    for start in range(len(passage)):
        for end in range(start + 1, min(start + system.config.span_tokens, len(passage)) + 1):
            if not special & set(passage[start:end].tolist()):
                head = system.spans
                hidden = (head.start(states[start]) + head.end(states[end - 1])).relu()
                scores[start, end] = float(head.out(head.norm(hidden)))
    total = sum(math.exp(score) for score in scores.values())
    return {span: math.exp(score) / total for span, score in scores.items()}


def priors(system, question: Tensor, passages: list[Tensor]) -> list[float]:
    query = vector(system.question_tower, question)
    scores = [float(query @ vector(system.passage_tower, passage)) for passage in passages]
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


def log(value: float) -> float:
    return math.log(value) if value else -math.inf


@torch.no_grad()
@pytest.mark.parametrize("null", [True, False])
@pytest.mark.parametrize("copy_head", [True, False])
def test_filling_in_is_the_sum_over_passages_and_null(tiny, null, copy_head):
    system = make(tiny, null_passage=null, copy_head=copy_head)
    inputs, candidates = tiny.batch(batch=3)
    target, mask = tiny.target(3)
    found = system.log_likelihood(inputs, candidates, target, mask)
    for row in range(3):
        question = inputs.tokens[row][inputs.mask[row]]
        answer = target[row][mask[row]].tolist()[:-1]
        passages = passages_of(candidates, row)
        empty = [torch.tensor([system.reader.start_token, system.reader.end_token])] if null else []
        shares = priors(system, question, [*passages, *empty])
        given = [brute_fill(system, tiny, question, each, answer, null=False) for each in passages]
        given += [brute_fill(system, tiny, question, each, answer, null=True) for each in empty]
        expected = math.log(sum(share * math.exp(each) for share, each in zip(shares, given, strict=True)))
        assert found[row].item() == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
def test_spans_are_summed_over_all_that_match_in_all_passages(tiny):
    system = make(tiny)
    inputs, candidates = tiny.batch(batch=2)
    inputs = plain(tiny, inputs)
    tokens = candidates.tokens.clone()
    tokens[0, 0, :4] = torch.tensor([7, 8, 7, 8])  # twice in one passage
    tokens[0, 1, 1:3] = torch.tensor([7, 8])
    tokens[1, 0, 1:3] = torch.tensor([9, 2])  # not across a special token
    candidates = replace(candidates, tokens=tokens)
    target = torch.tensor([[7, 8, 1], [9, 2, 1]])
    found = system.log_likelihood(inputs, candidates, target, torch.ones_like(target).bool())
    each = system.log_likelihood(inputs, candidates, target, torch.ones_like(target).bool(), per_passage=True)
    question, passages = inputs.tokens[0][inputs.mask[0]], passages_of(candidates, 0)
    given = [
        sum(
            p
            for (start, end), p in brute_spans(system, question, passage).items()
            if passage[start:end].tolist() == [7, 8]
        )
        for passage in passages
    ]
    assert given[0] > 0 < given[1]
    total = sum(share * p for share, p in zip(priors(system, question, passages), given, strict=True))
    assert found[0].item() == pytest.approx(math.log(total), abs=1e-6)
    torch.testing.assert_close(each[0], torch.tensor([log(p) for p in given]), **NEAR)
    assert found[1] == -math.inf


@torch.no_grad()
def test_the_answer_is_the_likeliest_text_of_all_spans(tiny):
    system = make(tiny)
    inputs, candidates = tiny.batch(batch=2)
    inputs = plain(tiny, inputs)
    tokens = candidates.tokens.clone()
    tokens[:, :, :3] = torch.tensor([7, 8, 9])  # the same text in every passage
    candidates = replace(candidates, tokens=tokens * candidates.mask)
    written = system.generate(inputs, candidates, max_tokens=8)
    for row in range(2):
        question, passages = inputs.tokens[row][inputs.mask[row]], passages_of(candidates, row)
        total: dict[tuple[int, ...], float] = {}
        for share, passage in zip(priors(system, question, passages), passages, strict=True):
            for (start, end), p in brute_spans(system, question, passage).items():
                text = tuple(passage[start:end].tolist())
                total[text] = total.get(text, 0.0) + share * p
        best = max(total, key=total.get)
        length = int(written.lengths[row])
        assert written.tokens[row, :length].tolist() == [*best, system.reader.end_token]
        assert written.scores[row].item() == pytest.approx(math.log(total[best]), abs=1e-5)  # kept in float32
    reading = system.read(inputs, candidates)
    shares = system.shares(reading, written, candidates)
    torch.testing.assert_close(shares.sum(1), torch.ones(2), **NEAR)  # no span is the null passage's


@torch.no_grad()
def test_with_one_certain_passage_it_is_its_reader(tiny):
    system = make(tiny, null_passage=False)
    inputs, candidates = tiny.batch()
    certain = torch.zeros_like(candidates.exists)
    certain[:, 0] = True
    for asked, target in (
        (inputs, tiny.target(2)),
        (plain(tiny, inputs), (candidates.tokens[:, 0, 1:3], certain[:, :2] | True)),
    ):
        marginal = system.log_likelihood(asked, replace(candidates, exists=certain), *target)
        alone = system.log_likelihood(asked, candidates, *target, per_passage=True)[:, 0]
        assert torch.isfinite(alone).all()
        torch.testing.assert_close(marginal, alone, **CLOSE)


@torch.no_grad()
def test_the_null_passage_alone(tiny):
    """What is read is the question and nothing else, whatever was found."""
    system, free = make(tiny, null_only=True), make(tiny)
    (inputs, candidates), target = tiny.batch(), tiny.target(2)
    alone = system.log_likelihood(inputs, candidates, *target)
    other = replace(candidates, tokens=candidates.tokens.flip(1), mask=candidates.mask.flip(1))
    torch.testing.assert_close(system.log_likelihood(inputs, other, *target), alone, rtol=0, atol=0)
    nothing = replace(candidates, exists=torch.zeros_like(candidates.exists))
    torch.testing.assert_close(free.log_likelihood(inputs, nothing, *target), alone, **CLOSE)
    written = system.generate(inputs, candidates, max_tokens=5)
    reading = system.read(inputs, candidates)
    assert system.shares(reading, written, candidates).abs().sum() == 0
    assert reading.scores.isneginf().all()
    assert reading.kept.tolist() == [[], []]
    silent = system.generate(plain(tiny, inputs), candidates, max_tokens=5)
    assert silent.lengths.tolist() == [1, 1]  # no span in an empty passage


@torch.no_grad()
def test_shares_are_the_posterior(tiny):
    system = make(tiny)
    inputs, candidates = tiny.batch()
    reading = system.read(inputs, candidates)
    written = system.generate(inputs, candidates, max_tokens=5, reading=reading)
    mask = torch.arange(written.tokens.shape[1]) < written.lengths[:, None]
    each = system.log_likelihood(inputs, candidates, written.tokens, mask, per_passage=True) + reading.scores
    marginal = system.log_likelihood(inputs, candidates, written.tokens, mask)
    shares = system.shares(reading, written, candidates)
    torch.testing.assert_close(shares, (each - marginal[:, None]).exp(), **CLOSE)
    assert (shares.sum(1) < 1).all()  # the null passage holds the rest


@torch.no_grad()
def test_keys_of_a_memory_are_keys_made_now(tiny):
    system = make(tiny)
    inputs, candidates = tiny.batch(passages=7)
    keys = torch.zeros(*candidates.exists.shape, system.passage_tower.dim, dtype=torch.float64)
    for row, column in candidates.exists.nonzero().tolist():
        real = candidates.mask[row, column]
        keys[row, column] = system.remember(candidates.tokens[row, column, real][None], real[real][None]).keys[0]
    stored = system.log_likelihood(inputs, replace(candidates, keys=keys), *tiny.target(2))
    torch.testing.assert_close(stored, system.log_likelihood(inputs, candidates, *tiny.target(2)), **CLOSE)
    sought = system.seek(inputs)
    assert [tuple(each.shape) for each in sought] == [(1, 16), (1, 16)]
    scores = system.read(inputs, candidates).scores
    apart = (torch.cat(list(sought))[:, None] * keys).sum(-1)
    torch.testing.assert_close(scores[:, 1] - scores[:, 0], (apart[:, 1] - apart[:, 0]).float(), **NEAR)


def learnt(system, batch: TrainingBatch) -> set[str]:
    system.train()
    system.zero_grad()
    sum(system.losses(batch).values()).backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in system.parameters())
    return {
        name.split(".")[0]
        for name, weight in system.named_parameters()
        if weight.grad is not None and weight.grad.any()
    }


def test_answers_train_both_towers(tiny):
    system = make(tiny)
    inputs, candidates = tiny.batch()
    batch = TrainingBatch(inputs, candidates, *tiny.target(2))
    assert learnt(system, batch) == {"question_tower", "passage_tower", "reader"}
    span = candidates.tokens[:, 0, 1:3]
    batch = TrainingBatch(plain(tiny, inputs), candidates, span, torch.ones_like(span).bool())
    assert learnt(system, batch) == {"question_tower", "passage_tower", "reader", "spans"}
    system.passage_tower.requires_grad_(False)
    assert learnt(system, batch) == {"question_tower", "reader", "spans"}
    assert not system.passage_tower.training


def test_a_question_that_cannot_be_answered_takes_no_part(tiny):
    system = make(tiny)
    inputs, candidates = tiny.batch()
    span = torch.stack([candidates.tokens[0, 0, 1:3], torch.tensor([1, 1])])
    both = TrainingBatch(plain(tiny, inputs), candidates, span, torch.ones_like(span).bool())
    with torch.no_grad():
        first = -system.log_likelihood(both.inputs, candidates, span, both.target_mask)[0] / 2
        torch.testing.assert_close(system.losses(both)["nll"], first, **CLOSE)
    assert system.units(both) == {"tokens": 2, "questions": 2, "ranked": 2, "asked": 2, "answerable": 1}
    nobody = replace(both, target=torch.ones_like(span))
    assert learnt(system, nobody) == set()
    assert system.units(nobody)["answerable"] == 0


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"null_passage": False}, {"null_only": True}])
def test_what_can_be_answered_is_known_before_it_is_read(tiny, options):
    """Masks that fit and do not; spans that stand in a passage, are too long, stand in none, in one that is not there
    or across a special token."""
    system = make(tiny, **options)
    inputs, candidates = tiny.batch(batch=8)
    spans = plain(tiny, inputs)
    masked = torch.arange(8)[:, None] < 3
    inputs = Inputs(torch.where(masked, inputs.tokens, spans.tokens), torch.where(masked, inputs.mask, spans.mask))
    tokens, exists = candidates.tokens.clone(), candidates.exists.clone()
    tokens[:, :, :4] = torch.tensor([10, 11, 12, 13])
    tokens[7, :, 1] = 2
    exists[2], exists[6] = False, False
    candidates = replace(candidates, tokens=tokens, exists=exists)
    target, mask = tiny.target(8)
    target[3:] = torch.tensor([[10, 11, 1, 0], [10, 11, 12, 13], [20, 21, 1, 0], [10, 11, 1, 0], [10, 2, 12, 1]])
    mask[1, 2:] = False  # an answer that was cut: a mask too many
    mask[3:] = target[3:] != 0
    found = system.log_likelihood(inputs, candidates, target, mask)
    told = system.answerable(inputs, candidates, target, mask)
    assert told.tolist() == (~found.isneginf()).tolist()
    assert told.tolist()[:2] == [True, False]
    assert told.tolist()[3:] == [not options.get("null_only", False), *[False] * 4]


def test_the_inverse_cloze_task(tiny):
    system = make(tiny)
    inputs, candidates = tiny.batch(batch=3)
    batch = TrainingBatch(inputs, candidates, *tiny.target(3), task=["cloze"] * 3)
    with torch.no_grad():
        queries = torch.cat(list(system.seek(inputs)))
        keys = system.remember(candidates.tokens[:, 0], candidates.mask[:, 0]).keys
        expected = -(queries @ keys.T).log_softmax(1).diagonal().mean()
        losses = system.losses(batch)
    assert set(losses) == {"cloze"}
    torch.testing.assert_close(losses["cloze"], expected.float(), **NEAR)
    assert learnt(system, batch) == {"question_tower", "passage_tower"}
    mixed = replace(batch, task=["cloze", "masked", "cloze"])
    losses = system.losses(mixed)
    assert set(losses) == {"nll", "cloze"}
    said = system.log_likelihood(inputs, candidates, batch.target, batch.target_mask)[1] / batch.target_mask[1].sum()
    torch.testing.assert_close(losses["nll"], -said, **NEAR)
    assert system.units(mixed) == {"tokens": 4, "questions": 3, "ranked": 3, "asked": 1, "answerable": 1}


@torch.no_grad()
def test_questions_with_and_without_masks_in_one_batch(tiny):
    system = make(tiny)
    inputs, candidates = tiny.batch()
    target, mask = tiny.target(2)
    target[1, :2], mask[1] = candidates.tokens[1, 0, 1:3], torch.tensor([True, True, False, False])
    spans = plain(tiny, inputs)
    mixed = Inputs(torch.stack([inputs.tokens[0], spans.tokens[1]]), torch.stack([inputs.mask[0], spans.mask[1]]))
    together = system.log_likelihood(mixed, candidates, target, mask)
    fills, cut = (system.log_likelihood(each, candidates, target, mask) for each in (inputs, spans))
    assert torch.isfinite(together).all()
    torch.testing.assert_close(together, torch.stack([fills[0], cut[1]]), **CLOSE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tower_layers": 4}, "tower_layers=4 but the encoder has 3; it must be between 1 and 3"),
        ({"span_tokens": 0}, "span_tokens=0; it must be at least 1"),
        ({"null_only": True, "null_passage": False}, "null_only=true with null_passage=false leaves nothing to read"),
    ],
)
def test_options_that_cannot_be(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        tiny.system("realm", "bert", **options)
