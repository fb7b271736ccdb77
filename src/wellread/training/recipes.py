"""Recipe files -> Recipe: overrides, paths, and every mistake reported at once."""

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
    TrainingConfig,
    TransferConfig,
)

__all__ = ["load_recipe", "parse_recipe"]

TABLES: dict[str, type] = {
    "init": InitConfig,
    "frame": FrameConfig,
    "training": TrainingConfig,
    "data": DataConfig,
    "dev": DevConfig,
    "transfer": TransferConfig,
}
KNOWN = ("out", "system", "tasks", *TABLES)
REQUIRED = ("system", "data", "tasks")
# Tables whose texts are not paths and may hold a "$" or "~" of their own.
LITERAL = ("system", "frame")
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a TOML file. overrides: texts such as "training.steps=10".

    Raises ConfigError with all unknown keys and bad values of file and overrides together.
    """
    mapping = read_toml(path)
    problems: list[str] = []
    for text in overrides:
        _override(mapping, text, problems)
    return parse_recipe(mapping, problems)


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
    problems.extend(f"[{key}] is missing; a recipe needs it." for key in REQUIRED if key not in mapping)
    values = {key: _fill(kind, mapping[key], key, problems) for key, kind in TABLES.items() if key in mapping}
    values["tasks"] = _tasks(mapping.get("tasks", {}), problems)
    values["system"] = _system(mapping.get("system", {}), problems)
    if "out" in mapping:
        values["out"] = Path(str(mapping["out"]))
    if problems:
        raise ConfigError([re.sub(r"\bfrom_\b", "from", text) for text in dict.fromkeys(problems)])
    return Recipe(**values)


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
