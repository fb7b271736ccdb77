"""The `wellread` command: verbs are imported only when they are called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

__all__ = ["VERBS", "app", "main"]

VERBS: dict[str, tuple[str, str]] = {
    "corpus": ("wellread.cli.corpus", "Read documents and cut them into passages."),
    "index": ("wellread.cli.index", "Build a search index over a corpus."),
    "memorize": ("wellread.cli.memorize", "Read a corpus ahead and store what was understood."),
    "memory": ("wellread.cli.memory", "Look after a memory: info, verify, add, update, delete."),
    "init": ("wellread.cli.init", "Make an untrained reader from pretrained parts or from scratch."),
    "train": ("wellread.cli.train", "Train a reader by a recipe; resumes."),
    "ask": ("wellread.cli.ask", "Answer questions with cited passages."),
    "eval": ("wellread.cli.evaluate", "Measure quality and cost on a file of questions."),
    "demo": ("wellread.cli.demo", "Build, train, ask and compare on the embedded almanac."),
    "systems": ("wellread.cli.systems", "List the systems with their papers."),
    "doctor": ("wellread.cli.doctor", "Check the installation."),
}


class LazyGroup(click.Group):
    """A group that knows its verbs' one-line help and imports a verb's module when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        return importlib.import_module(VERBS[name][0]).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"wellread {version('wellread')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the whole trace of an error.")
@click.option("--version", is_flag=True, callback=_version, expose_value=False, is_eager=True, help="Show the version.")
@click.pass_context
def app(ctx: click.Context, debug: bool) -> None:
    """Retrieval-augmented readers that have read their corpus in advance.

    \b
    Example:
      wellread corpus docs/ --out corpus
      wellread index corpus --out index
      wellread memorize corpus --model model --out memory
      wellread ask "Who built it?" --model model --memory memory --index index
    """
    ctx.obj = {"debug": debug}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. A user error is one line on stderr and exit code 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        app(arguments, standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        _fail("stopped.", code=130)
    except click.ClickException as error:
        _raise_if(debug, error)
        _fail(error.format_message())
    except (ValueError, OSError) as error:
        _raise_if(debug, error)
        _fail(_one_line(error))


def _raise_if(debug: bool, error: Exception) -> None:
    if debug:
        raise error


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def _fail(message: str, *, code: int = 2) -> None:
    click.echo(f"wellread: {message}", err=True)
    sys.exit(code)
