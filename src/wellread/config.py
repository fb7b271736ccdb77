"""Recipes (TOML) and model files (JSON) -> frozen dataclasses, with every mistake reported at once.

Each part of wellread owns a frozen dataclass with its options; this module fills them from plain mappings.
A dataclass may check itself in `__post_init__` by raising ValueError; nested dataclasses are filled from
nested tables.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

__all__ = ["ConfigError", "from_mapping", "parse_conditions", "parse_settings", "read_toml", "require", "to_mapping"]

T = TypeVar("T")


class ConfigError(ValueError):
    """All mistakes of one configuration, one per line."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems) if len(problems) > 1 else problems[0])


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless the condition holds; for checks in `__post_init__`."""
    if not condition:
        raise ValueError(message)


def read_toml(path: str | Path) -> dict[str, Any]:
    """A TOML file as a mapping. ValueError names the file and the line where it is malformed."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"recipe {path} does not exist; give the path of a .toml file.")
    try:
        return tomllib.loads(path.read_text(encoding="utf8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}.") from error


def to_mapping(value: Any) -> dict[str, Any]:
    """A dataclass as a plain mapping that `from_mapping` reads back."""
    return dataclasses.asdict(value)


def from_mapping(kind: type[T], mapping: Mapping[str, Any], *, where: str = "") -> T:
    """Fill the dataclass `kind` from a mapping.

    Raises ConfigError with all unknown keys, wrong types, missing keys and failed checks together.
    `where` is the dotted place named in the messages, such as "training".
    """
    problems: list[str] = []
    value = _fill(kind, mapping, where, problems)
    if problems:
        raise ConfigError(problems)
    return value


def _fill(kind: type, mapping: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(mapping, Mapping):
        name = where or kind.__name__
        problems.append(f"{name}={mapping!r} is not a table; write [{name}] and its keys.")
        return None
    fields = {item.name: item for item in dataclasses.fields(kind) if item.init}
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    before = len(problems)
    for key, raw in mapping.items():
        place = f"{where}.{key}" if where else str(key)
        if key not in fields:
            close = get_close_matches(str(key), fields, n=1)
            hint = f" did you mean {close[0]!r}?" if close else f" known keys: {', '.join(fields)}."
            problems.append(f"{place} is unknown;{hint}")
            continue
        values[key] = _convert(hints[key], raw, place, problems)
    for name, item in fields.items():
        missing = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if missing and name not in mapping:
            problems.append(f"{f'{where}.{name}' if where else name} is missing; it has no default.")
    if len(problems) > before:
        return None
    try:
        return kind(**values)
    except ConfigError as error:
        problems.extend(error.problems)
    except ValueError as error:
        problems.append(f"{where}: {error}" if where else str(error))
    return None


def _convert(hint: Any, raw: Any, place: str, problems: list[str]) -> Any:
    origin = get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, raw, place, problems)
    if dataclasses.is_dataclass(hint):
        return _fill(hint, raw, place, problems)
    if origin is typing.Literal:
        allowed = get_args(hint)
        if raw not in allowed:
            problems.append(f"{place}={raw!r} is not allowed; use one of: {', '.join(map(str, allowed))}.")
        return raw
    if origin in (tuple, list):
        return _convert_sequence(hint, raw, place, problems)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return _convert_table(hint, raw, place, problems)
    return _convert_scalar(hint, raw, place, problems)


def _convert_union(hint: Any, raw: Any, place: str, problems: list[str]) -> Any:
    if raw is None and type(None) in get_args(hint):
        return None
    trials: list[list[str]] = []
    for option in (item for item in get_args(hint) if item is not type(None)):
        trial: list[str] = []
        value = _convert(option, raw, place, trial)
        if not trial:
            return value
        trials.append(trial)
    problems.extend(trials[0])
    return None


def _convert_sequence(hint: Any, raw: Any, place: str, problems: list[str]) -> Any:
    if not isinstance(raw, (list, tuple)):
        problems.append(f"{place}={raw!r} must be a list.")
        return None
    inner = next((item for item in get_args(hint) if item is not Ellipsis), Any)
    values = [_convert(inner, item, f"{place}[{index}]", problems) for index, item in enumerate(raw)]
    return tuple(values) if get_origin(hint) is tuple else values


def _convert_table(hint: Any, raw: Any, place: str, problems: list[str]) -> Any:
    if not isinstance(raw, Mapping):
        problems.append(f"{place}={raw!r} is not a table; write [{place}.NAME] and its keys.")
        return None
    inner = get_args(hint)[1] if len(get_args(hint)) == 2 else Any
    return {key: _convert(inner, item, f"{place}.{key}", problems) for key, item in raw.items()}


def _convert_scalar(hint: Any, raw: Any, place: str, problems: list[str]) -> Any:
    if hint is Any:
        return raw
    if hint is Path and isinstance(raw, (str, Path)):
        return Path(raw)
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if hint in (int, float, str, bool) and (type(raw) is hint):
        return raw
    name = getattr(hint, "__name__", str(hint))
    problems.append(f"{place}={raw!r} is {type(raw).__name__}; it must be {name}.")
    return None


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """["live_share=0.5", "question_encoder=shared"] -> a mapping; values are read as TOML, else as text."""
    values: dict[str, Any] = {}
    for setting in settings:
        key, sign, raw = setting.partition("=")
        key = key.strip()
        if not sign or not key:
            raise ValueError(f"setting {setting!r} is not KEY=VALUE; write for example live_share=0.5.")
        try:
            values[key] = tomllib.loads(f"value = {raw}")["value"]
        except tomllib.TOMLDecodeError:
            values[key] = raw
    return values


def parse_conditions(settings: Sequence[str]) -> dict[str, list[Any]]:
    """["stock=96"] -> what metadata may say: {"stock": [96, "96"]}, since tables of text hold numbers as they were
    written. A list, or a key that comes again, stands for any of its values."""
    conditions: dict[str, list[Any]] = {}
    for setting in settings:
        ((key, value),) = parse_settings([setting]).items()
        written = [] if isinstance(value, list) else [setting.partition("=")[2].strip()]
        values = value if isinstance(value, list) else [value]
        texts = dict.fromkeys([*written, *(str(item) for item in values)])
        conditions.setdefault(key, []).extend([*values, *(text for text in texts if text not in values)])
    return conditions
