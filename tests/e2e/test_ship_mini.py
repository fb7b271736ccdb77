"""A run becomes the packaged model: small weights, hashes, recipe, record and card, and nothing of this machine."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from wellread.model import load_model

DEV = Path(__file__).parents[2] / "dev"
HEAD = "# before: wellread corpus $WELLREAD_DATA/wiki/wiki2018.parquet --out corpus\n"


@pytest.fixture(scope="module")
def trained(world, wellread, tmp_path_factory):
    """A folder with two runs, the second one from the weights of the first, and their recipes."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("corpus", "index"):
        (folder / name).symlink_to(world / name)
    data = folder / "data"
    data.mkdir()
    shutil.copyfile(world / "questions.jsonl", data / "squad_train.jsonl")
    shutil.copyfile(world / "questions.jsonl", data / "fm2_train.jsonl")
    first = (world / "recipe.toml").read_text().replace('"questions.jsonl"', '"$WELLREAD_DATA/squad_train.jsonl"')
    (folder / "first.toml").write_text(first)
    second = HEAD + first.partition("[system]")[1] + first.partition("[system]")[2].replace("squad", "fm2")
    (folder / "second.toml").write_text(f'{second}\n[init]\nfrom = "first/last"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WELLREAD_DATA", str(data))
        for name in ("first", "second"):
            said = wellread(f"train {name}.toml --out {name}")
            assert said.code == 0, said.err
    return folder


@pytest.fixture
def ship(trained, tmp_path, monkeypatch):
    """The script's `ship` into a folder of the test, run where the runs are."""
    monkeypatch.syspath_prepend(DEV)
    monkeypatch.chdir(trained)
    monkeypatch.setenv("WELLREAD_DATA", str(trained / "data"))
    import ship_mini

    monkeypatch.setattr(ship_mini, "ROOT", trained)
    results = tmp_path / "results"
    results.mkdir()

    def into_place(run: str = "second", recipe: str = "second.toml", **options) -> Path:
        return ship_mini.ship(Path(run), Path(recipe), place=tmp_path / "data" / "mini", results=results, **options)

    return into_place


def test_a_run_becomes_a_package(ship, trained, tmp_path):
    report = {"n": 10, "system": "glimmer", "em": 12.34, "intervals": {"em": [5, 20]}, "flops_per_question": 2e9}
    (tmp_path / "results" / "squad_dev.json").write_text(json.dumps(report))
    (tmp_path / "results" / "other.json").write_text("[1]")
    place = ship()
    assert load_model(place).name == load_model(trained / "second" / "last").name
    told = json.loads((place / "run.json").read_text())
    for folder, files in ((trained / "second" / "last", told["checkpoint"]["sha256"]), (place, told["files"])):
        assert files
        assert files == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    assert set(told["files"]) == {file.name for file in place.glob("*.safetensors*")}
    assert (place / "recipe.toml").read_text() == (trained / "second.toml").read_text()
    assert [(stage["run"], stage["steps"]) for stage in told["stages"]] == [("first", 1), ("second", 1)]
    assert told["stages"][0]["recipe"]["tasks"]["planets"]["questions"] == "$WELLREAD_DATA/squad_train.jsonl"
    texts = [(place / name).read_text() for name in ("run.json", "CARD.md", "recipe.toml")]
    assert not [text for text in texts if str(trained) in text or str(tmp_path) in text]

    card = texts[1]
    assert "| Fool Me Twice | 2 questions (second) | Apache-2.0; CC BY-SA 3.0 (text) |" in card
    assert "| English Wikipedia, dump of late 2018 | passages | CC BY-SA 3.0 / GFDL |" in card
    assert "CC BY-SA 4.0; CC BY 4.0" in card  # of the run before
    assert "| squad_dev | glimmer | 10 | 12.3 | 5.0 to 20.0 | 2 |" in card
    assert told["files"]["model.safetensors"] in card

    again = ship()  # in the place of the old one
    assert json.loads((again / "run.json").read_text())["files"] == told["files"]
    assert [item.name for item in again.parent.iterdir()] == ["mini"]


def test_what_does_not_fit_together_is_refused(ship, trained, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"corpus is no run that trained here; give the folder of one"):
        ship("corpus")
    with pytest.raises(ValueError, match=r"the run in second was started with another recipe: .*init\.from"):
        ship("second", "first.toml")
    with pytest.raises(ValueError, match=r"the model takes 0\.\d MiB; at most 0 MiB are packaged"):
        ship(most=1000)
    with pytest.raises(ValueError, match=r"the recipe names no file of passages; write the `wellread corpus` command"):
        ship("first", "first.toml")
    import model_card

    monkeypatch.delitem(model_card.DATA, "fm2")
    with pytest.raises(ValueError, match=r"fm2_train\.jsonl has no licence in dev/model_card\.py; add a row"):
        ship()
    assert not (tmp_path / "data" / "mini").exists()
    assert not list((tmp_path / "data").iterdir())  # nothing half-made stays behind


def test_weights_of_another_step_are_refused(ship, trained, tmp_path, monkeypatch):
    copied = tmp_path / "copied"
    shutil.copytree(trained / "second", copied)
    shutil.rmtree(copied / "last")
    shutil.copytree(trained / "first" / "last", copied / "last")
    with pytest.raises(ValueError, match=r"last does not hold the weights of the run's checkpoint at step 1; let"):
        ship(str(copied))


def test_a_run_that_went_on_from_a_packaged_model_tells_its_parts_too(ship, trained, tmp_path):
    place = ship()
    first = json.loads((place / "run.json").read_text())["stages"]
    again = trained / "again"
    shutil.copytree(place, again / "packaged")
    record = json.loads((trained / "second" / "recipe.json").read_text())
    shutil.copytree(trained / "second", again / "run")
    (again / "run" / "recipe.json").write_text(json.dumps(record).replace('"first/last"', '"again/packaged"'))
    import ship_mini

    stages = ship_mini.stages(again / "run", 1)
    assert [stage["run"] for stage in stages] == [*(stage["run"] for stage in first), "again/run"]


def test_the_mean_of_two_runs_says_so(ship, trained):
    place = ship(average_with=[Path("first/last")])
    told = json.loads((place / "run.json").read_text())
    assert [each["folder"] for each in told["averaged_with"]] == ["first/last"]
    assert set(told["averaged_with"][0]["sha256"]) == {"model.safetensors"}
    assert "--average first/last" in told["made"]["command"]
    assert "the mean of those of `second/last` and of `first/last`" in (place / "CARD.md").read_text()
    paths = (trained / "first" / "last", trained / "second" / "last", place)
    one, other, mean = (dict(load_model(path).system.named_parameters()) for path in paths)
    moved = [name for name in one if not one[name].equal(other[name])]
    assert moved
    for name in moved:
        middle = (one[name] + other[name]) / 2
        # int8 rounds every row to 127 steps of its largest weight.
        assert (mean[name] - middle).abs().max() <= middle.abs().max() / 127


def test_the_card_tells_the_passages_that_were_read_in_the_end(ship, trained):
    import model_card
    import ship_mini

    (*_, stage) = ship_mini.stages(Path("second"), 1)
    stage["recipe"]["data"]["stages"] = [{"from_step": 0, "top_k": 2}, {"from_step": 1, "top_k": 3}]
    assert model_card._stage_row(stage)["passages"] == 2  # one step was made, the second would have read three
    assert model_card._stage_row({**stage, "steps": 2})["passages"] == 3


def test_the_packaged_card_tells_the_record_and_the_figures_that_are_there(monkeypatch):
    monkeypatch.syspath_prepend(DEV)
    import model_card

    if not (model_card.MINI / "run.json").is_file():
        pytest.skip("this version comes without the default model")
    told = (model_card.MINI / "CARD.md").read_text(encoding="utf8")
    assert told == model_card.card(model_card.MINI, model_card.RESULTS), "run python dev/model_card.py"
