"""The T5 family against transformers, and against itself where it may be computed in two ways."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from wellread.nn import attention, memory_decoder
from wellread.nn.checkpoints import load_weights, read_hub, write_hub
from wellread.nn.t5 import T5Config, T5Decoder, T5Encoder, hub_weights, our_weights

transformers = pytest.importorskip("transformers")

# float32 sums in another order and another softmax kernel differ by some 1e-6 of the largest value; ten layers
# of them stay far below 1e-4, and a wrong bias bucket, scale or mask is far above it.
PARITY = 1e-4
# Two ways through the same net: the same operations on the same numbers but for the order of sums.
SAME = 1e-5

TINY = {
    "vocab_size": 40,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_heads": 3,  # 3 heads of 4 are not 16 wide, as in small v1.1 checkpoints
    "num_layers": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,  # texts below are longer: near, far and clamped buckets all occur
    "decoder_start_token_id": 0,
}
# family -> (class prefix, sizes that differ, head untied in memory)
FAMILIES = {
    "t5": ("T5", {"feed_forward_proj": "relu"}, False),
    "v1.1": ("T5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, True),
    "flan": ("T5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "d_kv": 8, "num_heads": 2}, True),
    "mt5": ("MT5", {"num_decoder_layers": 3}, True),
    "umt5": ("UMT5", {"num_layers": 3}, False),
    "byt5": (
        "T5",
        {
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "vocab_size": 384,
            "num_layers": 3,
            "num_decoder_layers": 1,
        },
        True,
    ),
}


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = PARITY) -> None:
    assert ours.shape == theirs.shape
    assert torch.isfinite(ours).all()
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def rival(family: str, **changes):
    """A random transformers model; all weights moved, so that no norm is one and no head is tiny."""
    prefix, sizes, untied = FAMILIES[family]
    config = getattr(transformers, f"{prefix}Config")(**{**TINY, **sizes, **changes})
    torch.manual_seed(7)
    model = getattr(transformers, f"{prefix}ForConditionalGeneration")(config).eval()
    if untied:
        model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return model


def load(path) -> nn.ModuleDict:
    mapping, weights = read_hub(path)
    config = T5Config.from_hub(mapping, weights)
    net = build(config)
    load_weights(net, our_weights(weights))
    return net.eval()


def build(config: T5Config) -> nn.ModuleDict:
    encoder = T5Encoder(config)
    return nn.ModuleDict({"encoder": encoder, "decoder": T5Decoder(config, embed_tokens=encoder.embed_tokens)})


def tiny(**changes) -> nn.ModuleDict:
    torch.manual_seed(3)
    sizes = {"vocab_size": 40, "dim": 16, "head_dim": 4, "inner_dim": 24, "num_heads": 3, "num_layers": 3}
    return build(T5Config(**{**sizes, "num_buckets": 8, "max_distance": 12, **changes})).eval()


def texts(vocab: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens [3, 21] padded at the right, their mask, and targets [3, 6] padded with -100."""
    generator = torch.Generator().manual_seed(11)
    tokens = torch.randint(2, vocab, (3, 21), generator=generator)
    mask = torch.arange(21) < torch.tensor([[21], [13], [4]])
    target = torch.randint(2, vocab, (3, 6), generator=generator)
    target[torch.arange(6) >= torch.tensor([[6], [3], [5]])] = -100
    return tokens.masked_fill(~mask, 0), mask, target


def shifted(target: torch.Tensor, start: int = 0) -> torch.Tensor:
    return functional.pad(target.clamp(min=0), (1, -1), value=start)


def some_loss(states: torch.Tensor) -> torch.Tensor:
    """A sum in which every state has a weight of its own (squares of normed states would be constant)."""
    return (states * torch.linspace(-1, 1, states.numel()).view_as(states).sin()).sum()


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("t5") / request.param
    model = rival(request.param)
    model.save_pretrained(path)
    return model, load(path)


