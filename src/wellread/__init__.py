"""wellread: retrieval-augmented models that have read their corpus in advance.

The path of the data is the list of folders:

    corpus      1  documents -> passages
    memory      2  passages -> what is computed ahead and kept
    retrieval   3  question -> candidates
    reading     4  question + candidates -> text
    evaluation  5  answers -> quality and cost

    nn          nets that know nothing of retrieval
    systems     one paper, one file: FiD, MemoryFiD, LUMEN, GLIMMER
    model       a system with its weights, tokenizer and frame, as one folder
    pipeline    the five steps wired for one system
    training    one loop for all systems
    cli         one file per verb

>>> import wellread
>>> pipeline = wellread.load("model", memory="memory")            # doctest: +SKIP
>>> pipeline.ask(["Which planet is the largest?"])[0].text         # doctest: +SKIP
'Jupiter'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from wellread.types import Answer, Candidates, CitedPassage, Passage, Probe, Question

if TYPE_CHECKING:
    from wellread.corpus.store import Corpus
    from wellread.memory.store import Memory
    from wellread.pipeline import Pipeline

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "Candidates",
    "CitedPassage",
    "Corpus",
    "Memory",
    "Passage",
    "Pipeline",
    "Probe",
    "Question",
    "load",
]

_LAZY = {"Corpus": "wellread.corpus.store", "Memory": "wellread.memory.store", "Pipeline": "wellread.pipeline"}


def load(model: str, **places: Any) -> Pipeline:
    """Open a model with what it answers from; `places` are the folders `open_pipeline` takes.

    memory, corpus, index: folders made by the verbs of the same names. Returns a Pipeline with `ask`.
    """
    from wellread.pipeline import open_pipeline

    return open_pipeline(model=model, **places)


def __getattr__(name: str) -> Any:
    """Heavy names are imported when they are asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'wellread' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
