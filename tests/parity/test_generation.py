"""Greedy and beam search over our T5 write what transformers' generate writes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wellread.nn.checkpoints import load_weights, read_hub
from wellread.nn.t5 import T5Config, T5Decoder, T5Encoder, our_weights
from wellread.reading.decoding import generate

transformers = pytest.importorskip("transformers")

# Scores are sums of a few float32 log-probabilities from two kernels that agree to about 1e-6.
SCORES = 1e-4
MAX_TOKENS = 8

SIZES = {
    "vocab_size": 12,  # a small vocabulary, so that the end token is often among the best
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_heads": 4,
    "num_layers": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
# family -> (class prefix, sizes that differ, head untied in memory)
FAMILIES = {
    "t5": ("T5", {}, False),
    "v1.1": ("T5", GATED, True),
    "flan": ("T5", {**GATED, "d_kv": 8, "num_heads": 3}, True),
    "mt5": ("MT5", {}, True),
    "umt5": ("UMT5", {}, False),
    "byt5": ("T5", {**GATED, "vocab_size": 24, "num_layers": 3, "num_decoder_layers": 1}, True),
}
SEARCHES = {
    "greedy": {},
    "greedy, at least 5": {"min_tokens": 5},
    "2 beams": {"num_beams": 2},
    "4 beams": {"num_beams": 4},
    "4 beams, at least 4": {"num_beams": 4, "min_tokens": 4},
    "3 beams, early": {"num_beams": 3, "early_stopping": True},
    "3 beams, early, long": {"num_beams": 3, "early_stopping": True, "length_penalty": 2.0},
    "3 beams, long": {"num_beams": 3, "length_penalty": 2.0},
    "3 beams, short": {"num_beams": 3, "length_penalty": -1.0},
    "3 beams, sums": {"num_beams": 3, "length_penalty": 0.0},
    "3 beams, never": {"num_beams": 3, "early_stopping": "never"},
}


def rival(family: str, seed: int):
    prefix, sizes, untied = FAMILIES[family]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{prefix}Config")(**{**SIZES, **sizes})
    model = getattr(transformers, f"{prefix}ForConditionalGeneration")(config).eval()
    if untied:
        model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
        model.lm_head.weight[1] *= 3  # the end token is often the best, and as often the last
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def pairs(request, tmp_path_factory):
    """Two random models of a family beside ours."""
    found = []
    for seed in (2, 3):
        path = tmp_path_factory.mktemp("generation")
        model = rival(request.param, seed)
        model.save_pretrained(path)
        mapping, weights = read_hub(path)
        config = T5Config.from_hub(mapping, weights)
        encoder = T5Encoder(config)
        decoder = T5Decoder(config, embed_tokens=encoder.embed_tokens)
        net = nn.ModuleDict({"encoder": encoder, "decoder": decoder}).eval()
        load_weights(net, our_weights(weights))
        found.append((model, net))
    return found


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(2, 12, (10, 14), generator=torch.Generator().manual_seed(2))
    mask = torch.arange(14) < torch.tensor([14, 9, 3, 12, 1, 7, 2, 10, 14, 5])[:, None]
    return tokens.masked_fill(~mask, 0), mask


def ours(net: nn.ModuleDict, tokens: torch.Tensor, mask: torch.Tensor, **options):
    decoder = net["decoder"]

    def step(new, cache):
        states = decoder(new, cache=cache)
        return decoder.logits(states)[:, -1].log_softmax(-1), cache

    with torch.no_grad():
        cache = decoder.new_cache(net["encoder"](tokens, mask), mask)
    special = {name: getattr(decoder, name) for name in ("start_token", "end_token", "pad_token")}
    return generate(step, cache, **special, batch=len(tokens), max_tokens=MAX_TOKENS, **options)


@pytest.mark.parametrize("search", SEARCHES)
def test_writes_what_transformers_writes(pairs, search):
    options = SEARCHES[search]
    renamed = {**options, "min_new_tokens": options.get("min_tokens", 0)}
    renamed.pop("min_tokens", None)
    tokens, mask = texts()
    ended = 0
    for model, net in pairs:
        theirs = model.generate(
            input_ids=tokens,
            attention_mask=mask.long(),
            do_sample=False,
            max_new_tokens=MAX_TOKENS,
            output_scores=True,
            return_dict_in_generate=True,
            **renamed,
        )
        found = ours(net, tokens, mask, **options)
        written = torch.arange(found.tokens.shape[1]) < found.lengths[:, None]
        # what transformers' beam search writes behind the end is the end token where pad is 0
        expected = theirs.sequences[:, 1:].masked_fill(~written, model.config.pad_token_id)
        assert torch.equal(found.tokens, expected)
        ended += int((found.lengths < MAX_TOKENS).sum())
        assert (found.lengths >= options.get("min_tokens", 1)).all()
        if "num_beams" in options:
            final = found.scores / found.lengths ** options.get("length_penalty", 1.0)
            torch.testing.assert_close(final, theirs.sequences_scores, rtol=SCORES, atol=SCORES)
        else:
            each = torch.stack(theirs.scores, dim=1).log_softmax(-1)
            # transformers puts the end token's score to -inf before the softmax here; ours is of the plain one
            rows = torch.arange(len(tokens)) if "min_tokens" not in options else torch.arange(0)
            picked = each.gather(2, found.tokens[..., None])[..., 0]
            sums = picked.masked_fill(~written, 0).sum(1)
            torch.testing.assert_close(found.scores[rows], sums[rows], rtol=SCORES, atol=SCORES)
    assert ended  # a test in which nothing ever ends would say little
