"""ReAtt's equations, each against loops that say the same slowly; and what it shares with its siblings."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from wellread.nn.checkpoints import fingerprint
from wellread.reading.relevance import relevance
from wellread.systems.fusion_base import take
from wellread.types import TrainingBatch

# The same float32 terms summed in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(params=["t5", "bert"])
def system(request, tiny):
    return tiny.system("reatt", request.param, head_temperature=1.0)


def remembered(system, tokens, mask):
    """States and keys of one passage, as memory and index hold them."""
    states = system.remember(tokens[mask][None], mask[mask][None]).states
    return system.search_keys(states)[0]


@torch.no_grad()
def test_the_score_from_the_index_is_that_of_the_live_pass(system, tiny):
    """Mean over question tokens of the best passage token, of sought vectors and stored keys (equation 1)."""
    inputs, candidates = tiny.batch()
    reading, sought = system.read(inputs, candidates), system.seek(inputs)
    for row, real in enumerate(candidates.exists):
        assert len(sought[row]) == int(inputs.mask[row].sum())
        for column in real.nonzero().flatten():
            keys = remembered(system, candidates.tokens[row, column], candidates.mask[row, column])
            expected = torch.stack([max(query @ key for key in keys) for query in sought[row]]).mean()
            torch.testing.assert_close(reading.scores[row, column], expected, **CLOSE)
    assert reading.scores[~candidates.exists].max() < -1e20


@torch.no_grad()
def test_the_head_of_the_largest_weight_retrieves(tiny):
    system = tiny.system("reatt", "bert")
    inputs, candidates = tiny.batch()
    by_head = {}
    for head in (0, 1):
        system.head_weights[:] = torch.tensor([0.0, 0.0])
        system.head_weights[head] = 0.5
        assert system.head == head
        by_head[head] = system.read(inputs, candidates).scores
        given = tiny.system("reatt", "bert", head=head)
        torch.testing.assert_close(given.read(inputs, candidates).scores, by_head[head], **CLOSE)
    assert not torch.allclose(by_head[0][0], by_head[1][0])


def test_a_low_temperature_picks_one_head(tiny):
    system = tiny.system("reatt", "bert")
    with torch.no_grad():
        system.head_weights[1] = 0.01
    assert system.head_shares()[1] > 0.9999
    assert tiny.system("reatt", "bert", head=0).head_shares().tolist() == [1.0, 0.0]


def test_clipping_by_norm_does_not_see_the_temperature(tiny):
    """A gradient by w that has 1 / tau in it leaves a thousandth to all other weights."""
    inputs, candidates = tiny.batch()
    found = {}
    for temperature in (1.0, 0.001):
        system = tiny.system("reatt", "bert", head_temperature=temperature)
        system.losses(TrainingBatch(inputs, candidates, *tiny.target()))["cross_document"].backward()
        found[temperature] = system.head_weights.grad
    assert found[1.0].abs().max() > 0
    torch.testing.assert_close(found[0.001], found[1.0], **CLOSE)


def test_a_head_that_was_not_picked_is_told(tiny):
    system = tiny.system("reatt", "bert")
    assert system.facts() == {"head": 0, "head_share": 0.5}
    assert system.search_doubt.startswith("head 0 searches, and has 50% of the weight of all heads")
    with torch.no_grad():
        system.head_weights[1] = 0.01
    assert system.facts() == {"head": 1, "head_share": 1.0}
    assert system.search_doubt is None


@pytest.mark.parametrize("temperature", [0.001, 1.0])
def test_a_settled_head_stays(tiny, temperature):
    """A mixture that fits the target better may win any number of steps; once settled, its gradient is nothing."""
    system = tiny.system("reatt", "bert", head_temperature=temperature)
    system.settle()
    assert system.search_doubt is not None  # nothing was learnt yet: none is picked
    with torch.no_grad():
        system.head_weights[1] = 1e-6
    system.settle()
    assert system.facts() == {"head": 1, "head_share": 1.0}
    inputs, candidates = tiny.batch()
    system.losses(TrainingBatch(inputs, candidates, *tiny.target()))["cross_document"].backward()
    assert system.head_weights.grad.abs().max() == 0
    assert sum(weight.grad.abs().sum() for weight in system.reader.parameters() if weight.grad is not None) > 0


@pytest.mark.parametrize("encoder", ["shared", "separate"])
@pytest.mark.parametrize("family", ["t5", "bert"])
@torch.no_grad()
def test_search_weights_are_those_that_queries_and_keys_follow_from(tiny, family, encoder):
    """Each of the weights changed alone; what reads and writes is none of them."""
    system = tiny.system("reatt", family, question_encoder=encoder)
    inputs, candidates = tiny.batch()

    def vectors():
        keys = remembered(system, candidates.tokens[0, 0], candidates.mask[0, 0])
        return torch.cat([keys, *system.seek(inputs)])

    before, known = vectors(), fingerprint(system.search_weights())
    read = 0
    for name, weight in system.named_parameters():
        kept = weight.clone()
        weight.add_(torch.arange(weight.numel()).view_as(weight) / weight.numel())
        same = fingerprint(system.search_weights()) == known
        assert not same or torch.equal(vectors(), before), name
        if name.startswith(("reader.decoder.", f"reader.encoder.layers.{system.cut}.attention.value", "reader.copy.")):
            read += 1
            assert same, name
        weight.copy_(kept)
    assert read > 0
    system.head_weights[1] = 0.5
    other = fingerprint(system.search_weights())
    given = tiny.system("reatt", family, question_encoder=encoder, head=1)
    assert fingerprint(given.search_weights()) == other != known


@torch.no_grad()
def test_it_reads_as_lumen_does(tiny):
    """The layers above the cut and the decoder are LUMEN's, with a question encoder shared and trained."""
    inputs, candidates = tiny.batch()
    options = {"live_share": 1 / 3, "question_encoder": "shared", "train_memory": True}
    reatt, lumen = (tiny.system(name, "bert", **options) for name in ("reatt", "lumen"))
    assert reatt.cut == lumen.cut == 2
    found = [each.log_likelihood(inputs, candidates, *tiny.target()) for each in (reatt, lumen)]
    assert torch.equal(*found)


