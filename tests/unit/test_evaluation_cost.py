"""FLOPs by formula and counted, time per stage, bytes per passage."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from wellread.evaluation.cost import Stopwatch, bytes_per_passage, stored_bytes
from wellread.evaluation.flops import count_flops, fid, glimmer, lumen, memory_fid, precompute

SHAPE = {"passage_tokens": 100, "top_k": 20, "target_tokens": 8, "layers": 12, "dim": 64}
SOURCE, TARGET, LAYERS, SQUARE = 2000, 8, 12, 64**2


def test_the_formulas_are_those_of_the_papers():
    assert fid(**SHAPE).paper == SOURCE * LAYERS * 14 * SQUARE + TARGET * LAYERS * 14 * SQUARE
    assert memory_fid(**SHAPE).paper == SOURCE * LAYERS * 2 * SQUARE + TARGET * LAYERS * 14 * SQUARE
    third = lumen(**SHAPE, live_share=1 / 3)
    assert third.encoder == pytest.approx(SOURCE / 3 * LAYERS * 12 * SQUARE)
    assert third.cross_attention == SOURCE * LAYERS * 2 * SQUARE
    assert third.decoder == TARGET * LAYERS * 14 * SQUARE
    both = glimmer(**SHAPE, keep=5, live_share=1 / 3, rerank_share=1 / 4)
    kept = lumen(**{**SHAPE, "top_k": 5}, live_share=1 / 3)
    assert both.rerank == pytest.approx(15 * 100 / 4 / 3 * LAYERS * 12 * SQUARE)
    assert both.paper == pytest.approx(kept.paper + both.rerank)


def test_the_formulas_meet_where_the_systems_do():
    assert lumen(**SHAPE, live_share=1.0) == fid(**SHAPE)
    assert lumen(**SHAPE, live_share=0.0) == memory_fid(**SHAPE)
    assert glimmer(**SHAPE, keep=20, live_share=0.5, rerank_share=0.5) == lumen(**SHAPE, live_share=0.5)


def test_the_formulas_give_the_published_figure():
    # GLIMMER, figure 2: samples per TFLOP of XXL (24 layers, 4096) with 48 + 304 tokens per passage; FiD reads 5
    # passages, LUMEN 10 with a third live. The decoder's share, which is the same for both, cancels out.
    published = 1e12 / 0.09272427067 - 1e12 / 0.1067540778
    shape = {"passage_tokens": 352, "target_tokens": 0, "layers": 24, "dim": 4096}
    ours = fid(**shape, top_k=5).paper - lumen(**shape, top_k=10, live_share=1 / 3).paper
    assert ours == pytest.approx(published, rel=1e-5)  # the figure gives seven digits or more


def test_flops_are_two_per_multiply_add():
    assert fid(**SHAPE).flops == 2 * fid(**SHAPE).paper


def test_the_formula_is_what_is_counted_in_a_layer_of_the_assumed_shape():
    dim, tokens = 32, 10
    x = torch.randn(1, tokens, dim)
    attention = [torch.nn.Linear(dim, dim, bias=False) for _ in range(4)]
    wide, narrow = torch.nn.Linear(dim, 4 * dim, bias=False), torch.nn.Linear(4 * dim, dim, bias=False)
    with count_flops() as count:
        for projection in attention:
            projection(x)
        narrow(wide(x))
    whole = fid(passage_tokens=tokens, top_k=1, target_tokens=0, layers=1, dim=dim)
    assert count.total == 2 * whole.encoder


def test_a_shallow_decoder_costs_less():
    deep, shallow = fid(**SHAPE), fid(**SHAPE, decoder_layers=3)
    assert shallow.encoder == deep.encoder
    assert shallow.decoder == deep.decoder / 4
    assert shallow.cross_attention == deep.cross_attention / 4


def test_reading_ahead_costs_the_layers_that_are_not_live():
    whole = precompute(num_passages=1000, passage_tokens=100, layers=12, dim=64)
    assert whole.paper == 1000 * 100 * 12 * 12 * 64**2
    part = precompute(num_passages=1000, passage_tokens=100, layers=12, dim=64, live_share=0.25)
    assert part.paper == 0.75 * whole.paper


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_attention_is_counted_on_every_path(context, masked, kind):
    query, key = torch.randn(2, 4, 5, 16, dtype=kind), torch.randn(2, 4, 9, 16, dtype=kind)
    mask = torch.ones(2, 1, 5, 9, dtype=torch.bool) if masked else None
    with context(), count_flops() as count:
        scaled_dot_product_attention(query, key, key, attn_mask=mask)
    assert count.total == 2 * (2 * 4 * 5 * 9 * 16) * 2  # two products, two operations per multiply-add


def test_stages_add_up_and_nest():
    layer, x = torch.nn.Linear(8, 4), torch.randn(3, 8)
    one = 2 * 3 * 8 * 4
    with count_flops() as count:
        with count("read"):
            layer(x)
            with count("rerank"):
                layer(x)
        layer(x)
        with count("read"):
            layer(x)
    assert count.stages == {"read": 3 * one, "rerank": one}
    assert count.total == 4 * one


def test_backward_is_counted_too():
    query = torch.randn(1, 2, 4, 8, requires_grad=True)
    with count_flops() as count:
        out = scaled_dot_product_attention(query, query, query)
        forward = count.total
        out.sum().backward()
    # the scores again, and the gradients of values, weights, queries and keys: five products for two
    assert count.total - forward == forward * 5 // 2


def test_counting_can_be_switched_off():
    with count_flops(enabled=False) as count, count("read"):
        torch.nn.Linear(8, 4)(torch.randn(3, 8))
    assert count.total == 0
    assert count.stages == {"read": 0}


def test_a_tiny_system_costs_less_when_more_is_read_ahead(tiny):
    inputs, candidates = tiny.batch()

    def cost(live_share):
        system = tiny.system("lumen", layers=4, live_share=live_share)
        states = system.remember(candidates.tokens.flatten(0, 1), candidates.mask.flatten(0, 1)).states
        stored = replace(candidates, states=states.unflatten(0, candidates.tokens.shape[:2]))
        with torch.inference_mode(), count_flops() as count:
            system.read(inputs, stored)
        return count.total

    assert cost(0.25) < cost(0.5) < cost(0.75)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lumen(**SHAPE, live_share=1.5), "live_share=1.5 is out of range"),
        (lambda: glimmer(**SHAPE, keep=5, live_share=0.5, rerank_share=-1), "rerank_share=-1 is out of range"),
        (
            lambda: glimmer(**SHAPE, keep=21, live_share=0.5, rerank_share=0.5),
            "keep=21 but 20 passages are retrieved; keep must be between 1 and 20",
        ),
        (lambda: fid(**{**SHAPE, "layers": -1}), "layers=-1 is negative"),
        (lambda: bytes_per_passage(__file__, 0), "num_passages=0 is too small"),
        (lambda: stored_bytes("nowhere/at/all"), "nowhere/at/all does not exist"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_stopwatch_adds_up_by_stage_even_after_an_error():
    watch = Stopwatch()
    for _ in range(2):
        with watch("read"):
            time.sleep(0.01)
    with pytest.raises(RuntimeError, match="stop"), watch("generate"):
        raise RuntimeError("stop")
    assert list(watch.milliseconds) == ["read", "generate"]
    assert watch.milliseconds["read"] >= 20  # sleep never returns early
    assert watch.total == sum(watch.milliseconds.values())


def test_bytes_are_those_of_all_files(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 10)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"x" * 30)
    assert stored_bytes(tmp_path) == 40
    assert stored_bytes(tmp_path / "a") == 10
    assert bytes_per_passage(tmp_path, 8) == 5
