"""Text <-> token ids: one face over the hub's tokenizer.json, SentencePiece model files and ByT5's bytes.

A `Tokenizer` never adds special tokens by itself: the templates of the readers place them, by id. Which ids
those are follows from the vocabulary:

    vocabulary                   start    end     pad     cls     sep     mask     sentinels
    BERT ([CLS], [SEP], [PAD])   [CLS]    [SEP]   [PAD]   [CLS]   [SEP]   [MASK]   none
    T5 (<pad>, </s>)             <pad>    </s>    <pad>   None    None    None     <extra_id_0>, <extra_id_1>, ...
    learnt bytes (<pad>, </s>)   <pad>    </s>    <pad>   None    None    None     none
    GPT-2 (<|endoftext|>)        all four are <|endoftext|>; cls, sep, mask, sentinels: none
    ByT5 (bytes + 3)             0        1       0       None    None    None     258, 257, ...
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import accumulate, chain, count, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers as hub

__all__ = ["ByteTokenizer", "Tokenizer", "train_tokenizer"]

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SENTENCEPIECE_FILE = "spiece.model"
SMALLEST_VOCABULARY = 100
LARGEST_ALPHABET = 1000

# role -> token, one column per family of vocabularies; the first family whose tokens are all present counts.
_FAMILIES: tuple[dict[str, str], ...] = (
    {"start": "[CLS]", "end": "[SEP]", "pad": "[PAD]", "unknown": "[UNK]"},
    {"start": "<pad>", "end": "</s>", "pad": "<pad>", "unknown": "<unk>"},
    dict.fromkeys(("start", "end", "pad", "unknown"), "<|endoftext|>"),
)

# WordPiece forgets where spaces were: it gives "16, 801", "well - read", "citizen ' s", "( u. s. )". These
# rules put texts back the way they are mostly written. They matter to scores: without them one short
# answer in ten differs from the text it was copied from, by a space.
_SPACING = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=\w) ([-–/]) (?=\w)", r"\1"),
        (r"(?<=\d) : (?=\d)", ":"),
        (r"(?<=\w) (['’]) (?=(?:s|d|t|m|re|ve|ll)\b)|(?<=\b[odl]) (['’]) (?=\w)", r"\1\2"),
        (r"(?<=\d\.) (?=\d)|(?<=\d,) (?=\d{3}(?!\d))|(?<=\.) (?=(?:com|org|net)\b)", ""),
        (r"(?<=\bu\.) (?=[skn]\.)|(?<=\bd\.) (?=c\.)|(?<=\b[ap]\.) (?=m\.)", ""),
        (r"(?<=°) (?=[cf]\b)|(?<=[(\[$£€#‘“]) | (?=[)\]%;:”])", ""),
    )
)

# Texts that tell two tokenizers with the same vocabulary apart: case, accents, spaces, marks, scripts.
_PROBES = (
    "The Cat sat.  It's 3,141.5 km/h!",
    "Ünïcödé — naïve façade ½ ﬁ №",
    "東京 Москва العربية\tline\nbreak",
    "unbelievably well-read (re-read) e.g. U.S.A. #1 @home",
)

_PART = "\ufffd"  # what bytes that are no whole character are decoded to


class Joints(NamedTuple):
    """Per id, whether a token belongs to one word with the token before it and after it: in any case, or (left, right)
    where the neighbour says so of its own side too, as letter beside letter."""

    before: list[bool]
    after: list[bool]
    left: list[bool]
    right: list[bool]


def _in_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character)[0] == "M"


class Tokenizer:
    """A tokenizer of the hub's tokenizer.json kind.

    Attributes: start, end, pad, unknown (ids, int); cls, sep, mask (ids, or None where the vocabulary has
    none); sentinels (ids that stand for masked spans, in order, maybe empty); vocab_size (int, the
    highest id + 1).
    """

    start: int
    end: int
    pad: int
    unknown: int
    cls: int | None
    sep: int | None
    mask: int | None
    sentinels: tuple[int, ...]
    vocab_size: int

    def __init__(self, backend: hub.Tokenizer) -> None:
        self._backend = backend
        # Files often carry the truncation and padding of their training; lengths are the templates' business.
        backend.no_truncation()
        backend.no_padding()
        # A text that speaks of "</s>" means these four letters; with byte-level vocabularies it then comes back whole.
        backend.encode_special_tokens = isinstance(backend.decoder, hub.decoders.ByteLevel)
        family = next((item for item in _FAMILIES if self._knows(item)), None)
        if family is None:
            needed = " or ".join(", ".join(sorted(set(item.values()))) for item in _FAMILIES)
            raise ValueError(
                f"the tokenizer lacks special tokens; its vocabulary must hold {needed}. "
                "Use a BERT- or T5-family tokenizer.json, or train one."
            )
        for role, token in family.items():
            setattr(self, role, backend.token_to_id(token))
        self.cls, self.sep = backend.token_to_id("[CLS]"), backend.token_to_id("[SEP]")
        self.mask = backend.token_to_id("[MASK]")
        sentinels = (backend.token_to_id(f"<extra_id_{index}>") for index in count())
        self.sentinels = tuple(takewhile(lambda token: token is not None, sentinels))
        self.vocab_size = max(backend.get_vocab().values()) + 1

    def _knows(self, family: dict[str, str]) -> bool:
        return all(self._backend.token_to_id(token) is not None for token in family.values())

    def encode_batch(self, texts: Sequence[str], *, max_tokens: int | None = None) -> list[list[int]]:
        """The ids of every text, no special tokens added, cut after `max_tokens` where that is given."""
        texts = list(texts)
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"text={text!r} is {type(text).__name__}; encode_batch takes a list of str.")
        return [ids[:max_tokens] for ids in self._encode(texts)]

    def encode(self, text: str, *, max_tokens: int | None = None) -> list[int]:
        """The ids of one text, no special tokens added."""
        return self.encode_batch([text], max_tokens=max_tokens)[0]

    def encode_with_starts(self, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """Of every text its ids and, per id, the character it begins at (never smaller than the one before)."""
        found = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [(item.ids, list(accumulate((start for start, _ in item.offsets), max))) for item in found]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; special tokens (pad, end, ...) are skipped."""
        return self._decode([int(token) for token in ids])

    def token_id(self, token: str) -> int | None:
        """The id of a token of the vocabulary by its exact spelling, or None."""
        return self._backend.token_to_id(token)

    def special_ids(self) -> list[int]:
        """The ids that stand for no text: start, end, padding, unknown, marks, sentinels."""
        roles = (self.start, self.end, self.pad, self.unknown, self.cls, self.sep, self.mask)
        return sorted({number for number in (*roles, *self.sentinels) if number is not None})

    def joints(self) -> Joints:
        """Which tokens belong to one word with their neighbours."""
        found = Joints(*([False] * self.vocab_size for _ in Joints._fields))
        pieces = isinstance(self._backend.model, hub.models.WordPiece)
        for token, number in self._vocabulary().items():
            if pieces:
                found.before[number] = token.startswith(self._backend.model.continuing_subword_prefix)
            else:
                self._join(found, number, token)
        if not pieces:  # a word piece that is unknown stands for a whole word
            found.before[self.unknown] = found.after[self.unknown] = True
        return found

    def _join(self, found: Joints, number: int, token: str) -> None:
        """A token that says itself whether a space comes before it."""
        decoder = self._backend.decoder
        text = token if decoder is None else decoder.decode(["", token])
        if not text.strip():
            found.after[number] = text == " "
            return
        # A part of a character, of a vocabulary of bytes, belongs to the parts around it.
        found.before[number], found.after[number] = text[0] == _PART, text[-1] == _PART
        found.left[number], found.right[number] = _in_word(text[0]), _in_word(text[-1])

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change when the vocabulary or the cutting of texts changes.

        Made from the vocabulary and from what probe texts become, not from the file: releases of the
        `tokenizers` package write the same tokenizer in different JSON.
        """
        roles = [self.start, self.end, self.pad, self.unknown, self.cls, self.sep, self.mask]
        content = [sorted(self._vocabulary().items()), roles, self._encode(list(_PROBES))]
        return hashlib.sha256(json.dumps(content).encode("utf8")).hexdigest()[:16]

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json into the folder, which is made where it is missing."""
        _write_text(Path(folder) / TOKENIZER_FILE, self._backend.to_str(pretty=False))

    @staticmethod
    def load(folder: str | Path) -> Tokenizer:
        """The tokenizer of a model folder (or of a path to a tokenizer.json).

        Reads tokenizer.json, else spiece.model (T5 v1.1, mT5), else a tokenizer_config.json that names
        ByT5's byte tokenizer. Raises ValueError where none is there or the file is damaged.
        """
        folder = Path(folder)
        file = folder if folder.is_file() else folder / TOKENIZER_FILE
        if file.is_file():
            return Tokenizer(_read_backend(file))
        config = _read_config(folder / TOKENIZER_CONFIG)
        if (folder / SENTENCEPIECE_FILE).is_file():
            from wellread.nn.sentencepiece import read_sentencepiece

            return Tokenizer(read_sentencepiece(folder / SENTENCEPIECE_FILE, sentinels=config.get("extra_ids", 100)))
        if str(config.get("tokenizer_class", "")).startswith("ByT5"):
            return ByteTokenizer()
        raise ValueError(
            f"{folder} holds no tokenizer; it needs {TOKENIZER_FILE}, {SENTENCEPIECE_FILE}, or a "
            f"{TOKENIZER_CONFIG} with tokenizer_class ByT5Tokenizer. Give the folder of a whole model."
        )

    def _vocabulary(self) -> dict[str, int]:
        return self._backend.get_vocab()

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [item.ids for item in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def _decode(self, ids: list[int]) -> str:
        text = self._backend.decode(ids, skip_special_tokens=True)
        if isinstance(self._backend.decoder, hub.decoders.WordPiece):
            for pattern, replacement in _SPACING:
                text = pattern.sub(replacement, text)
        return text


class ByteTokenizer(Tokenizer):
    """ByT5's tokenizer: the UTF-8 bytes plus 3; pad 0, end 1, unknown 2.

    vocab_size counts the 125 unused ids that ByT5's published embeddings have. The sentinels count down
    from the last byte (Xue et al. 2022, ByT5, section 3.1).
    """

    start, end, pad, unknown = 0, 1, 0, 2
    cls = sep = mask = None
    offset = 3
    sentinels = tuple(range(258, 158, -1))
    vocab_size = 384

    def __init__(self) -> None:
        """Takes nothing: there is no vocabulary to read."""

    def save(self, folder: str | Path) -> None:
        """Write a tokenizer_config.json that names ByT5's tokenizer; there is no other file."""
        config = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125}
        _write_text(Path(folder) / TOKENIZER_CONFIG, json.dumps(config))

    def token_id(self, token: str) -> int | None:
        """The id of a special token or of a single-byte character, or None."""
        raw = token.encode("utf8")
        return {"<pad>": 0, "</s>": 1, "<unk>": 2}.get(token, raw[0] + self.offset if len(raw) == 1 else None)

    def encode_with_starts(self, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        widths = [[len(character.encode("utf8")) for character in text] for text in texts]
        starts = [[place for place, width in enumerate(row) for _ in range(width)] for row in widths]
        return list(zip(self._encode(list(texts)), starts))

    def special_ids(self) -> list[int]:
        return [self.pad, self.end, self.unknown]

    def joints(self) -> Joints:
        found = Joints(*([False] * self.vocab_size for _ in Joints._fields))
        for byte in range(256):
            found.before[byte + self.offset] = 0x80 <= byte < 0xC0
            within = byte >= 0x80 or chr(byte).isalnum()
            found.left[byte + self.offset] = found.right[byte + self.offset] = within
        return found

    def _vocabulary(self) -> dict[str, int]:
        return {"bytes": self.offset}

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [[byte + self.offset for byte in text.encode("utf8")] for text in texts]

    def _decode(self, ids: list[int]) -> str:
        kept = bytes(token - self.offset for token in ids if self.offset <= token < self.offset + 256)
        # A model may stop in the middle of a character; such bytes say nothing.
        return kept.decode("utf8", errors="ignore")


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, kind: str = "wordpiece") -> Tokenizer:
    """A new tokenizer learnt from texts: "wordpiece" (BERT's, lower-cased), "unigram" (T5's) or "bytes".

    The same texts give the same tokenizer. The vocabulary may end up smaller than `vocab_size` where the
    texts are few. It holds at most the 1,000 commonest characters, or those that fill two thirds of it;
    "bytes" (GPT-2's pairs of bytes, merged) holds all 256 bytes, so every text decodes to itself, and reads its
    texts as a stream. Raises ValueError for an unknown kind, no texts, or a vocabulary of less than 100 entries
    (bytes: 259).
    """
    if kind not in _KINDS:
        raise ValueError(f"kind={kind!r} is unknown; use one of: {', '.join(_KINDS)}.")
    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(f"vocab_size={vocab_size} is too small; use at least {SMALLEST_VOCABULARY}.")
    real = (text for text in texts if text.strip())
    first = next(real, None)
    if first is None:
        raise ValueError("there are no texts to learn a vocabulary from; give at least one that is not blank.")
    return Tokenizer(_KINDS[kind](chain([first], real), vocab_size))


