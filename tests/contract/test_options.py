"""The options the papers vary do what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from wellread.types import TrainingBatch


def gradients(system, tiny) -> set[str]:
    """Names of the weights that get a gradient in one step."""
    inputs, candidates = tiny.batch()
    system.train()
    sum(system.losses(TrainingBatch(inputs, candidates, *tiny.target(2))).values()).backward()
    return {name for name, weight in system.named_parameters() if weight.grad is not None and weight.grad.any()}


@pytest.mark.parametrize(("share", "cut"), [(0.0, 6), (0.1, 5), (1 / 3, 4), (0.5, 3), (1.0, 0)])
def test_live_share_cuts_whole_layers(tiny, share, cut):
    assert tiny.system("lumen", layers=6, live_share=share).cut == cut


def test_a_memory_encoder_may_be_deeper_than_the_live_one(tiny):
    system = tiny.system("lumen", layers=6, live_layers=1)
    assert system.cut == 5
    assert sum(name.startswith("reader.encoder.layers") for name in system.parts()["live"]) == 1


def test_live_layers_out_of_range(tiny):
    with pytest.raises(ValueError, match=r"live_layers=7 but the encoder has 6 layers; .* between 0 and 6"):
        tiny.system("lumen", layers=6, live_layers=7)


def test_lumen_trains_live_question_encoder_and_decoder_but_not_memory(tiny):
    learnt = gradients(tiny.system("lumen", "bert"), tiny)
    assert any(name.startswith("question_encoder.layers.0.") for name in learnt)
    assert any(name.startswith("reader.encoder.layers.2.") for name in learnt)
    assert not any(name.startswith(("reader.encoder.layers.0.", "reader.encoder.layers.1.")) for name in learnt)


def test_lumen_with_trained_memory_trains_it(tiny):
    learnt = gradients(tiny.system("lumen", "bert", train_memory=True), tiny)
    assert any(name.startswith("reader.encoder.layers.0.") for name in learnt)


def test_a_frozen_question_encoder_gets_nothing(tiny):
    learnt = gradients(tiny.system("lumen", "bert", train_question=False), tiny)
    assert not any(name.startswith("question_encoder.") for name in learnt)


def test_a_shared_question_encoder_has_no_weights_of_its_own(tiny):
    assert tiny.system("lumen", question_encoder="shared").question_encoder is None
    assert tiny.system("lumen", question_encoder="separate").question_encoder is not None


def test_frozen_memory_stays_in_evaluation_mode(tiny):
    system = tiny.system("lumen").train()
    assert not system.reader.encoder.layers[0].training
    assert system.reader.encoder.layers[-1].training


def test_glimmer_trains_memory_and_scorer(tiny):
    learnt = gradients(tiny.system("glimmer", "bert", live_share=2 / 3, keep=2), tiny)
    assert any(name.startswith("reader.encoder.layers.0.") for name in learnt)
    assert {"scorer.weight"} <= learnt


def test_a_separate_reranker_learns_on_its_own(tiny):
    system = tiny.system("glimmer", "bert", live_share=2 / 3, rerank_share=0.5, keep=2, reranker="separate")
    assert any(name.startswith("ranker.layers.0.") for name in gradients(system, tiny))


def test_without_distillation_only_the_answer_is_trained(tiny):
    system = tiny.system("glimmer", "t5", keep=2, distillation_weight=0.0)
    inputs, candidates = tiny.batch()
    assert set(system.losses(TrainingBatch(inputs, candidates, *tiny.target(2)))) == {"nll"}


@pytest.mark.parametrize("over", ["kept", "all"])
def test_distillation_over_kept_or_all_is_a_number(tiny, over):
    system = tiny.system("glimmer", "bert", keep=2, distill_over=over)
    inputs, candidates = tiny.batch()
    assert system.losses(TrainingBatch(inputs, candidates, *tiny.target(2)))["distillation"] > 0


def test_question_given_to_the_decoder_is_read_by_it(tiny):
    inputs, candidates = tiny.batch()
    for name in ("fid", "lumen"):
        plain = tiny.system(name).read(inputs, candidates)
        more = tiny.system(name, question_to_decoder=True).read(inputs, candidates)
        added = more.mask.sum(-1) - plain.mask.sum(-1)
        assert torch.equal(added, inputs.mask.sum(-1))


def test_memory_fid_can_read_the_memory_of_lumen(tiny):
    lumen, stored = tiny.system("lumen", live_layers=1), tiny.system("memory_fid", memory_layers=2)
    tokens, mask = tiny.batch()[1].tokens[0], tiny.batch()[1].mask[0]
    with torch.no_grad():
        assert torch.equal(lumen.remember(tokens, mask).states, stored.remember(tokens, mask).states)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"live_share": 1.5}, r"live_share=1.5; it must be between 0 .* and 1"),
        ({"rerank_share": 0.0}, r"rerank_share=0.0; it must be above 0"),
        ({"keep": 0}, r"keep=0; it must be at least 1"),
        ({"distillation_temperature": 0.0}, r"distillation_temperature=0.0; it must be above 0"),
        ({"live_share": 0.0}, r"live_share=0 leaves no live layer to rerank with"),
    ],
)
def test_options_out_of_range(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        tiny.system("glimmer", **options)


def test_memory_layers_out_of_range(tiny):
    with pytest.raises(ValueError, match=r"memory_layers=9 but the encoder has 3 layers; .* between 1 and 3"):
        tiny.system("memory_fid", memory_layers=9)


def test_parts_of_another_run_are_taken_over(tiny, tmp_path):
    from wellread.model import Model, save_model, transfer
    from wellread.nn.tokenizers import train_tokenizer
    from wellread.reading.frame import Frame, FrameConfig

    frame = Frame(FrameConfig(), train_tokenizer(["some words to learn from"] * 3, 100))
    source = Model("lumen", tiny.system("lumen", seed=1), frame)
    save_model(tmp_path, source)
    model = Model("lumen", tiny.system("lumen", seed=2), frame)
    before = {name: weight.clone() for name, weight in model.system.named_parameters()}
    taken = transfer(model, tmp_path, ["live"])
    wanted = dict(source.system.named_parameters())
    for name, weight in model.system.named_parameters():
        assert torch.equal(weight, wanted[name] if name in taken else before[name]), name
    assert all(name.startswith(("reader.encoder.layers.2.", "reader.encoder.")) for name in taken)
    assert not any(name.startswith("reader.encoder.layers.0.") for name in taken)
    with pytest.raises(ValueError, match=r"transfer parts=\['eyes'\] are unknown; lumen has: memory, live"):
        transfer(model, tmp_path, ["eyes"])


@pytest.mark.parametrize("name", ["lumen", "glimmer"])
def test_marked_matches_are_read_whatever_the_padding_and_whoever_encodes(tiny, name):
    system = tiny.system(name, "bert", mark_matches=True)
    inputs, candidates = tiny.batch()
    target = tiny.target(2)
    with torch.no_grad():
        plain = system.log_likelihood(inputs, candidates, *target)
        padded = system.log_likelihood(*tiny.batch(extra_tokens=4, extra_passages=1), *target)
        stored = replace(candidates, states=system.passage_states(candidates))
        remembered = system.log_likelihood(inputs, stored, *target)
        system.match.zero_()
        unmarked = system.log_likelihood(inputs, candidates, *target)
    # Sums of a few hundred terms in another order.
    torch.testing.assert_close(padded, plain, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(remembered, plain, rtol=1e-4, atol=2e-5)
    assert (unmarked - plain).abs().max() > 1e-3  # twenty times what the other order makes


def test_marked_matches_start_the_same_whatever_was_drawn_before(tiny):
    first = tiny.system("lumen", "bert", mark_matches=True).match
    torch.rand(1)
    assert torch.equal(tiny.system("lumen", "bert", mark_matches=True).match, first)


def test_marked_matches_are_learnt_with_the_live_layers(tiny):
    system = tiny.system("lumen", "bert", mark_matches=True)
    assert "match" in gradients(system, tiny)
    assert "match" in system.parts()["live"]
    assert "match" not in tiny.system("lumen", "bert").parts()["live"]


def test_a_retrieval_prior_brings_the_retrievers_order_in(tiny):
    inputs, candidates = tiny.batch()
    candidates = replace(candidates, scores=torch.tensor([[1.0, 4.0, 2.0, 3.0], [9.0, 8.0, 7.0, 6.0]]))
    with torch.no_grad():
        own = tiny.system("glimmer", "bert", keep=4).read(inputs, candidates).scores
        both = tiny.system("glimmer", "bert", keep=4, retrieval_prior=2.0).read(inputs, candidates).scores
        ruled = tiny.system("glimmer", "bert", keep=2, retrieval_prior=1e4).read(inputs, candidates).kept
    ranks = torch.tensor([[4.0, 1.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
    shown = candidates.exists
    # The scores are sums of fp32 products; the same ones on both sides.
    torch.testing.assert_close((own - both)[shown], (2 * ranks.log())[shown], rtol=1e-4, atol=1e-4)
    assert ruled.tolist() == [[1, 3], [0, 1]]


@pytest.mark.parametrize("name", ["retrieval_prior", "score_prior"])
def test_a_negative_prior(tiny, name):
    with pytest.raises(ValueError, match=rf"{name}=-1\.0; it must not be negative"):
        tiny.system("glimmer", **{name: -1.0})
