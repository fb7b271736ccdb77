"""REVEAL's equations, each against a slow way to say the same; and what its answers teach."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from wellread.losses import alignment, contrastive, decorrelation
from wellread.nn.attention import ScoreMask
from wellread.nn.checkpoints import fingerprint
from wellread.nn.words import WordGlance
from wellread.reading.keeping import all_columns
from wellread.types import Inputs, Passage, TrainingBatch

# The same float32 terms summed in another order.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}
SEES = {
    "sources": ("facts", "captions"),
    "picture_dim": 6,
    "picture_colours": 2,
    "patches": 4,
    "patch_width": 2,
    "num_latents": 3,
    "key_dim": 8,
    "temperature": 0.3,
}
HEADS = ("nets.query_head.", "nets.key_head.", "nets.glance.", "gate.")


def made(tiny, family="bert", **options):
    """A system that sees, whose gate has learnt something."""
    system = tiny.system("reveal", family, **{**SEES, **options})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        torch.nn.init.normal_(system.gate.weight, std=0.5)
    return system


def seen(tiny, **options):
    """Questions with pictures, and candidates of two sources of which the first has pictures."""
    inputs, found = tiny.batch(**options)
    generator = torch.Generator().manual_seed(4)
    inputs = replace(inputs, picture=torch.randn(inputs.batch, 4, 6, generator=generator))
    source = all_columns(found.exists) % 2
    shown = ((source == 0) & found.exists)[..., None].expand(*found.exists.shape, 4)
    pictures = torch.randn(*found.exists.shape, 4, 6, generator=generator)
    return inputs, replace(found, source=source, picture=pictures, picture_mask=shown)


def remembered(system, found, row: int, column: int):
    """What one entry alone is remembered as."""
    real = found.mask[row, column]
    shown = bool(found.picture_mask[row, column].any())
    picture = found.picture[row, column][None] if shown else None
    return system.remember(found.tokens[row, column, real][None], real[real][None], picture=picture)


def stored(system, found):
    """The candidates as a memory hands them over."""
    keys = torch.zeros(*found.exists.shape, system.config.key_dim)
    states = torch.zeros(*found.exists.shape, system.config.num_latents, system.stored_dim)
    for row, column in found.exists.nonzero().tolist():
        kept = remembered(system, found, row, column)
        keys[row, column], states[row, column, : kept.states.shape[1]] = kept.keys[0], kept.states[0]
    return replace(found, keys=keys, states=states)


@pytest.fixture(params=["t5", "bert"])
def family(request) -> str:
    return request.param


@torch.no_grad()
def test_scores_are_gated_relevance(tiny, family):
    """Equations 1 to 3, from what is sought and what is remembered of each entry alone."""
    system, (inputs, found) = made(tiny, family), seen(tiny)
    reading, sought = system.read(inputs, found), system.seek(inputs)
    assert [tuple(each.shape) for each in sought] == [(2, 8)] * 2
    gates = torch.stack([each.norm(dim=-1) for each in sought])  # queries have length 1
    torch.testing.assert_close(gates.sum(1), torch.ones(2), **CLOSE)
    for row, column in found.exists.nonzero().tolist():
        source = int(found.source[row, column])
        expected = sought[row][source] @ remembered(system, found, row, column).keys[0] / 0.3
        torch.testing.assert_close(reading.scores[row, column], expected, **CLOSE)
        torch.testing.assert_close(reading.extras["gate"][row, column], gates[row, source], **CLOSE)
    torch.testing.assert_close(reading.extras["chance"], reading.scores.softmax(-1), **CLOSE)
    assert (reading.scores[~found.exists] == -torch.inf).all()


@torch.no_grad()
def test_a_certain_entry_is_read_by_plain_fusion(tiny, family):
    """p(z | x) = 1: attentive and plain fusion are one, and neither is what several entries make of it."""
    plain, attentive = (made(tiny, family, fusion=kind) for kind in ("plain", "attentive"))
    inputs, found = seen(tiny)
    certain = replace(found, exists=all_columns(found.exists) == 1)
    both = [each.log_likelihood(inputs, certain, *tiny.target()) for each in (plain, attentive)]
    torch.testing.assert_close(*both, **CLOSE)
    several = [each.log_likelihood(inputs, found, *tiny.target()) for each in (plain, attentive)]
    assert (several[0] - several[1]).abs().min() > 1e-3


@torch.no_grad()
def test_the_weights_multiply_what_attention_gets(tiny):
    """Algorithm 2 with BERT's layers, by its own steps."""
    system, (inputs, found) = made(tiny, reencoded=0), seen(tiny)
    reading = system.read(inputs, found)
    question = system._question(inputs)
    for row in range(2):
        columns = found.exists[row].nonzero().flatten().tolist()
        values = torch.cat([remembered(system, found, row, column).states[0] for column in columns])
        chance = reading.extras["chance"][row, columns]
        states = torch.cat([question.states[row][question.mask[row]], values])[None]
        weights = torch.cat([torch.ones(int(question.mask[row].sum())), chance.repeat_interleave(3)])[None, :, None]
        for layer in system.reader.encoder.layers[system.cut :]:
            attended = layer.attention(weights * states, ScoreMask(None, None))
            states = layer._think(layer.attention_norm(states + attended))
        real = reading.mask[row]
        torch.testing.assert_close(reading.states[row][real], (weights * states)[0], **CLOSE)


