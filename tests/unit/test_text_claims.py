"""RETRO's claims: their recipes fit, and a claim over tiny texts is trained, scored, judged and taken up again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wellread.claims import text_run
from wellread.claims.claim import Figures
from wellread.claims.retro import RETRO
from wellread.claims.rules import Above, interval
from wellread.claims.text_claim import TextAsk, TextClaim, TextVariant, Training
from wellread.claims.text_run import TextRuns, TextSettings, run_text_claim
from wellread.config import from_mapping
from wellread.evaluation.language import TextScores, bits_difference, bits_per_byte
from wellread.model import load_model
from wellread.nn.tokenizers import Tokenizer, train_tokenizer
from wellread.retrieval.chunks import Document, write_chunks
from wellread.retrieval.neighbours import Neighbours
from wellread.systems import SYSTEMS
from wellread.training.recipes import parse_recipe

WORDS = ["harbour", "river", "stone", "lamp", "winter", "castle", "orchard", "bridge", "market", "tower", "garden"]
SIZE = 8
TRAININGS = {each.training.name: each.training for claim in RETRO for each in claim.variants.values()}


@pytest.mark.parametrize("training", TRAININGS.values(), ids=TRAININGS)
def test_recipes_of_the_claims_fit(training):
    recipe = parse_recipe(TextRuns(TextSettings()).written(training, 3))
    assert recipe.training.seed == 3
    options = from_mapping(SYSTEMS[recipe.system_name].Config, recipe.system_options)
    assert all(layer > 0 for layer in options.cross_layers)


def test_claims_ask_within_what_is_listed():
    for claim in RETRO:
        assert all(variant.ask.k <= text_run.LISTED for variant in claim.variants.values())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Texts whose neighbours are their own next chunks."""
    home = tmp_path_factory.mktemp("claims")
    draw = np.random.default_rng(0)
    documents = [Document(f"d{n}", " ".join(draw.choice(WORDS, 30 + 5 * n)), "train") for n in range(6)]
    train_tokenizer([each.text for each in documents], 280, kind="bytes").save(home / "words")
    texts = write_chunks(lambda: documents, Tokenizer.load(home / "words"), home / "chunks", chunk_tokens=SIZE)
    numbers = np.stack([(np.arange(texts.num_chunks) + step) % texts.num_chunks for step in (1, 2, 3, 4)], axis=1)
    (home / "neighbours").mkdir()
    arrays = {}
    for name, values in (("numbers", numbers), ("distances", np.ones(numbers.shape, np.float32))):
        values.tofile(home / "neighbours" / f"{name}.bin")
        arrays[name] = {"type": str(values.dtype), "shape": list(values.shape)}
    info = {"database": "d", "texts": texts.fingerprint, "k": 4, "arrays": arrays}
    (home / "neighbours" / "neighbours.json").write_text(json.dumps(info))
    return home


@pytest.fixture
def runs(place, tmp_path, monkeypatch) -> TextRuns:
    monkeypatch.setattr(TextRuns, "neighbours", lambda self, training, share: Neighbours.open(place / "neighbours"))
    return TextRuns(TextSettings(seeds=2, steps=2, limit=5, out=tmp_path / "out", work=tmp_path / "work"))


