"""Recipe files -> Recipe: overrides, paths, and every mistake reported at once.

A recipe may begin with `extends = "base.toml"`, or a list of such paths, relative to its own folder: it is then
laid over them, the later over the earlier. Tables are merged key by key, everything else, lists too, is replaced.
`out` is not taken over, for it names the run of the other recipe.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from wellread.config import ConfigError, from_mapping, read_toml
from wellread.reading.frame import FrameConfig
from wellread.systems import SYSTEMS
from wellread.training.config import (
    DataConfig,
    DevConfig,
    InitConfig,
    Recipe,
    TaskConfig,
    TextsConfig,
    TrainingConfig,
    TransferConfig,
)

__all__ = ["load_recipe", "parse_recipe"]

TABLES: dict[str, type] = {
    "init": InitConfig,
    "frame": FrameConfig,
    "training": TrainingConfig,
    "data": DataConfig,
    "texts": TextsConfig,
    "dev": DevConfig,
    "transfer": TransferConfig,
}
KNOWN = ("out", "system", "tasks", *TABLES)
REQUIRED, QUESTIONS = ("system",), ("data", "tasks")
# Tables whose texts are not paths and may hold a "$" or "~" of their own.
LITERAL = ("system", "frame")
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a TOML file and the files it extends. overrides: texts such as "training.steps=10".

    Raises ConfigError with all unknown keys and bad values of files and overrides together; where there are
    several files, each message begins with the one it is about.
    """
    mapping, files = _layers(Path(path))
    problems: list[str] = []
    for text in overrides:
        _override(mapping, text, problems)
    try:
        return parse_recipe(mapping, problems)
    except ConfigError as error:
        if len(set(files.values())) == 1:
            raise
        changed = [text.partition("=")[0].strip() for text in overrides]
        files = {place: file for place, file in files.items() if not any(_meet(place, key) for key in changed)}
        raise ConfigError([_located(problem, files) for problem in error.problems]) from None