def gradients(system, inputs, found, tiny) -> dict[str, float]:
    """The size of the answer loss's gradient, by weight."""
    reading = system.read(inputs, found)
    system.target_log_probs(reading, tiny.target()[0]).sum().backward()
    named = system.named_parameters()
    return {name: float(weight.grad.abs().sum()) for name, weight in named if weight.grad is not None}


def test_answers_teach_the_retriever(tiny, family):
    found = gradients(made(tiny, family).train(), *seen(tiny), tiny)
    for head in HEADS:
        assert sum(size for name, size in found.items() if name.startswith(head)) > 0, head


def test_without_attentive_fusion_answers_teach_it_nothing(tiny, family):
    found = gradients(made(tiny, family, fusion="plain").train(), *seen(tiny), tiny)
    assert sum(size for name, size in found.items() if name.startswith(HEADS)) == 0
    assert sum(size for name, size in found.items() if name.startswith("nets.compress.")) > 0


@torch.no_grad()
def test_without_fusion_it_answers_alone(tiny, family):
    system, (inputs, found) = made(tiny, family, fusion="none"), seen(tiny)
    nothing = replace(found, exists=torch.zeros_like(found.exists))
    alone = made(tiny, family).log_likelihood(inputs, nothing, *tiny.target())
    torch.testing.assert_close(system.log_likelihood(inputs, found, *tiny.target()), alone, **CLOSE)
    assert (system.read(inputs, found).passage == -1).all()


@torch.no_grad()
def test_without_the_gate_all_sources_are_alike(tiny):
    system, (inputs, found) = made(tiny, gated=False), seen(tiny)
    query = torch.stack(system.seek(inputs))
    assert torch.equal(query[:, 0], query[:, 1])
    assert (system.read(inputs, found).extras["gate"] == 1).all()


@pytest.mark.parametrize("compress", ["perceiver", "first"])
@torch.no_grad()
def test_memory_with_pictures_read_back_is_memory_computed(tiny, family, compress):
    system, (inputs, found) = made(tiny, family, compress=compress), seen(tiny)
    live, kept = (system.read(inputs, each) for each in (found, stored(system, found)))
    torch.testing.assert_close(kept.scores, live.scores, **CLOSE)
    answers = [system.log_likelihood(inputs, each, *tiny.target()) for each in (found, stored(system, found))]
    torch.testing.assert_close(*answers, **CLOSE)


def test_in_training_the_best_are_made_anew(tiny):
    """Their keys and values get gradients and are today's; those of the others are the memory's."""
    system, (inputs, found) = made(tiny, reencoded=2).train(), seen(tiny)
    old = stored(system, found)
    old = replace(old, states=2 * old.states, keys=old.keys)
    question = system._question(inputs)
    probes, _ = system._probes(question)
    entries = system._entries(old, probes)
    with torch.no_grad():
        today = system._make(found).values
    for row, best in enumerate(entries.best.tolist()):
        for column in found.exists[row].nonzero().flatten().tolist():
            expected = today[row, column] * (1 if column in best else 2)
            torch.testing.assert_close(entries.values[row, column], expected, **CLOSE)
    positive = torch.zeros_like(found.exists)
    positive[:, 2] = True
    assert (system._entries(old, probes, positive).best[:, 0] == 2).all()


