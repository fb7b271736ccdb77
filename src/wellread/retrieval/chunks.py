"""Texts cut into chunks of m tokens: what a language model with neighbours is trained on and retrieves from.

Borgeaud et al. 2022, sections 2.1 and 2.2: a text is a row of chunks C_1, C_2, ... of m = 64 tokens; the value of
a chunk in the database is [N, F], its own tokens N and those of the chunk that follows it in its document, F.

A document is the passages of a corpus put together again: its title, a line break, and its passages joined by
spaces. Its last chunk is as long as what is left of it: nothing is dropped and nothing is padded on disk.

Folder of a ChunkTexts:

    chunks.json     counts, tokenizer, fingerprint
    tokenizer.json  what the texts were tokenised with (tokenizer_config.json for ByT5's)
    tokens.bin      the tokens of all documents, one after the other
    text.bin        their UTF-8 bytes
    starts.bin      per chunk, the byte of its document it begins at
    documents.bin   per document: tokens, bytes, bytes of its line in names.bin, hash of its id
    names.bin       a line of JSON per document: id, split
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wellread.bars import progress_bar
from wellread.config import require
from wellread.locking import locked
from wellread.nn.tokenizers import Tokenizer
from wellread.retrieval.blocks import Blocks, different, read_json, write_json
from wellread.types import Passage

__all__ = ["CHUNK_TOKENS", "ChunkTexts", "Document", "documents_of", "write_chunks"]

CHUNK_TOKENS = 64
MANIFEST = "chunks.json"
ARRAYS = ("tokens", "text", "starts", "documents", "names")
BLOCK_BYTES = 4 << 20  # of text between two safe points
COMMAND = "wellread chunks cut"
_NUMBERED = re.compile(r"^(.*)-(\d+(?:-\d+)?)$")


class Document(NamedTuple):
    """A whole text. split: the part of the data it belongs to ("train"), empty where nobody says."""

    id: str
    text: str
    split: str = ""


def documents_of(passages: Iterable[Passage], *, splits: Sequence[str] = ()) -> Iterator[Document]:
    """The documents that passages in order were cut from; those of `splits` (metadata) only, where given.

    Passages belong together where their metadata `document` says so, or where they come one after the other, share
    a title and have ids that differ in their last number only (`w18-12-0`, `w18-12-1`). ValueError where no
    document is in `splits`.
    """
    seen: dict[str, None] = {}
    found = False
    for (name, split, title), parts in groupby(passages, key=_belongs):
        seen[split] = None
        if not splits or split in splits:
            found = True
            body = " ".join(passage.text for passage in parts)
            yield Document(name, f"{title}\n{body}" if title else body, split)
    if splits and not found:
        there = ", ".join(map(repr, sorted(seen))) or "no passages"
        raise ValueError(f"split={', '.join(map(repr, splits))} does not occur in the corpus; it has {there}.")


def _belongs(passage: Passage) -> tuple[str, str, str]:
    """What passages of one document share: its id, its split, its title."""
    split = str(passage.metadata.get("split") or "")
    if "document" in passage.metadata:
        return str(passage.metadata["document"]), split, passage.title
    numbered = _NUMBERED.match(passage.id) if passage.title else None
    return (numbered.group(1) if numbered else passage.id), split, passage.title


class ChunkTexts:
    """Documents as tokens and text, and the chunks they are cut into; memory-mapped.

    Documents are numbered from 0 to num_documents - 1, chunks from 0 to num_chunks - 1 in the same order. A chunk
    number -1 stands for no chunk.
    """

    def __init__(self, path: Path, info: Mapping[str, Any]) -> None:
        self.path, self.info = path, info
        self.chunk_tokens: int = info["chunk_tokens"]
        self.tokenizer_fingerprint: str = info["tokenizer"]
        self.fingerprint: str = info["fingerprint"]
        self._tokens, self._text, self._starts, documents, self._names = (
            _mapped(path / f"{name}.bin", info["arrays"][name]) for name in ARRAYS
        )
        columns = np.asarray(documents).reshape(-1, 4).T
        self._token_ends, self._text_ends, self._name_ends = (_ends(column) for column in columns[:3])
        self.first_chunks = _ends(-(-columns[0] // self.chunk_tokens))
        self.document_hashes: np.ndarray = columns[3]

    @classmethod
    def open(cls, folder: str | Path) -> ChunkTexts:
        """The chunks in a folder. ValueError where there are none, or where they are not finished or damaged."""
        path = Path(folder)
        info = read_json(path / MANIFEST, "chunks", COMMAND)
        try:
            return cls(path, info)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"chunks {path} are damaged ({error}); make them again with `{COMMAND}`.") from error

    def __repr__(self) -> str:
        return f"ChunkTexts({str(self.path)!r}, documents={self.num_documents:,}, chunks={self.num_chunks:,})"

    @property
    def num_documents(self) -> int:
        return len(self.first_chunks) - 1

    @property
    def num_chunks(self) -> int:
        return int(self.first_chunks[-1])

    @property
    def num_tokens(self) -> int:
        return int(self._token_ends[-1])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """What the texts were tokenised with."""
        return Tokenizer.load(self.path)

    def document_tokens(self, document: int) -> np.ndarray:
        """[tokens] int32."""
        start, end = self._span(self._token_ends, document)
        return self._tokens[start:end].astype(np.int32)

    def document_text(self, document: int) -> str:
        """The text its tokens stand for (with a byte-level tokenizer: what they decode to)."""
        start, end = self._span(self._text_ends, document)
        return self._text[start:end].tobytes().decode("utf8")

    def document_bytes(self, document: int) -> int:
        """UTF-8 bytes of its text, for bits per byte."""
        start, end = self._span(self._text_ends, document)
        return end - start

    def document_id(self, document: int) -> str:
        return self._name(document)["id"]

    def document_split(self, document: int) -> str:
        """The part of the data it belongs to, empty where the corpus does not say."""
        return self._name(document)["split"]

    def first_chunk(self, document: int) -> int:
        """The number of its first chunk; of `num_documents`, the number of all chunks (all: `first_chunks`)."""
        if not 0 <= document <= self.num_documents:
            raise ValueError(f"document={document}; documents go from 0 to {self.num_documents - 1}.")
        return int(self.first_chunks[document])

    def documents(self, chunks: np.ndarray) -> np.ndarray:
        """The document of every chunk number, int64 of the same shape; -1 of -1."""
        chunks = self._checked(chunks)
        return np.where(chunks < 0, -1, np.searchsorted(self.first_chunks, chunks, side="right") - 1)

    def chunk(self, chunk: int) -> np.ndarray:
        """Its tokens N, [m] int32; fewer at the end of a document."""
        return self._chunk(chunk, 1)

    def chunk_with_continuation(self, chunk: int) -> np.ndarray:
        """[N, F]: its tokens and those of the next chunk of the same document, at most 2 m, int32."""
        return self._chunk(chunk, 2)

    def values(self, chunks: np.ndarray, *, pad: int = 0, parts: int = 2) -> tuple[np.ndarray, np.ndarray]:
        """[N, F] of many chunks at once: tokens [..., 2 m] int32 and mask [..., 2 m] bool, padded on the right.

        chunks: numbers of any shape; of -1 nothing is real. parts: 1 for N alone, [..., m].
        """
        chunks = self._checked(chunks)
        documents = self.documents(chunks)
        start = self._token_ends[documents] + (chunks - self.first_chunks[documents]) * self.chunk_tokens
        end = np.where(chunks < 0, start, self._token_ends[documents + 1])
        places = start[..., None] + np.arange(parts * self.chunk_tokens)
        mask = places < end[..., None]
        return np.where(mask, self._tokens[np.where(mask, places, 0)], pad).astype(np.int32), mask

    def chunk_text(self, chunk: int, *, parts: int = 1) -> str:
        """Its text; parts=2: with that of its continuation. A character that a border cuts goes to the next chunk."""
        document, at = self._place(chunk)
        start, end = self._span(self._text_ends, document)
        last = min(at + parts, int(self.first_chunks[document + 1]) - int(self.first_chunks[document]))
        after = chunk - at + last
        stop = start + int(self._starts[after]) if after < self.first_chunks[document + 1] else end
        return self._text[start + int(self._starts[chunk]) : stop].tobytes().decode("utf8")

    def chunk_bytes(self, chunk: int) -> int:
        """UTF-8 bytes of the chunk's text; those of a document's chunks add up to `document_bytes`."""
        document, _ = self._place(chunk)
        last = chunk + 1 == self.first_chunks[document + 1]
        stop = self.document_bytes(document) if last else int(self._starts[chunk + 1])
        return stop - int(self._starts[chunk])

    def documents_like(self, other: ChunkTexts) -> np.ndarray:
        """The document of `self` that has the id of each of `other`'s, [other.num_documents] int64; -1 for none."""
        if other.fingerprint == self.fingerprint:
            return np.arange(self.num_documents)
        order = np.argsort(self.document_hashes, kind="stable")
        place = np.searchsorted(self.document_hashes[order], other.document_hashes)
        found = order[np.minimum(place, len(order) - 1)]
        return np.where(self.document_hashes[found] == other.document_hashes, found, -1)

    def _chunk(self, chunk: int, parts: int) -> np.ndarray:
        document, at = self._place(chunk)
        start = int(self._token_ends[document]) + at * self.chunk_tokens
        end = min(start + parts * self.chunk_tokens, int(self._token_ends[document + 1]))
        return self._tokens[start:end].astype(np.int32)

    def _place(self, chunk: int) -> tuple[int, int]:
        """The document of a chunk, and which of its chunks it is."""
        if not 0 <= chunk < self.num_chunks:
            raise ValueError(f"chunk={chunk}; chunks of {self.path} go from 0 to {self.num_chunks - 1}.")
        document = int(np.searchsorted(self.first_chunks, chunk, side="right")) - 1
        return document, int(chunk - self.first_chunks[document])

    def _checked(self, chunks: np.ndarray) -> np.ndarray:
        chunks = np.asarray(chunks, np.int64)
        if chunks.size and not (chunks.min() >= -1 and chunks.max() < self.num_chunks):
            wrong = int(chunks.min()) if chunks.min() < -1 else int(chunks.max())
            raise ValueError(f"chunk={wrong}; chunks of {self.path} go from 0 to {self.num_chunks - 1} (-1 for none).")
        return chunks

    def _span(self, ends: np.ndarray, document: int) -> tuple[int, int]:
        if not 0 <= document < self.num_documents:
            raise ValueError(f"document={document}; documents of {self.path} go from 0 to {self.num_documents - 1}.")
        return int(ends[document]), int(ends[document + 1])

    def _name(self, document: int) -> dict[str, str]:
        start, end = self._span(self._name_ends, document)
        return json.loads(self._names[start:end].tobytes())


