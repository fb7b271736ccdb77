"""What the tables of results have in common: the data, questions at even distances, cells measured once, readers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from wellread.corpus.ingest import ingest
from wellread.corpus.store import Corpus
from wellread.memory.recode import recode
from wellread.memory.store import Memory
from wellread.pipeline import Pipeline, load_model, memorize_corpus, open_pipeline
from wellread.retrieval import RETRIEVERS

PLAIN = "bf16"
"""The codec in which a corpus is read; the others store the same states again."""


def data_folder() -> Path:
    """Where the data lies: $WELLREAD_DATA, else beside the repository."""
    return Path(os.environ.get("WELLREAD_DATA", "../shared/data"))


def wellread(*arguments: str | Path) -> dict[str, Any]:
    """What one wellread command tells with --json."""
    command = [Path(sys.executable).parent / "wellread", *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def measured(path: Path, measure: Callable[[], Mapping[str, Any]], *, again: bool = False) -> dict[str, Any]:
    """What the file holds; measured and written first where there is none, or `again`.

    The file appears whole or not at all, so a script that was stopped can be run again.
    """
    if again or not path.is_file():
        found = json.dumps(measure(), indent=1) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".part")
        half.write_text(found, encoding="utf8")
        half.replace(path)
    return json.loads(path.read_text(encoding="utf8"))


@cache
def digest(model: Path) -> str:
    """Of a model's files: its options and weights."""
    found = hashlib.sha256()
    for file in sorted(model.iterdir()):
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()[:16]


def measured_of(
    path: Path, fingerprint: str, measure: Callable[[], Mapping[str, Any]], *, again: bool = False
) -> dict[str, Any]:
    """As `measured`, of a model: what another one's weights gave is measured anew."""
    old = path.is_file() and json.loads(path.read_text(encoding="utf8")).get("weights") != fingerprint
    return measured(path, lambda: {**measure(), "weights": fingerprint}, again=again or old)


def make_corpus(folder: Path, sources: Sequence[Path]) -> Corpus:
    """folder/corpus and folder/index (lexical) of the sources, made where they are missing."""
    if not (folder / "corpus" / "corpus.json").is_file():
        ingest(list(sources), folder / "corpus")
    corpus = Corpus.open(folder / "corpus")
    if not (folder / "index" / "index.json").is_file():
        RETRIEVERS["lexical"].build(corpus, folder / "index")
    return corpus


def open_reader(
    model: str | Path,
    *,
    system: str | None = None,
    options: Mapping[str, Any],
    corpus: Path,
    index: Path,
    memories: Path,
    codec: str,
    mark: bool = False,
) -> Pipeline:
    """A reader over a memory of the corpus, which is read with bf16 or resumed, and stored again with `codec`.

    memories: where memories are kept. mark: name them after the model's weights too, so that a model that was trained
    on gets a memory of its own instead of being refused by the old one.
    """
    loaded, passages = load_model(model, system=system, options=options), Corpus.open(corpus)
    binding = repr(loaded.fingerprint(str(passages.cutting)))
    ending = f"-{hashlib.blake2b(binding.encode(), digest_size=4).hexdigest()}" if mark else ""
    plain, memory = (memories / f"memory-{name}{ending}" for name in (PLAIN, codec))
    memorize_corpus(passages, loaded, plain, codec=PLAIN, precision="bf16", retriever="none")
    if codec == PLAIN or loaded.dim is None:
        memory = plain  # tokens alone are stored alike with every codec
    else:
        recode(Memory.open(plain), memory, codec=codec)
    return open_pipeline(model=loaded, memory=memory, index=index, precision="bf16")