def test_states_logits_loss_and_gradients_equal_transformers(pair):
    model, net = pair
    tokens, mask, target = texts(model.config.vocab_size)
    theirs = model(input_ids=tokens, attention_mask=mask.long(), labels=target)
    states = net["encoder"](tokens, mask)
    decoded = net["decoder"](shifted(target), states, mask)
    logits = net["decoder"].logits(decoded)
    loss = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100)
    close(states[mask], theirs.encoder_last_hidden_state[mask])
    close(logits, theirs.logits)
    close(loss, theirs.loss)

    model.zero_grad()
    net.zero_grad()
    theirs.loss.backward()
    loss.backward()
    expected = {name: weight.grad for name, weight in model.named_parameters()}
    found = hub_weights({name: weight.grad for name, weight in net.named_parameters()})
    assert set(found) == set(expected)
    for name, gradient in found.items():
        close(gradient, expected[name])


def test_written_folder_reads_back_in_transformers(pair, tmp_path):
    model, net = pair
    config = net["encoder"].config
    write_hub(tmp_path, config.to_hub(), hub_weights(net.state_dict()))
    again = type(model).from_pretrained(tmp_path).eval()
    tokens, mask, target = texts(config.vocab_size)
    inputs = {"input_ids": tokens, "attention_mask": mask.long(), "labels": target}
    with torch.no_grad():
        # the same weights in the same code: equal to the last bit
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    assert load(tmp_path)["encoder"].config == config


def test_cross_attention_scores_equal_transformers_before_the_softmax(pair):
    model, net = pair
    tokens, mask, target = texts(model.config.vocab_size)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        theirs = model(input_ids=tokens, attention_mask=mask.long(), labels=target, output_attentions=True)
        memory = net["encoder"](tokens, mask)
        plain = net["decoder"](shifted(target), memory, mask)
        states, scores = net["decoder"](shifted(target), memory, mask, return_attention=True)
    model.set_attn_implementation("sdpa")
    weights = scores.masked_fill(~mask[:, None, None, None], -torch.inf).softmax(-1)
    close(weights, torch.stack(theirs.cross_attentions, dim=1))
    close(states, plain, SAME)


def test_an_untied_umt5_head_is_not_scaled(tmp_path):
    """The original code scales a head only where it is the embedding; transformers 5 scales umT5's always."""
    model = rival("umt5")
    model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.save_pretrained(tmp_path)
    net = load(tmp_path)
    tokens, mask, target = texts()
    with torch.no_grad():
        theirs = model(input_ids=tokens, attention_mask=mask.long(), labels=target).logits
        ours = net["decoder"].logits(net["decoder"](shifted(target), net["encoder"](tokens, mask), mask))
    close(ours, theirs * model.config.d_model**0.5)


@pytest.mark.parametrize("model_type", ["t5", "umt5"])
def test_every_cut_gives_exactly_the_whole(model_type):
    encoder = tiny(model_type=model_type)["encoder"]
    tokens, mask, _ = texts()
    whole = encoder(tokens, mask)
    for cut in range(encoder.num_layers + 1):
        below = encoder.run(encoder.embed(tokens), mask, stop=cut)
        assert torch.equal(encoder.finish(encoder.run(below, mask, start=cut)), whole)
        given = encoder.run(below, mask, start=cut, bias=encoder.bias(tokens.shape[1]))
        assert torch.equal(encoder.finish(given), whole)


def test_bias_is_shared_or_per_layer_and_follows_positions():
    for model_type, distinct in (("t5", 1), ("umt5", 3)):
        encoder = tiny(model_type=model_type)["encoder"]
        bias = encoder.bias(9)
        assert len(bias) == 3
        assert len({id(table) for table in bias}) == distinct
        assert bias[0].shape == (1, 3, 9, 9)
        chosen = encoder.bias_between(torch.tensor([[4, 5]]), torch.arange(9)[None])
        assert torch.equal(chosen[-1], bias[-1][:, :, 4:6])


def test_a_wrong_cut_is_refused():
    encoder = tiny()["encoder"]
    tokens, mask, _ = texts()
    states = encoder.embed(tokens)
    with pytest.raises(ValueError, match="start=2, stop=9 of 3 layers; 0 <= start <= stop <= 3"):
        encoder.run(states, mask, start=2, stop=9)


