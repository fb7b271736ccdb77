"""`wellread eval --texts` from folders to numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wellread.model import build_model, save_model
from wellread.nn.building import build_from
from wellread.nn.tokenizers import Tokenizer, train_tokenizer
from wellread.retrieval.chunks import Document, write_chunks

SIZE = 8
WORDS = ["harbour", "river", "stone", "lamp", "winter", "castle", "orchard", "bridge", "market", "tower", "garden"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    home = tmp_path_factory.mktemp("texts")
    draw = np.random.default_rng(1)
    documents = [Document(f"d{n}", " ".join(draw.choice(WORDS, 30 + 5 * n)), "test") for n in range(5)]
    train_tokenizer([each.text for each in documents], 280, kind="bytes").save(home / "words")
    texts = write_chunks(lambda: documents, Tokenizer.load(home / "words"), home / "test", chunk_tokens=SIZE)
    for folder, steps in (("lists", (1, 2)), ("own", (9, 0))):
        numbers = np.stack([(np.arange(texts.num_chunks) + step) % texts.num_chunks for step in steps], axis=1)
        (home / folder).mkdir()
        arrays = {}
        for name, values in (("numbers", numbers), ("distances", np.ones(numbers.shape, np.float32))):
            values.tofile(home / folder / f"{name}.bin")
            arrays[name] = {"type": str(values.dtype), "shape": list(values.shape)}
        info = {"database": "d", "texts": texts.fingerprint, "k": 2, "arrays": arrays}
        (home / folder / "neighbours.json").write_text(json.dumps(info))
    nets = build_from("scratch", kind="decoder", tokenizer=home / "words", dim=16, layers=2, heads=2)
    model = build_model("retro", {"chunk_tokens": SIZE, "cross_layers": [1]}, *nets)
    for weight in model.system.cross.parameters():
        weight.data.add_(0.1)
    save_model(home / "model", model)
    copying = build_model("retro", {"chunk_tokens": SIZE, "cross_layers": [1], "copy_neighbours": True}, *nets)
    save_model(home / "copying", copying)
    return home


def command(place, *more: str) -> str:
    return " ".join(["eval", "--model", f"{place}/model", "--texts", f"{place}/test", "--sequence-chunks", "3", *more])


def test_texts_are_scored_with_and_without_neighbours(place, wellread):
    more = ("--neighbours", f"all={place}/lists", "-k", "1", "-k", "2", "--overlap", "--shuffled", "0")
    answer = wellread(command(place, *more, "--json"))
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert [row["neighbours"] for row in found["rows"]] == ["none", "all k=1", "all k=2", "all shuffled"]
    assert [row["k"] for row in found["rows"]] == [0, 1, 2, 2]
    assert len({row["bits_per_byte"]["value"] for row in found["rows"]}) == 4
    assert "difference" not in found["rows"][0]
    low, high = found["rows"][1]["difference"]["interval"]
    assert low <= found["rows"][1]["difference"]["value"] <= high
    assert found["bits_per_byte"] == {row["neighbours"]: row["bits_per_byte"] for row in found["rows"]}
    assert found["documents"] == 5
    assert found["lossless"] is True
    assert "do not decode" not in answer.err
    assert found["overlap"][-1]["all k=2"] == found["rows"][2]["bits_per_byte"]
    assert found["overlap"][-1]["share"] == 1.0
    own, other = (row["bits_per_byte"]["value"] for row in found["rows"][2:])
    assert found["own_less_shuffled"]["value"] == pytest.approx(own - other, abs=2e-5)  # five digits are told of each
    low, high = found["own_less_shuffled"]["interval"]
    assert low <= found["own_less_shuffled"]["value"] <= high


def test_overlap_is_with_all_that_a_list_holds_however_many_are_read(place, wellread):
    """The second neighbour in one of the lists is the chunk itself, which holds all of it."""
    lists = ("--neighbours", f"near={place}/lists", "--neighbours", f"own={place}/own", "--overlap", "--json")
    found = [json.loads(wellread(command(place, *lists, "-k", k)).out)["overlap"] for k in ("1", "2")]
    facts = [[(row["list"], row["listed"], row["overlap"], row["chunks"]) for row in rows] for rows in found]
    assert facts[0] == facts[1]
    assert {(name, listed) for name, listed, *_ in facts[0]} == {("near", 2), ("own", 2)}
    assert [bound for name, _, bound, _ in facts[0] if name == "own"] == [1.0]
    assert "near k=1-none" in found[0][0]
    told = wellread(command(place, *lists[:-1])).out
    assert "by overlap with the 2 neighbours that near lists:" in told


def test_a_tokenizer_that_loses_letters_is_told(place, wellread, tmp_path):
    text = "The Harbour and the River, the Stone and the Lamp in Winter. "
    words = train_tokenizer([text], 200)
    write_chunks(lambda: [Document("a", 3 * text)], words, tmp_path / "test", chunk_tokens=SIZE)
    nets = build_from("scratch", kind="decoder", tokenizer=tmp_path / "test", dim=16, layers=2, heads=2)
    save_model(tmp_path / "model", build_model("retro", {"chunk_tokens": SIZE, "cross_layers": [1]}, *nets))
    answer = wellread(command(tmp_path, "--json"))
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["lossless"] is False
    assert f"the tokens of {tmp_path}/test do not decode to its texts" in answer.err


def test_copied_words_are_scored(place, wellread):
    more = ("--neighbours", f"all={place}/lists", "-k", "2", "--shuffled", "0", "--json")
    answer = wellread(command(place, *more).replace(f"{place}/model", f"{place}/copying"))
    assert answer.code == 0, answer.err
    rows = json.loads(answer.out)["rows"]
    # Its cross-attention adds nothing yet: what differs is copied.
    assert len({row["bits_per_byte"]["value"] for row in rows}) == 3


def test_for_people(place, wellread):
    answer = wellread(command(place, "--neighbours", f"{place}/lists", "--limit", "2"))
    assert answer.code == 0, answer.err
    assert "2 documents" in answer.out
    assert "| lists k=2 |" in answer.out


def test_without_neighbours_there_is_one_row(place, wellread):
    found = json.loads(wellread(command(place, "--json")).out)
    assert [row["neighbours"] for row in found["rows"]] == ["none"]
    assert found["bits_per_byte"] == {"none": found["rows"][0]["bits_per_byte"]}
    assert found["overlap"] == []
    assert found["own_less_shuffled"] is None


@pytest.mark.parametrize("option", ["--overlap", "--shuffled 0"])
def test_what_compares_neighbours_needs_some(place, wellread, option):
    answer = wellread(command(place, option))
    assert answer.code == 2
    assert f"{option.split()[0]} needs neighbours to compare with; give --neighbours." in answer.err


def test_two_lists_of_one_name_are_refused(place, wellread):
    answer = wellread(command(place, "--neighbours", f"{place}/lists", "--neighbours", f"{place}/other/lists"))
    assert answer.code == 2
    assert "--neighbours: two lists have the name 'lists'; give each one of its own, NAME=FOLDER." in answer.err


@pytest.mark.parametrize("option", ["--answers said.jsonl", "--split test", "--top-k 3", "--memory memory"])
def test_options_of_questions_do_not_go_with_texts(place, wellread, option):
    answer = wellread(command(place, option))
    assert answer.code == 2
    assert f"{option.split()[0]} belongs to --questions; leave it out." in answer.err


def test_options_of_texts_do_not_go_with_questions(wellread):
    answer = wellread("eval --questions dev.jsonl --neighbours lists")
    assert answer.code == 2
    assert "--neighbours belongs to --texts; leave it out." in answer.err
