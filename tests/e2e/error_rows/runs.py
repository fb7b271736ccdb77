"""Mistakes in recipes, in training and with claims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from error_rows.kit import Place, Row


def in_recipe(old: str, new: str) -> Callable[[Place], Any]:
    def change(place: Place) -> None:
        text = (place.folder / "recipe.toml").read_text(encoding="utf8")
        assert old in text
        place.write("recipe.toml", text.replace(old, new))

    return change


def many_mistakes(place: Place) -> None:
    text = (place.folder / "recipe.toml").read_text(encoding="utf8")
    text = text.replace("steps = 1", 'steps = "many"\nlerning_rate = 0.1').replace("keep = 2", "keep = 0")
    place.write("recipe.toml", text.replace("top_k = 3", "top_k = 3\ngold_share = 2.0"))


def begun_run(place: Place) -> None:
    from wellread.training.recipes import load_recipe
    from wellread.training.run import run_recipe

    run_recipe(load_recipe("recipe.toml"), "run", progress=False)


def unset(place: Place) -> None:
    place.patch.delenv("PLANETS", raising=False)
    in_recipe('corpus = "corpus"', 'corpus = "$PLANETS/corpus"')(place)


TOPICS: dict[str, list[Row]] = {
    "Training": [
        Row(
            "recipe-missing",
            "a recipe that does not exist",
            "train nowhere.toml --out run",
            r"recipe nowhere\.toml does not exist; give the path of a \.toml file\.",
        ),
        Row(
            "recipe-not-toml",
            "a recipe that is not TOML",
            "train recipe.toml --out run",
            r"recipe\.toml is not valid TOML: .*line 2.*\.",
            lambda place: place.write("recipe.toml", "[training]\nsteps =\n"),
        ),
        Row(
            "recipe-many",
            "many mistakes in one recipe, all told",
            "train recipe.toml --out run",
            r"training\.steps='many' is str; it must be int\.; training\.lerning_rate is unknown; did you mean "
            r"'learning_rate'\?; data\.stages\.gold_share=2\.0; it must be between 0 and 1\.; "
            r"system: keep=0; it must be at least 1\.",
            many_mistakes,
        ),
        Row(
            "recipe-variable",
            "a path with a variable that is not set",
            "train recipe.toml --out run",
            r"data\.corpus='\$PLANETS/corpus' uses \$PLANETS, which is not set; export it or write the path out\.",
            unset,
        ),
        Row(
            "recipe-setting",
            "a setting without its value",
            "train recipe.toml --set training.steps --out run",
            r"--set 'training\.steps' is not KEY=VALUE; write for example training\.steps=10\.",
        ),
        Row(
            "recipe-corpus",
            "a recipe with a corpus that does not exist",
            "train recipe.toml --out run",
            r"corpus nowhere has no corpus\.json; build one with wellread corpus SOURCE --out nowhere\.",
            in_recipe('corpus = "corpus"', 'corpus = "nowhere"'),
        ),
        Row(
            "recipe-no-out",
            "no folder for the run",
            "train recipe.toml",
            r'no folder for the run; give --out DIR, or out = "DIR" in the recipe\.',
        ),
        Row(
            "recipe-changed",
            "going on with a run by another recipe",
            "train recipe.toml --set training.learning_rate=0.5 --out run",
            r"the run in run was started with another recipe: training\.learning_rate was 0\.0001 and is 0\.5\. "
            r"Give the same values, another --out, or --restart to begin anew\.",
            begun_run,
        ),
        Row(
            "extends-missing",
            "a recipe that extends one that does not exist",
            "train top.toml --out new",
            r"top\.toml: extends='none\.toml', but none\.toml does not exist; paths start from its folder\.",
            lambda place: place.write("top.toml", 'extends = "none.toml"\n'),
        ),
    ],
    "Claims": [
        Row(
            "claim-unknown",
            "a claim that does not exist",
            "reproduce lumen-livshare",
            r"claim 'lumen-livshare' is unknown; `wellread reproduce` lists them\. Did you mean 'lumen-live-share'\?",
        ),
        Row(
            "claim-place",
            "a figure the paper does not have",
            "reproduce glimmer fig8",
            r"no claim of glimmer stands at fig8; use one of: fig2, fig3, fig4, fig5, fig6, fig7, tab1, tab2, tab3\.",
        ),
        Row(
            "claim-start",
            "a claim where nothing was made that it needs",
            "reproduce lumen-attention",
            r"lumen-attention: runs/squad/start/last is needed for lumen-attention and does not exist\. README\.md, "
            r"\"Real questions\", has the commands that make corpus, index and reader \(recipes/squad/start\.toml\), "
            r"the first lines of recipe\.toml and retro\.toml in wellread/data/claims have those for what other claims "
            r"need; --base takes another reader, such as wellread-mini\. Or name other claims\.",
        ),
        Row(
            "claim-base",
            "a start reader that does not exist",
            "reproduce lumen-attention --base nowhere --dry-run",
            r"model nowhere does not exist; give the folder of a model \(wellread init, wellread train\), or a name: "
            r"wellread-mini\.",
        ),
    ],
}
