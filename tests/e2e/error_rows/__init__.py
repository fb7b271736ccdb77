"""What wellread says to common mistakes, as data: one module for topics that belong together.

A new mistake is a Row in the list of its topic; a new topic is a key of a module's TOPICS, a new module a place in
MODULES. `tests/e2e/test_errors.py` runs the rows and makes docs/errors.md of them.
"""

from __future__ import annotations

from error_rows import answers, chunks, disk, documents, memories, models, pictures, questions, runs, texts
from error_rows.kit import Row

MODULES = (documents, pictures, models, memories, answers, questions, runs, chunks, texts, disk)
ROWS: dict[str, list[Row]] = {topic: rows for module in MODULES for topic, rows in module.TOPICS.items()}
ALL: list[Row] = [row for module in MODULES for rows in module.TOPICS.values() for row in rows]