def parse_recipe(mapping: Mapping[str, Any], problems: list[str] | None = None) -> Recipe:
    """The recipe in a mapping as TOML gives it. problems: mistakes found before, to be reported too."""
    problems = [] if problems is None else problems
    mapping = {
        key: value if key in LITERAL else _renamed(_expanded(value, key, problems)) for key, value in mapping.items()
    }
    for key in mapping:
        if key not in KNOWN:
            close = get_close_matches(key, KNOWN, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known tables: {', '.join(KNOWN)}."
            problems.append(f"{key} is unknown; {hint}")
    if "texts" in mapping:
        both = [key for key in (*QUESTIONS, "dev") if key in mapping]
        problems.extend(f"[{key}] is given beside [texts]; a run reads questions or texts." for key in both)
    required = REQUIRED if "texts" in mapping else (*REQUIRED, *QUESTIONS)
    problems.extend(f"[{key}] is missing; a recipe needs it." for key in required if key not in mapping)
    values = {key: _fill(kind, mapping[key], key, problems) for key, kind in TABLES.items() if key in mapping}
    values["tasks"] = _tasks(mapping.get("tasks", {}), problems)
    values["system"] = _system(mapping.get("system", {}), problems)
    if "out" in mapping:
        values["out"] = Path(str(mapping["out"]))
    if problems:
        raise ConfigError([re.sub(r"\bfrom_\b", "from", text) for text in dict.fromkeys(problems)])
    return Recipe(**values)


# -- files that extend others ---------------------------------------------------------------------------------


def _layers(path: Path, above: tuple[Path, ...] = ()) -> tuple[dict[str, Any], dict[str, Path]]:
    """A file laid over those it extends: the mapping, and the file that each value stands in, by dotted place.

    above: the files that led here.
    """
    own = read_toml(path)
    mapping: dict[str, Any] = {}
    files: dict[str, Path] = {}
    for file in _extended(path, own.pop("extends", []), above):
        lower, places = _layers(file, (*above, path))
        lower.pop("out", None)
        _lay(lower, mapping)
        files |= places
    _lay(own, mapping)
    return mapping, files | dict.fromkeys(_places(own), path)


def _extended(path: Path, named: Any, above: tuple[Path, ...]) -> list[Path]:
    """The files named by `extends` in the file `path`."""
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: extends={named!r} must be the path of a recipe, or a list of such paths.")
    trail = (*above, path)
    for name in names:
        file = path.parent / name
        if not file.is_file():
            raise ValueError(f"{path}: extends={name!r}, but {file} does not exist; paths start from its folder.")
        if file.resolve() in [one.resolve() for one in trail]:
            circle = " -> ".join(str(one) for one in (*trail, file))
            raise ValueError(f"{path}: extends={name!r} leads in a circle ({circle}); leave it out of one of them.")
    return [path.parent / name for name in names]


def _lay(upper: Mapping[str, Any], lower: dict[str, Any]) -> None:
    """Lay one mapping over another, in place."""
    for key, value in upper.items():
        if isinstance(value, Mapping):
            below = lower.get(key)
            lower[key] = dict(below) if isinstance(below, Mapping) else {}
            _lay(value, lower[key])
        else:
            lower[key] = value


def _places(mapping: Mapping[str, Any], where: str = "") -> list[str]:
    """The dotted places of all values that are no tables."""
    found = []
    for key, value in mapping.items():
        found += _places(value, f"{where}{key}.") if isinstance(value, Mapping) else [f"{where}{key}"]
    return found


def _located(problem: str, files: Mapping[str, Path]) -> str:
    """The message with the file it is about before it, where that is known."""
    place = re.sub(r"^(\w+): (\w+)=.*", r"\1.\2", problem)  # "system: keep=0; ..." is about system.keep
    place = re.match(r"[\w.-]*", place).group().strip(".")
    about = {file for known, file in files.items() if _meet(place, known)}
    return f"{about.pop()}: {problem}" if len(about) == 1 else problem


def _meet(one: str, other: str) -> bool:
    """Whether two places are the same, or one lies in the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


# -- tables ------------------------------------------------------------------------------------------------------


def _fill(kind: type, table: Any, where: str, problems: list[str]) -> Any:
    """One table. Once its wrong keys are named, the others still get their checks."""
    try:
        return from_mapping(kind, table, where=where)
    except ConfigError as error:
        found = error.problems
    problems.extend(found)
    if isinstance(table, Mapping):
        sound = {key: value for key, value in table.items() if not any(_names(text, where, key) for text in found)}
        if len(sound) < len(table):
            _fill(kind, sound, where, problems)
    return None


def _names(problem: str, where: str, key: str) -> bool:
    """Whether a message is about where.key (or about something inside it)."""
    return re.match(rf"{re.escape(where)}(\.\*)?\.{re.escape(key)}\b", problem) is not None


def _tasks(table: Any, problems: list[str]) -> dict[str, TaskConfig]:
    tasks = {}
    if not isinstance(table, Mapping) or not all(isinstance(part, Mapping) for part in table.values()):
        problems.append("tasks must be tables with names; write [tasks.NAME] and its keys.")
        return {}
    for name, part in table.items():
        found: list[str] = []
        tasks[name] = _fill(TaskConfig, part, f"tasks.{name}", found)
        problems.extend(text.replace("tasks.*", f"tasks.{name}") for text in found)
    return tasks


def _system(table: Any, problems: list[str]) -> dict[str, Any]:
    if not isinstance(table, Mapping) or "name" not in table:
        problems.append(f"system.name is missing; use one of: {', '.join(SYSTEMS)}.")
        return {}
    try:
        kind = SYSTEMS[table["name"]].Config
    except ValueError as error:
        problems.append(f"system.name: {error}")
        return {}
    _fill(kind, {key: value for key, value in table.items() if key != "name"}, "system", problems)
    return dict(table)


def _override(mapping: dict[str, Any], text: str, problems: list[str]) -> None:
    key, equals, raw = text.partition("=")
    places = key.strip().split(".")
    if not equals or not all(places):
        problems.append(f"--set {text!r} is not KEY=VALUE; write for example training.steps=10.")
        return
    table: Any = mapping
    for place in places[:-1]:
        table = table[_index(place)] if _has(table, place) else _made(table, place)
        if table is None:
            break
    if isinstance(table, dict) or (isinstance(table, list) and _has(table, places[-1])):
        table[_index(places[-1]) if isinstance(table, list) else places[-1]] = _toml(raw.strip())
    else:
        problems.append(f"--set {text!r} names no place in the recipe; {key.strip()} is not inside a table.")


def _index(place: str) -> int | str:
    return int(place) if place.isdigit() else place


def _has(table: Any, place: str) -> bool:
    if isinstance(table, list):
        return place.isdigit() and int(place) < len(table)
    return isinstance(table, dict) and place in table


def _made(table: Any, place: str) -> Any:
    return table.setdefault(place, {}) if isinstance(table, dict) else None


def _toml(raw: str) -> Any:
    """A value as TOML writes it; anything else is a text, so that quotes are not needed in a shell."""
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _expanded(value: Any, place: str, problems: list[str]) -> Any:
    """The same value with ~ and $VARIABLES expanded in every text."""
    if isinstance(value, Mapping):
        return {key: _expanded(part, f"{place}.{key}", problems) for key, part in value.items()}
    if isinstance(value, list):
        return [_expanded(part, f"{place}[{index}]", problems) for index, part in enumerate(value)]
    if not isinstance(value, str):
        return value
    unset = [name for pair in VARIABLE.findall(value) for name in pair if name and name not in os.environ]
    if unset:
        problems.append(f"{place}={value!r} uses ${unset[0]}, which is not set; export it or write the path out.")
    return os.path.expanduser(os.path.expandvars(value))


def _renamed(value: Any) -> Any:
    """ "from" is a word of Python; the dataclasses call that key from_."""
    if not isinstance(value, Mapping):
        return value
    return {"from_" if key == "from" else key: _renamed(part) for key, part in value.items()}
