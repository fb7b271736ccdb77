"""RETRO's copy head: what may be copied, by hand, saved and loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from retro_kit import CLOSE, LENGTH, SIZE, VOCAB, every_log_prob, made, neighbours, nobody, text

from wellread.types import Inputs, TrainingBatch


@pytest.fixture(params=["t5", "t5-gated"])
def copying(request, tiny):
    """It reads nothing of its neighbours, but copies from them."""
    system = made(tiny, request.param, copying=True)
    for cross in system.cross.values():
        torch.nn.init.zeros_(cross.output.weight)
    return system


def test_words_are_copied_from_the_neighbours_of_the_last_finished_chunk_alone(copying):
    asked, group = text((LENGTH,)), ((0, 0, 1, 1, 2, 3),)
    plain = every_log_prob(copying, asked, neighbours(group))
    for chunk in range(4):
        other = every_log_prob(copying, asked, neighbours(group, other=chunk))
        changed = ~torch.isclose(other, plain, **CLOSE).all(-1)[0]
        border = (chunk + 1) * SIZE
        assert changed.nonzero().flatten().tolist() == list(range(border, min(border + SIZE, LENGTH + 1))), chunk


def test_without_neighbours_nothing_is_copied(copying):
    asked = text()
    start = torch.full_like(asked.tokens[:, :1], copying.reader.start_token)
    tokens, mask = torch.cat([start, asked.tokens], 1), torch.cat([torch.ones_like(start).bool(), asked.mask], 1)
    with torch.no_grad():
        plain = copying.reader.logits(copying.reader(tokens, mask)).log_softmax(-1)
    # The first text has none, the second has: its own are all that it copies from.
    only = ((), (0, 1, 1, 2))
    real = mask[0]
    for found in (nobody(neighbours()), neighbours(only)):
        torch.testing.assert_close(every_log_prob(copying, asked, found)[0][real], plain[0][real], **CLOSE)
    read = every_log_prob(copying, asked, neighbours(only))[1]
    assert torch.isclose(read[:SIZE], plain[1, :SIZE], **CLOSE).all()
    assert not torch.isclose(read[SIZE : 4 * SIZE], plain[1, SIZE : 4 * SIZE], **CLOSE).all(-1).any()


def test_a_copy_head_that_is_left_aside_copies_nothing(copying):
    """Neither where texts are scored nor where they are written; this one reads nothing either."""
    asked, found = text((LENGTH,)), neighbours(((0, 0, 1, 1, 2, 3),))
    plain = every_log_prob(copying, asked, nobody(found))
    assert not torch.allclose(every_log_prob(copying, asked, found), plain, **CLOSE)
    copying.copy.head.gate.bias.data.fill_(-20.0)  # everything is copied
    copied = copying.generate(asked, found, max_tokens=SIZE)
    copying.config = replace(copying.config, use_copy_head=False)
    torch.testing.assert_close(every_log_prob(copying, asked, found), plain, **CLOSE)
    said = copying.generate(asked, found, max_tokens=SIZE)
    assert said.tokens.tolist() == copying.generate(asked, nobody(found), max_tokens=SIZE).tokens.tolist()
    assert said.tokens.tolist() != copied.tokens.tolist()


def test_copying_by_hand(copying):
    """One place, from the definition: one softmax over the vocabulary and the tokens of two neighbours."""
    asked, found = text((LENGTH,)), neighbours(((0, 1, 1, 2),))
    place, copy, columns = 2 * SIZE + 1, copying.copy, (1, 2)  # it writes the second token of chunk 2
    with torch.no_grad():
        tokens = torch.cat([torch.tensor([copying.reader.start_token]), asked.tokens[0]])
        state = copying.reader(tokens[None], torch.ones(1, LENGTH + 1).bool())[0, place]
        said = copying.reader.logits(state).log_softmax(-1)

        def word(token):
            return torch.nn.functional.rms_norm(copying.reader.embed(token), (16,))

        query = copy.head.query(torch.cat([state, word(tokens[place])]))
        mass = (said + copy.head.gate(torch.cat([state, word(tokens[place])]))).exp()
        for column in columns:
            own = found.tokens[0, column][found.mask[0, column]]
            for at, token in enumerate(own):
                before = word(own[at - 1]) if at else torch.zeros(16)
                score = query @ copy.head.key(torch.cat([word(token), before])) * 32**-0.5
                mass[token] += (score + copy.trust * said[token]).exp()
    torch.testing.assert_close(every_log_prob(copying, asked, found)[0, place], (mass / mass.sum()).log(), **CLOSE)


def test_shares_are_what_was_copied_of_the_words_that_were_written(copying):
    asked = text((2 * SIZE, 2 * SIZE))
    found = neighbours(((1, 1), (1, 1)))
    copying.copy.head.gate.bias.data.fill_(-20.0)  # everything is copied
    with torch.no_grad():
        written = copying.generate(asked, found, max_tokens=SIZE)
        shares = copying.shares(copying.read(asked, found), written, found)
    torch.testing.assert_close(shares.sum(1), torch.ones(2), rtol=0, atol=1e-5)
    for row in range(2):
        words = written.tokens[row, : written.lengths[row]].tolist()
        holds = [set(words) & set(found.tokens[row, at][found.mask[row, at]].tolist()) for at in range(2)]
        assert any(holds)  # all of it is copied
        for at in range(2):
            assert (shares[row, at] > 1e-4) == bool(holds[at])


def test_the_copied_shares_and_what_was_said_are_the_whole_probability(copying):
    generator = torch.Generator().manual_seed(0)
    dim, head = copying.reader.dim, copying.copy
    states, words = torch.randn(2, 2, 3, dim, generator=generator)
    tokens = torch.randint(3, VOCAB, (2, 9), generator=generator)
    mask = torch.arange(9) < torch.tensor([9, 6])[:, None]
    target = torch.stack([tokens[:, 1], tokens[:, 7], torch.full((2,), 2)], dim=1)  # the last is in no neighbour
    with torch.no_grad():
        keys = head.keys(copying.reader.embed(tokens)[:, None], mask[:, None])
        log_words = copying.reader.logits(states).float().log_softmax(-1)
        asking, copies = (states, words), (keys, tokens, mask)
        copied = head.copied(asking, log_words, copies, target)
        total = head.target_log_probs(asking, log_words, copies, target).exp()
        none = tuple(part[:, :0] for part in copies)
        said = head.target_log_probs(asking, log_words, none, target).exp()
        gate = head._copying(asking, log_words, copies).log_say.exp()
    torch.testing.assert_close(copied.sum(-1) * total + gate * said, total, **CLOSE)
    assert (copied[:, :2].sum(-1)[0] > 0).all()
    assert copied[:, 2].abs().sum() == 0
    assert copied[1, :, 6:].abs().sum() == 0


def test_a_new_copy_head_hardly_copies_and_looks_for_what_follows_the_word_just_written():
    from wellread.nn.chunk_copying import NeighbourCopying

    generator = torch.Generator().manual_seed(0)
    words, copy = torch.randn(40, 32, generator=generator), NeighbourCopying(32)
    near = torch.arange(3, 33)[None]  # every word once
    mask = torch.ones_like(near).bool()
    log_words = torch.zeros(1, 1, 40).log_softmax(-1)
    asking = (torch.randn(1, 1, 32, generator=generator), words[torch.tensor([[11]])])
    with torch.no_grad():
        copies = (copy.keys(words[near][:, None], mask[:, None]), near, mask)
        new = copy.log_probs(asking, log_words, copies)[0, 0].exp()
    assert new.sum().item() == pytest.approx(1)
    assert new.argmax().item() == 12
    # Some fifty times the weight of another word, which is little beside all that is said.
    assert 2 < new[12] * 40 < 4
    others = torch.cat([new[:12], new[13:]]) * 40
    assert (others - 1).abs().max() < 0.3


def test_words_of_neighbours_are_read_and_not_trained(tiny):
    system = made(tiny, "t5-gated", copying=True)  # the head has weights of its own
    whole, found = text(), neighbours()
    nothing = Inputs(whole.tokens[:, :0], whole.mask[:, :0])
    system.losses(TrainingBatch(nothing, found, whole.tokens, whole.mask))["nll"].backward()
    trained = set(system.reader.embed_tokens.weight.grad.any(-1).nonzero().flatten().tolist())
    written = set(whole.tokens[whole.mask].tolist())
    assert set(found.tokens[found.mask].tolist()) - written
    assert trained <= written | {system.reader.start_token}
    assert len(trained) > 10


def test_a_system_that_copies_is_saved_and_loaded(copying, tmp_path):
    from wellread.model import Model, load_model, save_model
    from wellread.nn.tokenizers import train_tokenizer
    from wellread.reading.frame import Frame, FrameConfig

    tokenizer = train_tokenizer(["a few words to learn from, twice over"] * 3, 100, kind="wordpiece")
    model = Model("retro", copying, Frame(FrameConfig(question_tokens=12), tokenizer))
    again = load_model(save_model(tmp_path / "model", model))
    assert again.system.config.copy_neighbours
    asked, found = text(), neighbours()
    assert torch.equal(every_log_prob(again.system, asked, found), every_log_prob(copying, asked, found))


# -- writing ----------------------------------------------------------------------------------------------------
