"""Name -> "module:Attribute" tables with lazy import and one error text that lists what exists."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

__all__ = ["Registry"]


class Registry(Mapping[str, Any]):
    """A table of named things that are imported only when asked for.

    >>> codecs = Registry("codec", {"int8": "wellread.memory.codecs:Int8"})
    >>> codecs["int9"]
    Traceback (most recent call last):
    ValueError: codec='int9' is unknown; use one of: int8.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = self.path(name).partition(":")
        return getattr(importlib.import_module(module), attribute)

    def path(self, name: str) -> str:
        """The "module:Attribute" text of an entry, without importing it."""
        if name not in self._entries:
            close = get_close_matches(str(name), self._entries, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{self.kind}={name!r} is unknown; use one of: {', '.join(self)}.{hint}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
