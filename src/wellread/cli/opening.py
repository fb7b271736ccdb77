"""What the verbs that answer have in common: which model, which passages, how many."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from wellread.cli.output import POSITIVE

if TYPE_CHECKING:
    from wellread.pipeline import Pipeline
    from wellread.types import Passage

__all__ = [
    "DEFAULT_MODEL",
    "answering_options",
    "check_related",
    "model_option",
    "opened",
    "pictures_option",
    "replace_all_option",
]

DEFAULT_MODEL = "wellread-mini"

model_option = click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    help="Folder of the model, or the name of one that comes with wellread.",
)

pictures_option = click.option("--pictures", default=None, help="Folder of pictures, for systems that read them.")

MANY = 5  # passages that are not to be lost by mistake
replace_all_option = click.option(
    "--replace-all", is_flag=True, help="Sync even where none of the passages that are there is in CORPUS."
)

_OPTIONS = (
    model_option,
    click.option("--memory", default=None, help="Folder of the memory."),
    click.option("--corpus", default=None, help="Folder of the corpus, for systems that read without a memory."),
    click.option("--index", default=None, help="Folder of the search index; default: the one inside the memory."),
    pictures_option,
    click.option("--system", default=None, help="Read the same weights as another system."),
    click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change an option of the system."),
    click.option(
        "--top-k",
        default=None,
        type=int,
        help="Passages retrieved and read; default: 20, or those that a model was trained with which reads no more.",
    ),
    click.option("--precision", default="fp32", show_default=True, help="fp32, or bf16 where the processor knows it."),
    click.option(
        "--verbatim", is_flag=True, help="Answer only in words that stand together in a passage or its title."
    ),
    click.option("--beams", default=1, show_default=True, type=POSITIVE, help="Beam width; 1 is greedy."),
)


def answering_options(command: Callable) -> Callable:
    """Add the options to a verb; `opened` takes what they give."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def opened(choice: Mapping[str, Any]) -> Pipeline:
    """The pipeline the options name, checked against --top-k."""
    from wellread.config import parse_settings
    from wellread.pipeline import open_pipeline

    places = {name: choice[name] for name in ("model", "memory", "corpus", "index", "system", "pictures")}
    options = parse_settings(choice["settings"])
    pipeline = open_pipeline(**places, options=options, precision=choice["precision"], verbatim=choice["verbatim"])
    if pipeline.model.system.continues:
        raise ValueError(
            f"{pipeline.model.name} continues texts and answers no questions; use wellread continue, or wellread eval "
            "with --texts."
        )
    pipeline.model.read_at_once(choice["top_k"])
    return pipeline


def check_related(there: Collection[str], passages: Iterable[Passage], what: str, *, replace_all: bool) -> None:
    """Before a sync: ValueError where `what` holds many passages, by id, and none of them is among those given.

    That is mostly a mistyped corpus, and all would be deleted. Passages of files are named by what they say, so that
    a few may well have changed all at once. replace_all: go on nevertheless.
    """
    if replace_all or len(there) < MANY or any(passage.id in there for passage in passages):
        return
    raise ValueError(
        f"none of the {len(there)} passages of {what} is in the corpus, so all would be deleted; check the corpus, or, "
        "where every text has changed, add --replace-all."
    )
