"""GLIMMER with weigh_alone: the likeliest answer of all passages together and of each alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from wellread.reading.decoding import Generated
from wellread.reading.keeping import scores_behind
from wellread.reading.verbatim import Vocabulary
from wellread.reading.weighing import apart, likeliest
from wellread.systems.fusion_base import FusionSystem

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
LIMITS = {"max_tokens": 5}


@pytest.fixture(params=["t5-gated", "bert"])
def asked(request, tiny):
    """How to make a GLIMMER, a question batch, its candidates: of the second question one is missing."""

    def build(**options):
        return tiny.system("glimmer", request.param, layers=4, live_share=0.5, **{"keep": 4, **options})

    return build, *tiny.batch()


def real(lengths: torch.Tensor, longest: int) -> torch.Tensor:
    return torch.arange(longest) < lengths[:, None]


@torch.no_grad()
def brute(system, inputs, candidates, written) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(y | all) [batch] and log p(y | z) [batch, keep] by the contract's own verb, in the order of `kept`."""
    target, mask = written.tokens, real(written.lengths, written.tokens.shape[1])
    each = system.log_likelihood(inputs, candidates, target, mask, per_passage=True)
    kept = system.read(inputs, candidates).kept
    return system.log_likelihood(inputs, candidates, target, mask), each.gather(1, kept)


def log_prior(reading, candidates) -> torch.Tensor:
    scores = reading.scores.masked_fill(~candidates.exists, -torch.inf).gather(1, reading.kept)
    return scores.log_softmax(-1)


@pytest.mark.parametrize("question_to_decoder", [False, True])
def test_passages_apart_are_read_as_if_each_were_the_only_one(asked, tiny, question_to_decoder):
    build, inputs, candidates = asked
    system = build(question_to_decoder=question_to_decoder)
    target, mask = tiny.target()
    with torch.no_grad():
        reading = system.read(inputs, candidates)
        rows = [part.repeat_interleave(4, 0) for part in (target, mask)]
        log_probs = system.target_log_probs(apart(reading), rows[0])
        given = log_probs.masked_fill(~rows[1], 0.0).sum(-1).unflatten(0, (2, 4))
        alone = system.log_likelihood(inputs, candidates, target, mask, per_passage=True).gather(1, reading.kept)
    there = candidates.exists.gather(1, reading.kept)
    torch.testing.assert_close(given[there], alone[there], **CLOSE)
    assert given.isfinite().all()
    assert not there.all(), "one question should lack a candidate"


@pytest.mark.parametrize("weight", [0.3, 1.0])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_answer_is_the_likeliest_of_what_all_and_each_say(asked, weight, num_beams):
    build, inputs, candidates = asked
    limits = LIMITS | {"num_beams": num_beams}
    plain = build()
    with torch.no_grad():
        chosen = build(weigh_alone=weight).generate(inputs, candidates, **limits)
        reading = plain.read(inputs, candidates)
        together = plain.generate(inputs, candidates, **limits)
        each = plain.generate(inputs, candidates, reading=apart(reading), **limits)
    prior = log_prior(reading, candidates).exp()
    for row in range(2):
        worth: dict[tuple, float] = {}
        written = [(together, row, 1 - weight)]
        written += [(each, 4 * row + column, weight * float(prior[row, column])) for column in range(4)]
        for part, place, share in written:
            text = tuple(part.tokens[place, : part.lengths[place]].tolist())
            worth[text] = worth.get(text, 0.0) + share * float(part.scores[place].exp())
        best = max(worth, key=worth.get)
        assert tuple(chosen.tokens[row, : chosen.lengths[row]].tolist()) == best
        assert float(chosen.scores[row].exp()) == pytest.approx(worth[best], rel=1e-4)
        assert len(worth) > 1, "passages that all say the same would prove nothing"


def answered(system, inputs, candidates):
    """What was read, and what was written of it."""
    reading = system.read(inputs, candidates)
    return reading, system.generate(inputs, candidates, reading=reading, **LIMITS)


