"""Siblings agree where the papers say so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from wellread.types import TrainingBatch

FAMILIES = ("t5", "t5-gated", "bert")
# The same float32 sums, some in another order.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


def likelihood(system, tiny, **options):
    inputs, candidates = tiny.batch(**options)
    with torch.no_grad():
        return system.log_likelihood(inputs, candidates, *tiny.target(inputs.batch))


@pytest.mark.parametrize("family", ["t5", "t5-gated"])
def test_fid_with_one_passage_is_t5(family, tiny):
    system = tiny.system("fid", family)
    inputs, candidates = tiny.batch(passages=2)
    target, mask = tiny.target(2)
    for row in range(2):
        question = inputs.tokens[row][inputs.mask[row]]
        passage = candidates.tokens[row, 0][candidates.mask[row, 0]]
        whole = torch.cat([question, passage])[None]
        reader = system.reader
        with torch.no_grad():
            states = reader.encoder(whole, torch.ones_like(whole).bool())
            start = torch.full((1, 1), reader.decoder.start_token)
            shifted = torch.cat([start, target[row : row + 1, :-1]], dim=1)
            written = reader.decoder(shifted, states, torch.ones_like(whole).bool())
            t5 = reader.target_log_probs(written, target[row : row + 1]).masked_fill(~mask[row], 0).sum()
            fid = system.log_likelihood(inputs, candidates, target, mask, per_passage=True)[row, 0]
        torch.testing.assert_close(fid, t5, **CLOSE)


def test_lumen_all_live_is_fid(family, tiny):
    lumen = tiny.system("lumen", family, live_share=1.0)
    torch.testing.assert_close(likelihood(lumen, tiny), likelihood(tiny.system("fid", family), tiny), **CLOSE)


def test_lumen_with_memory_that_sees_the_question_is_fid(family, tiny):
    lumen = tiny.system("lumen", family, condition_memory=True, train_memory=True)
    torch.testing.assert_close(likelihood(lumen, tiny), likelihood(tiny.system("fid", family), tiny), **CLOSE)


def test_lumen_all_memory_is_memory_fid(family, tiny):
    lumen, stored = tiny.system("lumen", family, live_share=0.0), tiny.system("memory_fid", family)
    torch.testing.assert_close(likelihood(lumen, tiny), likelihood(stored, tiny), **CLOSE)


def test_lumen_differs_from_both_ends_in_between(family, tiny):
    middle = likelihood(tiny.system("lumen", family, live_share=1 / 3), tiny)
    for end in (0.0, 1.0):
        assert not torch.allclose(middle, likelihood(tiny.system("lumen", family, live_share=end), tiny), **CLOSE)


@pytest.mark.parametrize("score", ["first", "question", "mean"])
@pytest.mark.parametrize("reranker", ["shared", "separate"])
def test_glimmer_keeping_all_is_lumen_with_a_shared_question_encoder(family, tiny, score, reranker):
    options = {"live_share": 2 / 3, "question_encoder": "shared", "train_memory": True}
    lumen = tiny.system("lumen", family, **options)
    glimmer = tiny.system("glimmer", family, **options, keep=4, rerank_share=0.5, score=score, reranker=reranker)
    torch.testing.assert_close(likelihood(glimmer, tiny), likelihood(lumen, tiny), **CLOSE)


@pytest.mark.parametrize("keep", [1, 2])
def test_glimmer_reads_what_lumen_would_read_of_the_passages_it_keeps(family, tiny, keep):
    options = {"live_share": 2 / 3, "question_encoder": "shared", "train_memory": True}
    lumen = tiny.system("lumen", family, **options)
    glimmer = tiny.system("glimmer", family, **options, keep=keep, rerank_share=0.5)
    inputs, candidates = tiny.batch()
    target = tiny.target(2)
    with torch.no_grad():
        kept = glimmer.read(inputs, candidates).kept
        rows = torch.arange(2)[:, None]
        names = ("tokens", "mask", "exists", "scores")
        few = replace(candidates, **{name: getattr(candidates, name)[rows, kept] for name in names})
        plain, ranked = lumen.log_likelihood(inputs, few, *target), glimmer.log_likelihood(inputs, candidates, *target)
    torch.testing.assert_close(ranked, plain, **CLOSE)


@pytest.mark.parametrize("score", ["first", "question"])
def test_glimmer_scores_from_some_rows_of_a_layer_are_the_full_scores(family, tiny, score):
    system = tiny.system("glimmer", family, live_share=2 / 3, rerank_share=0.5, keep=2, score=score)
    inputs, candidates = tiny.batch()
    with torch.no_grad():
        quick = system.read(inputs, candidates)
    full = system.read(inputs, candidates)
    assert torch.equal(quick.kept, full.kept)
    torch.testing.assert_close(quick.scores, full.scores.detach(), **CLOSE)


def test_glimmer_distillation_reaches_the_scorer_and_only_the_scores(family, tiny):
    system = tiny.system("glimmer", family, live_share=2 / 3, rerank_share=0.5, keep=2).train()
    inputs, candidates = tiny.batch()
    losses = system.losses(TrainingBatch(inputs, candidates, *tiny.target(2)))
    losses["distillation"].backward()
    assert system.scorer.weight.grad.abs().sum() > 0
    decoder = [weight.grad for name, weight in system.named_parameters() if name.startswith("reader.decoder.layers")]
    assert all(grad is None or grad.abs().sum() == 0 for grad in decoder)


def test_switched_off_attention_changes_what_it_should(family, tiny):
    plain = likelihood(tiny.system("lumen", family), tiny)
    for off in ({"q2mem": False}, {"mem2q": False}):
        assert not torch.allclose(likelihood(tiny.system("lumen", family, **off), tiny), plain, **CLOSE)


def test_retro_without_neighbours_is_the_plain_language_model(family, tiny):
    system = tiny.system("retro", family)
    inputs, candidates = tiny.batch()
    target, mask = tiny.target(2)
    nobody = replace(candidates, exists=torch.zeros_like(candidates.exists))
    reader = system.reader
    with torch.no_grad():
        read = system.log_likelihood(inputs, candidates, target, mask)
        scores = system.log_likelihood(inputs, nobody, target, mask)
        for row in range(2):
            question, wanted = inputs.tokens[row][inputs.mask[row]], target[row][mask[row]]
            whole = torch.cat([torch.tensor([reader.start_token]), question, wanted])[None]
            said = reader.logits(reader(whole, torch.ones_like(whole).bool()))[0].log_softmax(-1)
            plain = said[len(question) : -1].gather(1, wanted[:, None]).sum()
            torch.testing.assert_close(scores[row], plain, **CLOSE)
    assert not torch.isclose(read, scores, **CLOSE).any()
