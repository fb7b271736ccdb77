"""`wellread systems`: list the systems with their papers."""

from __future__ import annotations

import click

from wellread.cli.output import emit, json_option


@click.command()
@json_option
def command(as_json: bool) -> None:
    """List the systems with their papers and options.

    \b
    Example:
      wellread systems --json
    """
    import dataclasses

    from wellread.systems import SYSTEMS

    rows = []
    for name in SYSTEMS:
        kind = SYSTEMS[name]
        options = {item.name: item.default for item in dataclasses.fields(kind.Config)}
        rows.append({"system": name, **dataclasses.asdict(kind.paper), "options": options})
    human = "\n".join(
        f"{row['system']:<12} {row['authors']} ({row['year']}), arXiv {row['arxiv']}\n{'':<12} {row['title']}\n"
        f"{'':<12} options: {', '.join(row['options'])}"
        for row in rows
    )
    emit({"systems": rows}, as_json, human)