def _bytes(texts: Iterable[str], vocab_size: int) -> hub.Tokenizer:
    """Merged pairs of bytes (Radford et al. 2019): nothing is normalised, so nothing is lost."""
    special = ["<pad>", "</s>", "<unk>"]
    letters = sorted(hub.pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(special) + len(letters):
        raise ValueError(f"vocab_size={vocab_size} is too small; all bytes need {len(special) + len(letters)}.")
    backend = hub.Tokenizer(hub.models.BPE())
    backend.pre_tokenizer = hub.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = hub.decoders.ByteLevel()
    trainer = hub.trainers.BpeTrainer(
        # The bytes are named up front in order, as for "wordpiece".
        vocab_size=vocab_size,
        special_tokens=[*special, *letters],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer=trainer)
    described = json.loads(backend.to_str())
    described["added_tokens"] = [token for token in described["added_tokens"] if token["content"] in special]
    return hub.Tokenizer.from_str(json.dumps(described))


def _alphabet(backend: hub.Tokenizer, texts: list[str], limit: int) -> list[str]:
    counts = Counter()
    for text in texts:
        counts.update("".join(backend.normalizer.normalize_str(text).split()))
    return sorted(sorted(counts, key=lambda character: (-counts[character], character))[: min(limit, LARGEST_ALPHABET)])


def _wordpiece(texts: Iterable[str], vocab_size: int) -> hub.Tokenizer:
    texts = list(texts)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = hub.Tokenizer(hub.models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = hub.normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = hub.pre_tokenizers.BertPreTokenizer()
    backend.decoder = hub.decoders.WordPiece()
    alphabet = _alphabet(backend, texts, (vocab_size - len(special)) // 3)
    # The trainer numbers the ##-characters in the random order of a hash map, and ties between merges fall
    # by number. Named up front they are numbered in order, so that every run gives the same vocabulary.
    trainer = hub.trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*special, *alphabet, *(f"##{character}" for character in alphabet)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer=trainer)
    model = hub.models.WordPiece(backend.get_vocab(with_added_tokens=False), unk_token="[UNK]")
    return _rebuilt(backend, model, special)


def _unigram(texts: Iterable[str], vocab_size: int) -> hub.Tokenizer:
    """Pieces by merging, scores by counting: the package's own unigram trainer differs from run to run."""
    texts = list(texts)
    special = ["<pad>", "</s>", "<unk>", *(f"<extra_id_{index}>" for index in range(16))]
    backend = hub.Tokenizer(hub.models.BPE(unk_token="<unk>"))
    spaces = hub.normalizers.Replace(hub.Regex(r"\s+"), " ")
    backend.normalizer = hub.normalizers.Sequence([hub.normalizers.NFKC(), spaces, hub.normalizers.Strip()])
    # Marks stand alone, as in T5's own vocabulary: an answer can be copied without the comma behind it.
    split = [hub.pre_tokenizers.Metaspace(), hub.pre_tokenizers.Punctuation()]
    backend.pre_tokenizer = hub.pre_tokenizers.Sequence(split)
    backend.decoder = hub.decoders.Metaspace()
    alphabet = sorted({"\u2581", *_alphabet(backend, texts, (vocab_size - len(special)) // 2)})
    trainer = hub.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer=trainer)
    pieces = sorted(backend.get_vocab(), key=backend.get_vocab().get)
    counts = Counter(token for item in backend.encode_batch_fast(texts) for token in item.ids)
    # Half a count keeps pieces that only served as a step to longer ones possible.
    total = math.log(sum(counts.values()) + 0.5 * len(pieces))
    scores = [math.log(counts[index] + 0.5) - total for index in range(len(pieces))]
    scored = [(piece, 0.0 if piece in special else score) for piece, score in zip(pieces, scores)]
    return _rebuilt(backend, hub.models.Unigram(scored, unk_id=special.index("<unk>")), special)


def _rebuilt(backend: hub.Tokenizer, model: Any, special: list[str]) -> hub.Tokenizer:
    """A tokenizer around the model with the backend's other parts and only these special tokens."""
    fresh = hub.Tokenizer(model)
    fresh.normalizer, fresh.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    fresh.decoder = backend.decoder
    fresh.add_special_tokens(special)
    return fresh


_KINDS: dict[str, Callable[[Iterable[str], int], hub.Tokenizer]] = {
    "wordpiece": _wordpiece,
    "unigram": _unigram,
    "bytes": _bytes,
}


def _read_backend(file: Path) -> hub.Tokenizer:
    text = file.read_text(encoding="utf8")
    try:
        return hub.Tokenizer.from_str(text)
    except Exception as error:  # the package raises bare Exception for malformed files
        raise ValueError(f"{file} is not a readable tokenizer ({error}); copy it again.") from error


def _read_config(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf8")) if file.is_file() else {}


def _write_text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    waiting = file.with_name(f".{file.name}.{os.getpid()}.part")
    waiting.write_text(text, encoding="utf8")
    os.replace(waiting, file)
