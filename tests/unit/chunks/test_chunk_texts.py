"""What chunks hold, that a kill changes nothing, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from chunk_pieces import WORDS, Killed, M, contents, corpus, cut, dying, text

from wellread.nn.tokenizers import ByteTokenizer, train_tokenizer
from wellread.retrieval import chunks
from wellread.retrieval.chunks import ChunkTexts, Document, documents_of, write_chunks
from wellread.types import Passage


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
