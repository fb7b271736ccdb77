"""RETRO: what a token may see, neighbours by chunk, writing that searches at every border, fitting."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from retro_kit import CLOSE, FAMILIES, LENGTH, SIZE, every_log_prob, made, neighbours, nobody, text

from wellread.reading.batching import CandidateRow, batch_candidates
from wellread.reading.chunks import by_chunk, follow
from wellread.types import CandidateBatch, Inputs, TrainingBatch


@pytest.fixture(params=[*FAMILIES, "t5, copying", "t5-gated, copying"])
def system(request, tiny):
    family, _, copying = request.param.partition(", ")
    return made(tiny, family, copying=bool(copying))


# -- what a token may see ---------------------------------------------------------------------------------------


def test_a_token_never_sees_what_comes_after_it(system):
    asked, found = text((LENGTH,)), neighbours(((0, 0, 1, 1, 2, 3),))
    plain = every_log_prob(system, asked, found)
    for place in range(LENGTH):
        changed = asked.tokens.clone()
        changed[0, place] = 3 + (changed[0, place] - 3 + 17) % 57
        other = every_log_prob(system, Inputs(changed, asked.mask), found)
        assert torch.equal(other[:, : place + 1], plain[:, : place + 1]), place
        # Every later place reads it, through attention to the text alone.
        assert not torch.isclose(other[:, place + 1 :], plain[:, place + 1 :]).all(-1).any(), place


def test_neighbours_of_a_chunk_are_seen_from_its_last_token_on(system):
    asked = text((LENGTH,))
    group = ((0, 0, 1, 1, 2, 3),)
    plain = every_log_prob(system, asked, neighbours(group))
    for chunk in range(4):
        other = every_log_prob(system, asked, neighbours(group, other=chunk))
        border = (chunk + 1) * SIZE  # what is written after the chunk's last token
        assert torch.equal(other[:, :border], plain[:, :border]), chunk
        assert not torch.isclose(other[:, border:], plain[:, border:]).all(-1).any(), chunk


def test_an_unfinished_chunk_has_no_neighbours(system):
    asked = text((LENGTH,))
    more = neighbours(((0, 0, 1, 1, 2, 3, 4, 9),))  # chunk 4 has three tokens of four
    plain = every_log_prob(system, asked, neighbours(((0, 0, 1, 1, 2, 3),)))
    torch.testing.assert_close(every_log_prob(system, asked, more), plain, **CLOSE)


def test_neighbours_are_encoded_under_their_chunk_and_nothing_later(system):
    asked, found = text((LENGTH,)), neighbours(((0, 0, 1, 1, 2, 3),))
    plain = system.read(asked, found)
    for place in (5, 9):  # in chunk 1, in chunk 2
        changed = asked.tokens.clone()
        changed[0, place] = 3 + (changed[0, place] - 3 + 17) % 57
        other = system.read(Inputs(changed, asked.mask), found)
        same = (plain.states == other.states).all(-1)[0]
        before = plain.extras["chunk"][0] < place // SIZE
        assert same[before].all()
        assert not same[~before & plain.mask[0]].any()


def test_a_reading_names_the_candidate_of_every_state(system):
    found = neighbours()
    reading = system.read(text(), found)
    for row in range(2):
        for column in found.exists[row].nonzero()[:, 0].tolist():
            mine = reading.passage[row] == column
            assert reading.tokens[row][mine].tolist() == found.tokens[row, column][found.mask[row, column]].tolist()
            assert set(reading.extras["chunk"][row][mine].tolist()) == {int(found.group[row, column])}
    assert (reading.passage[~reading.mask] == -1).all()


def test_the_order_of_neighbours_does_not_matter(system):
    asked, found = text((LENGTH,)), neighbours(((0, 0, 1, 1, 2, 3),))
    order = torch.tensor([4, 1, 3, 5, 0, 2])
    moved = {name: getattr(found, name)[:, order] for name in ("tokens", "mask", "exists", "scores", "group")}
    plain = every_log_prob(system, asked, found)
    torch.testing.assert_close(every_log_prob(system, asked, replace(found, **moved)), plain, **CLOSE)


# -- scores -----------------------------------------------------------------------------------------------------


def test_the_likelihood_is_that_of_every_token_after_the_question(system):
    asked, found = text((7, 5)), neighbours(((0, 0, 1, 2), (0, 1, 1, 2)))
    wanted = text((11, 9), seed=8)
    with torch.no_grad():
        scores = system.log_likelihood(asked, found, wanted.tokens, wanted.mask)
        loss = system.losses(TrainingBatch(asked, found, wanted.tokens, wanted.mask))["nll"]
    whole = follow(asked, wanted.tokens, wanted.mask)
    every = every_log_prob(system, whole, found)
    for row, (begin, count) in enumerate([(7, 11), (5, 9)]):
        steps = every[row, begin : begin + count].gather(1, wanted.tokens[row, :count, None])
        torch.testing.assert_close(scores[row], steps.sum(), **CLOSE)
    torch.testing.assert_close(loss, -scores.sum() / 20, **CLOSE)


def test_a_text_from_its_first_token_on_has_a_likelihood(system):
    whole, found = text(), neighbours()
    nothing = Inputs(whole.tokens[:, :0], whole.mask[:, :0])
    with torch.no_grad():
        scores = system.log_likelihood(nothing, found, whole.tokens, whole.mask)
    every = every_log_prob(system, whole, found)[:, :-1].gather(2, whole.tokens[..., None])[..., 0]
    torch.testing.assert_close(scores, every.masked_fill(~whole.mask, 0).sum(1), **CLOSE)


def test_the_first_token_of_nothing_depends_on_nothing(system):
    empty = Inputs(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool))
    found = nobody(neighbours())
    written = system.generate(empty, found, max_tokens=6)
    assert torch.equal(written.tokens[0], written.tokens[1])


# -- copying ----------------------------------------------------------------------------------------------------


def test_said_and_copied_probabilities_sum_to_one(system):
    total = every_log_prob(system, text(), neighbours()).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), **CLOSE)


def nearest(probe: torch.Tensor) -> list[CandidateRow]:
    """One or two neighbours, decided by the tokens of the chunk alone."""
    first = int(probe.sum())
    return [
        CandidateRow(f"n{first}-{at}", [3 + (first + 7 * at + at * step) % 57 for step in range(5 + at)])
        for at in range(1, 2 + first % 2)
    ]


def search_of(asked: list):
    def search(probes) -> CandidateBatch:
        asked.append([len(each) for each in probes])
        return batch_candidates([nearest(each[0]) if len(each) else [] for each in probes], pad=0)

    return search


def all_nearest(system, whole: Inputs) -> CandidateBatch:
    rows = [
        [replace(row, group=chunk) for chunk, probe in enumerate(probes) for row in nearest(probe)]
        for probes in system.seek(whole)
    ]
    return batch_candidates(rows, pad=0)


def never_ends(system) -> None:
    """Make the end token as unlikely as can be."""
    plain = type(system.reader).logits
    end = torch.tensor(1)
    system.reader.logits = lambda states: plain(system.reader, states).index_fill(-1, end, -1e4)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("lengths", [(7, 4), (3, 9), (8, 8)])
def test_writing_with_caches_is_reading_all_of_it_at_once(system, beams, lengths):
    asked, calls = text(lengths), []
    never_ends(system)
    found = all_nearest(system, asked)
    written = system.generate(asked, found, max_tokens=10, num_beams=beams, search=search_of(calls))
    assert written.lengths.tolist() == [10, 10]
    real = torch.ones(2, 10, dtype=torch.bool)
    whole = follow(asked, written.tokens, real)
    with torch.no_grad():
        scores = system.log_likelihood(asked, all_nearest(system, whole), written.tokens, real)
        fewer = system.log_likelihood(asked, found, written.tokens, real)
    torch.testing.assert_close(written.scores, scores, **CLOSE)
    assert not torch.isclose(written.scores, fewer, rtol=1e-3).any()


def test_every_border_is_searched_once_for_the_rows_that_reach_it(system):
    asked, calls = text((7, 4)), []
    never_ends(system)
    system.generate(asked, all_nearest(system, asked), max_tokens=10, search=search_of(calls))
    # Texts of 7 and 4 tokens finish chunks of 4 after 1, 5, 9 and after 4, 8 more; nothing follows the tenth.
    assert calls == [[1, 0], [0, 1], [1, 0], [0, 1], [1, 0]]


def test_without_a_search_written_chunks_have_no_neighbours(system):
    asked = text((7, 4))
    never_ends(system)
    found = all_nearest(system, asked)
    written = system.generate(asked, found, max_tokens=10)
    with torch.no_grad():
        scores = system.log_likelihood(asked, found, written.tokens, torch.ones(2, 10, dtype=torch.bool))
    torch.testing.assert_close(written.scores, scores, **CLOSE)


def test_what_has_ended_asks_for_nothing(system):
    asked, calls, plain = text((7, 7)), [], type(system.reader).logits

    def ends_first(states):
        """The first text ends at once, which also ends its chunk; the second never does."""
        said = plain(system.reader, states)
        end = torch.zeros_like(said).index_fill(-1, torch.tensor(1), 1e4)
        return torch.stack([said[0] + end[0], said[1] - end[1]])

    system.reader.logits = ends_first
    written = system.generate(asked, all_nearest(system, asked), max_tokens=7, search=search_of(calls))
    assert written.lengths.tolist() == [1, 7]
    assert calls == [[0, 1], [0, 1]]


def test_chunks_are_sought_by_their_tokens(system):
    asked = text((9, 3))
    sought = system.seek(asked)
    assert [tuple(each.shape) for each in sought] == [(2, SIZE), (0, SIZE)]
    assert sought[0][1].tolist() == asked.tokens[0, 4:8].tolist()


def test_shares_are_the_attention_of_what_was_written(system):
    asked = text((7, 4))
    found = neighbours(((0, 0), (0, 0)))
    with torch.no_grad():
        reading = system.read(asked, found)
        written = system.generate(asked, found, max_tokens=5)
        shares = system.shares(reading, written, found)
    torch.testing.assert_close(shares.sum(1), torch.ones(2), rtol=0, atol=1e-5)
    assert (shares > 0).all()
    with torch.no_grad():
        none = system.shares(system.read(asked, nobody(found)), written, nobody(found))
    assert none.abs().sum() == 0


# -- fitting ----------------------------------------------------------------------------------------------------


def test_fitting_trains_neither_the_reader_nor_anything_below_the_first_cross_attention(system):
    system.reader.requires_grad_(False)
    whole, found = text(), neighbours()
    nothing = Inputs(whole.tokens[:, :0], whole.mask[:, :0])
    system.losses(TrainingBatch(nothing, found, whole.tokens, whole.mask))["nll"].backward()
    trained = {name for name, weight in system.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert trained
    assert all(name.startswith(("neighbours.", "cross.", "copy.")) for name in trained)
    assert {f"cross.{layer}.output.weight" for layer in (1, 3)} <= trained
    copies = {name for name, _ in system.named_parameters() if name.startswith("copy.")}
    assert copies <= trained
    assert bool(copies) is system.config.copy_neighbours
    near, _ = by_chunk(found, whole.mask.sum(-1) // SIZE)
    read = system.decoder.read(whole.tokens, whole.mask, near)
    assert not read.lower.requires_grad
    assert read.states.requires_grad


def test_texts_too_short_for_neighbours_teach_nothing_while_fitting(system):
    system.reader.requires_grad_(False)
    short = text((SIZE - 1,))
    nothing = Inputs(short.tokens[:, :0], short.mask[:, :0])
    system.losses(TrainingBatch(nothing, nobody(neighbours(((0,),))), short.tokens, short.mask))["nll"].backward()
    assert all(not weight.grad.any() for weight in system.parameters() if weight.grad is not None)


def test_a_new_retro_says_what_its_reader_says(tiny):
    from wellread.systems.retro import Retro, RetroConfig

    reader = tiny.nets("decoder", "t5", layers=4)
    asked, found = text(), neighbours()
    plain = reader.logits(reader(asked.tokens, asked.mask)).log_softmax(-1)
    for options in ({}, {"copy_reader": True}, {"read_words": True}, {"encoder_dim": 8, "encoder_heads": 2}):
        system = Retro(RetroConfig(chunk_tokens=SIZE, **options), reader).eval()
        assert system.config.cross_layers == (2,)
        read = system.decoder.read(asked.tokens, asked.mask, by_chunk(found, asked.mask.sum(-1) // SIZE)[0])
        assert read.found.abs().sum() > 0
        torch.testing.assert_close(system.reader.logits(read.states).log_softmax(-1)[asked.mask], plain[asked.mask])


def test_copies_of_the_reader(tiny):
    system = tiny.nets("decoder", "t5-gated", layers=4)
    from wellread.systems.retro import Retro, RetroConfig

    made = Retro(RetroConfig(chunk_tokens=SIZE, cross_layers=(2,), copy_reader=True), system)
    assert torch.equal(made.cross["2"].key.weight, system.layers[2].attention.key.weight)
    assert torch.equal(made.neighbours.layers[1].feed.up.weight, system.layers[1].feed.up.weight)
    assert made.neighbours.layers[1].feed.up.weight is not system.layers[1].feed.up.weight


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_tokens": 0}, "chunk_tokens=0; it must be at least 1"),
        ({"encoder_layers": 0}, "encoder_layers=0; it must be at least 1"),
        ({"encoder_cross": [2]}, r"encoder_cross=\[2\], but the encoder has 2 layers; count from 0"),
        ({"cross_layers": [1, 3]}, r"cross_layers=\[1, 3\], but the decoder has 3 layers; count from 0"),
        ({"copy_reader": True, "read_words": True}, "copy_reader and read_words are two starts; choose one"),
        ({"use_copy_head": False}, "use_copy_head=false without copy_neighbours; there is no copy head to leave aside"),
        ({"copy_reader": True, "encoder_dim": 8}, "copy_reader or read_words with encoder_dim=8 and encoder_heads=0"),
    ],
)
def test_options_that_cannot_be(options, message, tiny):
    with pytest.raises(ValueError, match=message):
        tiny.system("retro", **options)


def test_the_length_of_a_words_embedding_does_not_matter_to_a_new_encoder(tiny):
    from wellread.systems.retro import Retro, RetroConfig

    reader = tiny.nets("decoder", "t5", layers=4)
    mask = torch.ones(1, 2, 5, dtype=torch.bool)
    words, chunks = torch.randn(1, 2, 5, 16), torch.randn(1, SIZE, 16)
    for copies in (False, True):
        encoder = Retro(RetroConfig(chunk_tokens=SIZE, copy_reader=copies), reader).neighbours
        with torch.no_grad():
            plain, longer = encoder(words, mask, chunks), encoder(7 * words, mask, chunks)
        # The norm's epsilon keeps them from being equal.
        assert torch.allclose(plain, longer, rtol=0, atol=1e-3) is not copies
