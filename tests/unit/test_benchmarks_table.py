"""The table of tasks and systems: cells are measured once, pools hold all that is retrieved, rows say what is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wellread.corpus import Corpus
from wellread.types import Question

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def table(monkeypatch, tmp_path):
    """The script, with a data folder, tasks and results of its own."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import task_table

    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("WELLREAD_DATA", str(data))
    passages = [
        {"id": f"p{n}", "title": f"River {n}", "text": f"River {n} was mapped in {1800 + n}."} for n in range(10, 40)
    ]
    questions = [
        {"question": f"When was river {n} mapped?", "answers": [str(1800 + n)], "positive": [f"p{n}"]}
        for n in range(10, 40)
    ]
    for name, rows in (("passages", passages), ("questions", [*questions, {"question": "Unknown?"}])):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(task_table, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(task_table, "RESULTS", tmp_path / "results" / "tasks")
    monkeypatch.setattr(task_table, "TABLE", tmp_path / "results" / "tasks.md")
    monkeypatch.setattr(task_table, "CORPORA", {"rivers": (tmp_path / "runs" / "rivers", ("passages.jsonl",))})
    monkeypatch.setattr(task_table, "TASKS", {"rivers": task_table.Task("questions.jsonl", "rivers")})
    return task_table


def test_a_baseline_is_measured_once_and_written(table):
    table.main(["--systems", "bm25", "--limit", "6"])
    file = table.RESULTS / "rivers.bm25.json"
    found = json.loads(file.read_text())
    assert (found["n"], found["em"], found["metric"], found["recall@1"]) == (6, 100, "em", 100)
    assert found["command"] == "python benchmarks/task_table.py --systems bm25 --limit 6"
    lines = table.TABLE.read_text().splitlines()
    assert lines[2:5] == ["| system | rivers |", "| --- | ---: |", "| bm25 | 100 |"]
    assert any(line.startswith("| rivers | bm25 | em | 100 | 100.0 to 100.0 | 100 |") for line in lines)
    file.write_text(json.dumps({**found, "em": 12.0}))
    table.main(["--systems", "bm25", "--limit", "6"])
    assert json.loads(file.read_text())["em"] == 12
    table.main(["--systems", "bm25", "--limit", "6", "--again"])
    assert json.loads(file.read_text())["em"] == 100


def test_a_pool_holds_what_is_retrieved_and_keeps_its_name(table):
    questions = table.questions_of("rivers", 2)
    corpus, index = table.corpus_of("rivers")
    folder = table.pool("rivers", questions, corpus, index)
    held = Corpus.open(folder / "corpus")
    assert len(held) == table.FOUND  # both questions find all rivers, ties in index order, and their own
    assert {f"p{n}" for n in (10, 25)} <= set(held.ids())
    assert held.cutting == corpus.cutting
    assert table.pool("rivers", questions, corpus, index) == folder
    assert table.pool("rivers", [Question("q", "River 29")], corpus, index) != folder


def test_what_is_not_known_stays_empty(table):
    claims = {
        "task": "rivers",
        "system": "bm25",
        "metric": "accuracy",
        "accuracy": 50.0,
        "f1": 50.0,
        "intervals": {"accuracy": [40.0, 60.0]},
        "milliseconds_per_question": 20.0,
        "flops_per_question": 0,
        "settings": {"bytes_per_passage": 10.4},
        "n": 4,
    }
    row = table.shown(claims)
    assert "F1" not in row
    assert row["KILT"] != row["KILT"]  # nan, shown as a dash
    assert (row["score"], row["bytes/passage"]) == (50, 10)
    assert row["right per second"] == pytest.approx(25)  # half of them, in 20 ms each


def test_questions_are_taken_at_even_distances_and_only_those_that_can_be_scored(table):
    assert [item.text for item in table.questions_of("rivers", 3)] == [
        f"When was river {n} mapped?" for n in (10, 20, 30)
    ]
    assert len(table.questions_of("rivers", 99)) == 30


def test_every_task_has_a_file_and_a_corpus(monkeypatch, shared_data):
    monkeypatch.syspath_prepend(str(FOLDER))
    import task_table

    for name, task in task_table.TASKS.items():
        assert (shared_data / task.questions).is_file(), name
        assert all((shared_data / source).is_file() for source in task_table.CORPORA[task.corpus][1]), name
