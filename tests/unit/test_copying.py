"""The copy head: probabilities that sum to one, borders, padding, precision, and that it learns to copy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wellread.nn.copying import CopyHead

DIM, DECODER_DIM, VOCAB = 12, 10, 30
# Sums of a few dozen float32 numbers below one.
CLOSE = 1e-5


@pytest.fixture
def head() -> CopyHead:
    torch.manual_seed(0)
    return CopyHead(DIM, DECODER_DIM, copy_dim=8)


@pytest.fixture
def read() -> dict[str, Tensor]:
    """Two questions: one with passages of 4 and 3 tokens behind two question tokens, one with 5 tokens."""
    generator = torch.Generator().manual_seed(1)
    passage = torch.tensor([[-1, -1, 0, 0, 0, 0, 1, 1, 1], [-1, -1, 0, 0, 0, 0, 0, -1, -1]])
    return {
        "states": torch.randn(2, 9, DIM, generator=generator),
        "passage": passage,
        "tokens": torch.randint(0, VOCAB, (2, 9), generator=generator),
        "copyable": passage >= 0,
        "decoder_states": torch.randn(2, 4, DECODER_DIM, generator=generator),
        "log_words": torch.randn(2, 4, VOCAB, generator=generator).log_softmax(-1),
    }


def decide(head: CopyHead, read: dict[str, Tensor]):
    keys = head.keys(read["states"], read["passage"])
    return head(read["decoder_states"], keys, read["copyable"])


def mix(head: CopyHead, read: dict[str, Tensor]) -> Tensor:
    return head.mix(decide(head, read), read["log_words"], read["tokens"])


def test_probabilities_sum_to_one(head, read):
    copying = decide(head, read)
    assert torch.allclose(copying.attention.sum(-1), torch.ones(2, 4), atol=CLOSE)
    assert not copying.attention[~read["copyable"].unsqueeze(1).expand(-1, 4, -1)].any()
    assert torch.allclose(copying.log_say.exp() + copying.log_copy.exp(), torch.ones(2, 4), atol=CLOSE)
    assert torch.allclose(mix(head, read).exp().sum(-1), torch.ones(2, 4), atol=CLOSE)


def test_mix_by_hand(head, read):
    copying, word = decide(head, read), 7
    read["tokens"][1, 2:4] = word  # the word stands twice: both places count
    mixed = head.mix(copying, read["log_words"], read["tokens"])
    places = copying.attention[1, 0, read["tokens"][1] == word].sum()
    say = copying.log_say[1, 0].exp()
    expected = say * read["log_words"][1, 0, word].exp() + (1 - say) * places
    assert torch.isclose(mixed[1, 0, word].exp(), expected, atol=CLOSE)


def test_target_alone_agrees_with_the_whole(head, read):
    target = torch.randint(0, VOCAB, (2, 4), generator=torch.Generator().manual_seed(2))
    target[0, 0] = read["tokens"][0, 3]  # one that can be copied
    target[0, 1] = next(word for word in range(VOCAB) if word not in read["tokens"][0])
    index = target.unsqueeze(-1)
    log_target = read["log_words"].gather(2, index).squeeze(-1)
    alone = head.mix_target(decide(head, read), log_target, read["tokens"], target)
    assert torch.allclose(alone, mix(head, read).gather(2, index).squeeze(-1), atol=CLOSE)


def test_predecessor_within_the_passage_only(head, read):
    keys = head.keys(read["states"], read["passage"])

    def changed_by(place: int) -> list[int]:
        states = read["states"].clone()
        states[0, place] += 1.0
        moved = (head.keys(states, read["passage"])[0] - keys[0]).abs().amax(-1) > CLOSE
        return moved.nonzero().flatten().tolist()

    assert changed_by(3) == [3, 4]  # its own key and its successor's
    assert changed_by(5) == [5]  # the last token of passage 0 says nothing about the first of passage 1
    assert changed_by(0) == [0]  # states of no passage follow nothing
    assert changed_by(1) == [1]  # nor does a question token about the first passage


def test_first_token_has_a_zero_predecessor(head, read):
    first = head.keys(read["states"], read["passage"])[0, 2]
    own = torch.cat([read["states"][0, 2], torch.zeros(DIM)])
    assert torch.allclose(first, head.key(own), atol=CLOSE)
    second = head.keys(read["states"], read["passage"])[0, 3]
    assert torch.allclose(second, head.key(read["states"][0, [3, 2]].flatten()), atol=CLOSE)


def test_padding_changes_nothing(head, read):
    whole = mix(head, read)
    padded = dict(read)
    padded["states"] = torch.cat([read["states"], torch.full((2, 3, DIM), 9.0)], dim=1)
    padded["passage"] = torch.nn.functional.pad(read["passage"], (0, 3), value=-1)
    padded["tokens"] = torch.nn.functional.pad(read["tokens"], (0, 3))
    padded["copyable"] = torch.nn.functional.pad(read["copyable"], (0, 3))
    assert torch.allclose(mix(head, padded), whole, atol=CLOSE)
    alone = {name: value[:1] for name, value in read.items()}
    assert torch.allclose(mix(head, alone), whole[:1], atol=CLOSE)


def test_order_of_passages_does_not_matter(head, read):
    order = torch.tensor([0, 1, 6, 7, 8, 2, 3, 4, 5])
    turned = dict(read)
    for name in ("states", "passage", "tokens", "copyable"):
        turned[name] = read[name][:, order]
    assert torch.allclose(mix(head, turned)[0], mix(head, read)[0], atol=CLOSE)


def test_nothing_to_copy_is_plain_saying(head, read):
    read["copyable"][1] = False
    mixed = mix(head, read)
    assert torch.allclose(mixed[1], read["log_words"][1], atol=CLOSE)
    mixed.sum().backward()
    assert all(torch.isfinite(item.grad).all() for item in head.parameters())


def test_beams_share_the_keys(head, read):
    keys = head.keys(read["states"], read["passage"])
    beams = torch.randn(6, 2, DECODER_DIM, generator=torch.Generator().manual_seed(3))
    words = torch.randn(6, 2, VOCAB, generator=torch.Generator().manual_seed(4)).log_softmax(-1)
    shared = head.mix(head(beams, keys, read["copyable"]), words, read["tokens"])
    copies = {name: value.repeat_interleave(3, 0) for name, value in read.items()}
    apart = head.mix(head(beams, keys.repeat_interleave(3, 0), copies["copyable"]), words, copies["tokens"])
    assert torch.allclose(shared, apart, atol=CLOSE)


def test_float32_under_autocast(head, read):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        keys = head.keys(read["states"], read["passage"])
        copying = head(read["decoder_states"].bfloat16(), keys, read["copyable"])
        mixed = head.mix(copying, read["log_words"], read["tokens"])
    assert {keys.dtype, mixed.dtype, *(item.dtype for item in copying)} == {torch.float32}
    # Were the softmax taken in bfloat16, sums would be off by some thousandths.
    assert torch.allclose(mixed.exp().sum(-1), torch.ones(2, 4), atol=CLOSE)


def test_bfloat16_weights(head, read):
    read = {name: value.bfloat16() if value.is_floating_point() else value for name, value in read.items()}
    read["log_words"] = read["log_words"].float().log_softmax(-1)
    mixed = mix(head.bfloat16(), read)
    assert mixed.dtype == torch.float32
    assert torch.allclose(mixed.exp().sum(-1), torch.ones(2, 4), atol=CLOSE)


def test_with_a_prior_both_ways_of_writing_share_one_softmax(head, read):
    prior = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(6))
    keys = head.keys(read["states"], read["passage"])
    copying = head(read["decoder_states"], keys, read["copyable"], prior)
    query = head.query(read["decoder_states"])
    scores = (query @ keys.transpose(1, 2) * head.copy_dim**-0.5 + prior).masked_fill(
        ~read["copyable"].unsqueeze(1), -torch.inf
    )
    say = head.gate(read["decoder_states"])
    both = torch.cat([say, scores], dim=-1).softmax(-1)
    assert torch.allclose(copying.log_say.exp(), both[..., 0], atol=CLOSE)
    assert torch.allclose(copying.log_copy.exp()[..., None] * copying.attention, both[..., 1:], atol=CLOSE)


def test_far_away_scores_stay_finite(head, read):
    with torch.no_grad():
        head.query.weight.mul_(1e4)
        head.gate.weight.mul_(1e4)
    mixed = mix(head, read)
    assert torch.isfinite(mixed).all()
    mixed.sum().backward()
    assert all(torch.isfinite(item.grad).all() for item in head.parameters())


def test_learns_to_copy():
    """After a marker the next two tokens are the answer; the words themselves carry no meaning."""
    torch.manual_seed(5)
    words, marker = torch.nn.Embedding(VOCAB, DIM), 1
    words.requires_grad_(False)
    head = CopyHead(DIM, DIM, copy_dim=16)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.02)
    log_words = torch.full((32, 2, VOCAB), 1 / VOCAB).log()
    passage = torch.zeros(32, 8, dtype=torch.long)
    for _ in range(150):
        tokens = torch.stack([torch.randperm(VOCAB - 2)[:8] + 2 for _ in range(32)])
        place = torch.randint(0, 6, (32,))
        tokens[torch.arange(32), place] = marker
        target = torch.stack([tokens[torch.arange(32), place + step] for step in (1, 2)], dim=1)
        # The decoder's state is what it wrote last: the marker, then the first word of the answer.
        said = words(torch.stack([torch.full((32,), marker), target[:, 0]], dim=1))
        copying = head(said, head.keys(words(tokens), passage), torch.ones_like(tokens, dtype=torch.bool))
        log_target = log_words.gather(2, target.unsqueeze(-1)).squeeze(-1)
        loss = -head.mix_target(copying, log_target, tokens, target).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # Saying costs log 30 = 3.4 a word and guessing a place log 8 = 2.1.
    assert loss < 0.2
    mixed = head.mix(copying, log_words, tokens)
    assert (mixed.argmax(-1) == target).float().mean() > 0.9


def test_wrong_width(head, read):
    with pytest.raises(ValueError, match=r"states are 10 wide, the copy head reads states of 12"):
        head.keys(read["states"][..., :10], read["passage"])
