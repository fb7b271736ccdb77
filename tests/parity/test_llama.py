"""The Llama family against transformers: states, logits, loss, greedy text; folders both can read."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional

from wellread.nn.llama import LlamaDecoder
from wellread.nn.llama_hub import LlamaConfig

transformers = pytest.importorskip("transformers")

# float32 sums in another order and another softmax kernel differ by some 1e-6 of the largest value; a wrong rotation,
# norm or group of heads is far above 1e-4.
PARITY = 1e-4
TINY = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
}
FAMILY = {
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False, "num_key_value_heads": 6},
    "wide-heads": {"tie_word_embeddings": False, "head_dim": 8, "attention_bias": True},
    "theta": {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 50.0, "rope_type": "default"}},
}


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= PARITY * theirs.abs().max()


@pytest.fixture(params=list(FAMILY))
def pair(request, tmp_path):
    """A random model of theirs with all weights moved, and ours from its folder."""
    torch.manual_seed(3)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY | FAMILY[request.param])).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    theirs.save_pretrained(tmp_path)
    return LlamaDecoder.from_hub(tmp_path).eval(), theirs


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(3, 50, (2, 40), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, 29:] = False
    return tokens.masked_fill(~mask, 0), mask


@torch.no_grad()
def test_states_logits_and_loss_are_theirs(pair):
    ours, theirs = pair
    tokens, mask = texts()
    states = ours(tokens, mask)
    said = theirs(tokens, attention_mask=mask.long(), labels=tokens.masked_fill(~mask, -100), output_hidden_states=True)
    close(states[mask], said.hidden_states[-1][mask])
    logits = ours.logits(states)
    close(logits[mask], said.logits[mask])
    wanted = tokens.masked_fill(~mask, -100)[:, 1:]
    loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), wanted.flatten(), ignore_index=-100)
    torch.testing.assert_close(loss, said.loss, rtol=PARITY, atol=0)


@torch.no_grad()
def test_states_between_any_two_layers_are_theirs(pair):
    ours, theirs = pair
    tokens, mask = texts()
    tokens, mask = tokens[:1], mask[:1]
    every = theirs(tokens, output_hidden_states=True).hidden_states
    joined, by = ours.joined(every[0], mask), ours.rotation(torch.arange(40)[None])
    for start in range(2):
        close(ours.run(every[start], joined, by, start=start, stop=start + 1), every[start + 1])
    # Of the last layer they only give the states after the norm.
    close(ours.finish(ours.run(every[2], joined, by, start=2)), every[3])


@torch.no_grad()
def test_greedy_text_with_a_cache_is_theirs(pair):
    ours, theirs = pair
    tokens = texts()[0][:1, :7]
    written = theirs.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=12, do_sample=False)
    cache, new, said = ours.new_cache(1), tokens, []
    for _ in range(written.shape[1] - 7):
        past = cache.mask.shape[1]
        cache.mask = torch.ones(1, past + new.shape[1], dtype=torch.bool)
        states = ours.embed(new)
        by = ours.rotation(torch.arange(past, past + new.shape[1])[None])
        states = ours.finish(ours.run(states, ours.joined(states, cache.mask), by, cache=cache))
        new = ours.logits(states[:, -1:]).argmax(-1)
        said.append(int(new))
    assert said == written[0, 7:].tolist()


@torch.no_grad()
def test_they_read_what_we_write(pair, tmp_path):
    ours, theirs = pair
    ours.to_hub(tmp_path / "ours")
    again, told = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    tokens = texts()[0][:1]
    close(again.eval()(tokens).logits, theirs(tokens).logits)
    assert LlamaDecoder.from_hub(tmp_path / "ours").config == ours.config


def test_left_padding_changes_nothing(pair):
    ours, _ = pair
    short = texts()[0][1:, :29]
    left = functional.pad(short, (5, 0))
    with torch.no_grad():
        plain, padded = ours(short, short > 0), ours(left, left > 0)
    close(padded[:, 5:], plain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mistral"}, "model_type='mistral'; this net reads model_type 'llama'"),
        ({"rope_scaling": {"type": "linear"}}, "rope_type='linear'; only rotary positions of type 'default'"),
        ({"mlp_bias": True}, "mlp_bias=true; this net's feed-forward part has no biases"),
        ({"hidden_size": None}, "config.json lacks hidden_size; download or copy it again"),
        ({"num_key_value_heads": 4}, "num_heads=6 with num_key_heads=4; the heads of queries must be a multiple"),
        ({"hidden_act": "elu"}, "activation='elu'; it must be one of: silu, gelu, relu"),
        ({"head_dim": 3}, "head_dim=3; rotary positions need an even width"),
        ({"bos_token_id": 77}, "start_token=77, but the vocabulary has 50 entries"),
        ({"num_hidden_layers": 0}, "num_layers=0; it must be at least 1"),
    ],
)
def test_what_is_not_this_family_is_refused(changes, message, tmp_path):
    mapping = json.loads(transformers.LlamaConfig(**TINY).to_json_string(use_diff=False)) | changes
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        LlamaConfig.from_hub(mapping)


def test_layers_out_of_range(pair):
    ours, _ = pair
    with pytest.raises(ValueError, match="layers start=2 to stop=9; they must satisfy 0 <= start <= stop <= 3"):
        ours.run(torch.zeros(1, 1, 24), None, None, start=2, stop=9)
