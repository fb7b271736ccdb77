"""Recipes: what they may say, and that all mistakes are told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from wellread.config import ConfigError
from wellread.training.config import DataConfig, StageConfig, TrainingConfig
from wellread.training.recipes import load_recipe, parse_recipe

GOOD = """
out = "runs/a"
[system]
name = "glimmer"
keep = 2
[data]
corpus = "corpus"
index = "index"
[[data.stages]]
top_k = 4
[tasks.one]
questions = "one.jsonl"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def problems_of(mapping: dict) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_recipe(mapping)
    return caught.value.problems


def good() -> dict:
    return {
        "system": {"name": "fid"},
        "data": {"corpus": "corpus", "index": "index"},
        "tasks": {"one": {"questions": "one.jsonl"}},
    }


def test_a_recipe_becomes_dataclasses_with_defaults(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD))
    assert (recipe.system_name, recipe.system_options) == ("glimmer", {"keep": 2})
    assert recipe.data.stages == (StageConfig(top_k=4),)
    assert recipe.data.corpus == Path("corpus")
    assert recipe.training == TrainingConfig()
    assert recipe.init.from_ == "default"
    assert recipe.out == Path("runs/a")


def test_all_mistakes_are_told_together():
    problems = problems_of(
        {
            "trainig": {},
            "training": {"stepz": 1, "steps": 0, "warmup": -1, "precision": "fp16", "optimizer": "sgd"},
            "init": {"form": "x", "decoder_layers": 0},
            "system": {"name": "glimmer", "kep": 2, "rerank_share": 2.0},
            "data": {"corpus": "corpus", "stages": [{"top_k": 0, "gold_shar": 1}]},
            "tasks": {"one": {"questions": "a", "weight": 0}, "two": {"target": "last"}},
            "transfer": {"parts": ["memory"]},
        }
    )
    told = "\n".join(problems)
    for expected in (
        "trainig is unknown; did you mean 'training'?",
        "training.stepz is unknown; did you mean 'steps'?",
        "training.steps=0; it must be at least 1.",
        "training.warmup=-1; it must be at least 0.",
        "training.precision='fp16' is not allowed; use one of: fp32, bf16.",
        "training.optimizer='sgd' is not allowed; use one of: adamw, adafactor.",
        "init.form is unknown; did you mean 'from'?",
        "init.decoder_layers=0; it must be at least 1.",
        "system.kep is unknown; did you mean 'keep'?",
        "system: rerank_share=2.0; it must be above 0, at most 1.",
        "data.stages[0].gold_shar is unknown; did you mean 'gold_share'?",
        "data.index and data.candidates: give one of them",
        "tasks.one.weight=0.0; it must be above 0",
        "tasks.two.questions is missing",
        "tasks.two.target='last' is not allowed; use one of: first, sample.",
        "transfer.from is missing",
    ):
        assert expected in told
    assert len(problems) == len(set(problems))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"system": {"name": "reader"}}, "system='reader' is unknown; use one of: fid"),
        ({"system": {"keep": 1}}, "system.name is missing; use one of: fid"),
        ({"tasks": {"questions": "x"}}, r"write \[tasks.NAME\] and its keys"),
        ({"init": {"kind": "t5"}}, "init.kind='t5' needs a folder; give it as init.from = \"FOLDER\""),
        ({"training": {"steps": 9, "schedule_steps": 8}}, "training.schedule_steps=8 but steps=9; the schedule must"),
        ({"training": {"warmup": 3}}, "training.warmup=3 with schedule='constant'; use schedule = \"warmup_const"),
        ({"training": {"accumulate": 9}}, "training.accumulate=9 but batch_size=8"),
        ({"data": {"corpus": "c", "index": "i", "candidates": "c"}}, "give one of them"),
        (
            {"data": {"corpus": "c", "index": "i", "stages": [{"from_step": 5}]}},
            r"data.stages start at steps \[5\]; the first must start at 0",
        ),
        ({"data": {"corpus": "$WELLREAD_NOWHERE/c", "index": "i"}}, r"uses \$WELLREAD_NOWHERE, which is not set"),
    ],
)
def test_messages(change, message):
    with pytest.raises(ConfigError, match=message):
        parse_recipe({**good(), **change})


