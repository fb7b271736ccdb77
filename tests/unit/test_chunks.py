"""Chunks, their keys and index, neighbour lists: what they hold, that a kill changes nothing, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from wellread.nn.bert import BertConfig, BertEncoder
from wellread.nn.tokenizers import ByteTokenizer, Tokenizer, train_tokenizer
from wellread.retrieval import chunk_keys, chunks, neighbours
from wellread.retrieval.chunk_database import ChunkDatabase
from wellread.retrieval.chunk_index import IndexOptions, build_index
from wellread.retrieval.chunk_keys import ChunkEncoder, Keys, write_keys
from wellread.retrieval.chunks import ChunkTexts, Document, documents_of, write_chunks
from wellread.retrieval.neighbours import NeighbourOptions, Neighbours, build_neighbours, find_neighbours
from wellread.types import Passage

NAMES = "stone river light cloud étoile 東京 moss wind amber field lamp ridge salt fern dune coral"
WORDS = NAMES.split()
M = 8


def text(seed, words):
    draw = np.random.default_rng(seed)
    return " ".join(WORDS[number] for number in draw.integers(0, len(WORDS), words))


def corpus(count=30, split="train", first=0):
    for number in range(first, first + count):
        for part in range(3):
            metadata = {"split": split}
            yield Passage(f"w-{number}-{part}", text((number, part), 20), title=f"Page {number}", metadata=metadata)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((document.text for document in documents_of(corpus())), 300, kind="bytes")


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = train_tokenizer([" ".join(WORDS)], 200)
    config = BertConfig(
        vocab_size=vocabulary.vocab_size, dim=16, num_heads=2, num_layers=2, ffn_dim=32, max_positions=64,
        start_token=vocabulary.start, end_token=vocabulary.end, pad_token=vocabulary.pad,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = BertEncoder(config)
        net.embed_tokens.weight.data.mul_(50)  # so that keys differ by what is said
        net.to_hub(folder)
    vocabulary.save(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(encoder_folder):
    return ChunkEncoder(str(encoder_folder), unit=False, precision="fp32")


def cut(out, tokenizer, documents=None, **options):
    documents = list(documents_of(corpus())) if documents is None else documents
    return write_chunks(lambda: iter(documents), tokenizer, out, chunk_tokens=M, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer, encoder):
    """A database of 30 documents with an index of three shards."""
    out = tmp_path_factory.mktemp("database")
    keys = write_keys(cut(out, tokenizer), encoder)
    build_index(keys, out, IndexOptions(lists=8, shard_rows=len(keys) // 3 + 1))
    return out


@pytest.fixture(scope="module")
def database(folder):
    return ChunkDatabase.open(folder)


class Killed(BaseException):
    """A kill, as far as a process can play one to itself."""


def dying(function, calls):
    """The function, which dies when it is called once more than `calls` times."""
    left = [calls]

    def call(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return function(*arguments, **options)

    return call


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix == ".bin"}


# ---------------------------------------------------------------------------------------------------- texts


def test_documents_are_put_together_again():
    found = list(documents_of(corpus(2)))
    first = "Page 0\n" + " ".join(text((0, part), 20) for part in range(3))
    assert found[0] == Document("w-0", first, "train")
    assert [document.id for document in found] == ["w-0", "w-1"]


def test_passages_that_only_look_numbered_stay_apart():
    plain = [Passage("a-1", "x"), Passage("a-2", "y"), Passage("b-1", "x", title="B"), Passage("b-2", "y", title="C")]
    assert [document.id for document in documents_of(plain)] == ["a-1", "a-2", "b", "b"]
    named = [Passage(f"p{n}", "x", metadata={"document": "d"}) for n in range(3)]
    assert list(documents_of(named)) == [Document("d", "x x x")]


def test_only_the_splits_that_are_asked_for():
    passages = [*corpus(2), *corpus(1, split="valid", first=2)]
    assert [item.split for item in documents_of(passages, splits=["valid"])] == ["valid"]
    with pytest.raises(ValueError, match=r"split='dev' does not occur in the corpus; it has 'train', 'valid'\."):
        list(documents_of(passages, splits=["dev"]))


@pytest.mark.parametrize("kind", ["bytes", "wordpiece", "byt5"])
def test_chunks_are_the_documents(tmp_path, tokenizer, kind):
    words = train_tokenizer([" ".join(WORDS)], 200)
    used = {"bytes": tokenizer, "wordpiece": words, "byt5": ByteTokenizer()}[kind]
    documents = list(documents_of(corpus(4)))
    texts = cut(tmp_path / "c", used, documents)
    assert (texts.num_documents, texts.chunk_tokens) == (4, M)
    assert texts.tokenizer_fingerprint == used.fingerprint == texts.tokenizer.fingerprint
    for number, document in enumerate(documents):
        tokens = texts.document_tokens(number)
        assert tokens.tolist() == used.encode(document.text)
        assert (texts.document_text(number), texts.document_id(number)) == (document.text, document.id)
        assert texts.document_split(number) == "train"
        assert texts.document_bytes(number) == len(document.text.encode())
        own = range(texts.first_chunk(number), texts.first_chunk(number + 1))
        assert np.array_equal(np.concatenate([texts.chunk(chunk) for chunk in own]), tokens)
        assert "".join(texts.chunk_text(chunk) for chunk in own) == document.text
        assert sum(texts.chunk_bytes(chunk) for chunk in own) == texts.document_bytes(number)
        assert set(texts.documents(np.array(own))) == {number}
    assert texts.num_tokens == sum(len(texts.document_tokens(number)) for number in range(4))


def test_a_value_is_the_chunk_and_what_follows_it(tmp_path, tokenizer):
    texts = cut(tmp_path / "c", tokenizer)
    last = texts.first_chunk(1) - 1  # of the first document: it has no continuation, and the next one is another's
    pair = np.concatenate([texts.chunk(0), texts.chunk(1)])
    assert np.array_equal(texts.chunk_with_continuation(0), pair)
    assert np.array_equal(texts.chunk_with_continuation(last), texts.chunk(last))
    assert texts.chunk_text(0, parts=2) == texts.chunk_text(0) + texts.chunk_text(1)
    assert texts.chunk_text(last, parts=2) == texts.chunk_text(last)
    tokens, mask = texts.values(np.array([[0, -1], [last, texts.num_chunks - 1]]), pad=7)
    assert tokens.shape == mask.shape == (2, 2, 2 * M)
    assert np.array_equal(tokens[0, 0], pair)
    assert not mask[0, 1].any()
    assert (tokens[~mask] == 7).all()
    assert np.array_equal(tokens[1, 0][mask[1, 0]], texts.chunk(last))
    alone, real = texts.values(np.array([0]), parts=1)
    assert np.array_equal(alone[0], texts.chunk(0))
    assert real.all()


def test_cutting_goes_on_after_a_kill(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(chunks, "BLOCK_BYTES", 1500)
    whole = cut(tmp_path / "whole", tokenizer)
    assert whole.num_documents == 30
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "_arrays", dying(chunks._arrays, 2))
        with pytest.raises(Killed):
            cut(tmp_path / "broken", tokenizer)
    with pytest.raises(ValueError, match=r"holds no finished chunks \(no chunks.json\); make them with `wellread"):
        ChunkTexts.open(tmp_path / "broken")
    with (tmp_path / "broken" / "tokens.bin").open("ab") as file:
        file.write(b"cut off")  # what a kill leaves of a block that was being written
    counted = []
    with monkeypatch.context() as patch:
        make = chunks._arrays
        patch.setattr(chunks, "_arrays", lambda *given: counted.append(1) or make(*given))
        again = cut(tmp_path / "broken", tokenizer)
    assert again.fingerprint == whole.fingerprint
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    with monkeypatch.context() as patch:
        make, every = chunks._arrays, []
        patch.setattr(chunks, "_arrays", lambda *given: every.append(1) or make(*given))
        cut(tmp_path / "third", tokenizer)
    assert len(counted) == len(every) - 2, "the finished blocks were made again"


def test_what_cannot_be_cut_is_refused(tmp_path, tokenizer):
    cut(tmp_path / "c", tokenizer, made_of={"corpus": "one"})
    with pytest.raises(ValueError, match=r"holds chunks of corpus='one' \(now 'two'\); give another folder"):
        cut(tmp_path / "c", tokenizer, made_of={"corpus": "two"})
    with pytest.raises(ValueError, match=r"chunk_tokens=0 is too small; a chunk needs at least 1 token"):
        write_chunks(list, tokenizer, tmp_path / "d", chunk_tokens=0)
    with pytest.raises(ValueError, match=r"there are no documents to cut; the corpus is empty or all blank"):
        cut(tmp_path / "d", tokenizer, [Document("a", "  \n ")])
    with pytest.raises(ValueError, match=r"document 'a' comes twice; put its passages together"):
        cut(tmp_path / "e", tokenizer, [Document("a", "x"), Document("a", "y")])
    texts = ChunkTexts.open(tmp_path / "c")
    for ask in (texts.chunk, texts.chunk_with_continuation, texts.chunk_text, texts.chunk_bytes):
        with pytest.raises(ValueError, match=rf"chunk=-1; chunks of .* go from 0 to {texts.num_chunks - 1}\."):
            ask(-1)
    with pytest.raises(ValueError, match=r"chunk=-2; chunks of .* \(-1 for none\)"):
        texts.values(np.array([0, -2]))
    with pytest.raises(ValueError, match=r"document=30; documents of .* go from 0 to 29"):
        texts.document_text(30)
    with pytest.raises(ValueError, match=r"document=31; documents go from 0 to 29"):
        texts.first_chunk(31)


def test_an_unfinished_folder_keeps_to_what_it_was_begun_with(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(chunks, "BLOCK_BYTES", 1500)
    monkeypatch.setattr(chunks, "_arrays", dying(chunks._arrays, 2))
    with pytest.raises(Killed):
        cut(tmp_path / "c", tokenizer)
    monkeypatch.undo()
    monkeypatch.setattr(chunks, "BLOCK_BYTES", 1500)
    with pytest.raises(ValueError, match=r"was begun with chunk_tokens=8 \(now 16\); give the same again, or another"):
        write_chunks(lambda: documents_of(corpus()), tokenizer, tmp_path / "c", chunk_tokens=16)
    changed = [Document("w-0", "another text " * 200), *documents_of(corpus(29, first=1))]
    with pytest.raises(ValueError, match=r"the corpus is not the one that .* was begun with"):
        cut(tmp_path / "c", tokenizer, changed)


def test_damaged_folders_are_named(tmp_path, tokenizer):
    cut(tmp_path / "c", tokenizer)
    (tmp_path / "c" / "tokens.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"chunks .* are damaged .*; make them again with `wellread chunks cut`"):
        ChunkTexts.open(tmp_path / "c")
    (tmp_path / "c" / "chunks.json").write_text("{")
    with pytest.raises(ValueError, match=r"chunks.json is not valid JSON"):
        ChunkTexts.open(tmp_path / "c")


# ----------------------------------------------------------------------------------------------------- keys


def test_a_key_is_the_mean_of_the_states(tmp_path, tokenizer, encoder):
    texts = cut(tmp_path / "c", tokenizer, list(documents_of(corpus(3))))
    keys = write_keys(texts, encoder)
    assert (len(keys), keys.dim) == (texts.num_chunks, 16)
    for chunk in (0, 3, texts.num_chunks - 1):
        words = encoder.tokenizer
        tokens = torch.tensor([[words.cls, *words.encode(texts.chunk_text(chunk)), words.sep]])
        states = encoder.net(tokens, torch.ones_like(tokens, dtype=torch.bool))[0]
        # Stored with 11 bits; padding in a batch moves the last bits of float32 only.
        np.testing.assert_allclose(keys[chunk], states.mean(0).numpy(), rtol=2e-3, atol=2e-3)
    texts = cut(tmp_path / "u", tokenizer, list(documents_of(corpus(3))))
    unit = write_keys(texts, ChunkEncoder(encoder.name, precision="fp32"))[:]
    np.testing.assert_allclose(unit, keys[:] / np.linalg.norm(keys[:], axis=1, keepdims=True), rtol=3e-3, atol=3e-3)
    assert np.array_equal(keys[2:5], keys[np.array([2, 3, 4])])


@pytest.mark.parametrize("layers", [0, 2])
def test_rare_tokens_count_more(tmp_path, tokenizer, encoder_folder, layers):
    options = {"layers": layers, "rarity": 0.05, "precision": "fp32"}
    made = ChunkEncoder(str(encoder_folder), **options)
    texts = cut(tmp_path / "c", tokenizer)
    with pytest.raises(ValueError, match=r"rarity=0.05, but frequencies were not learnt; call fit\(texts\) first"):
        made.encode(["moss"])
    before = made.fingerprint
    keys = write_keys(texts, made.fit(texts))
    assert made.fingerprint != before
    rows = made.tokenizer.encode_batch([texts.chunk_text(chunk) for chunk in range(texts.num_chunks)])
    counts = np.bincount(np.concatenate(rows), minlength=made.tokenizer.vocab_size)
    weights = 0.05 / (0.05 + counts / counts.sum())

    def mean(row):
        words = made.tokenizer
        row = row if layers == 0 else [words.cls, *row, words.sep]
        tokens = torch.tensor([row])
        states = made.net(tokens, torch.ones_like(tokens, dtype=torch.bool))[0]
        if layers == 0:
            states = made.net.placing.norm(made.net.embed_tokens(tokens[0]) + made.net.placing.segments.weight[0])
        return (states.numpy() * weights[row][:, None]).sum(0) / weights[row].sum()

    means = np.stack([mean(row) for row in rows])
    right = means - means.mean(0)
    # The mean of all keys is learnt from every chunk here; what is left is float16 and the order of sums.
    np.testing.assert_allclose(keys[:], right / np.linalg.norm(right, axis=1, keepdims=True), atol=4e-3)
    again = Keys.open(texts.path).encoder()
    assert again.fingerprint == made.fingerprint
    np.testing.assert_array_equal(again.encode(["moss wind"]), made.encode(["moss wind"]))


def test_chunks_of_the_encoders_own_tokens_are_not_tokenised_again(tmp_path, encoder, monkeypatch):
    texts = cut(tmp_path / "c", encoder.tokenizer, list(documents_of(corpus(2))))
    direct = encoder.encode_tokens([texts.chunk(chunk).tolist() for chunk in range(texts.num_chunks)])
    monkeypatch.setattr(ChunkEncoder, "encode", None)
    # The rounding to 11 bits when they are stored.
    np.testing.assert_allclose(write_keys(texts, encoder)[:], direct, rtol=1e-3, atol=1e-3)


def test_int8_keys_take_half_and_are_close(tmp_path, tokenizer, encoder):
    texts = [cut(tmp_path / name, tokenizer, list(documents_of(corpus(3)))) for name in ("a", "b")]
    full, small = write_keys(texts[0], encoder), write_keys(texts[1], encoder, storage="int8")
    assert (tmp_path / "b/keys/keys.bin").stat().st_size * 2 == (tmp_path / "a/keys/keys.bin").stat().st_size
    # Half a step of 127 steps up to the greatest value of a row, and float16's own rounding.
    assert (np.abs(full[:] - small[:]).max(1) <= np.abs(full[:]).max(1) * (0.5 / 127 + 1e-3)).all()


def test_keys_go_on_after_a_kill(tmp_path, tokenizer, encoder, monkeypatch):
    monkeypatch.setattr(chunk_keys, "BLOCK", 20)
    whole, broken = (cut(tmp_path / name, tokenizer, list(documents_of(corpus(5)))) for name in ("a", "b"))
    write_keys(whole, encoder)
    with monkeypatch.context() as patch:
        patch.setattr(ChunkEncoder, "encode", dying(ChunkEncoder.encode, 2))
        with pytest.raises(Killed):
            write_keys(broken, encoder)
    with pytest.raises(ValueError, match=r"holds no finished keys"):
        Keys.open(tmp_path / "b")
    write_keys(broken, encoder)
    assert contents(tmp_path / "a/keys") == contents(tmp_path / "b/keys")


def test_keys_of_other_making_are_refused(tmp_path, tokenizer, encoder, encoder_folder):
    texts = cut(tmp_path / "c", tokenizer, list(documents_of(corpus(2))))
    write_keys(texts, encoder)
    with pytest.raises(ValueError, match=r"holds keys of layers=2 \(now 1\), .*; give the same again, or remove"):
        write_keys(texts, ChunkEncoder(str(encoder_folder), layers=1, unit=False, precision="fp32"))
    with pytest.raises(ValueError, match=r"storage='int4' is unknown; use one of: float16, int8"):
        write_keys(texts, encoder, storage="int4")
    with pytest.raises(ValueError, match=r"layers=3; .* has 2: use 0 to 2"):
        ChunkEncoder(str(encoder_folder), layers=3)
    with pytest.raises(ValueError, match=r"rarity=-1 is negative; it must be 0"):
        ChunkEncoder(str(encoder_folder), rarity=-1)
    with pytest.raises(ValueError, match=r"precision='fp16' is unknown; use one of: bf16, fp32"):
        ChunkEncoder(str(encoder_folder), precision="fp16")
    with pytest.raises(ValueError, match=r"encoder 'nowhere' is no folder; give one in hub layout, or all-MiniLM"):
        ChunkEncoder("nowhere")


def test_a_changed_encoder_is_noticed(tmp_path, tokenizer, encoder_folder):
    import shutil

    shutil.copytree(encoder_folder, tmp_path / "e")
    keys = write_keys(cut(tmp_path / "c", tokenizer), ChunkEncoder(str(tmp_path / "e"), precision="fp32"))
    assert keys.encoder().dim == 16
    with torch.random.fork_rng():
        BertEncoder(BertEncoder.from_hub(encoder_folder).config).to_hub(tmp_path / "e")
    with pytest.raises(ValueError, match=r"encoder .* is not the one that .* was made with"):
        keys.encoder()


# --------------------------------------------------------------------------------------------------- search


def brute(database, keys, k, allowed=None, own=None):
    """The k nearest by comparing with everything, in float64."""
    stored = database.keys[:].astype(np.float64)
    distances = ((keys[:, None].astype(np.float64) - stored[None]) ** 2).sum(-1)
    if allowed is not None:
        distances[:, ~allowed] = np.inf
    if own is not None:
        distances[database.texts.documents(np.arange(len(stored)))[None] == own[:, None]] = np.inf
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distances, order, 1)


def test_exact_search_is_brute_force(database):
    rows = np.arange(0, len(database.keys), 9)
    own = database.texts.documents(rows)
    for closed in (None, own):
        numbers, distances = database.search(database.keys[rows], 5, closed, exact=True)
        right, far = brute(database, database.keys[rows], 5, own=closed)
        assert np.array_equal(numbers, right)
        # float32 sums of 16 squares.
        np.testing.assert_allclose(distances, far, rtol=1e-4, atol=1e-4)


def test_the_index_finds_nearly_all_that_brute_force_finds(database):
    assert len(database.index.shards) == 3
    assert database.index.lists == 8
    rows = np.arange(0, len(database.keys), 3)
    own = database.texts.documents(rows)
    right, _ = brute(database, database.keys[rows], 5, own=own)
    numbers, distances = database.search(database.keys[rows], 5, own, probes=4)
    hits = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(numbers, right)])
    assert hits > 0.8, "half of the lists are looked into; at random they would hold half"
    assert (np.diff(distances, axis=1) >= 0).all()
    every, _ = database.search(database.keys[rows], 5, own, probes=8)
    assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(every, right)]) > 0.99
    assert 0.99 < database.recall(5, probes=8) <= 1
    assert database.recall(5, probes=1) < 0.99, "one list of eight does not hold everything"


@pytest.mark.parametrize("limit", [None, 60, "share"])
def test_many_keys_at_once_find_the_same(database, limit):
    limit = database.share(0.4) if limit == "share" else limit
    rows = np.arange(0, len(database.keys), 2)
    own = database.texts.documents(rows)
    for closed in (None, own):
        found = database.search_many(database.keys[rows], 4, closed, limit, probes=8)
        right = database.search(database.keys[rows], 4, closed, limit, exact=True)
        # Distances, because which of two equally near chunks is left out is not said.
        np.testing.assert_array_equal(found[1], right[1])
        assert closed is None or (database.texts.documents(found[0]) != own[:, None]).all()
    few, _ = database.search_many(database.keys[rows], 4, own, limit, probes=1)
    assert (few >= 0).all(), "rows that come out short are searched again"
    assert (database.texts.documents(few) != own[:, None]).all()


def test_own_documents_are_closed(database):
    rows = np.arange(len(database.keys))
    own = database.texts.documents(rows)
    itself, far = database.search(database.keys[rows], 1)
    assert np.array_equal(itself[:, 0], rows) or (far[:, 0] == 0).all()
    numbers, _ = database.search(database.keys[rows], 4, own)
    assert (numbers >= 0).all()
    assert (database.texts.documents(numbers) != own[:, None]).all()


def test_limits(database):
    rows, half = np.arange(0, len(database.keys), 11), len(database.keys) // 2
    numbers, _ = database.search(database.keys[rows], 3, limit=half, probes=8)
    assert numbers.max() < half
    right, _ = brute(database, database.keys[rows], 3, allowed=np.arange(len(database.keys)) < half)
    assert np.mean(numbers == right) > 0.98  # equally near chunks may come in another order
    small, large = database.share(0.1), database.share(0.4)
    assert (small.sum(), large.sum()) == (3, 12)
    assert large[small].all(), "smaller shares lie within larger ones"
    assert not np.array_equal(small, database.share(0.1, seed=1))
    assert database.share(1) is None
    numbers, _ = database.search(database.keys[rows], 3, limit=small)
    assert small[database.texts.documents(numbers)].all()


def test_rows_that_cannot_be_filled_end_with_nothing(database):
    first = database.texts.first_chunk(1)
    numbers, distances = database.search(database.keys[:2], 5, np.array([0, -1]), limit=first + 2)
    assert sorted(numbers[0, :2]) == [first, first + 1]
    assert (numbers[0, 2:] == -1).all()
    assert np.isinf(distances[0, 2:]).all()
    assert (numbers[1] >= 0).all()


def test_few_keys_need_no_lists(tmp_path, tokenizer, encoder):
    keys = write_keys(cut(tmp_path, tokenizer, [Document("a", text(0, 60))]), encoder)
    assert build_index(keys, tmp_path).lists == 0
    found, _ = ChunkDatabase.open(tmp_path).search(keys[:], 1)
    assert found[:, 0].tolist() == list(range(len(keys)))


def test_texts_are_encoded_as_chunks_are(database):
    chunk = database.texts.first_chunk(4)
    key = database.encode([database.texts.chunk_text(chunk)])
    numbers, distances = database.search(key, 1)
    assert numbers[0, 0] == chunk
    assert distances[0, 0] < 1e-4, "only the rounding of stored keys is between them"


def test_an_index_goes_on_after_a_kill(folder, tmp_path, tokenizer, encoder, monkeypatch):
    from wellread.retrieval import chunk_index

    keys = write_keys(cut(tmp_path, tokenizer), encoder)
    options = IndexOptions(lists=8, shard_rows=len(keys) // 3 + 1)
    with monkeypatch.context() as patch:
        patch.setattr(chunk_index, "_write", dying(chunk_index._write, 2))
        with pytest.raises(Killed):
            build_index(keys, tmp_path, options)
    written = (tmp_path / "index/shard-00000.faiss").stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"holds an index of code='sq8' \(now 'pq'\)"):
        build_index(keys, tmp_path, IndexOptions(code="pq", lists=8, shard_rows=options.shard_rows))
    build_index(keys, tmp_path, options)
    assert (tmp_path / "index/shard-00000.faiss").stat().st_mtime_ns == written
    one, other = ChunkDatabase.open(tmp_path), ChunkDatabase.open(folder)
    for a, b in zip(one.search(keys[:50], 4), other.search(keys[:50], 4)):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("code", ["flat", "sq8", "pq"])
def test_every_code_can_be_searched(tmp_path, tokenizer, encoder, code):
    documents = list(documents_of(corpus(60))) if code == "pq" else None
    keys = write_keys(cut(tmp_path, tokenizer, documents), encoder)
    build_index(keys, tmp_path, IndexOptions(code=code, lists=4))
    assert ChunkDatabase.open(tmp_path).recall(5, probes=4) > 0.95


def test_questions_that_make_no_sense(database):
    keys = database.keys[:3]
    for arguments, message in [
        ((keys[:, :4], 2), r"keys have shape \(3, 4\); this database needs \(n, 16\)"),
        ((keys, 0), r"k=0 is too small; at least 1 neighbour"),
        ((keys, 1, np.zeros(2)), r"exclude_documents has shape \(2,\); give one document per key: \(3,\)"),
        ((keys, 1, np.array([0, 1, 30])), r"document=\[30\] is unknown; documents go from 0 to 29"),
        ((keys, 1, None, 0), r"limit=0 leaves no chunk; it must be at least 1"),
        ((keys, 1, None, np.zeros(30, bool)), r"limit leaves no chunk; choose at least one document"),
        ((keys, 1, None, np.zeros(3, bool)), r"limit has shape \(3,\); give one bool per document: \(30,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            database.search(*arguments)
    with pytest.raises(ValueError, match=r"share=0; it must be above 0 and at most 1"):
        database.share(0)
    for options, message in [
        ({"code": "zip"}, r"code='zip' is unknown; use one of: flat, sq8, pq"),
        ({"lists": -1}, r"lists=-1 is negative"),
        ({"shard_rows": 0}, r"shard_rows=0 is too small"),
    ]:
        with pytest.raises(ValueError, match=message):
            IndexOptions(**options)


# ----------------------------------------------------------------------------------------------- neighbours


def test_lists_are_what_the_search_gives(tmp_path, folder, database):
    lists = find_neighbours(database.texts, database, tmp_path / "n", NeighbourOptions(k=3, probes=8))
    rows = np.arange(len(database.keys))
    own = database.texts.documents(rows)
    numbers, distances = database.search_many(database.keys[rows], 3, own, probes=8)
    assert np.array_equal(lists.numbers, numbers)
    assert np.array_equal(lists.distances, distances)
    assert np.array_equal(distances, database.search(database.keys[rows], 3, own, exact=True)[1])
    assert lists.info["recall"] > 0.99
    got, far = lists.of(np.array([[5, -1]]))
    assert np.array_equal(got, [[numbers[5], [-1, -1, -1]]])
    assert np.isinf(far[0, 1]).all()
    lists.check(texts=database.texts, database=database)
    with pytest.raises(ValueError, match=rf"chunk={len(rows)}; .* has chunks 0 to {len(rows) - 1}"):
        lists.of(np.array([len(rows)]))


def test_lists_go_on_after_a_kill(tmp_path, database, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 64)
    options = NeighbourOptions(k=3, share=0.5)
    whole = find_neighbours(database.texts, database, tmp_path / "a", options)
    with monkeypatch.context() as patch:
        patch.setattr(ChunkDatabase, "search_many", dying(ChunkDatabase.search_many, 2))
        with pytest.raises(Killed):
            find_neighbours(database.texts, database, tmp_path / "b", options)
    with pytest.raises(ValueError, match=r"holds no finished neighbours"):
        Neighbours.open(tmp_path / "b")
    with pytest.raises(ValueError, match=r"was begun with k=3 \(now 4\); give the same again, or another folder"):
        find_neighbours(database.texts, database, tmp_path / "b", NeighbourOptions(k=4, share=0.5))
    find_neighbours(database.texts, database, tmp_path / "b", options)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    chosen = database.share(0.5)
    assert chosen[database.texts.documents(whole.numbers)].all()
    with pytest.raises(ValueError, match=r"holds neighbours of share=0.5 \(now 1.0\); give another folder"):
        find_neighbours(database.texts, database, tmp_path / "a", NeighbourOptions(k=3))


def test_a_document_is_known_by_its_id_in_another_folder(tmp_path, tokenizer, encoder, database):
    texts = cut(tmp_path / "q", tokenizer, list(documents_of(corpus(6, first=27))))
    write_keys(texts, encoder)
    same = database.texts.documents_like(texts)
    assert same.tolist() == [27, 28, 29, -1, -1, -1]
    closed = find_neighbours(texts, database, tmp_path / "n", NeighbourOptions(k=2))
    own = same[texts.documents(np.arange(texts.num_chunks))]
    assert (database.texts.documents(closed.numbers) != own[:, None]).all()
    opened = find_neighbours(texts, database, tmp_path / "o", NeighbourOptions(k=2, own=True))
    assert (opened.distances[own >= 0, 0] == 0).all(), "with its own document open, a chunk finds itself"
    with pytest.raises(ValueError, match=r"neighbours .* belong to another text .* than .*; find them again"):
        closed.check(texts=database.texts)


def test_keys_must_be_comparable(tmp_path, tokenizer, encoder_folder, database):
    texts = cut(tmp_path / "q", tokenizer, list(documents_of(corpus(2))))
    write_keys(texts, ChunkEncoder(str(encoder_folder), layers=1, unit=False, precision="fp32"))
    with pytest.raises(
        ValueError, match=r"are not comparable: layers=1 \(now 2\), .*; make them with the same encoder"
    ):
        find_neighbours(texts, database, tmp_path / "n")


def test_options_of_a_search_are_checked():
    for options, message in [
        ({"k": 0}, r"k=0 is too small"),
        ({"share": 2}, r"share=2; it must be above 0 and at most 1"),
        ({"limit": -1}, r"limit=-1 is negative"),
        ({"limit": 5, "share": 0.5}, r"share=0.5 and limit=5; give one of them"),
        ({"probes": 0}, r"probes=0 is too small"),
        ({"sample": -1}, r"sample=-1 is negative"),
    ]:
        with pytest.raises(ValueError, match=message):
            NeighbourOptions(**options)


def test_everything_at_once_goes_on_where_it_was(tmp_path, tokenizer, encoder, monkeypatch):
    passages = [*corpus(12), *corpus(3, split="valid", first=12)]

    def build(name):
        return build_neighbours(
            lambda splits: documents_of(passages, splits=splits), tmp_path / name, tokenizer=tokenizer,
            database=["train"], others=["valid"], encoder=encoder, chunk_tokens=M,
            options=NeighbourOptions(k=2, sample=10),
        )  # fmt: skip

    whole = build("a")
    assert whole.keys() == {"database", "valid"}
    monkeypatch.setattr(neighbours, "BLOCK", 32)
    monkeypatch.setattr(ChunkDatabase, "search_many", dying(ChunkDatabase.search_many, 3))
    with pytest.raises(Killed):
        build("b")
    monkeypatch.undo()
    again = build("b")
    for name, lists in whole.items():
        assert np.array_equal(again[name].numbers, lists.numbers)
        assert np.array_equal(Neighbours.open(tmp_path / "b" / name / "neighbours").numbers, lists.numbers)
    assert ChunkTexts.open(tmp_path / "b/valid").document_split(0) == "valid"
    assert json.loads((tmp_path / "b/database/chunks.json").read_text())["splits"] == ["train"]
    assert Tokenizer.load(tmp_path / "b/database").fingerprint == tokenizer.fingerprint
