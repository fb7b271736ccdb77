"""What every verb prints: one JSON object on stdout with --json, plain lines otherwise; talk goes to stderr."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

__all__ = ["POSITIVE", "emit", "json_option", "say"]

POSITIVE = click.IntRange(min=1)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")


def emit(result: Mapping[str, Any], as_json: bool, human: str) -> None:
    """Print a verb's result."""
    click.echo(json.dumps(result, ensure_ascii=False) if as_json else human)


def say(text: str) -> None:
    """Tell the user something that is not the result."""
    click.echo(text, err=True)
