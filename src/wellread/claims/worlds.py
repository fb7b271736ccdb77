"""Where claims look: the passages that are searched, the memories over them, and the dev questions.

A claim's run names its world, and a question set says in which world its passages are.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["DEV", "MEMORIES", "SPLITS", "WORLDS", "in_world"]

WORLDS: dict[str, dict[str, Any]] = {
    "squad": {},
    "wide": {"corpus": "runs/mini/corpus", "index": "runs/mini/index", "drop_unanswerable": True},
    "scifact": {"corpus": "runs/beir/scifact/corpus", "index": "runs/beir/scifact/index"},
    "articles": {"corpus": "runs/realm/articles", "index": None, "live": {"background": False}},
    "open": {"corpus": "runs/realm/corpus", "index": None, "live": {"background": False}},
    "pictures": {"corpus": "runs/reveal/small", "index": None, "pictures": "runs/reveal/pictures", "refresh": [0]},
}
"""Which passages are searched: what the template's [data] is changed by; None leaves a key out."""
MEMORIES = {
    "scifact": Path("runs/beir/scifact/memory"),
    "articles": Path("runs/realm/articles-memory"),
    "open": Path("runs/realm/cold-memory"),
}
"""Memories of the default model over other passages than squad's; read where they are and fit."""
DEV: dict[str, tuple[str | None, str]] = {
    "squad": (None, "squad"),
    "nq": ("$WELLREAD_DATA/qa/nq_gold.jsonl.gz", "wide"),
    "slots": ("$WELLREAD_DATA/kilt/slots_dev.jsonl.gz", "wide"),
    "scifact": ("$WELLREAD_DATA/retrieval/scifact", "scifact"),
    "spans": ("runs/realm/heldout.jsonl", "articles"),
    "open": ("runs/realm/open_dev.jsonl", "open"),
    "vqa": ("$WELLREAD_DATA/images/vqa_dev.jsonl.gz", "pictures"),
}
"""Dev questions -> their file or BEIR folder, None for the template's, and their world."""
SPLITS = {"scifact": "test"}
"""Dev questions -> the split of them that is asked."""


def in_world(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A recipe's [data], changed to what a world searches."""
    changed = {**data, **copy.deepcopy(WORLDS[name])}
    return {key: value for key, value in changed.items() if value is not None}
