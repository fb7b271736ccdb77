"""Readers of one family and of two: memory, probabilities, config, hub folders."""

from __future__ import annotations

import pytest
import torch

from wellread.config import from_mapping, to_mapping
from wellread.nn.bert_hub import BertConfig
from wellread.nn.encoder_decoder import EncoderDecoder, ReaderConfig, build_reader
from wellread.nn.t5_hub import T5Config

VOCAB = 40
# Float32 sums of 40 probabilities in another order.
CLOSE = 1e-5

T5 = T5Config(
    vocab_size=VOCAB, dim=16, head_dim=4, inner_dim=24, num_heads=4, num_layers=2, num_decoder_layers=1
).to_hub()
BERT = BertConfig(
    vocab_size=VOCAB, dim=24, num_layers=2, num_heads=4, ffn_dim=32, max_positions=20, start_token=1, end_token=2
).to_hub()
PAIRS = {"t5": (T5, T5), "bert": (BERT, BERT | {"num_hidden_layers": 1}), "mixed": (BERT, T5)}


def reader_of(pair: str, *, copy_head: bool) -> EncoderDecoder:
    torch.manual_seed(0)
    return build_reader(ReaderConfig(*PAIRS[pair], copy_head=copy_head, copy_dim=8 * copy_head)).eval()


@pytest.fixture(params=PAIRS)
def pair(request) -> str:
    return request.param


@pytest.fixture(params=[False, True], ids=["says", "copies"])
def reader(request, pair) -> EncoderDecoder:
    return reader_of(pair, copy_head=request.param)


