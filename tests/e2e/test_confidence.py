"""From a calibrated model to answers that are withheld, and questions typed one by one."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from wellread.cli.calibrate import _as_text
from wellread.evaluation.reliability import judge

# What the tiny reader of the world, whose weights are random, has something to say to.
ASKED = [
    "planet",
    "Io",
    "Mars",
    "Jupiter",
    "Saturn",
    "rings of ice",
    "rust",
    "largest planet",
    "red planet",
    "rust ice",
]
PLACES = "--model model --memory memory --top-k 3"


@pytest.fixture(scope="module")
def place(world, wellread, tmp_path_factory):
    """A folder with a model and a memory, and questions half of which the model answers as they want it."""
    folder = tmp_path_factory.mktemp("confidence")
    (folder / "model").mkdir()
    for item in (world / "model").iterdir():
        (folder / "model" / item.name).symlink_to(item)
    (folder / "memory").symlink_to(world / "memory")
    (folder / "asked.txt").write_text("\n".join(ASKED))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        answers = [
            json.loads(line) for line in said(wellread, f"ask --questions asked.txt {PLACES} --json").splitlines()
        ]
        assert all(answer["answer"] for answer in answers), "the reader says nothing: ask it something else"
        rows = [
            {"question": answer["question"], "answers": [answer["answer"] if index // 2 % 2 else "neither"]}
            for index, answer in enumerate(answers)
        ]
        (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        yield folder


def said(wellread, line: str, **options) -> str:
    answer = wellread(line, **options)
    assert answer.code == 0, answer.err
    return answer.out


def test_a_fit_that_made_it_worse_is_told() -> None:
    right = np.array([1.0, 1.0, 0.0, 0.0])
    good, bad = (judge(np.array(sure), right, samples=2) for sure in ([0.9, 0.8, 0.2, 0.1], [0.2, 0.6, 0.7, 0.9]))
    assert "give more questions" in _as_text(good, bad, Path("c.json"))
    assert "give more" not in _as_text(bad, good, Path("c.json"))


def test_calibrate_and_withhold(wellread, place) -> None:
    line = f"calibrate {PLACES} --questions asked.jsonl"
    told = wellread(f"{line} --json --plot curves.svg --out elsewhere").json
    assert {"n", "ece", "brier", "aurc", "accuracy_at_coverage", "before", "fitted", "out", "plot"} <= set(told)
    assert told["n"] == told["fitted"]["n"] == 5
    assert set(told["accuracy_at_coverage"]) == {"100", "80", "50"}
    wanted = {"questions": "asked.jsonl", "system": "glimmer", "top_k": 3, "retriever": "lexical", "seed": 0}
    assert wanted.items() <= told["fitted"].items()
    assert "Reliability" in (place / "curves.svg").read_text()
    assert told["out"] == "elsewhere/confidence.json"
    assert not (place / "model" / "confidence.json").exists()
    assert wellread(f"ask planet {PLACES} --json").json["confidence"] is None

    shown = said(wellread, f"{line} --limit 8")
    assert "| ece |" in shown
    assert "Of 4 questions" in shown
    assert shown.rstrip().endswith("model/confidence.json")
    answer = wellread(f"ask planet {PLACES} --json").json
    assert 0 < answer["confidence"] < 1
    assert (answer["abstained"], answer["withheld"]) == (False, "")
    assert answer["answer"]
    assert set(answer["support"]) == {"id", "title", "span"}
    assert answer["support"]["id"] in [item["id"] for item in answer["passages"] if item["kept"]]
    held = wellread(f"ask planet {PLACES} --min-confidence 1 --json").json
    assert (held["answer"], held["withheld"], held["abstained"]) == ("", answer["answer"], True)
    assert held["support"] == answer["support"]
    assert wellread(f"ask xylophone {PLACES} --json").json["support"] is None

    shown = said(wellread, f"ask planet {PLACES} --show 1")
    assert shown.splitlines()[1] == f"A: {answer['answer']} [1]  (confidence {answer['confidence']:.2f})"
    assert "   [1] " in shown
    assert "   [2] " not in shown
    shown = said(wellread, f"ask planet {PLACES} --min-confidence 1")
    assert shown.splitlines()[1] == f"A: (no answer: confidence {answer['confidence']:.2f} is too low)"
    assert answer["answer"] not in shown
    assert "A: (no answer: no passage was found)" in said(wellread, f"ask xylophone {PLACES}")


def test_calibrate_tells_what_it_leaves_out(wellread, place) -> None:
    rows = [*(place / "asked.jsonl").read_text().splitlines(), *['{"question": "' + "why " * 20 + '"}'] * 4, "{}"]
    (place / "more.jsonl").write_text("\n".join(rows) + "\n")
    answer = wellread(f"calibrate {PLACES} --questions more.jsonl --out elsewhere --json")
    assert {"n": 5, "left_out": 4, "skipped": 1}.items() <= answer.json.items()
    assert "skipped more.jsonl:15: holds no question" in answer.err
    assert answer.err.count('"why why ') == 3
    assert answer.err.endswith(' why ...", ...\n')


# -- typing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("typed", "count"), [("planet\n\nmoon\n", 2), ("planet\nmoon", 2), ("planet\nxylophone\n", 2)])
def test_lines_of_a_pipe_that_are_not_empty_are_asked(wellread, place, typed, count) -> None:
    answer = wellread(f"ask {PLACES}", typed=typed)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.count("Q: ") == answer.out.count("A: ") == count
    assert answer.out.startswith("Q: planet\n")


# The first terminal that the leader of a session opens is its own: ctrl-C reaches it. What a shell starts in the
# background, tests included, is deaf to ctrl-C until told otherwise.
PROGRAM = (
    "import os, signal; os.open(os.ttyname(0), os.O_RDWR); signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from wellread.cli.main import main; main()"
)


class Terminal:
    """`wellread ask` in a process of its own, behind a terminal. out: a file for its standard output."""

    def __init__(self, line: str, *, out: Path | None = None) -> None:
        self.end, other = pty.openpty()
        with nullcontext(other) if out is None else out.open("wb") as output:
            self.child = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *line.split()],
                stdin=other,
                stdout=output,
                stderr=other,
                start_new_session=True,
            )
        os.close(other)
        self.shown = ""

    def read(self, until: str | None) -> str:
        """What is shown up to a text, or up to the end."""
        before, stop = len(self.shown), time.monotonic() + 240
        while until is None or not self.shown[before:].endswith(until):
            assert time.monotonic() < stop, self.shown
            if not select.select([self.end], [], [], 1)[0]:
                continue
            try:
                new = os.read(self.end, 4096)
            except OSError:  # so Linux says that the other side has ended
                new = b""
            if not new:
                break
            self.shown += new.decode().replace("\r\n", "\n")
        return self.shown[before:]

    def type(self, keys: str) -> None:
        os.write(self.end, keys.encode())

    def close(self) -> int:
        self.read(None)
        return self.child.wait()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.child.kill()
        self.child.wait()
        os.close(self.end)


def test_questions_are_typed_on_a_terminal(place) -> None:
    with Terminal(f"ask {PLACES} --no-flops") as terminal:
        assert terminal.read("? ").startswith("Type a question")
        terminal.type("planer\x7ft\n")  # a letter is taken back
        assert "Q: planet\nA: " in terminal.read("\n? ")
        terminal.type("xylophone\n")
        assert "A: (no answer: no passage was found)" in terminal.read("\n? ")
        terminal.type("\x04")
        assert terminal.close() == 0
        assert terminal.shown.endswith("? \n")  # what comes next starts on a line of its own


def test_only_answers_go_where_standard_output_goes(place) -> None:
    with Terminal(f"ask {PLACES} --no-flops --json", out=place / "answers.jsonl") as terminal:
        terminal.read("? ")
        terminal.type("planet\n")
        terminal.read("\n? ")
        terminal.type("\x03")
        assert terminal.close() == 130
        assert terminal.shown.endswith("wellread: stopped.\n")
    (line,) = (place / "answers.jsonl").read_text().splitlines()
    assert json.loads(line)["question"] == "planet"