def test_a_recipe_needs_its_tables():
    assert problems_of({})[:3] == [f"[{key}] is missing; a recipe needs it." for key in ("system", "data", "tasks")]


def test_overrides_change_and_add_values(tmp_path):
    recipe = load_recipe(
        write(tmp_path, GOOD),
        ["training.steps=7", "data.stages.0.top_k=9", "tasks.one.target=sample", "system.keep=3", "out=b/c"],
    )
    assert recipe.training.steps == 7
    assert recipe.data.stages[0].top_k == 9
    assert recipe.tasks["one"].target == "sample"
    assert recipe.system_options == {"keep": 3}
    assert recipe.out == Path("b/c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.steps", "is not KEY=VALUE; write for example training.steps=10"),
        ("out.x.y=1", "names no place in the recipe"),
        ("training.stepz=1", "training.stepz is unknown"),
    ],
)
def test_bad_overrides(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(tmp_path, GOOD), [text])


def test_paths_are_expanded_but_templates_are_not(monkeypatch):
    monkeypatch.setenv("WELLREAD_PLACE", "/somewhere")
    monkeypatch.setenv("HOME", "/home/me")
    mapping = {
        **good(),
        "data": {"corpus": "$WELLREAD_PLACE/corpus", "index": "~/index"},
        "frame": {"passage": "~ $WELLREAD_PLACE {text}"},
    }
    recipe = parse_recipe(mapping)
    assert recipe.data.corpus == Path("/somewhere/corpus")
    assert recipe.data.index == Path("/home/me/index")
    assert recipe.frame.passage == "~ $WELLREAD_PLACE {text}"


def test_a_resolved_recipe_reads_back_as_itself(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD), ["transfer.from=other", 'transfer.parts=["memory"]'])
    resolved = recipe.resolved()
    assert resolved["init"]["from"] == "default"
    assert resolved["transfer"] == {"from": "other", "parts": ["memory"]}
    again = parse_recipe({key: value for key, value in resolved.items() if value is not None})
    assert again == recipe


def test_the_stage_of_a_step():
    data = DataConfig(Path("c"), Path("i"), stages=(StageConfig(0, 2), StageConfig(10, 5)))
    assert [data.stage(step).top_k for step in (0, 9, 10, 99)] == [2, 2, 5, 5]
    assert data.top_k == 5


def test_the_example_recipe_is_valid():
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "example.toml")
    assert recipe.dev is not None
    assert recipe.training.steps > recipe.data.stages[-1].from_step


# -- recipes that extend others ---------------------------------------------------------------------------------


def files(folder: Path, **texts: str) -> Path:
    """Files NAME.toml with these texts; the path of the first."""
    for name, text in texts.items():
        (folder / f"{name}.toml").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.toml").write_text(text)
    return folder / f"{next(iter(texts))}.toml"


def test_a_recipe_is_laid_over_those_it_extends(tmp_path):
    over = """
extends = ["parts/base.toml", "parts/more.toml"]
[system]
keep = 3
[[data.stages]]
top_k = 9
[tasks.two]
questions = "two.jsonl"
"""
    more = 'extends = "deep/deepest.toml"\n[training]\nsteps = 5\n[system]\nkeep = 7'
    deepest = '[training]\nsteps = 4\nbatch_size = 4\nseed = 4\n[data]\nindex = "other"'
    texts = {"parts/base": GOOD + "[training]\nseed = 1", "parts/more": more, "parts/deep/deepest": deepest}
    recipe = load_recipe(files(tmp_path, over=over, **texts))
    assert recipe.system_options == {"keep": 3}
    assert (recipe.training.steps, recipe.training.batch_size, recipe.training.seed) == (5, 4, 4)
    assert recipe.data == DataConfig(Path("corpus"), Path("other"), stages=(StageConfig(top_k=9),))
    assert set(recipe.tasks) == {"one", "two"}
    assert recipe.out is None  # base.toml's run is another one


