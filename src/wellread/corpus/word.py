"""Reader of Word files (docx), as the HTML that mammoth makes of them. Needs mammoth."""

from __future__ import annotations

import io
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from xml.parsers.expat import ExpatError
from zipfile import BadZipFile
from zlib import error as BadPacking

from wellread.corpus.documents import INSTALL, Document, Problem
from wellread.corpus.files import read_whole
from wellread.corpus.pages import documents_of_html

__all__ = ["read_word"]

TITLE = "p[style-name='Title'] => h1:fresh"
# What zipfile, the XML parser and mammoth raise where a file does not hold what it promises.
_BROKEN = (
    BadZipFile,
    BadPacking,
    ExpatError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    EOFError,
)


def read_word(path: Path) -> Iterator[Document | Problem]:
    """A Word file: headings, paragraphs, lists and tables; pictures are left out.

    The title is its first paragraph of the style Title or heading of the first level, else the name of the file. A
    Problem where mammoth is missing or the file is damaged.
    """
    if find_spec("mammoth") is None:
        yield Problem(str(path), 0, f"is a Word file, and mammoth is not installed; run: {INSTALL}")
        return
    import mammoth

    raw, problems = read_whole(path)
    if problems:
        yield from problems
        return
    try:
        made = mammoth.convert_to_html(
            io.BytesIO(raw),
            convert_image=mammoth.images.img_element(lambda picture: {}),
            style_map=TITLE,
        )
    except (*_BROKEN, OSError) as error:
        yield Problem(str(path), 0, f"is a damaged Word file, or one with a password ({error})")
        return
    yield from documents_of_html(path, made.value)