@pytest.mark.parametrize("model_type", ["t5", "umt5"])
@pytest.mark.parametrize("target_tokens", [1, 10**6], ids=["folded", "projected"])
def test_cached_decoding_equals_uncached(model_type, target_tokens):
    net = tiny(model_type=model_type)
    tokens, mask, target = texts()
    target = target.clamp(min=0)
    memory = net["encoder"](tokens, mask)
    whole = net["decoder"](target, memory, mask)
    cache = net["decoder"].new_cache(memory, mask, target_tokens=target_tokens)
    assert (cache.layers[0].cross_keys is None) == (target_tokens == 1)
    parts = [net["decoder"](piece, cache=cache) for piece in target.split([1, 3, 2], dim=1)]
    assert cache.length == target.shape[1]
    close(torch.cat(parts, dim=1), whole, SAME)


def test_rows_that_share_a_memory_equal_copied_memories():
    net = tiny()
    tokens, mask, _ = texts()
    memory = net["encoder"](tokens, mask)
    target = torch.randint(2, 40, (6, 4), generator=torch.Generator().manual_seed(1))
    copied = net["decoder"](target, memory.repeat_interleave(2, 0), mask.repeat_interleave(2, 0))
    for sharing in (
        net["decoder"](target, memory, mask),
        net["decoder"](target, cache=net["decoder"].new_cache(memory, mask, target_tokens=1)),
        net["decoder"](target, cache=net["decoder"].new_cache(memory, mask, target_tokens=10**6)),
    ):
        close(sharing, copied, SAME)
    attended = net["decoder"](target, memory, mask, return_attention=True)[1]
    assert attended.shape == (6, 3, 3, 4, 21)
    with pytest.raises(ValueError, match="5 rows of target tokens for 3 memories; the rows must be a multiple"):
        net["decoder"](target[:5], memory, mask)


@pytest.mark.parametrize("copied", [False, True], ids=["shared memory", "own memory"])
def test_reordered_cache_continues_the_chosen_rows(copied):
    net = tiny()
    tokens, mask, _ = texts()
    memory = net["encoder"](tokens, mask)
    wide = (memory.repeat_interleave(2, 0), mask.repeat_interleave(2, 0))
    target = torch.randint(2, 40, (6, 4), generator=torch.Generator().manual_seed(1))
    order = torch.tensor([1, 1, 3, 2, 4, 4])
    cache = net["decoder"].new_cache(*(wide if copied else (memory, mask)))
    net["decoder"](target[:, :3], cache=cache)
    last = net["decoder"](target[:, 3:], cache=cache.reorder(order))
    chosen = torch.cat((target[order, :3], target[:, 3:]), dim=1)
    close(last[:, 0], net["decoder"](chosen, *wide)[:, -1], SAME)


def test_folded_and_projected_cross_attention_give_equal_states_and_gradients(monkeypatch):
    results = []
    for fold in (True, False):
        monkeypatch.setattr(memory_decoder, "folding_is_cheaper", lambda *_, fold=fold, **__: fold)
        net = tiny()
        tokens, mask, target = texts()
        memory = net["encoder"](tokens, mask)
        states = net["decoder"](target.clamp(min=0), memory, mask)
        some_loss(states).backward()
        results.append((states, {name: weight.grad for name, weight in net.named_parameters()}))
    (folded, folded_gradients), (projected, projected_gradients) = results
    close(folded, projected, SAME)
    for name, gradient in projected_gradients.items():
        # a sum over all positions of products of such differences: one digit more
        close(folded_gradients[name], gradient, 10 * SAME)


def test_folding_is_chosen_for_short_answers_over_long_memories():
    sizes = {"heads": 12, "head_dim": 64, "memory_dim": 768}
    assert attention.folding_is_cheaper(8, 5120, **sizes)
    assert not attention.folding_is_cheaper(200, 5120, **sizes)
    assert not attention.folding_is_cheaper(60, 8, **sizes)


