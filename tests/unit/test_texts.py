"""Windows of texts with neighbours, scores of texts, and training over them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from wellread.evaluation.language import bits_difference, bits_per_byte, by_overlap
from wellread.locking import locked
from wellread.model import build_model, load_model
from wellread.nn.tokenizers import Tokenizer, train_tokenizer
from wellread.retrieval.chunk_database import fingerprint_of
from wellread.retrieval.chunks import ChunkTexts, Document, write_chunks
from wellread.texts import NeighbourTexts, Windows, lossless, score_texts
from wellread.training.config import TextsConfig
from wellread.training.recipes import parse_recipe
from wellread.training.run import run_recipe
from wellread.training.texts import TextBatches, open_texts

SIZE, K = 8, 2
WORDS = ["harbour", "river", "stone", "lamp", "winter", "castle", "orchard", "bridge", "market", "tower", "garden"]


def story(seed: int, words: int) -> str:
    draw = np.random.default_rng(seed)
    return " ".join(draw.choice(WORDS, words)) + " é."


def write_lists(folder, texts: ChunkTexts, numbers: np.ndarray) -> None:
    """Neighbour lists as `find_neighbours` writes them."""
    folder.mkdir()
    distances = np.where(numbers < 0, np.inf, 1.0).astype(np.float32)
    arrays = {}
    for name, values in (("numbers", numbers.astype(np.int64)), ("distances", distances)):
        values.tofile(folder / f"{name}.bin")
        arrays[name] = {"type": str(values.dtype), "shape": list(values.shape)}
    info = {"format": 1, "database": "d", "texts": texts.fingerprint, "k": numbers.shape[1], "arrays": arrays}
    (folder / "neighbours.json").write_text(json.dumps(info))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six documents of different lengths; the neighbours of a chunk are two chunks of the next document."""
    place = tmp_path_factory.mktemp("texts")
    documents = [Document(f"d{number}", story(number, 12 + 9 * number), "train") for number in range(6)]
    train_tokenizer([document.text for document in documents], 300, kind="bytes").save(place / "words")
    texts = write_chunks(lambda: documents, Tokenizer.load(place / "words"), place / "chunks", chunk_tokens=SIZE)
    first = np.array([texts.first_chunk(number) for number in range(7)])
    following = (texts.documents(np.arange(texts.num_chunks)) + 1) % 6
    numbers = np.stack([first[following], np.where(following == 0, -1, first[following] + 1)], axis=1)
    write_lists(place / "neighbours", texts, numbers)
    other = train_tokenizer([document.text for document in documents], 270, kind="bytes")
    other.save(place / "other-words")
    again = write_chunks(lambda: documents, other, place / "other", chunk_tokens=SIZE)
    write_lists(place / "other-neighbours", again, np.zeros((again.num_chunks, 1), np.int64))
    return place


@pytest.fixture
def source(folder) -> NeighbourTexts:
    words = Tokenizer.load(folder / "words")
    return NeighbourTexts.open(folder / "chunks", folder / "neighbours", None, tokenizer=words, k=K)


@pytest.fixture
def model(folder):
    from wellread.nn.building import build_from

    made = build_from("scratch", kind="decoder", tokenizer=folder / "words", dim=16, layers=2, heads=2)
    return build_model("retro", {"chunk_tokens": SIZE, "cross_layers": [1]}, *made)


def recipe_of(folder, **texts):
    return {
        "system": {"name": "retro", "chunk_tokens": SIZE, "cross_layers": [1]},
        "init": {"kind": "scratch", "scratch": {"dim": 16, "layers": 2, "heads": 2}},
        "texts": {"chunks": str(folder / "chunks"), "neighbours": str(folder / "neighbours"), **texts},
        "training": {"steps": 6, "batch_size": 2, "save_every": 3, "learning_rate": 1e-2, "device": "cpu"},
    }


# -- windows ----------------------------------------------------------------------------------------------------


