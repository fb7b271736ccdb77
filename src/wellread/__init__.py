"""wellread: retrieval-augmented models that have read their corpus in advance.

The path of the data is the list of folders:

    corpus      1  documents -> passages
    memory      2  passages -> what is computed ahead and kept
    retrieval   3  question -> candidates
    reading     4  question + candidates -> text
    evaluation  5  answers -> quality and cost

    nn          nets that know nothing of retrieval
    systems     one paper, one file: FiD, MemoryFiD, LUMEN, GLIMMER, ReAtt, REALM, RETRO, REVEAL
    model       a system with its weights, tokenizer and frame, as one folder, or by the name of one that comes along
    pipeline    the five steps wired for one system
    training    one loop for all systems
    claims      what the papers say, tried at small scale
    cli         one file per verb

>>> import wellread
>>> pipeline = wellread.load("wellread-mini", memory="memory")    # doctest: +SKIP
>>> pipeline.ask(["Which planet is the largest?"])[0].text         # doctest: +SKIP
'Jupiter'
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from wellread.types import Answer, Candidates, CitedPassage, Passage, Probe, Question

if TYPE_CHECKING:
    from wellread.corpus.store import Corpus
    from wellread.memory.store import Memory
    from wellread.model import Model
    from wellread.pipeline import Pipeline, open_pipeline

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "Candidates",
    "CitedPassage",
    "Corpus",
    "Memory",
    "Model",
    "Passage",
    "Pipeline",
    "Probe",
    "Question",
    "load",
    "open_pipeline",
]

_LAZY = {
    "Corpus": "wellread.corpus.store",
    "Memory": "wellread.memory.store",
    "Model": "wellread.model",
    "Pipeline": "wellread.pipeline",
    "open_pipeline": "wellread.pipeline",
}


@overload
def load(model: str | Path = ..., *, system: str | None = ..., options: Mapping[str, Any] | None = ...) -> Model: ...


@overload
def load(
    model: str | Path = ...,
    *,
    memory: str | Path | None = ...,
    corpus: str | Path | None = ...,
    index: str | Path | None = ...,
    **settings: Any,
) -> Pipeline: ...


def load(
    model: str | Path = "wellread-mini",
    *,
    memory: str | Path | None = None,
    corpus: str | Path | None = None,
    index: str | Path | None = None,
    **settings: Any,
) -> Model | Pipeline:
    """A model by its name or folder; with something to answer from, a Pipeline that is ready to `ask`.

    memory, corpus, index: folders made by the verbs of the same names. settings: system and options, to read the
    same weights as another system or with other options; those of `open_pipeline` where there is one to open.

    >>> model = wellread.load("wellread-mini")                                     # doctest: +SKIP
    >>> pipeline = wellread.load("wellread-mini", memory="memory")                 # doctest: +SKIP
    >>> pipeline = wellread.open_pipeline(model=model, memory="memory")            # doctest: +SKIP
    >>> pipeline.ask(["Which planet is the largest?"])[0].text                     # doctest: +SKIP
    'Jupiter'
    """
    if memory is None and corpus is None and index is None:
        from wellread.model import load_model

        return load_model(model, **settings)
    from wellread.pipeline import open_pipeline

    return open_pipeline(model=model, memory=memory, corpus=corpus, index=index, **settings)


def __getattr__(name: str) -> Any:
    """Heavy names are imported when they are asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'wellread' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