def test_padding_never_changes_a_text():
    net = tiny()
    tokens, mask, target = texts()
    target = target.clamp(min=0)
    memory = net["encoder"](tokens, mask)
    batched = net["decoder"](target, memory, mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = net["encoder"](tokens[row : row + 1, :length], mask[row : row + 1, :length])
        close(memory[row : row + 1, :length], alone, SAME)
        close(batched[row : row + 1], net["decoder"](target[row : row + 1], alone, mask[row : row + 1, :length]), SAME)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fold", [True, False], ids=["folded", "projected"])
def test_rows_without_a_single_key_stay_finite_forward_and_backward(dtype, fold, monkeypatch):
    monkeypatch.setattr(memory_decoder, "folding_is_cheaper", lambda *_, **__: fold)
    net = tiny().to(dtype)
    tokens, mask, target = texts()
    mask[1] = False
    states = net["encoder"](tokens, mask)
    decoded = net["decoder"](target.clamp(min=0), states, mask)
    decoded.float().square().mean().backward()
    assert torch.isfinite(states).all()
    assert torch.isfinite(decoded).all()
    assert all(torch.isfinite(weight.grad).all() for weight in net.parameters())


def test_a_row_without_keys_reads_zeros():
    query, key, value = torch.randn(3, 2, 2, 4, 8).unbind(0)
    mask = torch.tensor([[True, True, False, True], [False] * 4])
    for bias in (None, torch.randn(1, 2, 4, 4)):
        read = attention.attend(query, key, value, mask=mask, bias=bias)
        assert torch.equal(read[1], torch.zeros_like(read[1]))
        assert read[0].abs().min() > 0
    with pytest.raises(ValueError, match=r"mask has dtype torch.float32; it must be bool"):
        attention.attend(query, key, value, mask=mask.float())
    with pytest.raises(ValueError, match=r"mask has shape \(4,\)"):
        attention.attend(query, key, value, mask=mask[0])


def test_folded_attention_with_biases_equals_projecting():
    torch.manual_seed(0)
    query, memory = torch.randn(2, 3, 4, 5), torch.randn(2, 7, 6)
    key, value = nn.Linear(6, 15), nn.Linear(6, 15)
    joined = attention.score_mask(torch.arange(7) < torch.tensor([[7], [0]]), None, dtype=torch.float32)
    keys, values = (attention.split_heads(linear(memory), 3) for linear in (key, value))
    expected = attention.attend_masked(query, keys, values, joined)
    folded = attention.attend_folded(query, memory, key.weight, value.weight, joined, value_bias=value.bias)
    close(folded, expected, SAME)


def test_bfloat16_takes_norm_statistics_in_float32():
    from wellread.nn.t5_layers import RMSNorm

    torch.manual_seed(0)
    states = (torch.randn(4, 4096) * 300).bfloat16()
    norm = RMSNorm(4096, 1e-6).bfloat16()
    exact = RMSNorm(4096, 1e-6)(states.float())
    # bfloat16 keeps 8 bits: one rounding of the result is at most 2^-8; sums of 4096 squares in bfloat16
    # would be off by far more
    assert ((norm(states).float() - exact).abs() <= 2**-8 * exact.abs() + 1e-6).all()


def test_bfloat16_follows_float32():
    net, tokens_mask_target = tiny(), texts()
    tokens, mask, target = tokens_mask_target
    exact = net["encoder"](tokens, mask)
    logits = net["decoder"].logits(net["decoder"](target.clamp(min=0), exact, mask))
    net = net.to(torch.bfloat16)
    states = net["encoder"](tokens, mask)
    rough = net["decoder"].logits(net["decoder"](target.clamp(min=0), states, mask))
    assert states.dtype == rough.dtype == torch.bfloat16
    # 8 bits through three layers and back: a few per cent of the largest value
    close(states.float(), exact, 0.05)
    close(rough.float(), logits, 0.08)


def test_float16_is_refused():
    net = tiny().half()
    tokens, mask, _ = texts()
    with pytest.raises(ValueError, match="overflows in float16; use bfloat16 or float32"):
        net["encoder"](tokens, mask)


def test_gradient_checkpointing_changes_no_gradient_and_dropout_works_only_in_training():
    gradients = []
    for checkpointing in (False, True):
        net = tiny(dropout=0.3).train()
        net["encoder"].gradient_checkpointing = net["decoder"].gradient_checkpointing = checkpointing
        tokens, mask, target = texts()
        torch.manual_seed(5)
        states = net["decoder"](target.clamp(min=0), net["encoder"](tokens, mask), mask)
        some_loss(states).backward()
        gradients.append({name: weight.grad for name, weight in net.named_parameters()})
    for name, gradient in gradients[0].items():
        close(gradients[1][name], gradient, SAME)
    net = tiny(dropout=0.3)
    assert torch.equal(net["encoder"](tokens, mask), net["encoder"](tokens, mask))
    assert not torch.equal(net.train()["encoder"](tokens, mask), net.eval()["encoder"](tokens, mask))


def test_memory_that_does_not_fit_is_refused():
    decoder = tiny()["decoder"]
    tokens = torch.zeros(1, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="the decoder got no memory"):
        decoder(tokens)
    with pytest.raises(ValueError, match=r"memory \(1, 5, 8\) with mask \(1, 5\); they must be \[batch, m, 16\]"):
        decoder(tokens, torch.zeros(1, 5, 8), torch.ones(1, 5, dtype=torch.bool))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t6"}, "model_type='t6' is no T5; use one of: t5, mt5, umt5"),
        ({"feed_forward_proj": "tanh"}, "feed_forward_proj='tanh' is unknown; use one of: relu"),
        ({"d_model": None}, "config.json of a T5 lacks d_model"),
        ({"d_kv": 0, "num_heads": -1}, "head_dim=0, num_heads=-1 in a T5 config; each must be a positive"),
        ({"eos_token_id": [1, 2]}, r"eos_token_id=\[1, 2\]; a T5 has one end token"),
        ({"dropout_rate": 1.5}, "dropout_rate=1.5; it must be at least 0 and below 1"),
    ],
)
def test_config_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        T5Config.from_hub({**TINY, "model_type": "t5", **changes})


