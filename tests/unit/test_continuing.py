"""A text continued: what is looked up, what is found for it, and how it is told."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from wellread.continuing import continue_text
from wellread.model import build_model, save_model
from wellread.nn.building import build_from
from wellread.nn.tokenizers import train_tokenizer
from wellread.retrieval.chunks import Document, write_chunks

SIZE = 4
STORIES = [
    "Harbour\nThe harbour of stone lies by the river and the lamp burns all winter.",
    "Orchard\nAn orchard of old trees stands behind the castle, and the bridge leads there.",
]


class Database:
    """Chunks found by the number of letters in the text that is sought."""

    def __init__(self, texts) -> None:
        self.texts, self.asked = texts, []

    def encode(self, texts: list[str]) -> np.ndarray:
        self.asked.append(texts)
        return np.array([[len(text)] for text in texts])

    def search(self, keys: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        numbers = (keys + 3 * np.arange(k)) % self.texts.num_chunks
        return numbers, np.arange(k, dtype=np.float32) + np.zeros((len(keys), k), np.float32)


@pytest.fixture(scope="module", params=[False, True], ids=["reading", "copying"])
def place(request, tmp_path_factory):
    home = tmp_path_factory.mktemp("continuing")
    train_tokenizer(STORIES, 300, kind="bytes").save(home / "words")
    train_tokenizer(STORIES, 262, kind="bytes").save(home / "other-words")
    nets = build_from("scratch", kind="decoder", tokenizer=home / "words", dim=16, layers=2, heads=2)
    model = build_model("retro", {"chunk_tokens": SIZE, "cross_layers": [1], "copy_neighbours": request.param}, *nets)
    for weight in model.system.cross.parameters():
        weight.data.add_(0.3)  # what it adds starts at zero
    save_model(home / "model", model)
    return home


@pytest.fixture(params=["words", "other-words"])
def database(request, place, tmp_path) -> Database:
    from wellread.nn.tokenizers import Tokenizer

    documents = [Document(f"d{number}", text) for number, text in enumerate(STORIES)]
    words = Tokenizer.load(place / request.param)
    return Database(write_chunks(lambda: documents, words, tmp_path / "texts", chunk_tokens=SIZE))


@pytest.fixture
def model(place):
    from wellread.model import load_model

    return load_model(place / "model")


def test_every_finished_chunk_is_looked_up_once(model, database):
    text = STORIES[0][:40]
    found = continue_text(model, database, text, k=2, max_tokens=9)
    words = model.frame.tokenizer
    length = len(words.encode(text))
    # The token that was written last is read by nobody.
    finished = (length + found.num_tokens - 1) // SIZE
    assert len(found.chunks) == finished
    assert [chunk.text for chunk in found.chunks][: length // SIZE] == [
        words.decode(words.encode(text)[start : start + SIZE]) for start in range(0, length - length % SIZE, SIZE)
    ]
    assert sum(map(len, database.asked)) == finished
    for chunk in found.chunks:
        assert [each.distance for each in chunk.neighbours] == [0.0, 1.0]
        for each in chunk.neighbours:
            document = STORIES[int(each.document[1:])]
            assert each.title == document.partition("\n")[0]
            assert each.text + each.continuation in document
            assert each.text == database.texts.chunk_text(each.number)


def test_neighbours_have_shares_of_what_was_given_to_the_words_written(model, database):
    text = STORIES[0][:40]
    found = continue_text(model, database, text, k=2, max_tokens=9)
    shares = [[each.share for each in chunk.neighbours] for chunk in found.chunks]
    assert sum(map(sum, shares)) == pytest.approx(1, abs=1e-5)
    # Words are written by what was found for the last chunk that is finished, so that of earlier ones gives nothing.
    last = len(model.frame.tokenizer.encode(text)) // SIZE - 1
    assert all(share == 0 for row in shares[:last] for share in row)
    assert all(share > 0 for share in shares[last])


def test_what_is_found_is_read(model, database):
    text = STORIES[1][:30]
    scores = {continue_text(model, database, text, k=k, max_tokens=6).log_likelihood for k in (0, 1, 2)}
    assert len(scores) == 3
    alone = continue_text(model, None, text, max_tokens=6)
    assert alone.log_likelihood in scores
    assert alone.chunks == continue_text(model, database, text, k=0, max_tokens=6).chunks == ()


def test_a_text_shorter_than_a_chunk(model, database):
    found = continue_text(model, database, "A", max_tokens=1)
    assert found.chunks == ()
    assert found.num_tokens == 1


def test_the_verb_prints_text_and_json(place):
    from wellread.cli.continue_text import command

    told = CliRunner().invoke(command, ["The harbour of stone", "--model", str(place / "model"), "--tokens", "3"])
    assert told.exit_code == 0, told.output
    assert told.output.startswith("The harbour of stone|")
    assert "tokens, nothing was looked up (no --database); search" in told.output
    assert "chunk" not in told.output
    arguments = ["The harbour of stone", "--model", str(place / "model"), "--tokens", "3", "--json"]
    row = json.loads(CliRunner().invoke(command, arguments).output)
    assert set(row) == {"text", "continuation", "num_tokens", "log_likelihood", "chunks", "milliseconds"}


def test_neighbours_are_told_with_title_distance_and_text(model, database):
    from wellread.cli.continue_text import as_text

    text = STORIES[0][:40]
    found = continue_text(model, database, text, k=1, max_tokens=3)
    first = found.chunks[0].neighbours[0]
    told = as_text(text, found)
    assert f"0.000  {first.share:4.0%}  {first.title} ({first.document}): " in told
    assert f"3 tokens, {len(found.chunks)} chunks looked up; " in told
    blind = as_text(text, continue_text(model, database, text, k=0, max_tokens=3), "-k 0")
    assert "3 tokens, nothing was looked up (-k 0); " in blind


def test_what_cannot_be_continued(model, tiny):
    from dataclasses import replace

    with pytest.raises(ValueError, match="text=' ' is empty; give a text to continue"):
        continue_text(model, None, " ")
    with pytest.raises(ValueError, match="fid is no language model that continues texts"):
        continue_text(replace(model, name="fid", system=tiny.system("fid")), None, "text")
