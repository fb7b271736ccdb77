"""The model that comes with wellread: by its name, as the default of the verbs, in the demo. A tiny one stands in."""

from __future__ import annotations

import json

import pytest

from wellread.cli.opening import DEFAULT_MODEL
from wellread.model import NAMED, Model

INIT = "init --from scratch --corpus corpus --vocabulary 120 --dim 16 --layers 3 --heads 2 --decoder-layers 1"
INIT += " --set question_encoder=separate --frame answer_tokens=4 --frame passage_tokens=32 --weights int8"


@pytest.fixture(scope="module")
def stand_in(world, wellread, tmp_path_factory):
    """The folder of a tiny model with untrained weights."""
    folder = tmp_path_factory.mktemp("packaged") / "mini"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        assert wellread(f"{INIT} --out {folder} --json").json["weights"] == "int8"
    return folder


@pytest.fixture
def place(world, stand_in, tmp_path, monkeypatch):
    """A folder with what a corpus needs, and the tiny model in the place of the packaged one."""
    monkeypatch.setitem(NAMED, DEFAULT_MODEL, stand_in)
    monkeypatch.chdir(tmp_path)
    for name in ("passages.jsonl", "questions.jsonl", "corpus"):
        (tmp_path / name).symlink_to(world / name)
    return tmp_path


def test_verbs_take_it_where_no_model_is_named(wellread, place):
    made = wellread("memorize corpus --retriever lexical --out memory --json").json
    assert made["passages"] == 6
    answer = wellread("ask 'Which is the largest planet?' --memory memory --json").json
    assert answer["passages"]
    named = wellread(f"ask 'Which is the largest planet?' --memory memory --model {DEFAULT_MODEL} --json").json
    assert named["answer"] == answer["answer"]
    held = wellread("ask 'Which is the largest planet?' --memory memory --verbatim --json").json
    assert held["answer"]
    assert held["quote"] is not None
    report = wellread("eval --memory memory --questions questions.jsonl --json").json
    assert (report["n"], report["system"]) == (2, "glimmer")
    row = {"id": "pluto", "title": "Pluto", "text": "Pluto is a dwarf with a heart of ice."}
    (place / "new.jsonl").write_text(json.dumps(row) + "\n")
    assert wellread("corpus new.jsonl --out new").code == 0
    assert wellread("memory add memory new --json").json["added"] == 1
    assert wellread("memory update memory new --json").json["unchanged"] == 1


def test_load(wellread, place):
    import wellread as package

    model = package.load("wellread-mini")
    assert isinstance(model, Model)
    assert package.Model is Model
    assert package.load(system="lumen").name == "lumen"
    assert wellread("memorize corpus --retriever lexical --out memory").code == 0
    asked = ["Which is the largest planet?"]
    first = package.load("wellread-mini", memory="memory").ask(asked)[0]
    second = package.open_pipeline(model=model, memory="memory").ask(asked)[0]
    assert first.text == second.text
    assert first.passages
    with pytest.raises(ValueError, match="no memory and no corpus were given"):
        package.load("wellread-mini", index="memory/index")


def test_a_version_without_weights_says_so(wellread, place, monkeypatch):
    monkeypatch.setitem(NAMED, DEFAULT_MODEL, place / "nowhere")
    said = wellread("ask 'Which planet?' --memory memory")
    assert said.code == 2
    assert said.err == (
        "wellread: model wellread-mini has no weights in this version of wellread; "
        "give the folder of a model (wellread init, wellread train).\n"
    )


# -- init ------------------------------------------------------------------------------------------------------


def weights_of(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("model*")}


def test_init_copies_a_model_in_another_form(wellread, place, stand_in):
    source = place / "source"
    assert wellread(f"init --from {DEFAULT_MODEL} --out source --json").json["system"] == "glimmer"
    for name in ("confidence.json", "CARD.md", "recipe.toml", "run.json", "other.txt"):
        (source / name).write_text(name)
    made = wellread("init --from source --weights int8 --out small --json").json
    assert (made["system"], made["weights"]) == ("glimmer", "int8")
    kept = {file.name for file in (place / "small").iterdir()}
    assert {"confidence.json", "CARD.md", "recipe.toml", "run.json"} <= kept
    assert "other.txt" not in kept
    assert weights_of(place / "small") == weights_of(stand_in)
    described = [json.loads((folder / "system.json").read_text()) for folder in (place / "small", stand_in)]
    assert described[0] == described[1]
    # Another system, or other options, is another model; what was said about the first does not hold for it.
    lumen = wellread("init --from source --system lumen --overwrite --out small --json").json
    assert lumen["system"] == "lumen"
    assert not {"confidence.json", "CARD.md", "run.json"} & {file.name for file in (place / "small").iterdir()}
    assert wellread("init --from source --set keep=2 --overwrite --out small").code == 0
    options = json.loads((place / "small" / "system.json").read_text())["options"]
    assert (options["keep"], options["question_encoder"]) == (2, "separate")
    assert not (place / "small" / "CARD.md").exists()


def test_init_without_a_model_makes_a_glimmer(wellread, place):
    made = wellread("init --from scratch --corpus corpus --vocabulary 120 --dim 16 --heads 2 --out new --json").json
    assert (made["system"], made["weights"]) == ("glimmer", "fp32")
    refused = wellread("init --from new --weights int4 --out small")
    assert refused.code == 2
    assert "Invalid value for '--weights': 'int4' is not one of 'fp32', 'bf16', 'int8'." in refused.err


# -- the demo --------------------------------------------------------------------------------------------------


def test_the_demo_runs_to_its_table(wellread, place):
    said = wellread("demo --out demo --questions 3 --limit 24")
    assert said.code == 0, said.err
    assert said.err.count("\nQ  ") == 3
    assert "the others read with them" in said.err
    lines = said.out.strip().splitlines()
    head = "system passages EM dev EM all cited retrieve fetch read write total ms GFLOPs bytes/passage"
    assert lines[0].split() == head.split()
    assert [line.split()[:2] for line in lines[1:4]] == [["GLIMMER", "20"], ["LUMEN", "10"], ["FiD", "5"]]
    glimmer, lumen, fid = ([float(value) for value in line.split()[1:]] for line in lines[1:4])
    assert glimmer[-1] == lumen[-1] > fid[-1]  # one memory with states, and tokens alone
    assert all(value > 0 for row in (glimmer, lumen, fid) for value in row[-4:])
    assert lines[4].startswith("EM in per cent of the 4 dev and of all 24 questions")

    # The same command goes on from what is there.
    memories = {file: file.stat().st_mtime_ns for file in place.glob("demo/memory-*/memory.json")}
    assert len(memories) == 2
    rows = wellread("demo --out demo --questions 1 --limit 24 --json").json["systems"]
    assert {file: file.stat().st_mtime_ns for file in memories} == memories
    assert [round(row["em"], 1) for row in rows] == [row[2] for row in (glimmer, lumen, fid)]
    assert {"em_dev", "answer_cited", "milliseconds", "gflops", "bytes_per_passage", "n", "n_dev"} <= set(rows[0])
