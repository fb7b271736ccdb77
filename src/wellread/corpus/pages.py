"""Readers of pages of prose: plain text, Markdown, HTML. One file is one document.

A file of more than a million letters comes in sections, so its size does not matter; they are numbered by
Document.part.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path

from wellread.corpus.documents import Document, Problem
from wellread.corpus.files import REPLACEMENT, Line, read_lines, read_text

__all__ = ["documents_of_html", "read_html", "read_markdown", "read_plain"]

Found = Iterator[Document | Problem]
SECTION = 1 << 20  # letters
RUBBISH = 0.2  # share of control and replacement letters from which a text is taken for a binary file
PACKED = (".gz", ".zst")


def read_plain(path: Path) -> Found:
    """A text file; its title is the name of the file."""
    yield from _documents(path, read_lines(path, blank=True, longest=SECTION), [_stem(path)])


def read_markdown(path: Path) -> Found:
    """A Markdown file. Front matter is dropped, a heading starts a new paragraph and stays with the text
    under it; the title is that of the front matter, else the first heading, else the name of the file."""
    titles: list[str] = []
    yield from _documents(path, _markdown(read_lines(path, blank=True, longest=SECTION), titles), titles)


def read_html(path: Path) -> Found:
    """An HTML file: its paragraphs without markup, scripts and styles; the title is <title>, else the first
    <h1>, else the name of the file."""
    for item in read_text(path, charset=_charset):
        if isinstance(item, Problem):
            yield item
            continue
        yield from documents_of_html(path, item.text, repaired=item.repaired)


def documents_of_html(path: Path, html: str, *, repaired: bool = False) -> Found:
    """What `read_html` makes of a file whose text is at hand."""
    page = _Page()
    page.feed(html)
    page.close()
    lines = (Line(1, line, repaired) for line in page.text().split("\n"))
    yield from _documents(path, lines, [page.title or _stem(path)])


def _stem(path: Path) -> str:
    name = Path(path.name)
    while name.suffix in PACKED:
        name = name.with_suffix("")
    return name.stem


def _documents(path: Path, lines: Iterable[Line | Problem], titles: list[str]) -> Found:
    """Sections of the file as documents; `titles` may fill while the lines are read."""
    problems: list[Problem] = []
    part = 0
    for text, first, repaired in _sections(lines, problems):
        strange = sum(letter == REPLACEMENT or (letter < " " and letter not in "\t\n\r\f") for letter in text)
        if strange > RUBBISH * len(text):
            yield Problem(str(path), first, "is not text (a binary file, or not UTF-8); convert it to UTF-8")
            continue
        title = titles[0] if titles else _stem(path)
        metadata = {"file": path.name, **({"part": part} if part else {})}
        yield Document(text, title=title, metadata=metadata, part=part, file=str(path), line=first, repaired=repaired)
        part += 1
    yield from problems
    if not part and not problems:
        yield Problem(str(path), 0, "holds no text")


def _sections(lines: Iterable[Line | Problem], problems: list[Problem]) -> Iterator[tuple[str, int, bool]]:
    """(text, first line, repaired) of sections of about SECTION letters, ended at a blank line if possible."""
    held: list[str] = []
    size, first, repaired = 0, 1, False
    for line in lines:
        if isinstance(line, Problem):
            problems.append(line)
            continue
        for text in _short(line.text):
            if size + len(text) > SECTION or (size > SECTION // 2 and not text.strip()):
                if joined := "".join(held).strip():
                    yield joined, first, repaired
                held, size, first, repaired = [], 0, line.number, False
            held.append(text)
            size += len(text)
            repaired = repaired or line.repaired
        if line.ends:
            held.append("\n")
            size += 1
    if joined := "".join(held).strip():
        yield joined, first, repaired


def _short(text: str) -> Iterator[str]:
    """A line in pieces of at most SECTION letters, cut at spaces where there are any."""
    start = 0
    while len(text) - start > SECTION:
        space = text.rfind(" ", start + SECTION // 2, start + SECTION)
        end = space if space > 0 else start + SECTION
        yield text[start:end]
        start = end
    yield text[start:]


# -- Markdown --------------------------------------------------------------------------------------------

_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-{2,})\s*$")
_RULE = re.compile(r" {0,3}([-*_])[ \t]*(\1[ \t]*){2,}$")
_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_FRONT_TITLE = re.compile(r"title\s*[:=]\s*[\"']?(.*?)[\"']?\s*$")


def _markdown(lines: Iterator[Line | Problem], titles: list[str]) -> Iterator[Line | Problem]:
    fence = ""
    below_heading = False
    for line, after in _pairs(_without_front_matter(lines, titles)):
        if isinstance(line, Problem):
            yield line
            continue
        text = line.text
        mark = _FENCE.match(text)
        if mark and (not fence or text.strip().startswith(fence)):
            fence = "" if fence else mark.group(1)
        heading = None if fence else _heading(text, after)
        if heading is not None:
            titles.append(heading)
            yield Line(line.number, "")
            yield Line(line.number, heading, line.repaired)
            below_heading = True
        elif not fence and (_RULE.match(text) or (below_heading and _UNDERLINE.match(text))):
            continue
        elif text.strip() or not below_heading:
            below_heading = False
            yield line


def _heading(text: str, after: Line | Problem | None) -> str | None:
    if match := _HEADING.match(text):
        return match.group(1)
    underlined = isinstance(after, Line) and _UNDERLINE.match(after.text)
    return text.strip() if underlined and text.strip() and not _RULE.match(text) else None


def _pairs(lines: Iterator[Line | Problem]) -> Iterator[tuple[Line | Problem, Line | Problem | None]]:
    line = next(lines, None)
    while line is not None:
        after = next(lines, None)
        yield line, after
        line = after


def _without_front_matter(lines: Iterator[Line | Problem], titles: list[str]) -> Iterator[Line | Problem]:
    """Drop the block between two lines of --- (YAML) or +++ (TOML) that the file starts with."""
    front: list[Line | Problem] = []
    for line in lines:
        front.append(line)
        text = line.text.rstrip() if isinstance(line, Line) else ""
        if len(front) == 1 and text not in ("---", "+++"):
            break
        if len(front) > 1 and text in ("---", "+++", "..."):
            named = (_FRONT_TITLE.match(item.text) for item in front if isinstance(item, Line))
            titles.extend(match.group(1) for match in named if match and match.group(1))
            front = [item for item in front if isinstance(item, Problem)]
            break
        if len(front) > 200:  # a rule at the top of the text, not front matter
            break
    yield from front
    yield from lines


# -- HTML ------------------------------------------------------------------------------------------------

_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_JOIN = "\x01"  # after a heading: the text that follows stays in its paragraph


def _charset(head: bytes) -> str | None:
    match = _CHARSET.search(head)
    try:
        return codecs.lookup(match.group(1).decode("ascii")).name if match else None
    except (LookupError, UnicodeDecodeError):
        return None


class _Page(HTMLParser):
    """Collects the text of a page. Breaks are put in as line ends and tidied up at the end."""

    hidden = frozenset({"script", "style", "template", "noscript", "svg", "iframe", "object"})
    headings = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
    lines = frozenset({"br", "li", "tr", "dt", "dd", "option"})
    blocks = frozenset(
        {"address", "article", "aside", "blockquote", "body", "center", "details", "div", "dl", "fieldset"}
        | {"figcaption", "figure", "footer", "form", "header", "hr", "main", "nav", "ol", "p", "pre"}
        | {"section", "summary", "table", "tbody", "thead", "ul"}
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.titles: dict[str, list[str]] = {"title": [], "h1": []}
        self.inside: list[str] = []

    @property
    def title(self) -> str:
        """What <title> says, else the first <h1>."""
        for name in ("title", "h1"):
            if text := " ".join("".join(self.titles[name]).replace("\0", "").split()):
                return text
        return ""

    def text(self) -> str:
        joined = re.sub(r"[^\S\n]*\n[^\S\n]*", "\n", "".join(self.parts))
        joined = re.sub(rf"{_JOIN}\s*", "\n", joined)
        return re.sub(r"\n{3,}", "\n\n", joined).strip()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if "title" in self.inside and (tag in self.blocks or tag in self.headings):
            self.inside.remove("title")  # never closed
        if tag in self.hidden or tag in ("title", "h1", "pre"):
            self.inside.append(tag)
        self._break(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.inside:
            del self.inside[len(self.inside) - 1 - self.inside[::-1].index(tag) :]
        if tag == "h1" and "".join(self.titles["h1"]).strip():
            self.titles["h1"].append("\0")
        self.parts.append(_JOIN) if tag in self.headings else self._break(tag)

    def handle_data(self, data: str) -> None:
        if self.hidden.intersection(self.inside):
            return
        if "title" in self.inside:
            self.titles["title"].append(data)
            return
        if "h1" in self.inside and "\0" not in self.titles["h1"]:
            self.titles["h1"].append(data)
        data = data.replace(_JOIN, " ")
        self.parts.append(data if "pre" in self.inside else re.sub(r"\s+", " ", data))

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        # The base class asserts that it knows every <![name[ ... ]]>; a page may hold anything.
        try:
            return super().parse_marked_section(i, report)
        except AssertionError:
            return self.parse_bogus_comment(i, report)

    def _break(self, tag: str) -> None:
        if tag in self.lines:
            self.parts.append("\n")
        elif tag in self.blocks or tag in self.headings:
            self.parts.append("\n\n")
        elif tag in ("td", "th"):
            self.parts.append(" ")
