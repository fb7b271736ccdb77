"""Bytes -> lines of text, whatever the file went through: gzip, Zstandard, byte order marks, bad bytes.

Files are read in pieces, so their size does not matter. Nothing here raises for what a file holds: damage
comes out as a Problem, after everything that could be read before it.
"""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellread.corpus.documents import Problem

__all__ = ["MAX_LINE", "Line", "clean", "peek_text", "read_bytes", "read_lines", "read_text", "read_whole"]

PIECE = 1 << 16
MAX_LINE = 1 << 28  # bytes; a longer line is passed over without being held in memory
REPLACEMENT = "\ufffd"
ASCII = bytes(range(0x80))
NO_CONTROLS = bytes([*b"\t\n\f\r", *range(0x20, 0x100)])
MOST_BEYOND = 0.3  # of a text in a Western language, bytes beyond ASCII


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end. repaired: bytes that are not UTF-8, or NULs, were mended, replaced or removed.
    ends: False where a long line was broken up and goes on in the next one."""

    number: int
    text: str
    repaired: bool = False
    ends: bool = True


def clean(text: str) -> tuple[str, bool]:
    """The text without what cannot be stored as UTF-8 (NULs, halves of surrogate pairs), and whether that
    changed it."""
    fixed = text.replace("\0", "")
    try:
        fixed.encode("utf-8")
    except UnicodeEncodeError:
        # Going through UTF-16 joins halves that belong together and replaces the others.
        fixed = fixed.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return fixed, fixed != text


def read_bytes(path: Path) -> Iterator[bytes | Problem]:
    """The unpacked bytes of a file, piece by piece; at the end a Problem where the file is damaged.

    Packing is told by the first bytes, not by the name.
    """
    try:
        with open(path, "rb", buffering=PIECE) as file:
            head = file.peek(4)[:4]
            make = next((make for magic, make in _PACKINGS.items() if head.startswith(magic)), None)
            if make is None:
                yield from iter(lambda: file.read(PIECE), b"")
            else:
                yield from _unpack(iter(lambda: file.read(PIECE), b""), make, str(path))
    except OSError as error:
        yield Problem(str(path), 0, f"cannot be read: {error.strerror or error}")


def read_whole(path: Path) -> tuple[bytes, list[Problem]]:
    """All unpacked bytes of a file, and the problems met, which leave them incomplete."""
    parts = list(read_bytes(path))
    whole = b"".join(part for part in parts if not isinstance(part, Problem))
    return whole, [part for part in parts if isinstance(part, Problem)]


def read_lines(path: Path, *, blank: bool = False, longest: int | None = None) -> Iterator[Line | Problem]:
    """The lines of a text file, decoded; numbers start at 1. Blank lines are left out unless `blank`.

    longest: break a line up into several of about this many bytes, at spaces; without it, a line stays whole
    and one of more than MAX_LINE bytes becomes a Problem.

    UTF-8 (with or without mark) and UTF-16 are understood; bytes that are neither are taken for Windows-1252 where they
    look like it, else replaced, and the line is flagged as repaired.
    """
    number = 1
    for raw in _split(_as_utf8(read_bytes(path)), longest):
        ends = not isinstance(raw, _Broken)
        if isinstance(raw, Problem):
            yield raw
        elif raw is None:
            yield Problem(str(path), number, f"longer than {MAX_LINE >> 20} MiB; break the line up")
        else:
            text, repaired = _decode(raw)
            if blank or (text and not text.isspace()):
                yield Line(number, text, repaired, ends)
        number += ends


def read_text(path: Path, *, charset: Callable[[bytes], str | None] | None = None) -> Iterator[Line | Problem]:
    """A whole file as one Line of number 1 (ends of lines kept as "\\n"), then the problems met.

    charset: looks at the first bytes and names the encoding that the file itself declares, or None; it is
    used where the bytes are not UTF-8.
    """
    parts: list[bytes] = []
    problems: list[Problem] = []
    for part in _as_utf8(read_bytes(path)):
        if isinstance(part, Problem):
            problems.append(part)
        else:
            parts.append(part)
    raw = b"".join(parts)
    text, repaired = _decode(raw)
    declared = charset(raw[:4096]) if repaired and charset else None
    if declared:
        text, repaired = clean(raw.decode(declared, "replace"))
    if text.strip() or not problems:
        yield Line(1, text.replace("\r\n", "\n").replace("\r", "\n"), repaired)
    yield from problems


def peek_text(path: Path, size: int = 4096) -> str:
    """About the first `size` bytes of a file as text, for guessing its format; "" where it cannot be read."""
    held = b""
    for part in _as_utf8(read_bytes(path)):
        if isinstance(part, Problem) or len(held) >= size:
            break
        held += part
    return _decode(held[:size])[0]


# -- packing ---------------------------------------------------------------------------------------------


def _gzip() -> Any:
    return zlib.decompressobj(wbits=31)


def _zstd() -> Any:
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()


_PACKINGS: dict[bytes, Callable[[], Any]] = {b"\x1f\x8b": _gzip, b"\x28\xb5\x2f\xfd": _zstd}


def _unpack(parts: Iterable[bytes], make: Callable[[], Any], path: str) -> Iterator[bytes | Problem]:
    """Unpack a chain of gzip members or Zstandard frames."""
    worker = make()
    for part in parts:
        while part:
            if worker.eof:
                part = part.lstrip(b"\0")  # tapes and some tools pad with zeros between or after members
                worker = make() if part else worker
                if not part:
                    break
            # Only zlib can copy its state; with it, what comes before the damaged byte is kept too.
            backup = worker.copy() if hasattr(worker, "copy") else None
            try:
                unpacked = worker.decompress(part)
            except Exception as error:  # zlib.error or ZstdError; the latter is not imported unless needed
                if backup is not None:
                    yield from _salvage(backup, part)
                yield Problem(path, 0, f"damaged ({error}); what comes after the damage is lost")
                return
            if unpacked:
                yield unpacked
            part = worker.unused_data if worker.eof else b""
    if not worker.eof:
        yield Problem(path, 0, "ends before its packed data does; the rest is lost")


def _salvage(worker: Any, part: bytes) -> Iterator[bytes]:
    for index in range(len(part)):
        try:
            yield worker.decompress(part[index : index + 1])
        except zlib.error:
            return


# -- lines and letters -----------------------------------------------------------------------------------


def _split(parts: Iterable[bytes | Problem], longest: int | None) -> Iterator[bytes | Problem | None]:
    """Lines as bytes; None stands for one that is longer than MAX_LINE. Problems come last."""
    held: list[bytes] = []
    size = 0
    problems: list[Problem] = []
    for part in parts:
        if isinstance(part, Problem):
            problems.append(part)
            continue
        first, *rest = part.split(b"\n")
        held.append(first)
        size += len(first)
        if longest is not None and size > longest:
            *pieces, last = _broken(b"".join(held), longest)
            yield from map(_Broken, pieces)
            held, size = [last], len(last)
        elif size > MAX_LINE:
            held.clear()
        if rest:
            yield None if size > MAX_LINE else b"".join(held)
            yield from rest[:-1]
            held, size = [rest[-1]], len(rest[-1])
    if size:
        yield None if size > MAX_LINE else b"".join(held)
    yield from problems


class _Broken(bytes):
    """A part of a line that goes on."""


def _broken(line: bytes, longest: int) -> Iterator[bytes]:
    while len(line) > longest:
        cut = line.rfind(b" ", longest // 2, longest)
        if cut < 0:
            cut = longest
            while cut > 0 and line[cut] & 0xC0 == 0x80:  # not inside a letter
                cut -= 1
        yield line[:cut]
        line = line[cut:]
    yield line


def _decode(raw: bytes) -> tuple[str, bool]:
    try:
        text, repaired = raw.decode("utf-8"), False
    except UnicodeDecodeError:
        text, repaired = _western(raw), True
    if "\0" in text:
        text, repaired = text.replace("\0", ""), True
    return text.removeprefix("\ufeff").removesuffix("\r"), repaired


def _western(raw: bytes) -> str:
    """Bytes that are not UTF-8 as text: Windows-1252 where they look like it (a spreadsheet's export, an old file), by
    few letters beyond ASCII and none of them UTF-8; else what is not UTF-8 is replaced."""
    text = raw.decode("utf-8", "replace")
    beyond, strange = raw.translate(None, ASCII), raw.translate(None, NO_CONTROLS)
    mixed = any(letter > "\x7f" and letter != REPLACEMENT for letter in text)
    return text if mixed or strange or len(beyond) > MOST_BEYOND * len(raw) else raw.decode("cp1252", "replace")


def _as_utf8(parts: Iterator[bytes | Problem]) -> Iterator[bytes | Problem]:
    """The same bytes, turned into UTF-8 where they are UTF-16."""
    head = next(parts, b"")
    encoding = None if isinstance(head, Problem) else _utf16(head)
    if encoding is None:
        yield head
        yield from parts
        return
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    yield decoder.decode(head).encode()
    for part in parts:
        yield part if isinstance(part, Problem) else decoder.decode(part).encode()
    yield decoder.decode(b"", True).encode()


def _utf16(head: bytes) -> str | None:
    """Whether a file that starts with `head` is UTF-16, and in which byte order.

    A mark alone is not believed: one line of rubbish may begin with FF FE and hundreds of good UTF-8 lines
    follow. So lines that are good UTF-8 decide first. After that letters of ASCII must be 16 bits wide
    (many where there is no mark, a few with one), or marked text must be free of errors.
    """
    head = head[: 1 << 16]
    lines = [line for line in head.split(b"\n") if line.strip()]
    if sum(_is_plain(line) for line in lines) > len(lines) / 5:
        return None
    marked = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(head[:2])
    body = head[2:] if marked else head
    for encoding in [marked] if marked else ["utf-16-le", "utf-16-be"]:
        low, high = (body[0::2], body[1::2]) if encoding == "utf-16-le" else (body[1::2], body[0::2])
        letters = sum(other == 0 and 9 <= letter < 127 for letter, other in zip(low, high))
        if letters > (0.05 if marked else 0.4) * len(low):
            return encoding
    try:
        codecs.getincrementaldecoder(marked or "utf-8")().decode(body)
    except UnicodeDecodeError:
        return None
    return marked


def _is_plain(line: bytes) -> bool:
    try:
        return "\0" not in line.decode("utf-8")
    except UnicodeDecodeError:
        return False