def test_answers_stay_held_to_words_that_were_read(asked):
    build, inputs, candidates = asked
    nothing = torch.zeros(60, dtype=torch.bool)
    mute = nothing.clone()
    mute[:3] = True
    vocabulary = Vocabulary(nothing, nothing, nothing, nothing, mute)
    with torch.no_grad():
        written = build(weigh_alone=0.9).generate(inputs, candidates, vocabulary=vocabulary, **LIMITS)
    for row in range(2):
        said = written.tokens[row, : written.lengths[row] - 1].tolist()
        texts = [tokens[mask].tolist() for tokens, mask in zip(candidates.tokens[row], candidates.mask[row])]
        assert said
        assert any(said == text[at : at + len(said)] for text in texts for at in range(len(text)))


def test_a_question_without_passages_has_the_whole_alone(asked):
    build, inputs, candidates = asked
    nowhere = torch.tensor([[True], [False]])
    candidates = replace(candidates, exists=candidates.exists & nowhere, mask=candidates.mask & nowhere[..., None])
    plain, system = build(), build(weigh_alone=0.7)
    with torch.no_grad():
        wanted = plain.generate(inputs, candidates, **LIMITS)
        written = system.generate(inputs, candidates, **LIMITS)
        shares = system.shares(system.read(inputs, candidates), written, candidates)
    assert float(written.scores[1]) == pytest.approx(float(wanted.scores[1]), rel=1e-4)
    assert shares.isfinite().all()
    assert shares[1].sum() == 0
    assert float(shares[0].sum()) == pytest.approx(1, abs=1e-4)


def test_what_several_parts_say_counts_together(asked):
    build, inputs, candidates = asked
    with torch.no_grad():
        reading = build(keep=3).read(inputs, candidates)
    reading = replace(reading, scores=torch.tensor([[2.0, 1.0, 0.9, -9.0], [0.0, 0.0, 0.0, -9.0]]))
    reading = replace(reading, kept=torch.tensor([[0, 1, 2], [0, 1, 2]]), passage=torch.tensor([[0, 1, 2]] * 2))
    reading = replace(reading, mask=torch.ones(2, 3, dtype=torch.bool))
    said = torch.tensor([[7, 1, 0], [8, 1, 0], [8, 1, 0], [7, 1, 0], [9, 9, 1], [9, 1, 0]])
    each = Generated(said, torch.tensor([-1.0, -1.0, -1.0, -1.0, -3.0, -1.05]), (said > 0).sum(1))
    together = Generated(torch.tensor([[5, 1], [9, 1]]), torch.tensor([-0.1, -2.0]), torch.tensor([2, 2]))
    best = likeliest(reading, together, each, weight=0.9, pad_token=0)
    assert best.tokens.tolist() == [[7, 1], [9, 1]], "e^2 > e^1 + e^.9 for the first, two parts for the second"
    third = 0.9 / 3
    wanted = [0.9 * math.e**2 / (math.e**2 + math.e + math.e**0.9) * math.e**-1]
    wanted += [third * math.e**-1.05 + 0.1 * math.e**-2]
    assert best.scores.exp().tolist() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"weigh_alone": 1.0, "keep": 1}])
def test_nothing_is_weighed_without_it_or_with_one_passage(asked, options):
    build, inputs, candidates = asked
    system = build(**options)
    with torch.no_grad():
        plain = FusionSystem.write(system, system.read(inputs, candidates), **LIMITS)
        written = system.generate(inputs, candidates, **LIMITS)
    assert torch.equal(plain.tokens, written.tokens)
    assert torch.equal(plain.scores, written.scores)


def test_questions_of_a_batch_do_not_change_each_other(asked):
    build, inputs, candidates = asked
    system = build(weigh_alone=0.6)
    with torch.no_grad():
        together = system.generate(inputs, candidates, **LIMITS)
        reading = system.read(inputs, candidates)
        shares = system.shares(reading, together, candidates)
    for row in range(2):
        one = replace(inputs, tokens=inputs.tokens[[row]], mask=inputs.mask[[row]])
        names = ("tokens", "mask", "exists", "scores")
        own = replace(candidates, **{name: getattr(candidates, name)[[row]] for name in names})
        with torch.no_grad():
            alone = system.generate(one, own, **LIMITS)
            share = system.shares(system.read(one, own), alone, own)
        length = int(alone.lengths[0])
        assert together.tokens[row, :length].tolist() == alone.tokens[0, :length].tolist()
        torch.testing.assert_close(together.scores[[row]], alone.scores, **CLOSE)
        torch.testing.assert_close(shares[[row]], share, **CLOSE)


