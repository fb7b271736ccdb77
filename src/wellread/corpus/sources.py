"""What a corpus is made of, source by source: what each is called, which rows count, which pictures go with it.

An entry of any kind (a passage, a captioned picture, the facts about a thing, a question with its answer) is a
Document on its way into the corpus: its `source` says where it comes from, `metadata["picture"]` names its picture.
A text that names a source: [NAME=][FORMAT:]PATH[?FIELD=VALUE&FIELD!=VALUE].
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wellread.config import require
from wellread.corpus.documents import Document, Problem
from wellread.corpus.readers import FORMATS, parts_of, read_part

__all__ = ["Condition", "Illustrations", "Sieve", "Source", "conditions_of", "with_picture"]

_NAME = re.compile(r"[A-Za-z][\w-]*=")
_CONDITION = re.compile(r"(?P<field>[^!=]+)(?P<unlike>!?)=(?P<value>.*)")
PICTURE_FIELDS = ("picture", "image")
LONGEST_NAME = 255  # of a file; longer texts are something else


Condition = tuple[str, str, bool]
"""A field of a row, a value, and whether the row must have it (or must not)."""


def conditions_of(place: str, text: str) -> tuple[str, tuple[Condition, ...]]:
    """PATH[?FIELD=VALUE&FIELD!=VALUE] -> the path and the conditions. text: what was given, for the ValueError.

    What exists as it is written is a path without conditions.
    """
    if Path(place).exists():
        return place, ()
    path, _, conditions = place.partition("?")
    where = []
    for condition in filter(None, conditions.split("&")):
        match = _CONDITION.fullmatch(condition)
        require(match is not None, f"{text!r}: {condition!r} is no condition; write FIELD=VALUE or FIELD!=VALUE.")
        where.append((match["field"], match["value"], not match["unlike"]))
    return path, tuple(where)


class Sieve:
    """Picks the rows that fulfil conditions, and tells why where there are none.

    given: the path with its conditions. what: the rows hold.
    """

    def __init__(self, where: Sequence[Condition], given: str, *, what: str = "row") -> None:
        self._where, self._given, self._what = where, given, what
        self._fields: set[str] = set()
        self._kept = 0

    def keeps(self, fields: Mapping[str, object]) -> bool:
        """Whether a row with these fields counts."""
        self._fields |= fields.keys()
        kept = all((str(fields.get(field, "")) == value) == wanted for field, value, wanted in self._where)
        self._kept += kept
        return kept

    def check(self) -> None:
        """ValueError where rows came and a condition names a field that none of them has, or none fulfilled all."""
        if not self._fields:
            return
        unknown = next((field for field, *_ in self._where if field not in self._fields), None)
        names = ", ".join(sorted(self._fields))
        require(unknown is None, f"{self._given}: no row has a field {unknown!r}; conditions can name {names}.")
        none = f"no {self._what} of {self._given} fulfils the conditions; give values that rows have."
        require(self._kept > 0, none)


@dataclass(frozen=True, slots=True)
class Source:
    """A file or folder, and how its rows become entries.

    name: the `source` of its entries, "" for what the rows or their reader say. format: forced, or None.
    where: (field, value, wanted) of its metadata (or "source"): only rows that have (wanted) or have not this value.
    """

    path: Path
    name: str = ""
    format: str | None = None
    where: tuple[Condition, ...] = ()

    @classmethod
    def of(cls, given: str | Path | Source) -> Source:
        """A path as it is."""
        return given if isinstance(given, Source) else cls(Path(given))

    @classmethod
    def parse(cls, text: str, *, named: bool = True) -> Source:
        """[NAME=][FORMAT:]PATH[?CONDITIONS]. named: the name must be there."""
        found = _NAME.match(text)
        require(bool(found) or not named, f"source {text!r} has no name; write NAME=PATH, such as facts=facts.jsonl.")
        name = found.group()[:-1] if found else ""
        place = text[found.end() :] if found else text
        before, colon, after = place.partition(":")
        form = before if colon and before in FORMATS else None
        path, where = conditions_of(after if form else place, text)
        require(path != "", f"source {text!r} names no file; write NAME=PATH.")
        return cls(Path(path), name, form, where)

    def parts(self, format: str | None = None) -> Iterator[tuple[Path, str, Path] | Problem]:
        """(file or folder, format, root) of what it consists of."""
        return parts_of(self.path, format=self.format or format)

    def sieve(self) -> Sieve:
        """What picks its rows: one for all parts, to be checked after the last."""
        conditions = "&".join(f"{field}{'=' if wanted else '!='}{value}" for field, value, wanted in self.where)
        return Sieve(self.where, f"{self.path}?{conditions}")

    def read(self, part: tuple[Path, str, Path], sieve: Sieve) -> Iterator[Document | Problem]:
        """The entries of one part that count, under this source's name."""
        for found in read_part(*part):
            if isinstance(found, Problem):
                yield found
            elif sieve.keeps({"source": found.source, **found.metadata}):
                yield self._named(found)

    def _named(self, document: Document) -> Document:
        """Under this name; what the rows called their source is kept as `collection`."""
        if not self.name or self.name == document.source:
            return document
        kept = {} if document.source == "text" else {"collection": document.source}
        return replace(document, source=self.name, metadata={**kept, **document.metadata})


class Illustrations:
    """Pictures for entries that have none: those whose `entity` is the entry's id, the first found for each.

    The chosen pictures are held in memory.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._of: dict[str, tuple[str, bytes]] = {}
        for source in sources:
            sieve = source.sieve()
            for part in source.parts():
                for found in [part] if isinstance(part, Problem) else source.read(part, sieve):
                    if isinstance(found, Problem):
                        raise ValueError(f"{found}. Mend it, or leave these pictures out.")
                    entity = found.metadata.get("entity")
                    if isinstance(entity, str) and found.picture is not None:
                        self._of.setdefault(entity, (str(found.metadata["picture"]), found.picture))
            sieve.check()

    def __len__(self) -> int:
        return len(self._of)

    def add_to(self, document: Document) -> Document:
        """The document, with its picture where one is known and it has none."""
        if document.id not in self._of or "picture" in document.metadata:
            return document
        name, data = self._of[document.id]
        return replace(document, metadata={**document.metadata, "picture": name}, picture=data)


def with_picture(document: Document) -> Document | Problem:
    """The document with the picture that its row names, where that is a file beside its own."""
    if document.picture is not None:
        return document
    named = ((field, document.metadata.get(field)) for field in PICTURE_FIELDS)
    field, name = next(((field, name) for field, name in named if isinstance(name, str) and name), ("", ""))
    file = Path(document.file).parent / name
    if not name or len(name) > LONGEST_NAME or not file.is_file():
        return document
    metadata = {key: value for key, value in document.metadata.items() if key != field} | {"picture": name}
    from wellread.pictures.store import open_image

    data = file.read_bytes()
    try:
        open_image(data, name=str(file))
    except ValueError as error:
        return Problem(document.file, document.line, str(error).rstrip("."))
    return replace(document, metadata=metadata, picture=data)
