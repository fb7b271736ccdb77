"""Arrays that grow on disk in blocks, so that work that was killed goes on behind its last block."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Blocks", "different", "read_json", "write_json"]


class Blocks:
    """Arrays that grow along their first axis: appended in blocks, each one safe once `append` returns.

    names: of the arrays; NAME.SUFFIX holds the rows of one. progress.jsonl says first what they are made with,
    then per block its digest and the shape and type of its arrays. What was begun with something else is thrown
    away, or refused where `fixed`.
    """

    def __init__(
        self, path: Path, made_with: Mapping[str, Any], names: Sequence[str], *, suffix: str, fixed: bool = False
    ) -> None:
        self.path = path
        self.files = {name: path / f"{name}.{suffix}" for name in names}
        self.record = path / "progress.jsonl"
        self.made_with = {**made_with, "arrays": list(names)}
        begun, blocks = self._recorded()
        if fixed and begun is not None and begun != self.made_with:
            raise ValueError(f"{path} was begun with {different(begun, self.made_with)}; {OTHERWISE}")
        for file in self.files.values():
            file.touch()
        self.keep(blocks if begun == self.made_with else [])

    def append(self, digest: str, **arrays: np.ndarray) -> None:
        """Write the arrays ([rows, ...] each, one per name) of the next block."""
        assert arrays.keys() == self.files.keys()
        row: dict[str, Any] = {"digest": digest}
        for name, array in arrays.items():
            row[name] = {"shape": list(array.shape), "type": str(array.dtype)}
            _append(self.files[name], np.ascontiguousarray(array).tobytes())
        _append(self.record, json.dumps(row).encode() + b"\n")
        self.blocks.append(row)

    def rows(self, name: str) -> int:
        """Rows of an array so far."""
        return sum(block[name]["shape"][0] for block in self.blocks)

    def array(self, name: str) -> np.ndarray:
        """All rows of an array, memory-mapped; [0, 0] where there are none."""
        rows = self.rows(name)
        if not rows:
            return np.empty((0, 0), np.float32)
        last = self.blocks[-1][name]
        return np.memmap(self.files[name], dtype=last["type"], mode="r", shape=(rows, *last["shape"][1:]))

    def described(self) -> dict[str, Any]:
        """Name -> shape and type of the whole array, which is all that reading its file needs."""
        found = {}
        for name in self.files:
            last = self.blocks[-1][name] if self.blocks else {"shape": [0], "type": "uint8"}
            found[name] = {"shape": [self.rows(name), *last["shape"][1:]], "type": last["type"]}
        return found

    def keep(self, blocks: Sequence[dict[str, Any]]) -> None:
        """Throw away everything but these blocks."""
        self.blocks = list(blocks)
        for name, file in self.files.items():
            os.truncate(file, sum(_bytes(block[name]) for block in self.blocks))
        lines = [self.made_with, *self.blocks]
        draft = self.record.with_suffix(".new")
        draft.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf8")
        os.replace(draft, self.record)

    def _recorded(self) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """What the arrays were begun with and the blocks safely on disk; a line cut off by a kill ends them."""
        lines = self.record.read_bytes().split(b"\n")[:-1] if self.record.exists() else []
        rows = [json.loads(line) for line in lines]
        return (rows[0], rows[1:]) if rows else (None, [])


OTHERWISE = "give the same again, or another folder."


def different(there: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What two descriptions differ in, for messages: the values that are there, with those given beside them."""
    missing = object()
    names = [name for name in {**there, **given} if there.get(name, missing) != given.get(name, missing)]
    return ", ".join(f"{name}={there.get(name)!r} (now {given.get(name)!r})" for name in names)


def read_json(path: Path, what: str, make: str) -> dict[str, Any]:
    """A manifest; ValueError where it is missing or broken. what: it belongs to; make: the command that writes it."""
    if not path.is_file():
        raise ValueError(f"{path.parent} holds no finished {what} (no {path.name}); make them with `{make}`.")
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); make the {what} again with `{make}`.") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a manifest in one step."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
    os.replace(draft, path)


def _bytes(described: Mapping[str, Any]) -> int:
    return int(np.prod(described["shape"])) * np.dtype(described["type"]).itemsize


def _append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
