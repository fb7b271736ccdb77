"""Our masked-LM head against `transformers`, and what is made where a checkpoint has none."""

from __future__ import annotations

import json

import pytest
import torch

from wellread.nn.building import build_from, load_reader, save_reader
from wellread.nn.masked_lm import Copyable, EncoderConfig, build_masked_reader
from wellread.nn.tokenizers import train_tokenizer

transformers = pytest.importorskip("transformers", reason="parity needs the transformers package")

TEXTS = ["the moon has no air and no water", "a planet has a moon and a year"] * 3
# float32 sums in another order differ in the seventh digit; a few layers of them stay far below 1e-4.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A hub folder with a masked-LM head, its biases and norms disturbed."""
    folder = tmp_path_factory.mktemp("hub")
    tokenizer = train_tokenizer(TEXTS, 100, kind="wordpiece")
    tokenizer.save(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    net = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=tokenizer.vocab_size, **sizes))
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    net.eval().save_pretrained(folder)
    return folder, net


def nothing_to_copy(states, tokens):
    return Copyable(states, tokens, torch.zeros_like(tokens).bool())


@torch.no_grad()
def test_words_are_those_of_the_checkpoint(folder):
    path, net = folder
    reader, tokenizer = build_from(path, kind="encoder", copy_head=False)
    reader.eval()
    tokens = torch.tensor([tokenizer.encode("the moon has no air")])
    mask = torch.ones_like(tokens).bool()
    states = reader.encoder(tokens, mask)
    theirs = net(input_ids=tokens, attention_mask=mask.long()).logits.log_softmax(-1)
    torch.testing.assert_close(reader.log_probs(states, nothing_to_copy(states, tokens)), theirs, **CLOSE)
    target = tokens.flip(1)
    each = reader.target_log_probs(states, target, nothing_to_copy(states, tokens))
    torch.testing.assert_close(each, theirs.gather(2, target[..., None])[..., 0], **CLOSE)


@torch.no_grad()
def test_words_may_be_copied_from_the_passage(folder):
    reader, tokenizer = build_from(folder[0], kind="encoder")
    reader.eval()
    tokens = torch.tensor([tokenizer.encode("the moon has no air")])
    states = reader.encoder(tokens, torch.ones_like(tokens).bool())
    passage = torch.zeros_like(tokens).bool()
    passage[:, 3:] = True
    copyable = Copyable(states, tokens, passage)
    every = reader.log_probs(states, copyable)
    torch.testing.assert_close(every.exp().sum(-1), torch.ones(tokens.shape), **CLOSE)
    torch.testing.assert_close(
        reader.target_log_probs(states, tokens, copyable), every.gather(2, tokens[..., None])[..., 0], **CLOSE
    )
    silent = reader.log_probs(states, nothing_to_copy(states, tokens))
    more = (every - silent).exp()[0, 0] > 1  # only what stands in the passage can become likelier
    assert set(more.nonzero().flatten().tolist()) <= set(tokens[0, 3:].tolist())


def test_a_sentence_encoder_gets_a_new_head(folder, tmp_path):
    path, net = folder
    net.bert.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text((path / "tokenizer.json").read_text())
    first, second, other = (build_from(tmp_path, kind="encoder", seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first.head.dense.weight, second.head.dense.weight)
    assert not torch.equal(first.head.dense.weight, other.head.dense.weight)
    assert torch.equal(first.encoder.embed_tokens.weight, other.encoder.embed_tokens.weight)


def test_saved_and_loaded(folder, tmp_path):
    reader, tokenizer = build_from(folder[0], kind="encoder")
    save_reader(tmp_path, reader, tokenizer)
    assert json.loads((tmp_path / "reader.json").read_text())["kind"] == "encoder"
    again, _ = load_reader(tmp_path)
    assert again.config == reader.config
    known = reader.state_dict()
    assert all(torch.equal(weight, known[name]) for name, weight in again.state_dict().items())


def test_from_nothing_but_texts():
    sizes = {"vocab_size": 100, "dim": 16, "layers": 2, "heads": 2}
    one, tokenizer = build_from("scratch", kind="encoder", texts=TEXTS, **sizes)
    two, _ = build_from("scratch", kind="encoder", texts=TEXTS, **sizes)
    assert one.mask_token == tokenizer.mask
    assert all(torch.equal(*pair) for pair in zip(one.parameters(), two.parameters(), strict=True))


def test_what_such_nets_cannot_be_made_of(tmp_path):
    with pytest.raises(ValueError, match="a reader from scratch learns its vocabulary from texts"):
        build_from("scratch", kind="encoder")
    with pytest.raises(ValueError, match="source='nowhere' is no folder; give a hub folder, 'default' or 'scratch'"):
        build_from("nowhere", kind="encoder")
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ValueError, match="holds model_type='t5'; nets that fill masks are made from the family 'bert'"):
        build_from(tmp_path, kind="encoder")
    with pytest.raises(ValueError, match="encoder model_type='t5'; an encoder with a masked-LM head is of 'bert'"):
        EncoderConfig({"model_type": "t5"}, mask_token=4)
    with pytest.raises(ValueError, match="mask_token=40, but the vocabulary has 20 entries; give a token inside it"):
        build_masked_reader(EncoderConfig({"model_type": "bert", "vocab_size": 20}, mask_token=40))
