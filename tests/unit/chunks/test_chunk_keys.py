"""Keys of chunks: what they are, that a kill changes nothing, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from chunk_pieces import Killed, contents, corpus, cut, dying

from wellread.nn.bert import BertEncoder
from wellread.retrieval import chunk_keys
from wellread.retrieval.chunk_keys import ChunkEncoder, Keys, write_keys
from wellread.retrieval.chunks import documents_of


def test_a_key_is_the_mean_of_the_states(tmp_path, tokenizer, encoder):
    texts = cut(tmp_path / "c", tokenizer, list(documents_of(corpus(3))))
    keys = write_keys(texts, encoder)
    assert (len(keys), keys.dim) == (texts.num_chunks, 16)
    for chunk in (0, 3, texts.num_chunks - 1):
        words = encoder.tokenizer
        tokens = torch.tensor([[words.cls, *words.encode(texts.chunk_text(chunk)), words.sep]])
        states = encoder.net(tokens, torch.ones_like(tokens, dtype=torch.bool))[0]
        # Stored with 11 bits; padding in a batch moves the last bits of float32 only.
        np.testing.assert_allclose(keys[chunk], states.mean(0).numpy(), rtol=2e-3, atol=2e-3)
    texts = cut(tmp_path / "u", tokenizer, list(documents_of(corpus(3))))
    unit = write_keys(texts, ChunkEncoder(encoder.name, precision="fp32"))[:]
    np.testing.assert_allclose(unit, keys[:] / np.linalg.norm(keys[:], axis=1, keepdims=True), rtol=3e-3, atol=3e-3)
    assert np.array_equal(keys[2:5], keys[np.array([2, 3, 4])])


@pytest.mark.parametrize("layers", [0, 2])
def test_rare_tokens_count_more(tmp_path, tokenizer, encoder_folder, layers):
    options = {"layers": layers, "rarity": 0.05, "precision": "fp32"}
    made = ChunkEncoder(str(encoder_folder), **options)
    texts = cut(tmp_path / "c", tokenizer)
    with pytest.raises(ValueError, match=r"rarity=0.05, but frequencies were not learnt; call fit\(texts\) first"):
        made.encode(["moss"])
    before = made.fingerprint
    keys = write_keys(texts, made.fit(texts))
    assert made.fingerprint != before
    rows = made.tokenizer.encode_batch([texts.chunk_text(chunk) for chunk in range(texts.num_chunks)])
    counts = np.bincount(np.concatenate(rows), minlength=made.tokenizer.vocab_size)
    weights = 0.05 / (0.05 + counts / counts.sum())

    def mean(row):
        words = made.tokenizer
        row = row if layers == 0 else [words.cls, *row, words.sep]
        tokens = torch.tensor([row])
        states = made.net(tokens, torch.ones_like(tokens, dtype=torch.bool))[0]
        if layers == 0:
            states = made.net.placing.norm(made.net.embed_tokens(tokens[0]) + made.net.placing.segments.weight[0])
        return (states.numpy() * weights[row][:, None]).sum(0) / weights[row].sum()

    means = np.stack([mean(row) for row in rows])
    right = means - means.mean(0)
    # The mean of all keys is learnt from every chunk here; what is left is float16 and the order of sums.
    np.testing.assert_allclose(keys[:], right / np.linalg.norm(right, axis=1, keepdims=True), atol=4e-3)
    again = Keys.open(texts.path).encoder()
    assert again.fingerprint == made.fingerprint
    np.testing.assert_array_equal(again.encode(["moss wind"]), made.encode(["moss wind"]))


def test_chunks_of_the_encoders_own_tokens_are_not_tokenised_again(tmp_path, encoder, monkeypatch):
    texts = cut(tmp_path / "c", encoder.tokenizer, list(documents_of(corpus(2))))
    direct = encoder.encode_tokens([texts.chunk(chunk).tolist() for chunk in range(texts.num_chunks)])
    monkeypatch.setattr(ChunkEncoder, "encode", None)
    # The rounding to 11 bits when they are stored.
    np.testing.assert_allclose(write_keys(texts, encoder)[:], direct, rtol=1e-3, atol=1e-3)


def test_int8_keys_take_half_and_are_close(tmp_path, tokenizer, encoder):
    texts = [cut(tmp_path / name, tokenizer, list(documents_of(corpus(3)))) for name in ("a", "b")]
    full, small = write_keys(texts[0], encoder), write_keys(texts[1], encoder, storage="int8")
    assert (tmp_path / "b/keys/keys.bin").stat().st_size * 2 == (tmp_path / "a/keys/keys.bin").stat().st_size
    # Half a step of 127 steps up to the greatest value of a row, and float16's own rounding.
    assert (np.abs(full[:] - small[:]).max(1) <= np.abs(full[:]).max(1) * (0.5 / 127 + 1e-3)).all()


def test_keys_go_on_after_a_kill(tmp_path, tokenizer, encoder, monkeypatch):
    monkeypatch.setattr(chunk_keys, "BLOCK", 20)
    whole, broken = (cut(tmp_path / name, tokenizer, list(documents_of(corpus(5)))) for name in ("a", "b"))
    write_keys(whole, encoder)
    with monkeypatch.context() as patch:
        patch.setattr(ChunkEncoder, "encode", dying(ChunkEncoder.encode, 2))
        with pytest.raises(Killed):
            write_keys(broken, encoder)
    with pytest.raises(ValueError, match=r"holds no finished keys"):
        Keys.open(tmp_path / "b")
    write_keys(broken, encoder)
    assert contents(tmp_path / "a/keys") == contents(tmp_path / "b/keys")


def test_keys_of_other_making_are_refused(tmp_path, tokenizer, encoder, encoder_folder):
    texts = cut(tmp_path / "c", tokenizer, list(documents_of(corpus(2))))
    write_keys(texts, encoder)
    with pytest.raises(ValueError, match=r"holds keys of layers=2 \(now 1\), .*; give the same again, or remove"):
        write_keys(texts, ChunkEncoder(str(encoder_folder), layers=1, unit=False, precision="fp32"))
    with pytest.raises(ValueError, match=r"storage='int4' is unknown; use one of: float16, int8"):
        write_keys(texts, encoder, storage="int4")
    with pytest.raises(ValueError, match=r"layers=3; .* has 2: use 0 to 2"):
        ChunkEncoder(str(encoder_folder), layers=3)
    with pytest.raises(ValueError, match=r"rarity=-1 is negative; it must be 0"):
        ChunkEncoder(str(encoder_folder), rarity=-1)
    with pytest.raises(ValueError, match=r"precision='fp16' is unknown; use one of: bf16, fp32"):
        ChunkEncoder(str(encoder_folder), precision="fp16")
    with pytest.raises(ValueError, match=r"encoder 'nowhere' is no folder; give one in hub layout, or all-MiniLM"):
        ChunkEncoder("nowhere")


def test_a_changed_encoder_is_noticed(tmp_path, tokenizer, encoder_folder):
    import shutil

    shutil.copytree(encoder_folder, tmp_path / "e")
    keys = write_keys(cut(tmp_path / "c", tokenizer), ChunkEncoder(str(tmp_path / "e"), precision="fp32"))
    assert keys.encoder().dim == 16
    with torch.random.fork_rng():
        BertEncoder(BertEncoder.from_hub(encoder_folder).config).to_hub(tmp_path / "e")
    with pytest.raises(ValueError, match=r"encoder .* is not the one that .* was made with"):
        keys.encoder()
