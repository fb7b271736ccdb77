"""Add and replace passages of a finished memory, without a rebuild."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import torch

from wellread.bars import progress_bar
from wellread.locking import locked
from wellread.memory import table
from wellread.memory.build import Encode, encode_rows
from wellread.memory.fingerprint import Fingerprint, check
from wellread.memory.manifest import Manifest, writing
from wellread.memory.rows import batched
from wellread.memory.store import Memory
from wellread.types import Passage

__all__ = ["EditReport", "SyncReport", "add", "sync", "update"]


@dataclass(frozen=True, slots=True)
class EditReport:
    """What an edit did. written: ids of the passages that were added or replaced. unchanged: how many were
    there already, word for word. passages, tokens: in the memory now."""

    written: tuple[str, ...]
    unchanged: int
    passages: int
    tokens: int


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did. added, replaced, deleted: ids. unchanged: how many passages were left alone."""

    added: tuple[str, ...]
    replaced: tuple[str, ...]
    deleted: tuple[str, ...]
    unchanged: int


def add(
    memory: Memory,
    passages: Iterable[Passage],
    encode: Encode,
    fingerprint: Fingerprint,
    *,
    progress: bool = True,
) -> EditReport:
    """Append passages. Those already there word for word are skipped, so a killed `add` can be run again, whatever file
    they came from.

    ValueError if an id is there with another text (use `update`), or if the model is another one.
    """
    return _edit(memory, passages, encode, fingerprint, replacing=False, progress=progress)


def update(
    memory: Memory,
    passages: Iterable[Passage],
    encode: Encode,
    fingerprint: Fingerprint,
    *,
    progress: bool = True,
) -> EditReport:
    """Replace passages of the same ids; the new rows stand at the end. Unchanged ones are left alone.

    ValueError if an id is not there (use `add`), or if the model is another one.
    """
    return _edit(memory, passages, encode, fingerprint, replacing=True, progress=progress)


def sync(
    memory: Memory,
    passages: Collection[Passage],
    encode: Encode,
    fingerprint: Fingerprint,
    *,
    progress: bool = True,
) -> SyncReport:
    """Make the memory hold these passages and no others: new ones are added, changed ones replaced, others deleted.

    Only what is new or changed is encoded. One that was killed can be run again. ValueError if there are no passages
    at all, or if the model is another one.
    """
    check(memory.fingerprint, fingerprint)
    memory.refresh()
    wanted = Counter(passage.id for passage in passages)
    twice = next((name for name, count in wanted.items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"passage id={twice!r} comes twice; every passage needs an id of its own.")
    if not wanted:
        raise ValueError(
            f"there are no passages to bring memory {memory.path} in line with; delete its folder instead."
        )
    there = frozenset(memory.ids())
    new = (passage for passage in passages if passage.id not in there)
    added = add(memory, new, encode, fingerprint, progress=progress)
    held = (passage for passage in passages if passage.id in there)
    replaced = update(memory, held, encode, fingerprint, progress=progress)
    deleted = tuple(name for name in memory.ids() if name not in wanted)
    memory.delete(deleted)
    return SyncReport(added.written, replaced.written, deleted, replaced.unchanged)


def _edit(
    memory: Memory,
    passages: Iterable[Passage],
    encode: Encode,
    fingerprint: Fingerprint,
    *,
    replacing: bool,
    progress: bool,
) -> EditReport:
    check(memory.fingerprint, fingerprint)
    with locked(memory.path), torch.no_grad():
        with writing(memory.path):
            manifest = table.recover(memory.path, Manifest.read(memory.path))
        if not manifest.complete:
            raise ValueError(f"memory {memory.path} is not finished; run `wellread memorize` to its end first.")
        memory.refresh()
        wanted, unchanged = _changes(memory, passages, replacing)
        with progress_bar(total=len(wanted), unit="passage", shown=progress) as bar:
            for group in batched(wanted, manifest.build.commit_every):
                batches = encode_rows(group, encode, memory.codec, manifest, bar)
                old = [item.id for item in group] if replacing else []
                with writing(memory.path):
                    manifest = table.commit(memory.path, manifest, batches, remove_ids=old)
    memory.refresh()
    return EditReport(tuple(item.id for item in wanted), unchanged, manifest.passages, manifest.tokens)


def _changes(memory: Memory, passages: Iterable[Passage], replacing: bool) -> tuple[list[Passage], int]:
    """The passages to write, and how many are there already. All mistakes are found before any encoding."""
    wanted: dict[str, Passage] = {}
    unchanged = 0
    for group in batched(passages, 1024):
        there = [item.id for item in group if item.id in memory]
        stored = dict(zip(there, memory.passages(there)))
        for passage in group:
            if passage.id in wanted:
                raise ValueError(f"passage id={passage.id!r} comes twice; every passage needs an id of its own.")
            old = stored.get(passage.id)
            if old is not None and _same(old, passage, wherever=not replacing):
                unchanged += 1
            elif replacing and old is None:
                raise ValueError(
                    f"passage id={passage.id!r} is not in memory {memory.path}; "
                    "put it there with `wellread memory add`."
                )
            elif not replacing and old is not None:
                raise ValueError(
                    f"passage id={passage.id!r} is in memory {memory.path} with another text; "
                    "replace it with `wellread memory update`."
                )
            else:
                wanted[passage.id] = passage
    return list(wanted.values()), unchanged


def _same(stored: Passage, given: Passage, *, wherever: bool) -> bool:
    """Whether two passages say the same. wherever: even if they were read from files of other names."""
    if wherever:
        stored, given = (replace(item, metadata={**item.metadata, "file": None}) for item in (stored, given))
    return stored == given
