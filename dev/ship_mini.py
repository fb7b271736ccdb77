"""Put a trained model into the package as wellread-mini: int8 weights, recipe, record of the run, card.

command:  python dev/ship_mini.py RUN_FOLDER RECIPE [--average MODEL ...] [--set KEY=VALUE]
          (RUN_FOLDER/last was trained by RECIPE; WELLREAD_DATA is set; --average: the mean with these weights is taken,
          of several if it is repeated; --set: options of answering, chosen afterwards)

The old model stays in its place until the new one is whole.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import torch
from model_card import MINI, RESULTS, ROOT, card

from wellread import __version__
from wellread.config import parse_settings
from wellread.model import Model, average, load_model, save_model
from wellread.training.checkpoint import RunLog, read_checkpoint
from wellread.training.recipes import load_recipe
from wellread.training.run import RECORD, check_resumable

NAME = "wellread-mini"
PACKAGED = "run.json"
"""The record beside a packaged model."""
MOST_BYTES = 40 << 20


def ship(
    run: Path,
    recipe: Path,
    *,
    average_with: Sequence[Path] = (),
    options: Mapping[str, Any] | None = None,
    place: Path = MINI,
    results: Path = RESULTS,
    most: int = MOST_BYTES,
) -> Path:
    """Make the folder `place` from RUN/last. ValueError where the recipe is not the run's, or too much comes out."""
    state = read_checkpoint(run)
    if state is None:
        raise ValueError(f"{run} is no run that trained here; give the folder of one (it holds checkpoint.pt).")
    check_resumable(load_recipe(recipe), run)
    source = run / "last"
    model = load_model(source, options=options)
    _check_end(model, state, run)
    average(model, *average_with)
    place.parent.mkdir(parents=True, exist_ok=True)
    settings = "".join(f" --average {portable(folder)}" for folder in average_with)
    settings += "".join(f" --set {key}={value}" for key, value in (options or {}).items())
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".mini-") as name:
        made = Path(name) / "model"
        save_model(made, model, weights="int8")
        load_model(made)
        if (source / "confidence.json").is_file():
            shutil.copyfile(source / "confidence.json", made / "confidence.json")
        shutil.copyfile(recipe, made / "recipe.toml")
        record = {
            "name": NAME,
            "made": {
                "command": f"python dev/ship_mini.py {portable(run)} {portable(recipe)}{settings}",
                "date": datetime.now(UTC).date().isoformat(),
                "wellread": __version__,
            },
            "options": dict(options or {}),
            "checkpoint": {"folder": portable(source), "sha256": hashes(source)},
            "averaged_with": [{"folder": portable(folder), "sha256": hashes(folder)} for folder in average_with],
            "recipe": {"file": portable(recipe), "sha256": sha256(recipe)},
            "weights": "int8",
            "files": hashes(made),
            "stages": _all_stages(run, state["step"], average_with),
        }
        (made / PACKAGED).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
        (made / "CARD.md").write_text(card(made, results), encoding="utf8")
        size = sum(file.stat().st_size for file in made.iterdir())
        if size > most:
            raise ValueError(f"the model takes {size / 2**20:.1f} MiB; at most {most / 2**20:.0f} MiB are packaged.")
        shutil.rmtree(place, ignore_errors=True)
        os.replace(made, place)
    return place


def _check_end(model: Model, state: Mapping[str, Any], run: Path) -> None:
    """`last` is written where a run ends; one that was gone on with and killed has left it behind."""
    found = model.system.state_dict()
    if not all(torch.equal(found[name], weight) for name, weight in state["weights"].items()):
        raise ValueError(
            f"{run / 'last'} does not hold the weights of the run's checkpoint at step {state['step']}; "
            "let the run go on to its end, or stop it with ctrl-C, which writes them."
        )


def _all_stages(run: Path, step: int, others: Sequence[Path]) -> list[dict[str, Any]]:
    """The stages of the runs whose weights are averaged, each once, those of `run` last."""
    found: dict[str, dict[str, Any]] = {}
    for folder in others:
        if (folder / PACKAGED).is_file():
            told = json.loads((folder / PACKAGED).read_text(encoding="utf8"))["stages"]
        else:
            state = read_checkpoint(folder.parent)  # weights that no run here made say nothing of how they were trained
            told = [] if state is None else stages(folder.parent, state["step"])
        found |= {stage["run"]: stage for stage in told}
    own = {stage["run"]: stage for stage in stages(run, step)}
    return [*(stage for name, stage in found.items() if name not in own), *own.values()]


def stages(run: Path, step: int) -> list[dict[str, Any]]:
    """The records of a run, up to a step, and of those it started from, the first one first."""
    record = json.loads((run / RECORD).read_text(encoding="utf8"))
    rows = [json.loads(line) for line in (run / RunLog.NAME).read_text(encoding="utf8").splitlines()]
    rows = [row for row in rows if row["step"] <= step]
    evaluated = [row["dev"] for row in rows if "dev" in row]
    stage = {
        "run": portable(run),
        "steps": step,
        "hours": round(sum(row["seconds"] for row in rows) / 3600, 2),
        "dev": evaluated[-1] if evaluated else None,
        **clean(record),
    }
    source = Path(record["recipe"]["init"]["from"])
    if (source / PACKAGED).is_file():  # it went on from a packaged model, which knows its own
        return [*json.loads((source / PACKAGED).read_text(encoding="utf8"))["stages"], stage]
    state = read_checkpoint(source.parent)
    return [stage] if state is None else [*stages(source.parent, state["step"]), stage]


def clean(value: Any) -> Any:
    """The same value without places of this machine alone."""
    if isinstance(value, Mapping):
        return {key: clean(part) for key, part in value.items()}
    if isinstance(value, list):
        return [clean(part) for part in value]
    return portable(value) if isinstance(value, str) and value.startswith(("/", "~")) else value


def portable(path: str | Path) -> str:
    """A path as it means something elsewhere: below the data folder, below the repository, else its name alone."""
    full = Path(path).expanduser().resolve()
    data = os.environ.get("WELLREAD_DATA")
    roots = {Path(data).resolve(): "$WELLREAD_DATA/"} if data else {}
    for root, shown in (roots | {ROOT.resolve(): ""}).items():
        if full.is_relative_to(root):
            return f"{shown}{full.relative_to(root)}"
    return full.name


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that hold a folder's weights."""
    return {file.name: sha256(file) for file in sorted(folder.glob("model*"))}


def sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("recipe", type=Path, help="the recipe it was trained by")
    parser.add_argument("--average", type=Path, action="append", default=[], help="folder of weights to average with")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="an option of the system")
    chosen = parser.parse_args()
    try:
        place = ship(chosen.run, chosen.recipe, average_with=chosen.average, options=parse_settings(chosen.settings))
    except ValueError as error:
        raise SystemExit(f"ship_mini: {error}") from error
    for file in sorted(place.iterdir()):
        click.echo(f"{file.stat().st_size:>12,}  {file.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
