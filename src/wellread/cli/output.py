"""What every verb prints: one JSON object on stdout with --json, plain lines otherwise; talk goes to stderr."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import click

__all__ = ["POSITIVE", "emit", "json_line", "json_option", "say", "say_some"]

POSITIVE = click.IntRange(min=1)
SHOWN = 20  # of many things of one kind

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")


def emit(result: Mapping[str, Any], as_json: bool, human: str) -> None:
    """Print a verb's result."""
    click.echo(json_line(result) if as_json else human)


def json_line(value: Any) -> str:
    """A value as JSON on one line; null for numbers that JSON has no way to write (nan, inf)."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def say(text: str) -> None:
    """Tell the user something that is not the result."""
    click.echo(text, err=True)


def say_some(what: str, items: Sequence[object], *, total: int | None = None) -> None:
    """Tell what happened to the first of many things, and to how many more. total: of all, where some are not here."""
    for item in items[:SHOWN]:
        say(f"{what} {item}")
    total = len(items) if total is None else total
    if total > SHOWN:
        say(f"and {total - SHOWN} more")