def test_without_changes_a_recipe_is_the_one_it_extends(tmp_path):
    base = files(tmp_path, base=GOOD)
    above = files(tmp_path, above='extends = "base.toml"\nout = "runs/b"')
    assert load_recipe(above, ["out=runs/a", "system.keep=9"]) == load_recipe(base, ["system.keep=9"])


def test_one_file_may_be_extended_twice(tmp_path):
    """Files are laid over each other whole: what `b` takes from `base` lies over what `a` changed."""
    texts = {
        "top": 'extends = ["a.toml", "b.toml"]',
        "a": 'extends = "base.toml"\n[system]\nkeep = 5\n[training]\nsteps = 5',
        "b": 'extends = "base.toml"',
        "base": GOOD,
    }
    recipe = load_recipe(files(tmp_path, **texts))
    assert (recipe.system_options["keep"], recipe.training.steps) == (2, 5)


def test_mistakes_name_the_file_they_stand_in(tmp_path):
    texts = {
        "top": 'extends = "base.toml"\n[system]\nkeep = 0\n[training]\nstepz = 1\n[frame]\nquestion = "?"\n[tsks]\na=1',
        "base": GOOD.replace("top_k = 4", "top_k = 0") + "[training]\nsteps = 0\nseed = -1",
    }
    top = files(tmp_path, **texts)
    with pytest.raises(ConfigError) as caught:
        load_recipe(top, ["training.seed=-2", "training.log_every=0"])
    problems = [problem.removeprefix(f"{tmp_path}/") for problem in caught.value.problems]
    assert "top.toml: system: keep=0; it must be at least 1." in problems
    assert any(problem.startswith("top.toml: training.stepz is unknown; did you mean 'steps'?") for problem in problems)
    assert any(problem.startswith("top.toml: frame: frame question='?' lacks {question}") for problem in problems)
    assert any(problem.startswith("top.toml: tsks is unknown") for problem in problems)
    assert "base.toml: training.steps=0; it must be at least 1." in problems
    assert "base.toml: data.stages.top_k=0; it must be at least 1." in problems
    # No file holds what --set brought.
    assert {"training.seed=-2; it must be at least 0.", "training.log_every=0; it must be at least 1."} <= set(problems)


def test_one_file_alone_is_not_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, GOOD + "[training]\nsteps = 0"))
    assert caught.value.problems == ["training.steps=0; it must be at least 1."]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            {"top": 'extends = "none.toml"'},
            r"top.toml: extends='none.toml', but .*none.toml does not exist; paths start",
        ),
        (
            {"top": 'extends = "top.toml"'},
            r"top.toml: extends='top.toml' leads in a circle \(.*top.toml -> .*top.toml\)",
        ),
        (
            {"top": 'extends = "a.toml"', "a": 'extends = ["b.toml"]', "b": 'extends = "./a.toml"'},
            r"b.toml: extends='./a.toml' leads in a circle \(.*top.toml -> .*a.toml -> .*b.toml -> .*a.toml\); leave",
        ),
        ({"top": "extends = 3"}, r"top.toml: extends=3 must be the path of a recipe, or a list of such paths"),
        ({"top": "extends = [{}]"}, r"top.toml: extends=\[\{\}\] must be the path of a recipe"),
        ({"top": 'extends = "a.toml"', "a": "x = = 1"}, r"a.toml is not valid TOML"),
        ({"top": "[training]\nextends = 'a.toml'"}, r"training.extends is unknown"),
    ],
)
def test_what_cannot_be_extended(tmp_path, texts, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(files(tmp_path, **texts))
