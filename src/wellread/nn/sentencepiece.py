"""SentencePiece unigram model files (spiece.model of T5 v1.1 and mT5) as a `tokenizers.Tokenizer`.

The file is a protocol buffer of which four things matter (sentencepiece_model.proto): the pieces with their
scores, the id of the unknown piece, whether bytes stand in for unknown characters, and the table that
normalises characters. Reading those needs no further package.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import tokenizers as hub

__all__ = ["read_sentencepiece"]

# Field numbers of sentencepiece_model.proto.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 2, 3
_MODEL_TYPE, _BYTE_FALLBACK, _UNKNOWN_ID = 3, 35, 40
_CHARACTER_TABLE = 2
_UNIGRAM = 1
_SPECIAL_TYPES = (2, 3)  # unknown, control


def read_sentencepiece(path: str | Path, *, sentinels: int = 100) -> hub.Tokenizer:
    """The tokenizer of a spiece.model, with `sentinels` tokens <extra_id_N> appended as T5 does (N falling).

    Raises ValueError where the file is damaged or holds another model than unigram.
    """
    path = Path(path)
    try:
        pieces, trainer, table = _read(path.read_bytes())
    except (IndexError, struct.error, UnicodeDecodeError, KeyError) as error:
        raise ValueError(f"{path} is truncated or damaged; download or copy it again.") from error
    if trainer.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM:
        raise ValueError(f"{path} holds no unigram model; only unigram models (T5 family) are supported.")
    special = [text for text, _, kind in pieces if kind in _SPECIAL_TYPES]
    names = [f"<extra_id_{index}>" for index in reversed(range(sentinels))]
    vocabulary = [(text, score) for text, score, _ in pieces] + [(name, 0.0) for name in names]
    model = hub.models.Unigram(
        vocabulary, unk_id=trainer.get(_UNKNOWN_ID, 0), byte_fallback=bool(trainer.get(_BYTE_FALLBACK, 0))
    )
    backend = hub.Tokenizer(model)
    spaces = hub.normalizers.Replace(hub.Regex(" {2,}"), " ")
    backend.normalizer = hub.normalizers.Sequence([hub.normalizers.Precompiled(table), spaces])
    backend.pre_tokenizer = hub.pre_tokenizers.Metaspace()
    backend.decoder = hub.decoders.Metaspace()
    backend.add_special_tokens([*special, *names])
    return backend


def _read(data: bytes) -> tuple[list[tuple[str, float, int]], dict[int, int], bytes]:
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, int] = {}
    table = b""
    for field, value in _fields(data):
        if field == _PIECES:
            piece = dict(_fields(value))
            (score,) = struct.unpack("<f", piece.get(_PIECE_SCORE, b"\0\0\0\0"))
            pieces.append((piece[_PIECE_TEXT].decode("utf8"), score, piece.get(_PIECE_TYPE, 1)))
        elif field == _TRAINER:
            trainer = {key: item for key, item in _fields(value) if isinstance(item, int)}
        elif field == _NORMALIZER:
            table = dict(_fields(value)).get(_CHARACTER_TABLE, b"")
    if not pieces:
        raise IndexError("no pieces")
    return pieces, trainer, table


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of every field of a protocol buffer message; fixed-width values stay bytes."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        # Wire types: 1 is eight bytes, 5 is four bytes, 2 says its length first.
        size, place = _varint(data, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
        if place + size > len(data):
            raise IndexError("the message ends early")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place += 1
        if byte < 128:
            return value, place
        shift += 7
