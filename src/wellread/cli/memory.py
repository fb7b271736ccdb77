"""`wellread memory`: look after a memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from wellread.cli.opening import check_related, model_option, pictures_option, replace_all_option
from wellread.cli.output import emit, json_option, say

if TYPE_CHECKING:
    from wellread.corpus.store import Corpus
    from wellread.memory.build import Encode
    from wellread.memory.fingerprint import Fingerprint
    from wellread.memory.store import Memory
    from wellread.model import Model
    from wellread.retrieval.base import Retriever
    from wellread.types import Passage

__all__ = ["command"]

_SHOWN = 20  # damaged passages named without --json


@click.group()
def command() -> None:
    """Look after a memory: what is in it, whether it is sound, and changes without a rebuild.

    \b
    Example:
      wellread memory verify memory
    """


@command.command()
@click.argument("memory")
@json_option
def info(memory: str, as_json: bool) -> None:
    """What a memory holds, what it takes, and which model it belongs to.

    \b
    Example:
      wellread memory info memory
    """
    from wellread.memory.store import Memory

    store = Memory.open(memory)
    index = _index_inside(store)
    facts = store.info() | {"index": None if index is None else index.name}
    emit(facts, as_json, _as_text(memory, facts))


def _as_text(memory: str, facts: Mapping[str, Any]) -> str:
    error = "".join(f", {name} {value:.4f}" for name, value in facts["error"].items())
    states = f"{facts['bytes_per_token']} bytes per token{error}" if facts["dim"] else "tokens only"
    lines = [
        f"{memory}: {facts['passages']} passages, {facts['tokens']} tokens, {facts['bytes'] / 2**20:.1f} MiB"
        + ("" if facts["complete"] else " (not finished: run the same `wellread memorize` again)"),
        f"codec        {facts['codec']}: {states}",
        *(f"{name:<12} {value}" for name, value in facts["fingerprint"].items()),
        f"index        {facts['index'] or 'none inside'}",
        f"created      {facts['created']}, changed {facts['changed']}",
    ]
    return "\n".join(lines)


@command.command("list")
@click.argument("memory")
@click.option("--where", multiple=True, metavar="KEY=VALUE", help="Only passages with this metadata.")
@json_option
def list_(memory: str, where: tuple[str, ...], as_json: bool) -> None:
    """Id, title and file of the passages in a memory.

    \b
    Examples:
      wellread memory list memory
      wellread memory list memory --where file=notes.txt
    """
    from wellread.memory.store import Memory

    store = Memory.open(memory)
    found = [(each.id, each.title, each.metadata.get("file")) for each in _matching(store, where)]
    listed = [dict(zip(("id", "title", "file"), row)) for row in found]
    lines = ["\t".join(" ".join(str(cell or "").split()) for cell in row) for row in found]
    emit({"passages": len(store), "listed": listed}, as_json, "\n".join(lines))
    say(f"{len(found)} of {len(store)} passages")


def _matching(memory: Memory, where: Sequence[str]) -> Iterator[Passage]:
    """The passages with this metadata; all without conditions."""
    from wellread.config import parse_conditions
    from wellread.retrieval.catalog import matches

    conditions = parse_conditions(where)
    return (passage for passage in memory if matches(passage, conditions))


@command.command()
@click.argument("memory")
@json_option
def verify(memory: str, as_json: bool) -> None:
    """Read every byte and compare it with what was written; exit code 1 if something is damaged.

    \b
    Example:
      wellread memory verify memory
    """
    from wellread.memory.verify import verify as look

    found = look(memory)
    names = ", ".join(found["damaged"][:_SHOWN])
    more = f" and {len(found['damaged']) - _SHOWN} more" if len(found["damaged"]) > _SHOWN else ""
    human = f"{memory}: {found['passages']} passages, " + (
        "nothing damaged" if found["ok"] else f"{len(found['damaged'])} damaged: {names}{more}"
    )
    emit(found, as_json, human)
    if not found["ok"]:
        sys.exit(1)  # ctx.exit would be lost: the command runs with standalone_mode=False


@command.command()
@click.argument("memory")
@click.argument("corpus")
@model_option
@pictures_option
@json_option
def add(memory: str, corpus: str, model: str, pictures: str | None, as_json: bool) -> None:
    """Add the passages of a corpus; those already there are left alone.

    \b
    Example:
      wellread memory add memory new-corpus --model model
    """
    from wellread.memory.edit import add as edit

    _edit(edit, memory, corpus, model, pictures, as_json, "added")


@command.command()
@click.argument("memory")
@click.argument("corpus")
@model_option
@pictures_option
@json_option
def update(memory: str, corpus: str, model: str, pictures: str | None, as_json: bool) -> None:
    """Replace passages by those of the same ids in a corpus.

    \b
    Example:
      wellread memory update memory corrected-corpus --model model
    """
    from wellread.memory.edit import update as edit

    _edit(edit, memory, corpus, model, pictures, as_json, "replaced")


@command.command()
@click.argument("memory")
@click.argument("corpus")
@model_option
@pictures_option
@click.option("--compact", is_flag=True, help="Also free the space of passages that are gone.")
@replace_all_option
@json_option
def sync(
    memory: str, corpus: str, model: str, pictures: str | None, compact: bool, replace_all: bool, as_json: bool
) -> None:
    """Make a memory hold what a corpus holds: read what is new or changed, forget what is gone.

    The corpus must be cut as the one was that the memory was made from. Passages of files are known by what they say
    and by their place in the file, so those behind a change in a long file are read again.

    \b
    Example, after files were added, changed and removed:
      wellread corpus notes/ --out corpus --overwrite
      wellread memory sync memory corpus
    """
    from wellread.memory.edit import sync as edit

    opened = _opened(memory, corpus, model, pictures)
    store = opened.memory
    check_related(frozenset(store.ids()), opened.passages, memory, replace_all=replace_all)
    report = edit(store, opened.passages, opened.encode, opened.fingerprint)
    _follow(store)
    freed = store.compact() if compact else 0
    counts = {name: len(getattr(report, name)) for name in ("added", "replaced", "deleted")}
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    human = f"{memory}: {told}, {report.unchanged} unchanged, now {len(store)} passages"
    human += f", {freed} bytes freed" if compact else ""
    emit({**counts, "unchanged": report.unchanged, "freed": freed, **store.info()}, as_json, human)


def _edit(edit: Callable, memory: str, corpus: str, model: str, pictures: str | None, as_json: bool, done: str) -> None:
    opened = _opened(memory, corpus, model, pictures)
    store = opened.memory
    report = edit(store, opened.passages, opened.encode, opened.fingerprint)
    _follow(store)
    result = {done: len(report.written), "unchanged": report.unchanged, **store.info()}
    human = f"{memory}: {len(report.written)} passages {done}, {report.unchanged} unchanged, now {len(store)}"
    emit(result, as_json, human)


class _Opened(NamedTuple):
    """A memory to change. passages: the corpus. encode, fingerprint: how its passages are read, and by what."""

    memory: Memory
    passages: Corpus
    encode: Encode
    fingerprint: Fingerprint


def _opened(memory: str, corpus: str, model: str, pictures: str | None) -> _Opened:
    from wellread.corpus.store import Corpus
    from wellread.memory.store import Memory
    from wellread.pipeline import load_model

    store, passages = Memory.open(memory), Corpus.open(corpus)
    precision = store.manifest.build.precision or "fp32"
    loaded = load_model(model)
    if pictures is not None:
        loaded = loaded.with_pictures(pictures)
    encode, fingerprint, _ = loaded.encoder_for_memory(passages.cutting, precision=precision)
    _give_encoder(store, loaded)
    return _Opened(store, passages, encode, fingerprint)


@command.command()
@click.argument("memory")
@click.argument("ids", nargs=-1)
@click.option("--from", "file", type=click.Path(exists=True, dir_okay=False), help="A file with one id per line.")
@click.option("--where", multiple=True, metavar="KEY=VALUE", help="All with this metadata, as file=notes.txt.")
@click.option("--compact", is_flag=True, help="Also free the space of deleted passages.")
@json_option
def delete(
    memory: str, ids: tuple[str, ...], file: str | None, where: tuple[str, ...], compact: bool, as_json: bool
) -> None:
    """Forget passages: those named, and those with the metadata of --where. `wellread memory list` tells ids and files.

    \b
    Examples:
      wellread memory delete memory --where file=notes.txt
      wellread memory delete memory p17 p18
      wellread memory delete memory --from ids.txt --compact
    """
    from wellread.memory.store import Memory

    names = [*ids, *(Path(file).read_text(encoding="utf8").split("\n") if file else ())]
    names = [name.rstrip("\r") for name in names if name.strip()]
    if not names and not where and not compact:
        raise ValueError(
            "no ids were given; name passages, or give --where file=FILE, or --from FILE with one id per line."
        )
    store = Memory.open(memory)
    matching = [passage.id for passage in _matching(store, where)] if where else []
    if where and not matching:
        raise ValueError(
            f"no passage of memory {memory} has {' and '.join(where)}; "
            f"`wellread memory list {memory}` tells ids and files."
        )
    names += matching
    deleted = store.delete(names)
    _follow(store)
    freed = store.compact() if compact else 0
    human = f"{memory}: {deleted} passages deleted, now {len(store)}" + (f", {freed} bytes freed" if compact else "")
    emit({"deleted": deleted, "freed": freed, **store.info()}, as_json, human)


def _index_inside(memory: Memory) -> Retriever | None:
    from wellread.retrieval import INDEX_FOLDER, open_index

    folder = memory.path / INDEX_FOLDER
    return open_index(folder) if (folder / "index.json").is_file() else None


def _give_encoder(memory: Memory, model: Model) -> None:
    """Let an index of a model's keys inside the memory read with this model, which may lie elsewhere than when it was
    built; ValueError where its keys are of another one. Asked before the memory is changed."""
    from wellread.token_encoder import model_encoder

    index = _index_inside(memory)
    if index is not None and index.of_a_model:
        index.use_encoder(model_encoder(model, memory=memory, name=index.options.encoder))
        index.own_encoder()


def _follow(memory: Memory) -> None:
    """Bring the search index inside the memory after a change of its passages."""
    index = _index_inside(memory)
    if index is not None:
        index.sync(memory)


@command.command()
@click.argument("memory")
@click.option("--codec", required=True, help="How states are stored: bf16, int8, pq8, pq16.")
@click.option("--out", required=True, help="Folder of the new memory.")
@json_option
def recode(memory: str, codec: str, out: str, as_json: bool) -> None:
    """Store a memory with another codec, without reading the corpus again; resumes after an interruption.

    \b
    Example:
      wellread memory recode memory --codec pq16 --out small-memory
    """
    from dataclasses import asdict

    from wellread.memory.recode import recode as write
    from wellread.memory.store import Memory

    report = write(Memory.open(memory), out, codec=codec)
    human = f"{out}: {report.passages} passages, {report.bytes / 2**20:.1f} MiB, codec {codec}"
    emit({**asdict(report), "codec": codec, "out": out}, as_json, human)