@torch.no_grad()
def test_target_attention_is_the_share_of_each_pair(system, tiny):
    """Softmax over all tokens of all pairs, summed over a pair's tokens, averaged over heads (section 3.2)."""
    inputs, candidates = tiny.batch()
    reading = system.read(inputs, candidates)
    target = system.target(reading, candidates)
    decoder = system.reader.decoder
    start = torch.full((2, 1), decoder.start_token)
    _, scores = decoder(start, system.reader.memory(reading.states), reading.mask, return_attention=True)
    for row in range(2):
        expected = torch.zeros(candidates.num_passages)
        heads = scores.shape[2]
        for head in range(heads):
            real = reading.mask[row]
            shares = scores[row, -1, head, 0][real].softmax(0)
            for share, passage in zip(shares, reading.passage[row][real]):
                expected[passage] += share / heads
        torch.testing.assert_close(target[row], expected, **CLOSE)
    torch.testing.assert_close(target.sum(1), torch.ones(2), **CLOSE)


def adjustment(system, batch: TrainingBatch) -> float:
    """Equation 2 by loops over questions, passages and heads."""
    candidates, inputs = batch.candidates, batch.inputs
    target = system.target(system.read(inputs, candidates), candidates)
    queries = system.queries(system.question_states(inputs))
    keys = system.keys(system.passage_states(candidates))
    shares, total = system.head_shares(), 0.0
    for row in range(inputs.batch):
        scores, wanted, seen = [], [], set()
        for other in range(inputs.batch):
            for column in candidates.exists[other].nonzero().flatten().tolist():
                known = candidates.ids[other][column] in candidates.ids[row]
                if other != row:
                    if known or candidates.ids[other][column] in seen or not system.config.random_passages:
                        continue
                    seen.add(candidates.ids[other][column])
                score = 0.0
                for head in range(len(shares)):
                    query = queries[row, inputs.mask[row], head]
                    key = keys[other, column, candidates.mask[other, column], head]
                    score += shares[head] * (query @ key.T).max(1).values.mean()
                scores.append(score)
                wanted.append(target[row, column].item() if other == row else 0.0)
        found = torch.stack(scores).log_softmax(0)
        total += sum(want * (math.log(want) - got) for want, got in zip(wanted, found.tolist()) if want > 0)
    return system.config.distillation_weight * total / inputs.batch


