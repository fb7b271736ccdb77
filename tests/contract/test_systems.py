"""What every row of the systems table must keep, whatever it is made of."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch

from wellread.nn.checkpoints import fingerprint
from wellread.reading.batching import CandidateRow, batch_candidates
from wellread.systems import SYSTEMS
from wellread.systems.base import System
from wellread.systems.reveal import Reveal
from wellread.types import CandidateBatch, Inputs, TrainingBatch

FAMILIES = ("t5", "t5-gated", "bert")
# fp32 sums of a few hundred terms in another order: a few units in the last place, relative to values near 1.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(params=list(SYSTEMS))
def name(request) -> str:
    return request.param


@pytest.fixture(params=FAMILIES)
def system(request, name, tiny):
    return tiny.system(name, request.param)


def likelihood(system, inputs, candidates, tiny):
    with torch.no_grad():
        return system.log_likelihood(inputs, candidates, *tiny.target(inputs.batch))


def rows_of(value, index: list[int]):
    parts = {
        name: getattr(value, name)[index] for name in value.__slots__ if isinstance(getattr(value, name), torch.Tensor)
    }
    return replace(value, **parts)


def test_every_verb_has_the_signature_of_the_contract(name):
    kind = SYSTEMS[name]
    for verb in ("remember", "seek", "read", "generate", "shares", "log_likelihood", "losses"):
        own = inspect.signature(getattr(kind, verb)).parameters.values()
        contract = inspect.signature(getattr(System, verb)).parameters.values()
        assert [(p.name, p.kind, p.default) for p in own] == [(p.name, p.kind, p.default) for p in contract], verb


def test_padding_never_changes_the_answer(system, tiny):
    plain = likelihood(system, *tiny.batch(), tiny)
    padded = likelihood(system, *tiny.batch(extra_tokens=5, extra_passages=2), tiny)
    torch.testing.assert_close(padded, plain, **CLOSE)


def test_many_passages_are_read_in_groups_of_like_length(system, tiny):
    inputs, candidates = tiny.batch(batch=3, passages=7, extra_passages=1)
    together = likelihood(system, inputs, candidates, tiny)
    target, mask = tiny.target(3)
    for row in range(3):
        with torch.no_grad():
            alone = system.log_likelihood(
                rows_of(inputs, [row]), rows_of(candidates, [row]), target[[row]], mask[[row]]
            )
        torch.testing.assert_close(alone, together[[row]], **CLOSE)


def test_padding_tokens_are_never_read(system, tiny):
    inputs, candidates = tiny.batch(extra_tokens=3)
    plain = likelihood(system, inputs, candidates, tiny)
    other = Inputs(inputs.tokens.masked_fill(~inputs.mask, 7), inputs.mask)
    filled = replace(candidates, tokens=candidates.tokens.masked_fill(~candidates.mask, 9))
    torch.testing.assert_close(likelihood(system, other, filled, tiny), plain, **CLOSE)


def test_batch_neighbours_do_not_see_each_other(system, tiny):
    inputs, candidates = tiny.batch()
    together = likelihood(system, inputs, candidates, tiny)
    target, mask = tiny.target(2)
    for row in range(2):
        with torch.no_grad():
            alone = system.log_likelihood(
                rows_of(inputs, [row]), rows_of(candidates, [row]), target[[row]], mask[[row]]
            )
        torch.testing.assert_close(alone, together[[row]], **CLOSE)


def test_order_of_passages_does_not_matter(system, tiny):
    if system.ordered:
        pytest.skip("the paper gives the order of passages a meaning")
    inputs, candidates = tiny.batch()
    order = torch.tensor([2, 0, 3, 1])
    names = ("tokens", "mask", "exists", "scores")
    shuffled = replace(candidates, **{name: getattr(candidates, name)[:, order] for name in names})
    plain, moved = (likelihood(system, inputs, each, tiny) for each in (candidates, shuffled))
    torch.testing.assert_close(moved, plain, **CLOSE)


def test_answers_depend_on_question_and_passages(system, tiny):
    inputs, candidates = tiny.batch()
    plain = likelihood(system, inputs, candidates, tiny)
    words = inputs.mask & (inputs.tokens != tiny.mask)
    asked = Inputs(inputs.tokens.where(~words, 61 - inputs.tokens), inputs.mask)
    read = replace(candidates, tokens=candidates.tokens.where(~candidates.mask, 61 - candidates.tokens))
    assert not torch.allclose(likelihood(system, asked, candidates, tiny), plain, **CLOSE)
    assert not torch.allclose(likelihood(system, inputs, read, tiny), plain, **CLOSE)


def with_memory(system, candidates: CandidateBatch) -> CandidateBatch:
    """The candidates as a memory would hand them over: every passage remembered on its own."""
    questions = []
    for row, names in enumerate(candidates.ids):
        questions.append([])
        for column in candidates.exists[row].nonzero().flatten().tolist():
            tokens = candidates.tokens[row, column][candidates.mask[row, column]]
            with torch.no_grad():
                kept = system.remember(tokens[None], torch.ones_like(tokens, dtype=torch.bool)[None])
            stored = {"states": kept.states[0], "key": None if kept.keys is None else kept.keys[0]}
            questions[-1].append(CandidateRow(names[column], tokens, float(candidates.scores[row, column]), **stored))
    return batch_candidates(questions, pad=0)


def test_memory_read_back_is_memory_computed(system, tiny):
    if "states" not in system.stores:
        pytest.skip("stores tokens only")
    inputs, candidates = tiny.batch()
    plain = likelihood(system, inputs, candidates, tiny)
    stored = likelihood(system, inputs, with_memory(system, candidates), tiny)
    torch.testing.assert_close(stored, plain, **CLOSE)


def test_frozen_parts_get_no_gradient_and_the_others_do(system, tiny):
    inputs, candidates = tiny.batch()
    target, mask = tiny.target(2)
    system.train()
    sum(system.losses(TrainingBatch(inputs, candidates, target, mask)).values()).backward()
    frozen = [name for name, weight in system.named_parameters() if not weight.requires_grad]
    assert all(weight.grad is None for weight in system.parameters() if not weight.requires_grad)
    if not getattr(system, "train_memory", True):
        assert frozen, "a frozen memory encoder froze nothing"
    learning = [n for n, w in system.named_parameters() if w.grad is not None and w.grad.abs().sum() > 0]
    upper = "reader.encoder.layers" if system.built_on == "encoder" else ("reader.decoder.layers", "reader.layers")
    assert any(name.startswith(upper) for name in learning)


def test_generation_with_caches_agrees_with_the_likelihood(system, tiny):
    inputs, candidates = tiny.batch()
    for beams in (1, 3):
        written = system.generate(inputs, candidates, max_tokens=5, num_beams=beams)
        mask = torch.arange(written.tokens.shape[1])[None] < written.lengths[:, None]
        with torch.no_grad():
            scored = system.log_likelihood(inputs, candidates, written.tokens, mask)
        torch.testing.assert_close(written.scores, scored, **CLOSE)


def test_greedy_takes_the_likeliest_token(system, tiny):
    if system.built_on == "encoder":
        pytest.skip("fills in or cuts out a whole answer, and writes no tokens one by one")
    inputs, candidates = tiny.batch()
    written = system.generate(inputs, candidates, max_tokens=1)
    with torch.no_grad():
        every = torch.stack(
            [
                system.log_likelihood(inputs, candidates, torch.full((2, 1), token), torch.ones(2, 1).bool())
                for token in range(60)
            ],
            dim=1,
        )
    assert every.argmax(1).tolist() == written.tokens[:, 0].tolist()
    # Probabilities of all first tokens sum to one; float32 over 60 terms.
    torch.testing.assert_close(every.exp().sum(1), torch.ones(2), rtol=1e-4, atol=1e-4)


# Options without which something else than a passage has a say.
ALONE = {"realm": {"null_passage": False}}


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihood_per_passage_is_that_of_each_passage_alone(name, family, tiny):
    system = tiny.system(name, family, **ALONE.get(name, {}))
    inputs, candidates = tiny.batch()
    target, mask = tiny.target(2)
    with torch.no_grad():
        scores = system.log_likelihood(inputs, candidates, target, mask, per_passage=True)
        names = ("tokens", "mask", "exists", "scores")
        second = replace(candidates, **{name: getattr(candidates, name)[:, 1:2] for name in names})
        alone = system.log_likelihood(inputs, second, target, mask)
    assert scores.shape == candidates.exists.shape
    torch.testing.assert_close(scores[:, 1], alone, **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_shares_of_the_passages_sum_to_one(name, family, tiny):
    system = tiny.system(name, family, **ALONE.get(name, {}))
    inputs, candidates = tiny.batch()
    with torch.no_grad():
        reading = system.read(inputs, candidates)
        written = system.generate(inputs, candidates, max_tokens=4, reading=reading)
        shares = system.shares(reading, written, candidates)
    # One sum of at most 36 float32 terms.
    torch.testing.assert_close(shares.sum(1), torch.ones(2), rtol=0, atol=1e-5)
    assert shares.masked_select(~candidates.exists).sum() == 0


def test_no_state_between_calls(system, tiny):
    inputs, candidates = tiny.batch()
    plain = likelihood(system, inputs, candidates, tiny)
    likelihood(system, *tiny.batch(seed=5), tiny)
    system.generate(*tiny.batch(seed=6), max_tokens=3)
    assert torch.equal(likelihood(system, inputs, candidates, tiny), plain)


def test_a_question_without_candidates_in_the_batch_gives_numbers(system, tiny):
    inputs, candidates = tiny.batch()
    nothing = candidates.exists.clone()
    nothing[1] = False
    gone = replace(candidates, exists=nothing, mask=candidates.mask & nothing[..., None])
    plain = likelihood(system, inputs, candidates, tiny)
    scores = likelihood(system, inputs, gone, tiny)
    assert torch.isfinite(scores).all()
    torch.testing.assert_close(scores[0], plain[0], **CLOSE)


def test_a_batch_for_which_nothing_was_found_can_be_trained_on(system, tiny):
    inputs, _ = tiny.batch()
    nothing = batch_candidates([[], []], pad=0)
    batch = TrainingBatch(inputs, nothing, *tiny.target(2), about=[[], []])
    system.train()
    losses = system.losses(batch)
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    sum(losses.values()).backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in system.parameters())


def test_bfloat16_stays_near_float32(name, tiny):
    inputs, candidates = tiny.batch()
    system = tiny.system(name, "bert" if SYSTEMS[name].built_on == "encoder" else "t5-gated")
    plain = likelihood(system, inputs, candidates, tiny)
    half = likelihood(system.to(torch.bfloat16), inputs, candidates, tiny)
    # bfloat16 keeps 8 bits; log-likelihoods of four tokens near -16 may move by a few tenths.
    torch.testing.assert_close(half.float(), plain, rtol=0.05, atol=0.3)


def test_a_tiny_set_is_learnt(system, tiny):
    inputs, candidates = tiny.batch()
    target, mask = tiny.target(2)
    batch = TrainingBatch(inputs, candidates, target, mask)
    system.train()
    trained = [weight for weight in system.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    first = None
    for _ in range(60):
        losses = system.losses(batch)
        first = first if first is not None else losses["nll"].item()
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    last = system.losses(batch)["nll"].item()
    assert last < 0.3 * first, f"nll went from {first:.2f} to {last:.2f} only"


@torch.no_grad()
def test_memory_weights_are_all_that_what_is_stored_follows_from(system, tiny):
    """Each weight changed alone: what is remembered stays as it was, or the weights a memory is bound to differ."""
    _, candidates = tiny.batch()

    def stored():
        kept = system.remember(candidates.tokens[:, 0], candidates.mask[:, 0])
        return [part for part in (kept.states, kept.keys) if part is not None]

    before, known, moved = stored(), fingerprint(system.memory_weights()), 0
    for name, weight in system.named_parameters():
        kept = weight.clone()
        weight.add_(torch.arange(weight.numel()).view_as(weight) / weight.numel())
        if not all(map(torch.equal, stored(), before)):
            moved += 1
            assert fingerprint(system.memory_weights()) != known, name
            if not isinstance(system, Reveal):  # made anew while it trains
                assert getattr(system, "train_memory", True) or not weight.requires_grad, name
        weight.copy_(kept)
    assert (moved > 0) == (len(before) > 0)


def test_saved_and_loaded_is_the_same(name, tiny, tmp_path):
    from wellread.model import Model, load_model, save_model
    from wellread.nn.tokenizers import train_tokenizer
    from wellread.reading.frame import Frame, FrameConfig

    for family in ("bert",) if SYSTEMS[name].built_on == "encoder" else ("t5", "bert"):
        tokenizer = train_tokenizer(["a few words to learn from, twice over"] * 3, 100, kind="wordpiece")
        system = tiny.system(name, family)
        model = Model(name, system, Frame(FrameConfig(question_tokens=12), tokenizer))
        again = load_model(save_model(tmp_path / family, model))
        assert again.frame.config == model.frame.config
        assert again.fingerprint() == model.fingerprint()
        inputs, candidates = tiny.batch()
        plain, loaded = (likelihood(each.system, inputs, candidates, tiny) for each in (model, again))
        assert torch.equal(plain, loaded)