def test_windows_hold_every_chunk_once_and_none_of_two_documents(source):
    windows = Windows(source.texts, 3)
    numbers = windows.numbers[windows.numbers >= 0]
    assert numbers.tolist() == list(range(source.texts.num_chunks))
    for row in windows.numbers:
        assert len(set(source.texts.documents(row[row >= 0]).tolist())) == 1
    assert len(Windows(source.texts, 3, documents=2)) == sum(
        -(-(source.texts.first_chunk(n + 1) - source.texts.first_chunk(n)) // 3) for n in range(2)
    )


def test_a_batch_is_the_windows_text_with_the_neighbours_of_its_chunks(source):
    windows = Windows(source.texts, 3).numbers
    batch = source.batch(windows)
    assert batch.inputs.tokens.shape == (len(windows), 0)
    for row, window in enumerate(windows):
        real = window[window >= 0]
        expected = np.concatenate([source.texts.chunk(int(chunk)) for chunk in real])
        assert batch.target[row][batch.target_mask[row]].tolist() == expected.tolist()
        for column in range(2 * K):
            chunk, place = divmod(column, K)
            number = -1 if window[chunk] < 0 else int(source.neighbours.of(window[chunk])[0][place])
            assert bool(batch.candidates.exists[row, column]) == (number >= 0)
            assert int(batch.candidates.group[row, column]) == chunk
            if number >= 0:
                found = batch.candidates.tokens[row, column][batch.candidates.mask[row, column]]
                assert found.tolist() == source.texts.chunk_with_continuation(number).tolist()


def test_neighbours_of_another_vocabulary_are_tokenised_anew(folder):
    words = Tokenizer.load(folder / "other-words")
    places = (folder / "other", folder / "other-neighbours", folder / "chunks")
    source = NeighbourTexts.open(*places, tokenizer=words, k=1)
    tokens, mask = source.found(np.array([[0, -1], [1, 2]]))
    text = source.database.chunk_text(0, parts=2)
    assert tokens[0, 0, 0][mask[0, 0, 0]].tolist() == words.encode(text)[: 2 * SIZE]
    assert not mask[0, 1].any()
    assert (tokens[1, 1] == tokens[0, 0]).all()


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_neighbours_are_those_of_chunks_of_other_documents(folder, source, seed, tmp_path):
    """A chunk's only neighbour here is the chunk itself, so that it says whose neighbours were given."""
    chunks = np.arange(source.texts.num_chunks)
    write_lists(tmp_path / "own", source.texts, chunks[:, None])
    words = source.tokenizer
    where = (folder / "chunks", tmp_path / "own", None)
    moved = NeighbourTexts.open(*where, tokenizer=words, k=1, shuffled=seed)
    whose = moved.numbers(chunks)[:, 0]
    assert (source.texts.documents(whose) != source.texts.documents(chunks)).all()
    assert set(source.texts.documents(whose).tolist()) == set(range(6))
    assert (moved.numbers(chunks[::-1]) == moved.numbers(chunks)[::-1]).all()
    assert (moved.numbers(np.array([-1])) == -1).all()
    assert (NeighbourTexts.open(*where, tokenizer=words, k=1, shuffled=seed + 5).numbers(chunks)[:, 0] != whose).any()


def test_one_document_cannot_be_shuffled(source, tmp_path):
    alone = write_chunks(lambda: [Document("x", story(1, 40))], source.tokenizer, tmp_path / "x", chunk_tokens=SIZE)
    write_lists(tmp_path / "n", alone, np.zeros((alone.num_chunks, 1), np.int64))
    moved = NeighbourTexts.open(alone.path, tmp_path / "n", None, tokenizer=source.tokenizer, k=1, shuffled=0)
    with pytest.raises(ValueError, match=r"shuffled=0: .*x has one document; it takes two or more"):
        moved.numbers(np.arange(2))


def test_overlap_is_that_with_the_neighbours(source):
    overlap = source.overlap(np.arange(source.texts.num_chunks))
    assert overlap.shape == (source.texts.num_chunks,)
    assert 0 < overlap.max() <= 1


def test_what_does_not_belong_together_is_refused(folder, source, tiny):
    words = source.tokenizer
    with pytest.raises(ValueError, match=r"k=3, but .* lists 2 neighbours of a chunk; ask for fewer"):
        NeighbourTexts.open(folder / "chunks", folder / "neighbours", None, tokenizer=words, k=3)
    with pytest.raises(ValueError, match="belong to another text"):
        NeighbourTexts.open(folder / "other", folder / "neighbours", None, tokenizer=words, k=1)
    few = write_chunks(lambda: [Document("x", "stone", "")], words, folder / "few", chunk_tokens=SIZE)
    with pytest.raises(ValueError, match=r"names chunk \d+, but .* has 1; name the database that"):
        NeighbourTexts.open(folder / "chunks", folder / "neighbours", few.path, tokenizer=words, k=1)


def test_lists_are_read_with_the_database_they_were_found_in(folder, source, monkeypatch):
    """As far as that can be told: where the database still has its keys."""
    words = source.tokenizer
    database = write_chunks(lambda: [Document("x", story(1, 400), "")], words, folder / "database", chunk_tokens=SIZE)
    NeighbourTexts.open(folder / "chunks", folder / "neighbours", database.path, tokenizer=words, k=1)
    (database.path / "keys").mkdir()
    keys = SimpleNamespace(open=lambda path: SimpleNamespace(fingerprint="of keys"))
    monkeypatch.setattr("wellread.texts.Keys", keys)
    with pytest.raises(ValueError, match=r"were not found among the chunks of .*database; name the database"):
        NeighbourTexts.open(folder / "chunks", folder / "neighbours", database.path, tokenizer=words, k=1)
    info = json.loads((folder / "neighbours" / "neighbours.json").read_text())
    made = fingerprint_of(database, keys.open(database.path))
    moved = folder / "moved"
    shutil.copytree(folder / "neighbours", moved)
    (moved / "neighbours.json").write_text(json.dumps(info | {"database": made}))
    assert NeighbourTexts.open(folder / "chunks", moved, database.path, tokenizer=words, k=1).k == 1


def test_a_model_that_cannot_read_the_texts_says_why(folder, source, model):
    from wellread.texts import check_language_model

    other = ChunkTexts.open(folder / "other")
    with pytest.raises(ValueError, match=r"were cut with another tokenizer than this model's; cut them with it"):
        check_language_model(model, other)
    longer = build_model("retro", {"chunk_tokens": 4, "cross_layers": [1]}, model.system.reader, source.tokenizer)
    with pytest.raises(ValueError, match=r"have 8 tokens, but this retro reads 4 at once; cut them again with"):
        check_language_model(longer, source.texts)


# -- scores -----------------------------------------------------------------------------------------------------


def test_scores_are_the_likelihood_of_every_chunk(source, model):
    windows = Windows(source.texts, 3)
    scores = score_texts(model, source, windows, batch_size=2)
    batch = source.batch(windows.numbers)
    with torch.no_grad():
        whole = model.system.eval().log_likelihood(batch.inputs, batch.candidates, batch.target, batch.target_mask)
    assert scores.chunks.tolist() == list(range(source.texts.num_chunks))
    assert scores.bytes.sum() == sum(source.texts.document_bytes(number) for number in range(6))
    # Float32 sums of some hundred log-probabilities in another order.
    assert scores.nats.sum() == pytest.approx(-float(whole.double().sum()), rel=1e-5)
    found = bits_per_byte(scores)
    assert found.value == pytest.approx(scores.nats.sum() / np.log(2) / scores.bytes.sum())
    assert found.low < found.value < found.high
    assert found == bits_per_byte(scores)


def test_a_difference_is_paired_over_documents(source, model):
    scores = score_texts(model, source, Windows(source.texts, 3))
    better = replace(scores, nats=scores.nats * 0.99)
    found = bits_difference(better, scores)
    assert found.high < 0
    assert found.high - found.low < bits_per_byte(scores).high - bits_per_byte(scores).low
    with pytest.raises(ValueError, match="chunks were scored, not the same ones"):
        bits_difference(scores, scores.only(scores.documents > 0))
    with pytest.raises(ValueError, match="no text was scored; give chunks that hold some"):
        bits_per_byte(scores.only(scores.documents > 99))


def test_chunks_within_a_bound_of_overlap_are_judged_alone(source, model):
    scores = score_texts(model, source, Windows(source.texts, 3))
    overlap = np.linspace(0.2, 1.0, len(scores.chunks))
    both = {"with": replace(scores, nats=scores.nats * np.where(overlap > 0.5, 0.5, 1.0)), "without": scores}
    rows = by_overlap(both, overlap, against="without", bounds=(0.1, 0.5, 1.0))
    assert [row["overlap"] for row in rows] == [0.5, 1.0]
    assert rows[0]["with-without"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert rows[1]["with-without"]["value"] < 0
    assert rows[1]["chunks"] == len(overlap)


# -- training ---------------------------------------------------------------------------------------------------


def test_batches_are_a_function_of_seed_and_step(source):
    windows = Windows(source.texts, 3)
    one, again = (TextBatches(source, windows, batch_size=4, seed=1) for _ in range(2))
    late = again.batch(5)
    assert torch.equal(one.batch(5).target, late.target)
    parts = [again.batch(5, part, 2).target for part in range(2)]
    assert torch.equal(torch.cat(parts), late.target)
    other = TextBatches(source, windows, batch_size=4, seed=2)
    assert not torch.equal(other.batch(0).target, one.batch(0).target)


def test_every_window_comes_once_before_any_comes_again(source):
    windows = Windows(source.texts, 3)
    batches = TextBatches(source, windows, batch_size=1, seed=0)
    seen = [tuple(batches.batch(step).target[0].tolist()) for step in range(len(windows))]
    assert len(set(seen)) == len(windows)


def test_a_run_over_texts_resumes_and_learns(folder, tmp_path):
    given = recipe_of(folder, sequence_chunks=3, dev=str(folder / "chunks"), dev_neighbours=str(folder / "neighbours"))
    given["training"] |= {"keep_best": "bits_per_byte", "steps": 8, "schedule_steps": 12}
    run_recipe(parse_recipe(given), tmp_path / "run", progress=False)
    given["training"]["steps"] = 12
    report = run_recipe(parse_recipe(given), tmp_path / "run", progress=False)
    whole = run_recipe(parse_recipe(given), tmp_path / "whole", progress=False)
    one, other = (load_model(place / "last").system.state_dict() for place in (tmp_path / "run", tmp_path / "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert report.best == pytest.approx(whole.best)
    losses = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    dev = [row["dev"]["bits_per_byte"] for row in losses if "dev" in row]
    assert dev[-1] == pytest.approx(whole.best)
    assert json.loads((tmp_path / "whole" / "recipe.json").read_text())["recipe"]["texts"]["k"] == K


def test_a_run_is_trained_by_one_process_at_a_time(folder, tmp_path):
    given = recipe_of(folder)
    with locked(tmp_path / "run"), pytest.raises(ValueError, match=r"another process is changing .*run; wait"):
        run_recipe(parse_recipe(given), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "recipe.json").exists()
    assert run_recipe(parse_recipe(given), tmp_path / "run", progress=False).finished


def test_held_out_texts_that_were_not_cut_without_loss_are_told(folder, model, tmp_path, caplog):
    words = train_tokenizer([story(1, 40)], 200)
    texts = write_chunks(lambda: [Document("x", story(1, 40).title())], words, tmp_path / "x", chunk_tokens=SIZE)
    assert not lossless(texts)
    assert lossless(ChunkTexts.open(folder / "chunks"))
    lossy = build_model("retro", {"chunk_tokens": SIZE, "cross_layers": [1]}, model.system.reader, words)
    config = TextsConfig(chunks=texts.path, k=0, dev=texts.path)
    open_texts(config, lossy, batch_size=1, seed=0, precision="fp32")
    assert f"the tokens of {texts.path} do not decode to its texts: bits per byte leave out" in caplog.text
    caplog.clear()
    open_texts(
        TextsConfig(chunks=folder / "chunks", k=0, dev=folder / "chunks"), model, batch_size=1, seed=0, precision="fp32"
    )
    assert not caplog.text


def test_fitting_leaves_the_reader_as_it_was(folder, model, tmp_path):
    from wellread.model import save_model

    save_model(tmp_path / "start", model)
    given = recipe_of(folder) | {"init": {"from": str(tmp_path / "start")}}
    given["training"] |= {"freeze": ["reader."], "steps": 3}
    report = run_recipe(parse_recipe(given), tmp_path / "run", progress=False)
    before, after = model.system.state_dict(), load_model(report.checkpoint).system.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(("cross.", "neighbours.")) for name in changed)


def test_texts_without_neighbours_are_trained_on_too(folder, model):
    config = TextsConfig(chunks=folder / "chunks", k=0)
    batches, dev = open_texts(config, model, batch_size=2, seed=0, precision="fp32")
    assert dev is None
    assert not batches.batch(0).candidates.exists.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": -1}, "texts.k=-1; it must be at least 0"),
        ({"sequence_chunks": 0}, "texts.sequence_chunks=0; it must be at least 1"),
        ({"dev_neighbours": "x"}, "texts.dev_neighbours are given without texts.dev"),
    ],
)
def test_wrong_values_of_texts(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe(recipe_of(folder, **changes))


def test_questions_and_texts_in_one_recipe(folder):
    with pytest.raises(ValueError, match=r"\[tasks\] is given beside \[texts\]; a run reads questions or texts"):
        parse_recipe(recipe_of(folder) | {"tasks": {}})


def test_a_reader_of_questions_is_not_trained_on_texts(folder):
    given = recipe_of(folder) | {"system": {"name": "fid"}, "init": {"kind": "scratch"}}
    given["init"]["scratch"] = {"dim": 16, "layers": 1, "heads": 2}
    with pytest.raises(ValueError, match=r"fid is no language model that continues texts"):
        run_recipe(parse_recipe(given), folder / "never", progress=False)