@pytest.fixture
def claim(place) -> TextClaim:
    changes = {
        "init": {"kind": "scratch", "scratch": {"dim": 16, "layers": 2, "heads": 2}},
        "system": {"name": "retro", "chunk_tokens": SIZE, "cross_layers": [1]},
        "texts": {name: str(place / folder) for name, folder in [("chunks", "chunks"), ("database", "chunks")]},
        "training": {"batch_size": 2, "precision": "fp32", "warmup": 1, "device": "cpu"},
    }
    changes["texts"] |= {"neighbours": str(place / "neighbours"), "sequence_chunks": 3, "documents": 6}
    trained = Training("tiny", changes, held=place / "chunks", database=place / "chunks")
    start = replace(trained, name="start", steps=0.0)
    return TextClaim(
        id="retro-neighbours",
        paper="retro",
        where="nowhere",
        tags=("fig1",),
        says="trained texts need fewer bits",
        variants={
            "start": TextVariant(start, TextAsk(k=0), 0.0),
            "trained": TextVariant(trained, TextAsk(k=2), 1.0),
            "little in common": TextVariant(trained, TextAsk(k=2, overlap=0.9), 2.0),
            "shuffled": TextVariant(trained, TextAsk(k=2, shuffled=True), 3.0),
        },
        rules=(Above("trained texts need fewer bits", {"start": 1, "trained": -1}),),
        figures=Figures(says="nothing"),
        x_label="x",
    )


def test_a_claim_is_trained_scored_judged_and_taken_up_again(runs, claim, monkeypatch):
    pytest.importorskip("matplotlib")
    said = []
    row = run_text_claim(runs, claim, say=said.append)
    assert row["verdict"] == "holds"
    assert len(said) == 8
    values = {each["variant"]: each for each in row["rows"]}
    assert values["start"]["em"] > values["trained"]["em"] > 1000  # millibits; a byte of random letters takes several
    assert values["trained"]["interval"][0] <= values["trained"]["em"] <= values["trained"]["interval"][1]
    assert len(values["trained"]["per_seed"]) == 2
    assert values["little in common"]["em"] != values["trained"]["em"]
    assert values["start"]["recipes"] != values["trained"]["recipes"]
    out = runs.settings.out
    assert json.loads((out / "retro-neighbours.json").read_text()) == row
    assert (out / "retro-neighbours.svg").is_file()
    monkeypatch.setattr(text_run, "run_recipe", lambda *parts, **rest: pytest.fail("trained again"))
    monkeypatch.setattr(text_run, "score_texts", lambda *parts, **rest: pytest.fail("scored again"))
    assert run_text_claim(runs, claim) == row
    assert run_text_claim(runs, claim, again=True)["rows"] == row["rows"]


def test_a_kept_row_is_told_in_the_words_of_now(runs, claim, monkeypatch):
    pytest.importorskip("matplotlib")
    row, out = run_text_claim(runs, claim), runs.settings.out
    before = (out / "retro-neighbours.svg").read_text()
    monkeypatch.setattr(text_run, "score_texts", lambda *parts, **rest: pytest.fail("scored again"))
    figures = Figures(says="something", series={"theirs": {0.5: 1.0}})
    words = {"note": "New words.", "says": "Said anew.", "where": "elsewhere"}
    told = run_text_claim(runs, replace(claim, **words, figures=figures))
    assert told == row | words | {"figures": {"says": "something", "series": {"theirs": {"0.5": 1.0}}}}
    assert json.loads((out / "retro-neighbours.json").read_text()) == told
    assert before != (out / "retro-neighbours.svg").read_text()


def test_scores_are_bits_per_byte_of_all_documents(runs, claim):
    training = claim.variants["start"].training
    runs.train(training, 0, progress=False)
    found = runs.score(claim.variants["start"], 0, progress=False)
    measured = text_run._measured([found])
    assert measured.em.shape == (1, 5)
    assert measured.mean == pytest.approx(1000 * sum(found["bits"]) / sum(found["bytes"]))