def write_chunks(
    open_documents: Callable[[], Iterable[Document]],
    tokenizer: Tokenizer,
    out: str | Path,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
    made_of: Mapping[str, Any] | None = None,
    total: int | None = None,
) -> ChunkTexts:
    """Tokenise documents and cut them into chunks, in bounded memory; called again after a kill, it goes on.

    open_documents: gives the documents from the start (see `documents_of`). made_of: what they are, kept and
    compared when the build is gone on with. total: documents, for the bar. ValueError where the folder holds
    chunks of something else, where a document comes twice, or where there are none.
    """
    require(chunk_tokens >= 1, f"chunk_tokens={chunk_tokens} is too small; a chunk needs at least 1 token.")
    out = Path(out)
    made_with = {"tokenizer": tokenizer.fingerprint, "chunk_tokens": chunk_tokens, **(made_of or {})}
    with locked(out, make=True):
        if (out / MANIFEST).is_file():
            info = read_json(out / MANIFEST, "chunks", COMMAND)
            there = {name: info.get(name) for name in made_with}
            require(there == made_with, f"{out} holds chunks of {different(there, made_with)}; give another folder.")
            return ChunkTexts.open(out)
        tokenizer.save(out)
        blocks = Blocks(out, made_with, ARRAYS, suffix="bin", fixed=True)
        digest = _fill(blocks, open_documents(), tokenizer, chunk_tokens, total)
        require(blocks.rows("documents") > 0, "there are no documents to cut; the corpus is empty or all blank.")
        fingerprint = hashlib.blake2b(json.dumps([made_with, digest]).encode(), digest_size=16).hexdigest()
        write_json(out / MANIFEST, {**made_with, "fingerprint": fingerprint, "arrays": blocks.described()})
        blocks.record.unlink()
    return ChunkTexts.open(out)


