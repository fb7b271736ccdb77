"""What wellread says to mistakes: one line on stderr with the value, what is allowed and what to do; exit code 2.

The rows are in error_rows, by topic. docs/errors.md is made of them: WELLREAD_WRITE_DOCS=1 pytest
tests/e2e/test_errors.py
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from error_rows import ALL, ROWS
from error_rows.kit import ASK, Place, Row

DOCS = Path(__file__).parents[2] / "docs" / "errors.md"
WRITE = "WELLREAD_WRITE_DOCS"

said: dict[str, Any] = {}


@pytest.fixture
def tell(world, wellread, tmp_path_factory) -> Callable[[Row], Any]:
    """Runs a row in a place of its own, once."""

    def run(row: Row) -> Any:
        if row.name not in said:
            with pytest.MonkeyPatch.context() as patch:
                place = Place(world, tmp_path_factory.mktemp(row.name), patch)
                patch.chdir(place.folder)
                row.prepare(place)
                said[row.name] = wellread(row.command)
        return said[row.name]

    return run


@pytest.mark.parametrize("row", ALL, ids=[row.name for row in ALL])
def test_a_mistake_is_one_line(row: Row, tell) -> None:
    answer = tell(row)
    assert answer.code == row.code
    if row.code == 1:
        assert re.fullmatch(row.says, answer.out.strip())
        assert answer.err == ""
        return
    assert answer.out == ""
    assert answer.err.endswith("\n")
    (line,) = answer.err.splitlines()
    assert re.fullmatch(f"wellread: {row.says}", line), line


def test_names_and_mistakes_are_told_apart() -> None:
    assert len({row.name for row in ALL}) == len(ALL)
    assert sum(map(len, ROWS.values())) == len(ALL) >= 30, "two modules have a topic of the same name"


def test_debug_shows_the_trace(wellread, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"source nowhere does not exist"):
        wellread("--debug corpus nowhere --out new")


def test_a_verb_that_is_missing_shows_the_help(wellread) -> None:
    answer = wellread("memory")
    assert answer.code == 2
    assert "Usage:" in answer.err
    assert "verify" in answer.err


def test_fewer_passages_than_kept_are_no_mistake(world, wellread, monkeypatch) -> None:
    """keep=9 of top_k=20 is what was asked for; that the corpus has six passages is nobody's fault."""
    monkeypatch.chdir(world)
    answer = wellread(f"{ASK} --set keep=9 --json").json
    assert 0 < len(answer["passages"]) <= 6
    assert all(item["kept"] for item in answer["passages"])


def test_a_full_disk_names_the_checkpoint(tmp_path, monkeypatch) -> None:
    """torch hides a failed write behind the failure to end its archive."""
    from wellread.training.checkpoint import write_checkpoint

    def save(state: Any, file: Any) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr("torch.save", save)
    with pytest.raises(OSError, match=r"No space left on device: .*checkpoint\.pt") as caught:
        write_checkpoint(tmp_path, {})
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def as_page(tell: Callable[[Row], Any]) -> str:
    lines = [
        "# What wellread says to mistakes",
        "",
        "A mistake is answered by one line on stderr, which starts with `wellread: `, and by exit code 2; with "
        "`--debug` the whole trace is shown. `wellread memory verify` ends with exit code 1 where it finds damage: "
        "that is its answer, printed like any other. The page is made and checked by `tests/e2e/test_errors.py` "
        f"(`{WRITE}=1 pytest tests/e2e/test_errors.py`).",
    ]
    for topic, rows in ROWS.items():
        lines += ["", f"## {topic}", "", "| mistake | command | what wellread says |", "| --- | --- | --- |"]
        for row in rows:
            answer = tell(row)
            told = re.sub(r"'[0-9a-f]{16}'", "'...'", (answer.err or answer.out).strip().removeprefix("wellread: "))
            cells = [row.mistake, f"`wellread {row.command}`", told]
            lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def test_the_page_of_mistakes_is_up_to_date(tell) -> None:
    page = as_page(tell)
    if os.environ.get(WRITE):
        DOCS.write_text(page, encoding="utf8")
    written = DOCS.read_text(encoding="utf8") if DOCS.is_file() else ""
    assert written == page, f"docs/errors.md is old; write it anew: {WRITE}=1 pytest tests/e2e/test_errors.py"
