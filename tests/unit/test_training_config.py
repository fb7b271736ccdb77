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
