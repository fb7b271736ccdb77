"""Write the card of a packaged model from what its training recorded: CARD.md beside its weights.

command:  python dev/model_card.py            (again after results/mini has new figures)

Everything told comes from run.json (written by dev/ship_mini.py), the recipe and the results; the licences are in the
table below, and data without a row in it is an error.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellread.evaluation.report import to_markdown

ROOT = Path(__file__).parents[1]
MINI = ROOT / "src" / "wellread" / "data" / "mini"
RESULTS = ROOT / "results" / "mini"


@dataclass(frozen=True)
class Data:
    """A set of files whose names begin alike."""

    title: str
    licence: str
    source: str


_OTT_QA = "wenhuchen/OTT-QA"
_ANSERINI = "castorini/anserini-tools"
DATA = {
    "squad": Data(
        "SQuAD v1.1 (development articles) and SQuADShifts New Wikipedia",
        "CC BY-SA 4.0; CC BY 4.0",
        "rajpurkar/SQuAD-explorer, modestyachts/squadshifts-website",
    ),
    "nq_gold": Data(
        "Natural Questions with gold paragraphs (QED)",
        "CC BY-SA 3.0",
        "google-research-datasets/natural-questions, QED",
    ),
    "nq_open": Data("NQ-open", "CC BY-SA 3.0", f"google-research-datasets/natural-questions, {_ANSERINI}"),
    "triviaqa": Data("TriviaQA", "Apache-2.0 (release); question texts belong to their authors", _ANSERINI),
    "webquestions": Data("WebQuestions", "CC BY 4.0", "brmson/dataset-factoid-webquestions"),
    "slots": Data("Slot filling from Wikipedia tables, derived from OTT-QA", "MIT; CC BY-SA 3.0 (text)", _OTT_QA),
    "fm2": Data("Fool Me Twice", "Apache-2.0; CC BY-SA 3.0 (text)", "google-research/fool-me-twice"),
    "fever_symmetric": Data("FEVER Symmetric v0.2", "MIT; CC BY-SA 3.0 (text)", "TalSchuster/FeverSymmetric"),
    "statements_squad": Data("Statements made of SQuAD's questions", "CC BY-SA 4.0; CC BY 4.0", "as SQuAD"),
    "statements_slots": Data("Statements made of the slots", "MIT; CC BY-SA 3.0 (text)", _OTT_QA),
    "wiki2018": Data("English Wikipedia, dump of late 2018", "CC BY-SA 3.0 / GFDL", "JohanMadsen/02807_Project"),
    "wiki2014": Data("English Wikipedia, dump of spring 2014", "CC BY-SA 3.0 / GFDL", "ZhouYii/PatchedDistro"),
    "entities": Data("First paragraphs of Wikipedia pages", "MIT (collection); CC BY-SA 3.0 (text)", _OTT_QA),
    "almanac": Data("The almanac that comes with wellread", "Apache-2.0", "wellread"),
}
# Files of passages, as a recipe names them in the commands of its header.
PASSAGES = ("wiki2018", "wiki2014", "entities", "squad_passages", "nq_gold_passages")
ENCODER = "[all-MiniLM-L6-v2](https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2) (Apache-2.0)"

USE = """\
```sh
wellread memorize corpus --codec int8 --out memory        # wellread-mini is the default model
wellread ask "Which river flows through Prague?" --memory memory
```

```python
import wellread

pipeline = wellread.load("wellread-mini", memory="memory")
pipeline.ask(["Which river flows through Prague?"])[0].text
```"""
LIMITS = """\
- English only, and lower case only: the vocabulary of its encoder has no capitals, so answers have none.
- Short answers (names, dates, numbers, labels), most of them copied word for word from one passage. It does not
  count, compare, combine passages or say that a question makes no sense.
- It does not answer yes or no: such a question gets a label or a noun. It reads prose far better than tables and lists.
- A question that its passages do not answer often gets a number or a name from them, at times with high confidence.
- It was shown claims to check, and did not learn to: its labels are as good as chance. Do not use it for that.
- It knows what its passages say. A wrong or missing passage gives a wrong answer that reads like a right one; look at
  the passage cited, and withhold doubtful answers with --min-confidence.
