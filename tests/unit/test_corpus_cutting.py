"""Cutting: nothing is lost, ids are stable, titles and metadata stay."""

from __future__ import annotations

import random

import pytest

from wellread.corpus import Cutting, Document
from wellread.corpus.cutting import _word_spans, content_id, cutting_from, looks_like_passages, num_words
from wellread.types import Passage

TEXT = " ".join(f"w{n}" for n in range(25))


def texts(cutting: Cutting, text: str, **fields) -> list[str]:
    return [piece.text for piece in cutting.cut(Document(text, **fields))]


def test_words_with_and_without_overlap():
    assert [len(piece.split()) for piece in texts(Cutting("words", size=10), TEXT)] == [10, 10, 5]
    pieces = texts(Cutting("words", size=10, overlap=4), TEXT)
    assert [piece.split()[0] for piece in pieces] == ["w0", "w6", "w12", "w18"]
    assert pieces[-1].split()[-1] == "w24"
    # The last window ends with the text: no piece consists of repeated words alone.
    assert texts(Cutting("words", size=10, overlap=5), " ".join(TEXT.split()[:20]))[-1].split()[0] == "w10"


def test_cut_pieces_joined_are_the_text():
    generator = random.Random(5)
    for _ in range(200):
        text = "".join(generator.choice("ab .\n\t河Ü-") for _ in range(generator.randrange(0, 400)))
        size = generator.randrange(1, 12)
        pieces = texts(Cutting("words", size=size), text)
        assert "".join("".join(pieces).split()) == "".join(text.split())
        assert all(num_words(piece) <= size for piece in pieces if piece)
        # The fast way without overlap gives what the general way gives.
        assert [piece for piece in pieces if piece] == Cutting("words", size=size)._windows(text, _word_spans(text))


def test_scripts_without_spaces_are_cut_too():
    pieces = texts(Cutting("words", size=100), "長江" * 300)
    assert [len(piece) for piece in pieces] == [100] * 6
    assert len(texts(Cutting("words", size=100), "x" * 20_000)) == 4  # 50 letters without a space count as a word


def test_paragraphs():
    text = "One.\nstill one\n\n \nTwo.\n\n" + " ".join(["long"] * 25)
    pieces = texts(Cutting("paragraph", size=10), text)
    assert pieces[:2] == ["One.\nstill one", "Two."]
    assert [len(piece.split()) for piece in pieces[2:]] == [10, 10, 5]


def test_tokens(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    models, pre = tokenizers.models, tokenizers.pre_tokenizers
    letters = ["?", *"abcdefgh", *(f"##{letter}" for letter in "abcdefgh")]
    vocab = {letter: number for number, letter in enumerate(letters)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="?"))
    tokenizer.pre_tokenizer = pre.Whitespace()
    tokenizer.enable_truncation(3)  # must not shorten documents
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    cutting = Cutting("tokens", size=5, tokenizer=str(path))
    assert texts(cutting, "abc de fgh a b") == ["abc de", "fgh a b"]  # not inside fgh
    assert texts(cutting, "abcdefgh" * 2) == ["abcde", "fghab", "cdefg", "h"]  # no word start to go back to
    assert texts(Cutting("tokens", size=4, overlap=1, tokenizer=str(path)), "ab c d e f") == ["ab c d", "d e f"]
    assert len(cutting.tokenizer_digest) == 16
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer .*bad.json cannot be read .*; give a tokenizer.json"):
        Cutting("tokens", tokenizer=str(tmp_path / "bad.json"))


def test_none_and_auto_keep_passages_whole():
    passage = Document(TEXT, id="p1", title="T", metadata={"k": 1})
    expected = [Passage("p1", TEXT, title="T", metadata={"k": 1})]
    assert list(Cutting("none").cut(passage)) == expected
    assert list(Cutting("auto", size=5).cut(passage, whole=True)) == expected
    assert len(list(Cutting("auto", size=5).cut(passage))) == 5


def test_ids():
    cut = list(Cutting("words", size=10).cut(Document(TEXT, id="d", title="T", metadata={"k": 1})))
    assert [piece.id for piece in cut] == ["d-0", "d-1", "d-2"]
    assert cut[2].metadata == {"k": 1, "document": "d"}
    assert {piece.title for piece in cut} == {"T"}
    assert [piece.id for piece in Cutting("words", size=100).cut(Document(TEXT, id="d"))] == ["d"]
    named = [piece.id for piece in Cutting("words", size=10).cut(Document(TEXT, title="T"))]
    assert named == [piece.id for piece in Cutting("words", size=10).cut(Document(TEXT, title="T"))]
    assert len(set(named)) == 3
    assert named[0] == content_id("T", " ".join(TEXT.split()[:10]))
    assert named[0] == "7449a85c66c90212bd08"  # must stay: memories and question files refer to ids
    assert named[0] != content_id("Other", " ".join(TEXT.split()[:10]))
    # The same words at two places of a document are two passages.
    assert len({piece.id for piece in Cutting("words", size=1).cut(Document("a a a"))}) == 3
    parts = [Document("x", id="d", part=part) for part in (0, 1)]
    assert [next(iter(Cutting("words").cut(part))).id for part in parts] == ["d", "d-1-0"]


def test_what_looks_like_passages():
    short, long = Document("a b", id="x"), Document("a " * 301, id="y")
    assert looks_like_passages([short] * 9 + [long])
    assert not looks_like_passages([short] * 8 + [long] * 2)
    assert not looks_like_passages([short, Document("a b")])
    assert not looks_like_passages([])


def test_round_trip_through_a_mapping():
    from dataclasses import asdict

    cutting = Cutting("paragraph", size=70, overlap=3)
    assert cutting_from(asdict(cutting)) == cutting
    tokens = {"rule": "tokens", "size": 9, "tokenizer": "gone.json", "tokenizer_digest": "0" * 16}
    assert cutting_from(tokens).size == 9  # the file need not exist any more to say how a corpus was cut


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "word"}, r"cut='word' is unknown; use one of: auto, words, tokens, paragraph, none"),
        ({"size": 0}, r"size=0 is too small; a piece needs at least 1"),
        ({"size": 5, "overlap": 5}, r"overlap=5 does not fit size=5; it must be between 0 and 4"),
        ({"overlap": -1}, r"overlap=-1 does not fit size=100; it must be between 0 and 99"),
        ({"rule": "tokens"}, r"cut='tokens' needs tokenizer, the path of a tokenizer.json"),
        ({"rule": "tokens", "tokenizer": "no.json"}, r"tokenizer no.json does not exist; give the path"),
        ({"tokenizer": "x"}, r"tokenizer='x' is only for cut='tokens'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Cutting(**options)