def answer(reader: EncoderDecoder, *, padding: int = 0):
    """Decoder states, the target, and what the copy head needs."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, VOCAB, (2, 9), generator=generator)
    mask = torch.arange(9) < torch.tensor([[9], [6]])
    target = torch.randint(3, VOCAB, (2, 4), generator=generator)
    tokens = torch.nn.functional.pad(tokens, (0, padding))
    mask = torch.nn.functional.pad(mask, (0, padding))
    states = reader.encoder(tokens, mask)
    decoded = reader.decoder(target, reader.memory(states), mask)
    passage = torch.where(mask, 0, -1)
    copying = {"copy_states": reader.copy_keys(states, passage), "copy_tokens": tokens, "copy_mask": mask}
    return decoded, target, copying


def test_log_probs(reader):
    decoded, target, copying = answer(reader)
    log_probs = reader.log_probs(decoded, **copying)
    assert log_probs.shape == (2, 4, VOCAB)
    assert torch.allclose(log_probs.exp().sum(-1), torch.ones(2, 4), atol=CLOSE)
    alone = reader.target_log_probs(decoded, target, **copying)
    assert torch.allclose(alone, log_probs.gather(2, target.unsqueeze(-1)).squeeze(-1), atol=CLOSE)


def test_without_a_copy_head_it_is_the_softmax(pair):
    reader = reader_of(pair, copy_head=False)
    decoded, _, copying = answer(reader)
    assert copying["copy_states"] is None
    assert torch.equal(reader.log_probs(decoded), reader.decoder.logits(decoded).log_softmax(-1))
    assert torch.equal(reader.log_probs(decoded, **copying), reader.log_probs(decoded))


def test_with_a_copy_head_it_is_not(pair):
    reader = reader_of(pair, copy_head=True)
    decoded, _, copying = answer(reader)
    plain = reader.decoder.logits(decoded).log_softmax(-1)
    assert not torch.allclose(reader.log_probs(decoded, **copying), plain, atol=1e-2)


def test_padding_changes_nothing(reader):
    decoded, _, copying = answer(reader)
    wider, _, more = answer(reader, padding=5)
    assert torch.allclose(reader.log_probs(wider, **more), reader.log_probs(decoded, **copying), atol=CLOSE)


def test_float32_under_autocast(reader):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoded, target, copying = answer(reader)
        log_probs = reader.log_probs(decoded, **copying)
        alone = reader.target_log_probs(decoded, target, **copying)
    assert log_probs.dtype == alone.dtype == torch.float32
    # Were the softmax taken in bfloat16, sums would be off by some thousandths.
    assert torch.allclose(log_probs.exp().sum(-1), torch.ones(2, 4), atol=CLOSE)
    assert torch.allclose(alone, log_probs.gather(2, target.unsqueeze(-1)).squeeze(-1), atol=CLOSE)


def test_float32_with_bfloat16_weights(reader):
    decoded, target, copying = answer(reader.bfloat16())
    log_probs = reader.log_probs(decoded, **copying)
    alone = reader.target_log_probs(decoded, target, **copying)
    assert log_probs.dtype == alone.dtype == torch.float32
    assert torch.allclose(log_probs.exp().sum(-1), torch.ones(2, 4), atol=CLOSE)
    assert torch.allclose(alone, log_probs.gather(2, target.unsqueeze(-1)).squeeze(-1), atol=CLOSE)


def test_bridge_where_widths_differ(pair):
    reader = reader_of(pair, copy_head=False)
    states = torch.randn(1, 3, reader.encoder.dim)
    if pair == "mixed":
        assert reader.memory(states).shape == (1, 3, reader.decoder.dim)
    else:
        assert reader.bridge is None
        assert reader.memory(states) is states


def test_word_embeddings_are_shared_within_a_family(pair):
    reader = reader_of(pair, copy_head=False)
    shared = reader.encoder.embed_tokens is reader.decoder.embed_tokens
    assert shared == (pair != "mixed")


def test_decoder_sizes_and_tokens(pair):
    reader = reader_of(pair, copy_head=False)
    assert (reader.encoder.num_layers, reader.decoder.num_layers) == (2, 1)
    expected = (1, 2, 0) if pair == "bert" else (0, 1, 0)
    assert (reader.start_token, reader.end_token, reader.pad_token) == expected


def test_config_round_trip(reader):
    config = from_mapping(ReaderConfig, to_mapping(reader.config))
    twin = build_reader(config)
    assert twin.config == config
    shapes = {name: value.shape for name, value in reader.state_dict().items()}
    assert {name: value.shape for name, value in twin.state_dict().items()} == shapes


def test_tiny_overfit_trains_every_part():
    """Eight fixed texts; the answer is the word behind the asked-for one."""
    torch.manual_seed(2)
    reader = build_reader(ReaderConfig(BERT, BERT | {"num_hidden_layers": 1}, copy_head=True, copy_dim=24))
    reader.eval()  # no dropout: a few steps must do
    optimiser = torch.optim.Adam(reader.parameters(), lr=5e-3)
    tokens = torch.stack([torch.randperm(VOCAB - 3)[:8] + 3 for _ in range(8)])
    mask, passage = torch.ones_like(tokens, dtype=torch.bool), torch.zeros_like(tokens)
    place = torch.randint(0, 7, (8, 1))
    asked, target = tokens.gather(1, place), tokens.gather(1, place + 1)
    for _ in range(60):
        states = reader.encoder(tokens, mask)
        decoded = reader.decoder(asked, reader.memory(states), mask)
        keys = reader.copy_keys(states, passage)
        log_target = reader.target_log_probs(decoded, target, copy_states=keys, copy_tokens=tokens, copy_mask=mask)
        loss = -log_target.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1  # from log 40 = 3.7
    with torch.no_grad():
        said = reader.target_log_probs(
            decoded, target, copy_states=keys, copy_tokens=tokens, copy_mask=torch.zeros_like(mask)
        )
    assert said.mean() < log_target.mean() - 0.1  # without copying it knows less
    trained = {name for name, item in reader.named_parameters() if item.grad is not None and item.grad.any()}
    assert {"copy.key.weight", "copy.query.weight", "copy.gate.weight", "encoder.embed_tokens.weight"} <= trained


@pytest.mark.parametrize("tied", [True, False])
def test_t5_hub_folder_both_ways(tmp_path, tied):
    torch.manual_seed(3)
    config = T5 | {"tie_word_embeddings": tied, "feed_forward_proj": "gated-gelu"}
    reader = build_reader(ReaderConfig(config, config)).eval()
    reader.to_hub(tmp_path)
    back = EncoderDecoder.from_hub(tmp_path).eval()
    assert back.config == reader.config
    (first, _, _), (second, _, _) = answer(reader), answer(back)
    assert torch.equal(first, second)
    assert torch.equal(reader.log_probs(first), back.log_probs(second))


def test_hub_errors(tmp_path):
    with pytest.raises(ValueError, match=r"made of a bert encoder and a t5 decoder, bridge; .* Use save_reader"):
        reader_of("mixed", copy_head=False).to_hub(tmp_path)
    with pytest.raises(ValueError, match=r"a t5 encoder and a t5 decoder, copy; "):
        reader_of("t5", copy_head=True).to_hub(tmp_path)
    reader_of("bert", copy_head=False).encoder.to_hub(tmp_path)
    with pytest.raises(ValueError, match=r"holds model_type='bert'; .* build_from_bert"):
        EncoderDecoder.from_hub(tmp_path)


def test_copy_head_errors():
    reader = reader_of("bert", copy_head=True)
    with pytest.raises(ValueError, match=r"this reader has a copy head; give copy_states"):
        reader.log_probs(torch.zeros(1, 2, 24))
    with pytest.raises(ValueError, match=r"the encoder knows 40 words and the decoder 50; a copy head needs one"):
        build_reader(ReaderConfig(BERT, T5 | {"vocab_size": 50}, copy_head=True, copy_dim=4))


def test_config_errors():
    with pytest.raises(ValueError, match=r"decoder model_type='gpt2' is unknown; use one of: t5, mt5, umt5, bert"):
        ReaderConfig(BERT, {"model_type": "gpt2"})
    with pytest.raises(ValueError, match=r"copy_dim=0; a copy head needs a width of at least 1"):
        ReaderConfig(BERT, BERT, copy_head=True)