@pytest.mark.parametrize("family", ["t5", "bert"])
@pytest.mark.parametrize("random_passages", [True, False])
@torch.no_grad()
def test_the_adjustment_is_equation_2(tiny, family, random_passages):
    system = tiny.system("reatt", family, head_temperature=1.0, random_passages=random_passages)
    inputs, candidates = tiny.batch(batch=3)
    ids = [list(row) for row in candidates.ids]
    ids[2][0] = ids[0][1]  # close to two questions: random for neither, and one random passage for the third
    batch = TrainingBatch(inputs, replace(candidates, ids=ids), *tiny.target(3))
    losses = system.losses(batch)
    assert set(losses) == {"nll", "cross_document"}
    # Sums of some hundred float32 terms in another order.
    assert losses["cross_document"].item() == pytest.approx(adjustment(system, batch), rel=1e-4)


def test_the_target_is_stopped(tiny):
    """Only queries, keys and head weights learn from the adjustment; the decoder does not."""
    system = tiny.system("reatt", "bert").train()
    inputs, candidates = tiny.batch()
    system.losses(TrainingBatch(inputs, candidates, *tiny.target()))["cross_document"].backward()
    learnt = {name for name, weight in system.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert "head_weights" in learnt
    assert f"reader.encoder.layers.{system.cut}.attention.query.weight" in learnt
    assert not any(name.startswith(("reader.decoder.layers", "reader.copy")) for name in learnt)


def test_without_adjustment_it_trains_as_a_reader_alone(tiny):
    system = tiny.system("reatt", "bert", distillation_weight=0.0)
    inputs, candidates = tiny.batch()
    assert set(system.losses(TrainingBatch(inputs, candidates, *tiny.target()))) == {"nll"}


def test_passages_the_reader_does_not_learn_from_still_say_where_it_looks(tiny):
    """The adjustment is that of all passages, the reader's loss that of those it looks at most."""
    inputs, candidates = tiny.batch()
    batch = TrainingBatch(inputs, candidates, *tiny.target())
    system = tiny.system("reatt", "bert")
    seen = system.target(system.read(inputs, candidates), candidates)
    few, every = (tiny.system("reatt", "bert", trained_passages=number).losses(batch) for number in (2, None))
    torch.testing.assert_close(few["cross_document"], every["cross_document"], **CLOSE)
    most = seen.argsort(descending=True)[:, :2]
    assert most.tolist() != [[0, 1], [0, 1]]
    alone = system.losses(replace(batch, candidates=take(candidates, most)))
    torch.testing.assert_close(few["nll"], alone["nll"], **CLOSE)
    assert not torch.allclose(few["nll"], every["nll"])


@torch.no_grad()
def test_start_and_end_tokens_take_no_part_in_retrieval(tiny):
    """A passage scores the same however well its first and last token match; they are not sought with either."""
    system = tiny.system("reatt", "bert")
    start, end = system.reader.start_token, system.reader.end_token
    inputs, candidates = tiny.batch()
    tokens = inputs.tokens.clone()
    tokens[:, 0] = start
    inputs = replace(inputs, tokens=tokens)
    assert [len(row) for row in system.seek(inputs)] == (inputs.mask.sum(1) - 1).tolist()
    framed = candidates.tokens.clone()
    framed[:, :, 0] = end
    candidates = replace(candidates, tokens=framed)
    scores = system.read(inputs, candidates).scores
    keys = system.search_keys(system.passage_states(candidates))[0, 0][candidates.mask[0, 0]]
    best = torch.stack([(keys[1:] @ query).max() for query in system.seek(inputs)[0]]).mean()
    torch.testing.assert_close(scores[0, 0], best, **CLOSE)
    nothing_else = torch.full((1, 3), end)
    assert system.searched(nothing_else, torch.ones(1, 3, dtype=torch.bool)).all()


def test_no_passage_token_is_no_match():
    query, key = torch.ones(1, 2, 3), torch.ones(1, 2, 4, 3)
    mask = torch.ones(1, 2, 4, dtype=torch.bool)
    mask[0, 1] = False
    scores = relevance(query, torch.ones(1, 2, dtype=torch.bool), key, mask)
    assert scores[0, 0] == 3
    assert scores[0, 1] < -1e20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"live_share": 0.0}, "live_share=0 leaves no layer whose attention could retrieve"),
        ({"head": 2}, "head=2 but a layer has 2 heads; it must be between 0 and 1"),
        ({"head_temperature": 0.0}, r"head_temperature=0.0; it must be above 0"),
        ({"distillation_weight": -1.0}, r"distillation_weight=-1.0; it must not be negative"),
        ({"trained_passages": 0}, r"trained_passages=0; it must be at least 1"),
        ({"condition_memory": True}, "condition_memory=true leaves no states that a search could go by"),
    ],
)
def test_options_that_cannot_be(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        tiny.system("reatt", "bert", **options)