def _fill(blocks: Blocks, documents: Iterable[Document], tokenizer: Tokenizer, chunk_tokens: int, total: Any) -> str:
    """Append what is not there yet; returns a digest of all documents."""
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
    seen, digest = set(), hashlib.blake2b(digest_size=16)
    there = list(blocks.blocks)
    with progress_bar(desc="chunks", unit=" documents", total=total) as bar:
        for number, group in enumerate(_groups(documents)):
            for document in group:
                require(document.id not in seen, f"document {document.id!r} comes twice; put its passages together.")
                seen.add(document.id)
                digest.update(json.dumps(document).encode())
            if number < len(there):
                require(there[number]["digest"] == digest.hexdigest(), CHANGED.format(path=blocks.path))
            else:
                encoded = tokenizer.encode_with_starts([document.text for document in group])
                blocks.append(digest.hexdigest(), **_arrays(group, encoded, chunk_tokens, dtype))
            bar.update(len(group))
    return digest.hexdigest()


CHANGED = "the corpus is not the one that {path} was begun with; give that one again, or another folder."


def _groups(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents of about BLOCK_BYTES together; blank ones are left out."""
    held: list[Document] = []
    size = 0
    for document in documents:
        if not document.text.strip():
            continue
        held.append(document)
        size += len(document.text)
        if size >= BLOCK_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def _arrays(group: Sequence[Document], encoded: Sequence[tuple], chunk_tokens: int, dtype: type) -> dict[str, Any]:
    tokens, starts, rows = [], [], []
    texts = [document.text.encode("utf8") for document in group]
    names = [json.dumps({"id": item.id, "split": item.split}).encode() + b"\n" for item in group]
    for document, text, name, (ids, places) in zip(group, texts, names, encoded):
        tokens.append(np.asarray(ids, dtype))
        first = np.asarray(places[::chunk_tokens], np.int64)
        first[:1] = 0  # a tokenizer may leave out blanks at the beginning; they belong to the first chunk
        starts.append(_byte_places(document.text, len(text), first).astype(np.int32))
        rows.append((len(ids), len(text), len(name), _hash64(document.id)))
    return {
        "tokens": np.concatenate(tokens),
        "text": np.frombuffer(b"".join(texts), np.uint8),
        "starts": np.concatenate(starts),
        "documents": np.asarray(rows, np.int64),
        "names": np.frombuffer(b"".join(names), np.uint8),
    }


def _byte_places(text: str, num_bytes: int, characters: np.ndarray) -> np.ndarray:
    """The byte every one of these characters begins at."""
    if num_bytes == len(text):
        return characters
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    return _ends(1 + (codes > 0x7F) + (codes > 0x7FF).astype(np.int64) + (codes > 0xFFFF))[characters]


def _hash64(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def _ends(lengths: np.ndarray) -> np.ndarray:
    """[n] -> [n + 1]: where each part begins, and after the last one the whole length."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _mapped(file: Path, described: Mapping[str, Any]) -> np.ndarray:
    """A written array, memory-mapped; ValueError where its file is shorter than it should be."""
    shape = tuple(described["shape"])
    return np.memmap(file, described["type"], "r", shape=shape) if shape[0] else np.empty(shape, described["type"])
