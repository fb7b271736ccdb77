"""The `wellread` command: verbs are imported only when they are called."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Sequence
from difflib import get_close_matches

import click

from wellread.cli.allocation import keep_freed_memory

__all__ = ["VERBS", "app", "main"]

VERBS: dict[str, tuple[str, str]] = {
    "corpus": ("wellread.cli.corpus", "Read documents and cut them into passages."),
    "index": ("wellread.cli.index", "Build a search index over a corpus."),
    "pictures": ("wellread.cli.pictures", "Keep pictures and what an image encoder sees in them."),
    "memorize": ("wellread.cli.memorize", "Read a corpus ahead and store what was understood."),
    "memory": ("wellread.cli.memory", "Look after a memory: info, verify, add, update, delete, sync."),
    "chunks": ("wellread.cli.chunks", "Cut texts into chunks and find the neighbours of each."),
    "questions": ("wellread.cli.questions", "Make training questions of a corpus or of relevance labels."),
    "init": ("wellread.cli.init", "Make an untrained reader from pretrained parts or from scratch."),
    "train": ("wellread.cli.train", "Train a reader by a recipe; resumes."),
    "ask": ("wellread.cli.ask", "Answer questions with cited passages."),
    "continue": ("wellread.cli.continue_text", "Continue a text, looking up every finished chunk."),
    "calibrate": ("wellread.cli.calibrate", "Fit how sure a model may be of its answers."),
    "eval": ("wellread.cli.evaluate", "Measure quality and cost on a file of questions."),
    "rank": ("wellread.cli.rank", "Measure how well an index finds what questions need."),
    "reproduce": ("wellread.cli.reproduce", "A paper's claim at small scale: train, measure, plot, judge."),
    "demo": ("wellread.cli.demo", "Build, train, ask and compare on the embedded almanac."),
    "systems": ("wellread.cli.systems", "List the systems with their papers."),
    "doctor": ("wellread.cli.doctor", "Check the installation."),
}


# What to do about what an operating system refuses.
_FULL = "free space on that disk, then run the same command again; memorize and train go on where they stopped."
_REFUSED = "there is no permission for it; allow it, or choose another folder (--out)."
_BLOCKED = "a file stands where a folder is needed, or a folder where a file is; choose another path (--out)."
ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _REFUSED,
    errno.EPERM: _REFUSED,
    errno.EROFS: _REFUSED,
    errno.EEXIST: _BLOCKED,
    errno.ENOTDIR: _BLOCKED,
    errno.EISDIR: _BLOCKED,
    errno.ENOENT: "give the path of something that exists.",
}
MOST_LINES = 12  # of a message; the whole of it is in the trace that --debug shows


class LazyGroup(click.Group):
    """A group that knows its verbs' one-line help and imports a verb's module when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            close = get_close_matches(name, VERBS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"verb {name!r} is unknown; use one of: {', '.join(VERBS)}.{hint}")
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
    keep_freed_memory()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = app(arguments, standalone_mode=False)
        if isinstance(code, int) and code:  # a verb ended with an exit code of its own
            sys.exit(code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        _fail("stopped.", code=130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        _raise_if(debug, error)
        _fail(_one_line(error.format_message()))
    except OSError as error:
        _raise_if(debug, error)
        _fail(_one_line(_refusal(error, arguments)))
    except ValueError as error:
        _raise_if(debug, error)
        _fail(_one_line(str(error)))


def _raise_if(debug: bool, error: Exception) -> None:
    if debug:
        raise error


def _refusal(error: OSError, arguments: Sequence[str]) -> str:
    """What the system refused, where, and what to do. Writers that do not name the file write below --out."""
    if not error.strerror:
        return str(error)
    place = error.filename if error.filename is not None else _out(arguments)
    told = error.strerror if place is None else f"{place}: {error.strerror}"
    return f"{told}; {ADVICE[error.errno]}" if error.errno in ADVICE else told


def _out(arguments: Sequence[str]) -> str | None:
    """What was given as --out."""
    for index, argument in enumerate(arguments):
        if argument.startswith("--out="):
            return argument.removeprefix("--out=")
        if argument == "--out" and index + 1 < len(arguments):
            return arguments[index + 1]
    return None


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > MOST_LINES:
        lines[MOST_LINES:] = [f"and {len(lines) - MOST_LINES} more (--debug shows all)"]
    return "; ".join(lines).replace(":; ", ": ")


def _fail(message: str, *, code: int = 2) -> None:
    click.echo(f"wellread: {message}", err=True)
    sys.exit(code)