def test_values_alone_are_made_anew_and_trained(tiny, family):
    """Reading no text, over a memory, what makes values and keys learns, from every loss."""
    system, batch = made(tiny, family, reencoded=0, renewed=1).train(), marked(tiny)
    with torch.no_grad():
        kept = stored(system, batch.candidates)
    batch = replace(batch, candidates=replace(kept, states=2 * kept.states))
    probes, _ = system._probes(system._question(batch.inputs))
    entries = system._entries(batch.candidates, probes, batch.positive)
    assert entries.text.shape[1] == 0
    torch.testing.assert_close(entries.values[1, 2], kept.states[1, 2], **CLOSE)
    torch.testing.assert_close(entries.values[1, 1], 2 * kept.states[1, 1], **CLOSE)
    for loss in system.losses(batch).values():
        assert loss.requires_grad
    sum(system.losses(batch).values()).backward()
    for part in ("nets.compress.", "nets.key_head.encoder.", "nets.key_head.project."):
        weights = [weight for name, weight in system.named_parameters() if name.startswith(part)]
        assert sum(float(weight.grad.abs().sum()) for weight in weights) > 0, part


def test_the_text_of_the_best_can_be_copied(tiny):
    system, (inputs, found) = made(tiny, reencoded=2), seen(tiny)
    with torch.no_grad():
        reading = system.read(inputs, found)
    for row in range(2):
        best = set(reading.scores[row].topk(2).indices.tolist())
        for column in found.exists[row].nonzero().flatten().tolist():
            copied = reading.tokens[row][reading.copyable[row] & (reading.passage[row] == column)].tolist()
            text = found.tokens[row, column][found.mask[row, column]].tolist()
            assert copied == (text if column in best else [])


@torch.no_grad()
def test_the_picture_is_seen_and_only_where_there_is_one(tiny, family):
    system, (inputs, found) = made(tiny, family), seen(tiny)
    plain = system.log_likelihood(inputs, found, *tiny.target())
    other = system.log_likelihood(replace(inputs, picture=inputs.picture.flip(0)), found, *tiny.target())
    assert (other - plain).abs().min() > 1e-3
    hidden = found.picture.masked_fill(~found.picture_mask[..., None], 7.0)
    same = system.log_likelihood(inputs, replace(found, picture=hidden), *tiny.target())
    torch.testing.assert_close(same, plain, **CLOSE)
    blind = replace(inputs, picture_mask=torch.zeros(2, 4, dtype=torch.bool))
    without = system.log_likelihood(replace(inputs, picture=None), found, *tiny.target())
    torch.testing.assert_close(system.log_likelihood(blind, found, *tiny.target()), without, **CLOSE)


@torch.no_grad()
def test_words_at_a_glance_are_a_weighted_sum_of_signs():
    glance = WordGlance(9, 16)
    # The same wherever it is made: memories and weights go from one machine to another.
    assert glance.signs[1].tolist() == [-1, -1, -1, 1, 1, 1, -1, 1, -1, 1, -1, -1, -1, 1, -1, -1]
    assert (glance.weights.diff() > 0).all()  # the later in the vocabulary, the rarer
    tokens, mask = torch.tensor([[3, 5, 3], [8, 2, 7]]), torch.tensor([[True] * 3, [True, False, False]])
    first = 2 * glance.weights[3] * glance.signs[3] + glance.weights[5] * glance.signs[5]
    torch.testing.assert_close(glance(tokens, mask)[0], first / first.norm(), **CLOSE)
    torch.testing.assert_close(glance(tokens, mask)[1], glance.signs[8] / 4.0, **CLOSE)


