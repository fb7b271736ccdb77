"""Step 2: what is computed ahead for every passage, and kept.

fingerprint.py  which encoder, tokenizer, cut, template and cutting rule a memory was made with
codecs.py       states -> bytes and back: bf16, int8, product quantisation
manifest.py     memory.json, the commit point of a memory directory
rows.py         the columns of one passage, their checksum, Arrow in and out
store.py        Memory: open, fetch, look after
build.py        memorize: passages -> memory, streaming and resumable
edit.py         add and update passages of a finished memory
verify.py       find every damaged byte
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "CODECS": "codecs",
    "EditReport": "edit",
    "Encoded": "rows",
    "Fingerprint": "fingerprint",
    "Memory": "store",
    "MemorizeReport": "build",
    "MemoryRows": "store",
    "add": "edit",
    "memorize": "build",
    "update": "edit",
}
__all__ = [
    "CODECS",
    "EditReport",
    "Encoded",
    "Fingerprint",
    "MemorizeReport",
    "Memory",
    "MemoryRows",
    "add",
    "memorize",
    "update",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
