"""Reader of PDF files: a page is a document, so that a citation can name the page. Needs pypdf."""

from __future__ import annotations

import io
import logging
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from wellread.corpus.documents import INSTALL, Document, Problem
from wellread.corpus.files import clean, read_whole

if TYPE_CHECKING:
    from pypdf import PdfReader

__all__ = ["read_pdf"]

# A word cut at the end of a line; what goes on with a capital or a figure was written with its hyphen.
_HYPHEN = re.compile(r"(?<=[^\W\d_])[-\u00ad\u2010][^\S\n]*\n(?=[a-zß-öø-ÿ])|\u00ad")
# Letters that are drawn as one, which no search and no vocabulary knows: "fi", "ffl" and their like.
_LIGATURES = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFB00, 0xFB07)}
# What pypdf raises where a file does not hold what it promises, beside errors of its own.
_BROKEN = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, OSError)


def read_pdf(path: Path) -> Iterator[Document | Problem]:
    """The pages of a PDF file that hold text, numbered from 1 in metadata["page"].

    The title is the file's own, else its name. A Problem where pypdf is missing, where the file is damaged or locked by
    a password, for each page that cannot be read, and where no page holds text (scanned pages hold pictures).
    """
    if find_spec("pypdf") is None:
        yield Problem(str(path), 0, f"is a PDF, and pypdf is not installed; run: {INSTALL}")
        return
    raw, problems = read_whole(path)
    yield from problems or _pages(path, raw)


def _pages(path: Path, raw: bytes) -> Iterator[Document | Problem]:
    from pypdf.errors import DependencyError, DeprecationError, PyPdfError

    broken = (PyPdfError, DeprecationError, *_BROKEN)
    with _silent():
        try:
            reader = _opened(raw)
            pages, title = 0 if reader is None else len(reader.pages), _title(reader, path)
        except DependencyError as error:
            yield Problem(str(path), 0, f"is a PDF with a lock that needs a package ({error}); run: {INSTALL}")
            return
        except broken as error:
            yield Problem(str(path), 0, f"is a damaged PDF ({error})")
            return
        if reader is None:
            yield Problem(str(path), 0, "is locked by a password; save it without one")
            return
        part, lost = 0, 0
        for number in range(1, pages + 1):
            try:
                text, repaired = clean(_tidy(reader.pages[number - 1].extract_text()))
            except broken as error:
                yield Problem(str(path), 0, f"page {number} cannot be read ({error})")
                lost += 1
                continue
            if text:
                metadata = {"file": path.name, "page": number}
                yield Document(text, title=title, metadata=metadata, part=part, file=str(path), repaired=repaired)
                part += 1
        if not part and not lost:
            yield Problem(str(path), 0, "holds no text; if its pages are scanned, run text recognition on it first")


def _opened(raw: bytes) -> PdfReader | None:
    """None where a password is needed; a file that is only protected from changes opens without one."""
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(raw))
    return None if reader.is_encrypted and not reader.decrypt("") else reader


def _tidy(text: str) -> str:
    return _HYPHEN.sub("", text.translate(_LIGATURES)).strip()


def _title(reader: PdfReader | None, path: Path) -> str:
    own = reader.metadata.title if reader is not None and reader.metadata is not None else None
    return clean(str(own or ""))[0].strip() or path.name.partition(".")[0]


@contextmanager
def _silent() -> Iterator[None]:
    """pypdf tells its log about every oddity that it can read past."""
    log = logging.getLogger("pypdf")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