@torch.no_grad()
def test_texts_are_found_by_their_words_and_pictures_as_before(tiny, family):
    """Untrained: a question of some of a text's words finds it among many; one about a picture is what it was."""
    system, plain = (made(tiny, family, words=words, key_dim=64) for words in (True, False))
    texts = torch.stack([torch.randperm(57, generator=torch.Generator().manual_seed(row))[:8] + 3 for row in range(40)])
    real = torch.ones_like(texts, dtype=torch.bool)
    found = []
    for each in (system, plain):
        sought = torch.stack(each.seek(Inputs(texts[:, 2:6], real[:, 2:6]))).sum(1)
        best = (sought @ each.remember(texts, real).keys.T).argmax(1)
        found.append((best == torch.arange(40)).float().mean().item())
    assert found[0] > 0.8 > 0.6 > found[1], found
    inputs, _ = seen(tiny)
    for one, other in zip(system.seek(inputs), plain.seek(inputs), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("family", ["t5", "bert"])
def test_an_entry_gave_as_much_as_its_states_were_multiplied_by(tiny, family):
    """With p(z | x) of one entry near 1 all of the answer is its, whatever attention the others draw."""
    system = made(tiny, family, temperature=1e-5)
    inputs, found = seen(tiny, batch=3)
    reading = system.read(inputs, found)
    shares = system.shares(reading, system.generate(inputs, found, max_tokens=4, reading=reading), found)
    assert reading.extras["chance"].max(1).values.min() > 0.99
    torch.testing.assert_close(shares, reading.extras["chance"], rtol=0, atol=0.05)
    plain = made(tiny, family, temperature=1e-5, fusion="plain")
    reading = plain.read(inputs, found)
    written = plain.generate(inputs, found, max_tokens=4, reading=reading)
    assert plain.shares(reading, written, found).max() < 0.9  # nothing is multiplied: all draw, and give


@torch.no_grad()
def test_words_decide_the_memory_and_only_their_weights_are_stored(tiny):
    system = made(tiny, words=True)
    before = fingerprint(system.memory_weights())
    assert before != fingerprint(made(tiny).memory_weights())
    assert [name for name in system.state_dict() if name.startswith("nets.words.")] == ["nets.words.weights"]
    for tensor in (system.nets.words.weights, system.nets.words.signs, system.nets.key_head.word_shares):
        kept = tensor.clone()
        tensor[0] += 1
        assert fingerprint(system.memory_weights()) != before
        tensor.copy_(kept)
    assert fingerprint(system.memory_weights()) == before


def marked(tiny):
    """A batch whose rows hold, of the first two questions, what is right, and of the second what is neither right nor
    wrong, in its own row and in others: two entries about what a right one is about, and one hidden from it."""
    inputs, found = seen(tiny, batch=3)
    ids = [list(row) for row in found.ids]
    ids[2][1] = ids[0][0]
    positive = torch.zeros_like(found.exists)
    positive[0, 0] = positive[1, 2] = True
    about = [[""] * 4 for _ in range(3)]
    about[1][0] = about[2][0] = ids[1][2]
    return TrainingBatch(
        inputs,
        replace(found, ids=ids),
        *tiny.target(3),
        positive=positive,
        known=[[ids[0][0]], [ids[1][2], ids[2][2], "elsewhere"], []],
        hidden=[[], [ids[0][1], ids[1][2]], []],
        about=about,
    )


def test_the_contrastive_loss_is_that_of_loops(tiny):
    system, batch = made(tiny), marked(tiny)
    found = system.losses(batch)["contrastive"].item()
    with torch.no_grad():
        sought = system.seek(batch.inputs)
        total = 0.0
        neither = {(1, 0), (2, 0), (0, 1)}
        for row, right, left_out in ((0, {(0, 0), (2, 1)}, set()), (1, {(1, 2), (2, 2)}, neither)):
            scores = {}
            for other, column in batch.candidates.exists.nonzero().tolist():
                if (other, column) in left_out:
                    continue
                source = int(batch.candidates.source[other, column])
                key = remembered(system, batch.candidates, other, column).keys[0]
                scores[other, column] = (sought[row][source] @ key / 0.3).exp()
            total -= (sum(scores[each] for each in right) / sum(scores.values())).log().item()
    assert found == pytest.approx(total / 2, rel=1e-4)


def test_a_step_in_parts_is_the_step(tiny):
    """The gradient cache's halves: the contrastive loss compares all questions of a step."""
    system, batch = made(tiny), marked(tiny)

    def rows(some):
        parts = {}
        for name in ("inputs", "candidates"):
            whole = getattr(batch, name)
            fields = {key: getattr(whole, key) for key in whole.__slots__}
            kept = {key: value[some] for key, value in fields.items() if isinstance(value, torch.Tensor)}
            kept |= {"ids": whole.ids[some]} if name == "candidates" else {}
            parts[name] = replace(whole, **kept)
        names = ("target", "target_mask", "positive", "known", "hidden", "about")
        kept = {key: getattr(batch, key)[some] for key in names}
        return replace(batch, **parts, **kept)

    parts = [system.represent(rows(slice(start, stop))) for start, stop in ((0, 1), (1, 3))]
    torch.testing.assert_close(system.joint_losses(parts)["contrastive"], system.losses(batch)["contrastive"], **CLOSE)


def test_what_a_step_compares_is_made_anew_with_and_without_gradients(tiny):
    """The gradient cache looks at a step without gradients first, and hands on what was found then."""
    system, batch = made(tiny).train(), marked(tiny)
    with torch.no_grad():
        kept = stored(system, batch.candidates)
        batch = replace(batch, candidates=replace(kept, keys=-kept.keys))
        first = system.represent(batch, with_losses=False).vectors["key"]
    torch.testing.assert_close(first, system.represent(batch).vectors["key"].detach(), **CLOSE)


def test_without_right_entries_there_is_no_contrast(tiny):
    system, (inputs, found) = made(tiny), seen(tiny)
    assert system.losses(TrainingBatch(inputs, found, *tiny.target()))["contrastive"].item() == 0
    none = made(tiny, contrastive_weight=0.0)
    assert "contrastive" not in none.losses(TrainingBatch(inputs, found, *tiny.target()))


def test_a_warm_start_reads_nothing(tiny):
    system = made(tiny, generation_weight=0.0)
    assert set(system.losses(marked(tiny))) == {"contrastive", "decorrelation", "alignment"}


def test_several_right_entries_share():
    scores = torch.tensor([[2.0, 1.0, 0.0, 5.0]])
    right = torch.tensor([[True, True, False, True]])
    exists = torch.tensor([[True, True, True, False]])
    shares = scores[0, :3].softmax(0)
    assert contrastive(scores, right, exists=exists).item() == pytest.approx(-(shares[0] + shares[1]).log().item())


def test_decorrelation_is_zero_for_what_does_not_vary_together():
    one, other = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert decorrelation(torch.stack([one, other])[None]).item() == 0
    # Two tokens that are one: a covariance of 1, counted both ways.
    assert decorrelation(torch.stack([one, one])[None]).item() == pytest.approx(2.0)


def test_alignment_is_zero_at_the_length_asked_for():
    values = torch.tensor([[[3.0, 4.0], [0.0, 5.0]]])
    assert alignment(values, torch.tensor(5.0)).item() == 0
    assert alignment(values, torch.tensor(10.0)).item() == pytest.approx(0.25)


def test_without_entries_there_is_nothing_to_regulate():
    nothing = torch.zeros(0, 4, 6, requires_grad=True)
    losses = decorrelation(nothing), alignment(nothing, torch.tensor(5.0))
    assert [loss.item() for loss in losses] == [0.0, 0.0]
    sum(losses).backward()


def test_sources_have_numbers(tiny):
    system = made(tiny)
    assert system.source_of(Passage(id="a", text="b", source="captions")) == 1
    with pytest.raises(ValueError, match=r"source 'web', the model's gate knows facts, captions"):
        system.source_of(Passage(id="a", text="b", source="web"))


def test_the_image_encoder_is_remembered(tiny):
    system = made(tiny)
    before = system.memory_cut
    shape = {"patches": 4, "groups": (4, 2)}
    system.sees("net:1", **shape)
    assert system.memory_cut == f"{before}, net:1"
    with pytest.raises(ValueError, match=r"features are of net:2, the model was trained with those of net:1"):
        system.sees("net:2", **shape)
    with pytest.raises(ValueError, match=r"picture_dim=0 reads text alone"):
        tiny.system("reveal").sees("net:1", **shape)
    with pytest.raises(ValueError, match=r"FiD reads no pictures"):
        tiny.system("fid").sees("net:1", **shape)
    for patches, groups, wrong in (
        (4, (6,), "picture_colours=2"),
        (9, (4, 2), "patches=4"),
        (4, (7, 2), "picture_dim=6"),
    ):
        with pytest.raises(ValueError, match=rf"^{wrong}, but the features of net:1 need picture_dim={sum(groups)}"):
            made(tiny).sees("net:1", patches=patches, groups=groups)


def test_features_of_another_size(tiny):
    system, (inputs, found) = made(tiny), seen(tiny)
    with pytest.raises(ValueError, match=r"a picture has 4 patches of 5 features, the model reads 4 of 6"):
        system.read(replace(inputs, picture=inputs.picture[..., :5]), found)
    with pytest.raises(ValueError, match=r"a picture has 3 patches; they must be a square"):
        made(tiny, patches=3).read(replace(inputs, picture=inputs.picture[:, :3]), found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_latents": 0}, r"num_latents=0; it must be at least 1"),
        ({"renewed": 0}, r"renewed=0; it must be at least 1"),
        ({"reencoded": -1}, r"reencoded=-1; it must not be negative"),
        ({"contrastive_weight": -1.0}, r"contrastive_weight=-1.0; it must not be negative"),
        ({"temperature": 0.0}, r"temperature=0.0; it must be above 0"),
        ({"sources": ("a", "a")}, r"sources=\['a', 'a'\]; name at least one, and each once"),
        ({"picture_dim": 1, "picture_colours": 2}, r"picture_colours=2 but picture_dim=1"),
        ({"lower_layers": 2, "head_layers": 2}, r"head_layers=2 above lower_layers=2, but the encoder has 3 layers"),
    ],
)
def test_options_out_of_range(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        tiny.system("reveal", **options)