def test_old_checkpoints_load():
    """Copies of the shared embedding under other names, a tied head that is stored, a weight no net reads."""
    net = tiny()
    hub = hub_weights(net.state_dict())
    shared = hub["shared.weight"]
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    old = {**hub, "lm_head.weight": shared.clone(), "decoder.embed_tokens.weight": shared, unused: torch.zeros(8, 3)}
    assert T5Config.from_hub({**TINY, "tie_word_embeddings": True}, old).tied_head
    load_weights(tiny(), our_weights(old))
    load_weights(
        tiny()["encoder"], {name[8:]: w for name, w in our_weights(old).items() if name.startswith("encoder.")}
    )
    strange = our_weights({**hub, "encoder.block.0.adapter.weight": shared})
    with pytest.raises(ValueError, match=r"encoder\.block\.0\.adapter\.weight is unknown"):
        load_weights(tiny(), strange)
    with pytest.raises(ValueError, match=r"a T5 checkpoint has no place for copy\.gate\.weight"):
        hub_weights({**net.state_dict(), "copy.gate.weight": shared})


@pytest.mark.parametrize("model_type", ["t5", "umt5"])
def test_first_tokens_alone_equal_those_of_the_whole(model_type):
    encoder = tiny(model_type=model_type)["encoder"]
    tokens, mask, _ = texts()
    states = encoder.embed(tokens)
    close(encoder.run(states, mask, first=4), encoder.run(states, mask)[:, :4], SAME)


@pytest.mark.parametrize("model_type", ["t5", "umt5"])
def test_a_copy_of_some_layers_runs_as_they_do(model_type):
    encoder = tiny(model_type=model_type)["encoder"]
    tokens, mask, _ = texts()
    below = encoder.run(encoder.embed(tokens), mask, stop=1)
    part = encoder.with_layers(1, 3)
    assert torch.equal(part.run(below, mask), encoder.run(below, mask, start=1))
    assert part.layers[0].feed.down.weight is not encoder.layers[1].feed.down.weight