def test_intervals_are_those_of_bits_per_byte_over_documents():
    """As a bootstrap of the ratio itself, within the noise of 2,000 draws; documents of very different lengths."""
    draw = np.random.default_rng(0)
    lengths = np.exp(draw.normal(9, 1, 40)).round()
    first = lengths * draw.normal(1.5, 0.1, 40)
    second = first - lengths * draw.normal(0.02, 0.01, 40)
    scores = [TextScores(bits * np.log(2), lengths, lengths, *[np.arange(40)] * 2) for bits in (first, second)]
    found = [text_run._measured([{"bits": bits.tolist(), "bytes": lengths.tolist()}]) for bits in (first, second)]
    level, right = interval(found[0]), bits_per_byte(scores[0])
    assert level == pytest.approx((1000 * right.low, 1000 * right.high), abs=10)
    assert level[1] - level[0] == pytest.approx(1000 * (right.high - right.low), rel=0.1)
    less, wanted = Above("less", {"a": 1, "b": -1}).judge(dict(zip("ab", found))), bits_difference(*scores)
    assert less.value == pytest.approx(1000 * wanted.value)
    assert (less.low, less.high) == pytest.approx((1000 * wanted.low, 1000 * wanted.high), abs=1)


def test_documents_without_a_counted_chunk_stay_in_the_pairs(runs, claim):
    training = claim.variants["trained"].training
    runs.train(training, 0, progress=False)
    few = TextVariant(training, TextAsk(k=2, overlap=0.3))
    whole, some = (runs.score(each, 0, progress=False) for each in (claim.variants["trained"], few))
    assert len(some["bits"]) == len(whole["bits"]) == 5
    assert all(one <= other for one, other in zip(some["bytes"], whole["bytes"], strict=True))
    with pytest.raises(ValueError, match="no held-out chunk has as little overlap as is asked for"):
        runs.score(TextVariant(training, TextAsk(k=2, overlap=-1.0)), 0, progress=False)


def test_a_model_may_be_asked_with_other_options(runs, claim):
    """A copy head that was trained is left aside, and its scores lie beside those with it."""
    first = claim.variants["trained"].training
    changes = {**first.changes, "system": {**first.changes["system"], "copy_neighbours": True}}
    training = replace(first, name="copies", changes=changes)
    runs.train(training, 0, progress=False)
    ask = TextAsk(k=2)
    found = [TextVariant(training, each) for each in (ask, replace(ask, options={"use_copy_head": False}), ask)]
    bits = [sum(runs.score(variant, 0, progress=False)["bits"]) for variant in found]
    assert bits[0] == bits[2]
    assert abs(bits[0] - bits[1]) > 0.1


def test_scores_that_were_kept_before_there_were_options_are_found():
    assert text_run._asked(TextAsk(k=2)) == {"k": 2, "share": 1.0, "shuffled": False, "overlap": 1.0}
    assert text_run._asked(TextAsk(shuffled=True))["shuffled"] == "other documents"  # and not those of any chunk


def test_what_is_missing_and_what_is_to_be_done(runs, claim):
    assert runs.missing(claim) == []
    gone = replace(claim.variants["start"].training, held=Path("nowhere/held"))
    assert runs.missing(replace(claim, variants={"x": TextVariant(gone)})) == [Path("nowhere/held")]
    counted: set[str] = set()
    plan = runs.outstanding(claim, counted)
    assert plan["steps"] == 4
    assert len(plan["trainings"]) == 4
    assert runs.outstanding(claim, counted)["trainings"] == []


def test_a_training_may_go_on_from_another(runs, claim):
    first = claim.variants["trained"].training
    changes = {**first.changes, "training": {**first.changes["training"], "freeze": ["reader."]}}
    second = replace(first, name="second", start=first, changes=changes)
    assert runs.folder(second, 0) != runs.folder(replace(second, start=None), 0)
    runs.train(second, 0, progress=False)
    before, after = (load_model(runs.folder(each, 0) / "last").system.state_dict() for each in (first, second))
    assert torch.equal(before["reader.layers.0.feed.up.weight"], after["reader.layers.0.feed.up.weight"])
    assert not torch.equal(before["cross.1.output.weight"], after["cross.1.output.weight"])
    other = replace(
        second, start=replace(first, changes={**first.changes, "texts": {**first.changes["texts"], "k": 1}})
    )
    assert runs.folder(other, 0) != runs.folder(second, 0)
