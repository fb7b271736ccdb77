"""The command line as a user meets it: help, lists, and the way from documents to answers by verbs alone."""

from __future__ import annotations

import gzip
import json
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from wellread.cli import doctor
from wellread.cli.main import VERBS

HEAVY = ("torch", "lance", "pyarrow", "transformers", "tokenizers", "bm25s", "numba", "faiss", "numpy")
COMMANDS_OWN = ("runs/claims",)  # made by the command itself
MEMORY_VERBS = ("info", "list", "verify", "add", "update", "delete")


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)


def processor_seconds(program: str) -> float:
    """What a process of its own takes. Not the clock: that would measure what else the machine is doing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    python(program)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_comes_at_once() -> None:
    program = "from wellread.cli.main import main; main(['--help'])"
    assert min(processor_seconds(program) for _ in range(3)) < 0.5  # what feels like at once


def test_the_command_imports_nothing_heavy() -> None:
    found = python("import sys, wellread, wellread.cli.main; print(*sys.modules)").stdout.split()
    assert "wellread.cli.main" in found
    assert not [name for name in found if name.partition(".")[0] in HEAVY]


def test_help_lists_every_verb(wellread) -> None:
    answer = wellread("--help")
    assert answer.code == 0
    assert all(f"  {verb} " in answer.out for verb in VERBS)
    assert wellread("--version").out.startswith("wellread ")


@pytest.mark.parametrize("verb", [*VERBS, *(f"memory {verb}" for verb in MEMORY_VERBS)])
def test_help_of_a_verb_has_an_example(wellread, verb: str) -> None:
    answer = wellread(f"{verb} --help")
    assert answer.code == 0
    assert "Example" in answer.out
    assert f"\n    wellread {verb}" in answer.out


@pytest.mark.parametrize("verb", VERBS)
def test_places_that_a_help_names_are_made_by_commands_that_are_written_down(wellread, verb: str) -> None:
    root = Path(__file__).parents[2]
    files = [root / "README.md", *root.glob("docs/*.md"), *root.glob("recipes/**/*.*")]
    written = "\n".join(file.read_text(encoding="utf8") for file in files)
    for place in re.findall(r"runs/[\w/-]+", wellread(f"{verb} --help").out):
        assert place in written or place in COMMANDS_OWN


def test_a_corpus_needs_no_source_beside_a_named_one(wellread) -> None:
    assert "[SOURCE]..." in wellread("corpus --help").out.splitlines()[0]


def test_systems(wellread) -> None:
    from wellread.systems import SYSTEMS

    rows = wellread("systems --json").json["systems"]
    assert [row["system"] for row in rows] == list(SYSTEMS)
    assert all(row["title"] and row["authors"] and row["year"] and row["arxiv"] for row in rows)
    text = wellread("systems").out
    assert all(row["title"] in text for row in rows)


def test_doctor(wellread) -> None:
    found = wellread("doctor --json").json
    assert found["healthy"] is True
    assert found["missing"] == []
    assert found["core"]["torch"]
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf8"))["project"]
    assert {*found["extras"], "dev"} == set(project["optional-dependencies"])
    assert wellread("doctor").out.startswith("wellread ")


def test_doctor_says_how_to_install_what_is_missing(wellread, monkeypatch) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "vision", ("no-such-package",))
    shown = wellread("doctor").out
    assert "not installed: pip install '.[vision]' (in the copy of wellread's repository)\n" in shown


def test_a_plan_tells_what_claims_lack(wellread, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = wellread("reproduce lumen-attention retro-fitting --dry-run").out
    assert "lumen-attention: runs/squad/start/last is needed and does not exist\n" in shown
    assert 'Not planned: 2 of 2 claims, which lack something. README.md, "Real questions", has ' in shown
    assert "0 trainings" not in shown
    mini = wellread("reproduce lumen-attention --dry-run --base wellread-mini --json").json
    assert mini["claims"] == [{"claim": "lumen-attention", "missing": "runs/squad/corpus/corpus.json"}]
    assert (mini["trainings"], mini["steps"], mini["minutes"]) == (None, None, None)
    assert "recipes/squad/start.toml" in wellread("reproduce --help").out


# -- from documents to answers -----------------------------------------------------------------------------

SMALL = "--vocabulary 120 --dim 16 --layers 3 --heads 2 --decoder-layers 1 --set keep=2 --frame answer_tokens=6"
ASK = "--model model --memory memory --json"


@pytest.fixture
def place(world, tmp_path, monkeypatch):
    """An empty folder but for documents and questions."""
    for name in ("passages.jsonl", "questions.jsonl"):
        (tmp_path / name).write_text((world / name).read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(wellread, question: str) -> list[str]:
    return [item["id"] for item in wellread(f"ask '{question}' {ASK}").json["passages"]]


def test_from_documents_to_answers(wellread, place) -> None:
    made = wellread("corpus passages.jsonl --out corpus --json").json
    assert (made["passages"], made["documents"], made["skipped"]) == (6, 6, 0)
    made = wellread("index corpus --retriever lexical --out index --json").json
    assert (made["retriever"], made["passages"]) == ("lexical", 6)
    assert made["seconds"] >= 0
    assert made["bytes"] > 0
    made = wellread(f"init --system glimmer --from scratch --corpus corpus {SMALL} --out model --json").json
    assert made["system"] == "glimmer"
    assert made["parameters"] > 1000
    memorize = "memorize corpus --model model --codec int8 --retriever lexical --out memory --json"
    made = wellread(memorize).json
    assert (made["passages"], made["resumed_from"]) == (6, 0)
    assert min(made["tokens"], made["bytes"], made["passages_per_second"]) > 0
    assert wellread(memorize).json["resumed_from"] == 6

    answer = wellread(f"ask 'Which is the largest planet?' {ASK}").json
    assert {"question", "answer", "quote", "passages", "log_likelihood", "milliseconds", "flops"} <= set(answer)
    assert {"id", "title", "score", "text", "kept", "share", "span", "metadata"} <= set(answer["passages"][0])
    assert "jupiter" in [item["id"] for item in answer["passages"]]
    assert {"retrieve", "fetch", "read", "generate", "total"} <= set(answer["milliseconds"])
    assert answer["flops"] > 0
    assert sum(item["kept"] for item in answer["passages"]) == 2
    # The memory's own index and one made beside it find the same.
    beside = wellread(f"ask 'Which is the largest planet?' --index index {ASK}").json
    assert (beside["answer"], beside["passages"]) == (answer["answer"], answer["passages"])
    filtered = wellread(f"ask 'Which moon or planet?' --where kind=moon {ASK}").json
    assert {item["id"] for item in filtered["passages"]} == {"io", "titan"}

    shown = wellread("ask 'Which is the largest planet?' --model model --memory memory --show 1").out
    assert shown.startswith("Q: Which is the largest planet?\nA: ")
    assert "[1]" in shown
    assert "[2]" not in shown
    assert "GFLOPs" in shown

    # FiD and LUMEN read the same weights; a system that stores only tokens needs no memory.
    assert wellread(f"ask 'Which planet?' --system lumen {ASK}").json["flops"] > 0
    alone = wellread("ask 'Which planet?' --system fid --model model --corpus corpus --index index --json").json
    assert len(alone["passages"]) == 4


@pytest.fixture
def reader(world, place):
    """The place with a model and a memory in it."""
    import shutil

    for name in ("model", "memory"):
        shutil.copytree(world / name, place / name)
    return place


def test_many_questions(wellread, reader) -> None:
    asked = [json.loads(line)["question"] for line in (reader / "questions.jsonl").read_text().splitlines()]
    by_file = wellread(f"ask --questions questions.jsonl {ASK}")
    assert by_file.code == 0, by_file.err
    rows = [json.loads(line) for line in by_file.out.splitlines()]
    assert [row["question"] for row in rows] == asked
    by_stdin = wellread(f"ask --questions - {ASK}", typed="\n".join([*asked, ""]))
    assert [json.loads(line)["answer"] for line in by_stdin.out.splitlines()] == [row["answer"] for row in rows]
    packed = gzip.compress((reader / "questions.jsonl").read_bytes())
    (reader / "questions.jsonl.gz").write_bytes(packed)
    (reader / "questions.txt.gz").write_bytes(gzip.compress("\n".join(asked).encode()))
    for file in ("questions.jsonl.gz", "questions.txt.gz"):
        again = wellread(f"ask --questions {file} {ASK}")
        assert [json.loads(line)["answer"] for line in again.out.splitlines()] == [row["answer"] for row in rows]
    by_stdin = wellread(f"ask --questions - {ASK}", typed='{"text": "Which?"}\n')
    assert "-:1: has no 'question'; give plain lines or jsonl with that key." in by_stdin.err
    by_stdin = wellread(f"ask --questions - {ASK}", typed='{"question"')
    assert "-:1: is not JSON: " in by_stdin.err
    typed = wellread("ask --model model --memory memory", typed=f"{asked[0]}\n\n{asked[1]}\n")
    assert typed.code == 0, typed.err
    assert typed.out.startswith(f"Q: {asked[0]}\n")
    assert typed.out.count("A: ") == 2
    (reader / "folder").mkdir()
    (reader / "folder" / "q.jsonl").write_text((reader / "questions.jsonl").read_text() + '{"foo": 1}\n')
    (reader / "questions.md").write_text("\n".join(asked))
    for file, skipped in (("folder", "q.jsonl:"), ("questions.md", "")):
        again = wellread(f"ask --questions {file} {ASK}")
        assert [json.loads(line)["answer"] for line in again.out.splitlines()] == [row["answer"] for row in rows]
        assert ("skipped" in again.err) == bool(skipped)
        assert skipped in again.err


def test_eval(wellread, reader) -> None:
    line = "eval --model model --memory memory --questions questions.jsonl --top-k 3 --answers answers.jsonl"
    report = wellread(f"{line} --json").json
    assert report["n"] == 2
    assert report["system"] == "glimmer"
    assert {"em", "f1", "recall@1", "milliseconds_per_question", "flops_per_question"} <= set(report)
    assert report["recall@1"] == 100  # the words of the questions stand in no other passage
    assert report["flops_per_question"] > 0
    assert report["milliseconds_per_question"] > 0
    rows = [json.loads(row) for row in (reader / "answers.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["q-jupiter", "q-titan"]
    assert "| em |" in wellread(f"{line} --limit 1").out


def test_eval_tells_what_it_leaves_out(wellread, reader) -> None:
    with (reader / "questions.jsonl").open("a") as file:
        file.write(
            '{"question": "Who knows?"}\n{"words": "none"}\n{"question": "Which planet is red?", "answer": "Mars"}\n'
        )
    said = wellread("eval --model model --memory memory --questions questions.jsonl --limit 1 --json")
    assert {"n": 1, "left_out": 1, "skipped": 1}.items() <= said.json.items()
    skipped, told, *_ = said.err.splitlines()
    assert skipped.startswith("skipped questions.jsonl:4: holds no question (fields: words); ")
    assert told == '1 question; 1 without answers left out: "Who knows?"'


def test_an_index_that_a_killed_sync_left_behind_follows_later(wellread, reader, monkeypatch) -> None:
    rows = [json.loads(line) for line in (reader / "passages.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["id"] != "io"]
    rows.append({"id": "pluto", "title": "Pluto", "text": "Pluto is a dwarf with a heart of ice."})
    (reader / "now.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert wellread("corpus now.jsonl --out now --json").json["passages"] == 6

    def killed(*arguments: object, **options: object) -> None:
        raise ValueError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("wellread.cli.memory._follow", killed)
        assert wellread("memory sync memory now --model model").err == "wellread: killed\n"
    said = wellread(
        "memory sync memory now --model model --json"
    ).json  # as many passages as before: counts tell nothing
    assert [said[name] for name in ("added", "deleted", "unchanged")] == [0, 0, 6]
    assert found(wellread, "What of the dwarf Pluto?") == ["pluto"]
    assert "io" not in found(wellread, "Which moon is Io?")
    assert wellread("memory sync memory now --model model --compact --json").json["freed"] > 0


def test_an_index_is_brought_up_to_date(wellread, reader) -> None:
    rows = [json.loads(line) for line in (reader / "passages.jsonl").read_text().splitlines()]
    rows = [
        {**row, "text": f"{row['text']} Really."} if row["id"] == "titan" else row for row in rows if row["id"] != "io"
    ]
    rows.append({"id": "pluto", "title": "Pluto", "text": "Pluto is a dwarf with a heart of ice."})
    assert wellread("corpus passages.jsonl --out first").code == 0
    (reader / "passages.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert wellread("corpus passages.jsonl --out later").code == 0
    assert wellread("index first --retriever lexical --out index").code == 0
    counts = ("added", "replaced", "deleted", "unchanged", "passages")
    first = wellread("index later --out index --sync --json").json
    assert [first[name] for name in counts] == [1, 1, 1, 4, 6]
    assert (
        "0 added, 0 replaced, 0 deleted, 6 unchanged, now 6 passages" in wellread("index later --out index --sync").out
    )
    anew = wellread("index later --retriever lexical --out anew --json").json
    assert first["fingerprint"] == anew["fingerprint"]
    (reader / "else.jsonl").write_text(json.dumps({"id": "ceres", "text": "Ceres is grey."}) + "\n")
    wellread("corpus else.jsonl --out else")
    assert wellread("index else --out index --sync").code == 2
    other = wellread("index else --out index --sync --replace-all --json").json
    assert [other[name] for name in counts] == [1, 0, 6, 0, 1]


def test_rows_of_a_table_are_found_by_what_they_hold(wellread, reader) -> None:
    (reader / "prices.csv").write_text("Product,Price,Stock\nSteel rake,12.50,96\nGarden hose,24,7\n")
    wellread("corpus prices.csv --out prices")
    assert wellread("memorize prices --model model --retriever lexical --out priced").code == 0
    line = "ask 'Which product is it, the rake or the hose?' --model model --memory priced --no-flops"
    for condition, product in {
        "stock=96": "Steel rake",
        "price=12.50": "Steel rake",
        "stock=[6,7]": "Garden hose",
    }.items():
        (passage,) = wellread(f"{line} --where '{condition}' --json").json["passages"]
        assert passage["title"] == product
    assert passage["metadata"] == {
        "file": "prices.csv",
        "product": "Garden hose",
        "price": "24",
        "stock": "7",
    }
    nothing = wellread(f"{line} --where stock=5")
    assert (nothing.code, nothing.err) == (0, "")
    assert "no passage was found" in nothing.out
    assert "(prices.csv, " in wellread(f"{line} --where stock=7").out
    assert "(prices.csv, " in wellread(f"{line} --index priced --where stock=7").out  # the index of the memory
    (reader / "prices.csv").write_text("Product,Price,Stock\nBroom,8,1\nSteel rake,12.50,96\nGarden hose,24,7\n")
    wellread("corpus prices.csv --out prices --overwrite")
    synced = wellread("memory sync priced prices --model model --json").json
    assert [synced[name] for name in ("added", "replaced", "deleted", "unchanged")] == [1, 0, 0, 2]


def test_rows_of_json_are_found_by_their_file(wellread, reader) -> None:
    (reader / "moons.json").write_text('[{"text": "The moon Io has lava."}]')
    assert wellread("corpus moons.json passages.jsonl --out both --json").json["passages"] == 7
    assert wellread("memorize both --model model --retriever lexical --out all").code == 0
    answer = wellread("ask 'What has the moon?' --model model --memory all --no-flops --where file=moons.json")
    assert "(moons.json, " in answer.out
    assert "[2]" not in answer.out
    # Passages that were read from a file of another name are there already.
    (reader / "more.jsonl").write_text((reader / "passages.jsonl").read_text())
    assert wellread("corpus more.jsonl --out more").code == 0
    assert wellread("memory add all more --model model --json").json["unchanged"] == 6


def test_flops_are_counted_for_a_question_of_the_command_line(wellread, reader) -> None:
    (reader / "asked.txt").write_text("Which planet?\n")
    place = "--model model --memory memory --json"
    assert wellread(f"ask 'Which planet?' {place}").json["flops"] > 0
    assert wellread(f"ask --questions asked.txt {place}").json["flops"] is None
    assert wellread(f"ask --questions asked.txt {place} --flops").json["flops"] > 0


def test_what_came_from_a_file_is_listed_and_forgotten(wellread, reader) -> None:
    (reader / "dwarfs.jsonl").write_text('{"id": "pluto", "title": "Pluto", "text": "Pluto has a heart of ice."}\n')
    assert wellread("corpus dwarfs.jsonl --out dwarfs").code == 0
    assert wellread("memory add memory dwarfs --model model").code == 0
    listed = wellread("memory list memory --json").json
    assert (listed["passages"], len(listed["listed"])) == (7, 7)
    pluto = {"id": "pluto", "title": "Pluto", "file": "dwarfs.jsonl"}
    assert wellread("memory list memory --where file=dwarfs.jsonl --json").json["listed"] == [pluto]
    said = wellread("memory list memory --where file=dwarfs.jsonl --where file=x --where source=text")
    assert (said.out, said.err) == ("pluto\tPluto\tdwarfs.jsonl\n", "1 of 7 passages\n")
    assert found(wellread, "What of the heart of ice?")[0] == "pluto"
    gone = wellread("memory delete memory io --where file=dwarfs.jsonl --json").json
    assert (gone["deleted"], gone["passages"]) == (2, 5)
    assert not {"pluto", "io"} & set(found(wellread, "What of the heart of ice, Pluto, and the moon Io?"))


def test_a_memory_that_was_emptied_takes_other_passages(wellread, reader) -> None:
    ids = " ".join(json.loads(line)["id"] for line in (reader / "passages.jsonl").read_text().splitlines())
    assert wellread(f"memory delete memory {ids} --json").json["passages"] == 0
    (reader / "new.jsonl").write_text(json.dumps({"id": "mars", "text": "Mars is the red planet."}) + "\n")
    wellread("corpus new.jsonl --out new")
    assert wellread("memory add memory new --model model --json").json["passages"] == 1
    assert found(wellread, "Which planet is red?") == ["mars"]


def test_memory_verbs_and_asking_again(wellread, reader) -> None:
    facts = wellread("memory info memory --json").json
    assert {"passages", "tokens", "bytes", "codec", "fingerprint"} <= set(facts)
    assert facts["passages"] == 6
    assert wellread("memory verify memory --json").json["damaged"] == []

    assert "pluto" not in found(wellread, "What of the dwarf Pluto?")
    row = {"id": "pluto", "title": "Pluto", "text": "Pluto is a dwarf with a heart of ice.", "kind": "dwarf"}
    (reader / "new.jsonl").write_text(json.dumps(row) + "\n")
    assert wellread("corpus new.jsonl --out new --json").json["passages"] == 1
    added = wellread("memory add memory new --model model --json").json
    assert (added["added"], added["passages"]) == (1, 7)
    assert found(wellread, "What of the dwarf Pluto?") == ["pluto"]
    assert wellread("memory add memory new --model model --json").json["unchanged"] == 1

    (reader / "new.jsonl").write_text(json.dumps({**row, "text": "Pluto is called a plutoid."}) + "\n")
    assert wellread("corpus new.jsonl --out new --overwrite --json").json["passages"] == 1
    updated = wellread("memory update memory new --model model --json").json
    assert (updated["replaced"], updated["passages"]) == (1, 7)
    assert "pluto" in found(wellread, "What is a plutoid?")
    assert "pluto" not in found(wellread, "Whose heart of ice?")

    kept = [line for line in (reader / "passages.jsonl").read_text().splitlines() if json.loads(line)["id"] != "io"]
    (reader / "passages.jsonl").write_text("\n".join([*kept, json.dumps({**row, "text": "Pluto is small."})]) + "\n")
    assert wellread("corpus passages.jsonl --out now --json").json["passages"] == 6
    synced = wellread("memory sync memory now --model model --json").json
    assert [synced[name] for name in ("added", "replaced", "deleted", "unchanged", "passages")] == [0, 1, 1, 5, 6]
    assert "pluto" in found(wellread, "What is small?")
    assert "io" not in found(wellread, "Which moon is Io?")

    gone = wellread("memory delete memory pluto --compact --json").json
    assert (gone["deleted"], gone["passages"]) == (1, 5)
    assert "pluto" not in found(wellread, "What of the dwarf Pluto?")
    assert wellread("memory verify memory --json").json["ok"]