def test_shares_are_what_each_passage_holds_of_the_answers_probability(asked):
    build, inputs, candidates = asked
    system = build(weigh_alone=1.0)
    with torch.no_grad():
        reading, written = answered(system, inputs, candidates)
        shares = system.shares(reading, written, candidates)
        half = build(weigh_alone=0.5).shares(reading, written, candidates)
        attended = build().shares(reading, written, candidates)
    together, alone = brute(build(), inputs, candidates, written)
    given = log_prior(reading, candidates) + alone
    torch.testing.assert_close(shares.gather(1, reading.kept), given.softmax(-1), **CLOSE)
    parts = torch.cat([together[:, None], given], dim=1).softmax(-1)
    wanted = parts[:, :1] * attended.gather(1, reading.kept) + parts[:, 1:]
    torch.testing.assert_close(half.gather(1, reading.kept), wanted, **CLOSE)
    torch.testing.assert_close(half.sum(-1), torch.ones(2))
    assert not half[~candidates.exists].any()


def test_an_answer_without_tokens_came_from_nowhere(asked):
    build, inputs, candidates = asked
    system = build(weigh_alone=0.5)
    with torch.no_grad():
        reading, written = answered(system, inputs, candidates)
        silent = written._replace(lengths=torch.tensor([0, int(written.lengths[1])]))
        shares = system.shares(reading, silent, candidates)
    assert shares[0].sum() == 0
    assert float(shares[1].sum()) == pytest.approx(1, abs=1e-4)


def test_nobody_with_a_passage(asked):
    build, inputs, candidates = asked
    nobody = replace(candidates, exists=candidates.exists & False, mask=candidates.mask & False)
    with torch.no_grad():
        wanted = build().generate(inputs, nobody, **LIMITS)
        written = build(weigh_alone=0.7).generate(inputs, nobody, **LIMITS)
    assert torch.equal(written.tokens, wanted.tokens)
    torch.testing.assert_close(written.scores, wanted.scores, **CLOSE)


def test_the_score_prior_counts_standard_deviations_behind_the_best(asked):
    build, inputs, candidates = asked
    candidates = replace(candidates, scores=torch.tensor([[1.0, 4.0, 2.0, 3.0], [9.0, 8.0, 4.0, 100.0]]))
    with torch.no_grad():
        own = build().read(inputs, candidates).scores
        both = build(score_prior=2.0).read(inputs, candidates).scores
    behind = torch.tensor([[3.0, 0.0, 2.0, 1.0], [0.0, 1.0, 5.0, 0.0]])
    spread = torch.tensor([[1.0, 4.0, 2.0, 3.0]]).std(correction=0), torch.tensor([9.0, 8.0, 4.0]).std(correction=0)
    wanted = 2 * behind / torch.stack(spread)[:, None]
    shown = candidates.exists
    torch.testing.assert_close((own - both)[shown], wanted[shown], **CLOSE)


def test_near_equals_stay_near():
    found = torch.tensor([[10.0, 9.9999, 0.0], [10.0, 1.0, 0.0], [3.0, -torch.inf, 2.0]])
    behind = scores_behind(found, torch.tensor([[True, True, False], [True, True, False], [True, True, True]]))
    assert behind[0].tolist() == pytest.approx([0, 0.0002, 0], abs=1e-5)
    assert behind[1].tolist() == pytest.approx([0, 2, 0], rel=1e-5)
    assert behind[2].tolist() == pytest.approx([0, torch.inf, 2], rel=1e-5)


def test_equal_retriever_scores_hold_nothing_against_anyone(asked):
    build, inputs, candidates = asked
    candidates = replace(candidates, scores=torch.full_like(candidates.scores, 7.0))
    with torch.no_grad():
        own = build().read(inputs, candidates).scores
        both = build(score_prior=2.0).read(inputs, candidates).scores
    torch.testing.assert_close(own, both)


def test_a_weight_out_of_range(asked):
    with pytest.raises(ValueError, match=r"weigh_alone=1\.5; it must be between 0 and 1"):
        asked[0](weigh_alone=1.5)