- Text outside of encyclopedias (reviews, law, medicine, chat) was not trained on and is read worse.
- The weights are those of a small model trained for hours, not days. Larger T5 readers answer much better.
- Read as another system than it was trained as, above all as FiD or MemoryFiD, it does something it never learned.
- It repeats the errors and the one-sidedness of the Wikipedia articles it was trained on."""


def card(folder: Path, results: Path) -> str:
    """The card of the model in a folder. ValueError where data was used whose licence is not known here."""
    run = json.loads((folder / "run.json").read_text(encoding="utf8"))
    recipe = (folder / "recipe.toml").read_text(encoding="utf8")
    last = run["stages"][-1]
    weights, system = last["weights"], last["system"] | run["options"]
    size = sum(file.stat().st_size for file in folder.glob("model*")) / 2**20
    options = ", ".join(f"{key} = {value}" for key, value in system.items() if key != "name" and value is not None)
    parts = [
        f"# {run['name']}",
        f"A small reader that comes with wellread: {system['name'].upper()} over {ENCODER} with a decoder of a few "
        f"layers and a copy head, {weights['all'] / 1e6:.1f} M weights, {size:.1f} MiB as {run['weights']}. It answers "
        "questions and fills slots from passages that its memory encoder has read in advance.",
        f"Options: {options}.",
        "## Use",
        USE,
        "## Data and licences",
        to_markdown(_data_rows(run["stages"], recipe)).rstrip(),
        "The weights are under Apache-2.0, like the rest of wellread, and hold none of these texts. Thanks to the "
        "authors of the data sets and of Wikipedia; mind the terms above when you pass the data itself on.",
        "## Training",
        to_markdown([_stage_row(stage) for stage in run["stages"]]).rstrip(),
        _origin(run),
        "## Figures",
        _figures(results),
        *_confidence(folder),
        "## Limits",
        LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def _data_rows(stages: Iterable[Mapping[str, Any]], recipe: str) -> list[dict[str, str]]:
    uses: dict[str, list[str]] = {}
    for stage in stages:
        for name, task in stage["recipe"]["tasks"].items():
            count = stage["tasks"][name]["questions"]
            uses.setdefault(_data_of(task["questions"]), []).append(f"{count:,} questions ({stage['run']})")
    passages = [name for name in PASSAGES if re.search(rf"\b{name}\b", recipe)]
    if not passages:
        raise ValueError(
            "the recipe names no file of passages; write the `wellread corpus` command of its corpus into its header."
        )
    for name in passages:
        uses.setdefault(_data_of(name), []).append("passages")
    return [
        {"data": DATA[key].title, "used for": ", ".join(used), "licence": DATA[key].licence, "from": DATA[key].source}
        for key, used in uses.items()
    ]


def _data_of(file: str) -> str:
    name = Path(file).name
    known = sorted((key for key in DATA if name.startswith(key)), key=len)
    if not known:
        raise ValueError(f"{name} has no licence in dev/model_card.py; add a row to its table DATA.")
    return known[-1]


def _stage_row(stage: Mapping[str, Any]) -> dict[str, Any]:
    training, hardware = stage["recipe"]["training"], stage["hardware"]
    reached = [part for part in stage["recipe"]["data"]["stages"] if part["from_step"] < stage["steps"]]
    return {
        "run": stage["run"],
        "from": stage["recipe"]["init"]["from"],
        "system": stage["system"]["name"],
        "steps": f"{stage['steps']:,} of {training['steps']:,}",
        "questions a step": training["batch_size"],
        "learning rate": f"{training['learning_rate']:g}",
        "passages": reached[-1]["top_k"],
        "trained": f"{stage['weights']['trained'] / 1e6:.1f} M",
        "seed": stage["seed"],
        "hours": stage["hours"],
        "hardware": f"{hardware['device']} {hardware['name']}, {hardware['cores']} cores",
        "started": stage["started"][:10],
    }


def _weights_of(run: Mapping[str, Any]) -> str:
    folders = [run["checkpoint"]["folder"], *(other["folder"] for other in run["averaged_with"])]
    told = " and of ".join(f"`{folder}`" for folder in folders)
    return f"those of {told}" if len(folders) == 1 else f"the mean of those of {told}"


def _origin(run: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in run["stages"][-1]["packages"].items())
    lines = [
        f"Packages: {packages}.",
        f"The last stage ran `{run['recipe']['file']}` (here: recipe.toml), and the weights are {_weights_of(run)} in "
        f"{run['weights']}, put here by `{run['made']['command']}` on "
        f"{run['made']['date']}. run.json has all settings. SHA-256:",
        "```",
        *(f"{value}  {name}" for name, value in run["checkpoint"]["sha256"].items()),
        *(f"{value}  {name}" for name, value in run["files"].items()),
        "```",
    ]
    return "\n".join([lines[0], "", lines[1], "", *lines[2:]])


def _figures(results: Path) -> str:
    found = [(file.stem, json.loads(file.read_text(encoding="utf8"))) for file in sorted(results.glob("*.json"))]
    rows = [_figure_row(name, value) for name, value in found if isinstance(value, dict) and "n" in value]
    if not rows:
        return "None measured yet."
    note = (
        "EM, F1 and accuracy in per cent with 95 % bootstrap intervals of the first of them; milliseconds are medians "
        f"of single questions. Each row is a file of results/{results.name}, which says how it was measured."
    )
    return f"{to_markdown(rows).rstrip()}\n\n{note}"


def _figure_row(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"measured": name, "system": found.get("system", ""), "n": found["n"]}
    row |= {key: round(found[key], 1) for key in ("em", "f1", "accuracy", "recall@20") if key in found}
    first = next((key for key in ("em", "accuracy") if key in found.get("intervals", {})), None)
    if first is not None:
        row["95 %"] = "{:.1f} to {:.1f}".format(*found["intervals"][first])
    if "milliseconds_per_question" in found:
        row["ms"] = round(found["milliseconds_per_question"])
    if "flops_per_question" in found:
        row["GFLOPs"] = round(found["flops_per_question"] / 1e9, 1)
    return row


def _confidence(folder: Path) -> list[str]:
    file = folder / "confidence.json"
    if not file.is_file():
        return []
    fitted = json.loads(file.read_text(encoding="utf8")).get("fitted", {})
    told = ", ".join(f"{key} = {value}" for key, value in fitted.items() if key != "options")
    return [f"The confidence of its answers was fitted with: {told}."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=MINI, help="folder of the packaged model")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of result files")
    chosen = parser.parse_args()
    (chosen.folder / "CARD.md").write_text(card(chosen.folder, chosen.results), encoding="utf8")


if __name__ == "__main__":
    main()
