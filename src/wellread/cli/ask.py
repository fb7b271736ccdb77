"""`wellread ask`: answer questions with cited passages."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wellread.cli.asked import readable_questions
from wellread.cli.opening import answering_options, opened
from wellread.cli.output import emit, json_option, say
from wellread.types import Question

if TYPE_CHECKING:
    from wellread.pipeline import Pipeline
    from wellread.types import Answer, CitedPassage


@click.command()
@click.argument("question", required=False)
@answering_options
@click.option("--where", multiple=True, metavar="KEY=VALUE", help="Only passages with this metadata.")
@click.option("--questions", "file", default=None, help="A file of questions (as of eval, or one a line); - for stdin.")
@click.option(
    "--flops/--no-flops",
    default=None,
    help="Count FLOPs too, by reading every question twice; without either, for a QUESTION only.",
)
@click.option("--image", default=None, metavar="FILE", help="Ask about this picture: a file, or an id in --pictures.")
@click.option("--sheet", default=None, metavar="FILE", help="Draw picture, answer and entries into this image file.")
@click.option("--show", default=3, show_default=True, help="Passages shown per answer.")
@click.option("--min-confidence", default=None, type=float, help="Withhold answers less likely to be right, 0 to 1.")
@json_option
def command(
    question: str | None,
    file: str | None,
    image: str | None,
    sheet: str | None,
    show: int,
    flops: bool | None,
    as_json: bool,
    **choice: Any,
) -> None:
    """Answer a question, a file of questions, or (with neither) questions typed one by one.

    \b
    Examples:
      wellread ask "Which planet is the largest?" --model model --memory memory
      wellread ask --questions questions.txt --model model --memory memory --json
      wellread ask --model model --memory memory
      wellread ask "Which planet is the largest?" --model model --memory memory --min-confidence 0.5 --verbatim
      wellread ask --image flag.png "What is its capital?" --model reveal --memory memory --pictures pictures
    """
    if question is not None and file is not None:
        raise ValueError("both a question and --questions were given; give one of them.")
    from wellread.config import parse_conditions
    from wellread.corpus.sources import conditions_of
    from wellread.pictures.sheet import check_sheet, draw_sheet

    if file not in (None, "-") and not Path(conditions_of(file, file)[0]).exists():
        raise ValueError(f"questions {file} does not exist; give a file of questions, or - for standard input.")
    if sheet is not None:
        check_sheet(sheet)
        if question is None:
            raise ValueError("--sheet shows one answer; give the question on the command line.")
    pipeline = opened(choice)
    if image is not None:
        _check_image(pipeline, image)
    pipeline.check_min_confidence(choice["min_confidence"])
    settings = {"top_k": choice["top_k"], "num_beams": choice["beams"], "min_confidence": choice["min_confidence"]}
    settings["where"] = parse_conditions(choice["where"]) or None
    counted = question is not None if flops is None else flops
    ask = pipeline.ask_measured if counted else lambda item, **rest: pipeline.ask([item], flops=False, **rest)[0]
    for asked in _questions(question, file):
        if image is not None and asked.picture is None:
            asked = replace(asked, metadata={**asked.metadata, "picture": image})
        if told := pipeline.model.frame.left_out([asked.text]):
            say(told)
        answer = ask(asked, **settings)
        text = asked.text
        emit(as_mapping(text, answer), as_json, as_text(text, answer, show))
        if sheet is not None:
            say(f"drawn: {draw_sheet(sheet, asked, answer, pictures=pipeline.model.pictures)}")


def _check_image(pipeline: Pipeline, image: str) -> None:
    """ValueError where the model would not look at it, or there is no such picture."""
    model = pipeline.model
    if not model.system.reads_pictures:
        raise ValueError(f"this {model.name} reads no pictures; give a model that does, or leave --image out.")
    if model.pictures is None:
        raise ValueError("--image needs the folder of pictures that the model was trained with; give --pictures DIR.")
    model.pictures.prepare(image)


def _questions(question: str | None, file: str | None) -> Iterator[Question]:
    if question is not None:
        yield Question("", question)
    elif file is None:
        yield from (Question("", text) for text in _typed())
    elif file == "-" or _is_plain(Path(file)):
        yield from (_of_line(line, f"{file}:{number}") for number, line in _lines(file) if line.strip())
    else:
        yield from readable_questions(file, split=None)[0]


def _is_plain(file: Path) -> bool:
    """Whether its lines are questions, as far as its name says."""
    from wellread.corpus.readers import SUFFIXES, stem_and_suffix

    return file.is_file() and SUFFIXES.get(stem_and_suffix(file)[1], "text") in ("text", "markdown")


def _lines(file: str) -> Iterator[tuple[int, str]]:
    """The lines of a plain file, packed or not, or of standard input, with their numbers."""
    from wellread.corpus.documents import Problem
    from wellread.corpus.files import read_lines

    if file == "-":
        with click.open_file(file, encoding="utf8") as lines:
            yield from enumerate(lines, 1)
        return
    for line in read_lines(Path(file)):
        if isinstance(line, Problem):
            raise ValueError(f"{line}.")
        yield line.number, line.text


def _of_line(line: str, place: str) -> Question:
    if not line.lstrip().startswith("{"):
        return Question("", line.strip())
    try:
        row = json.loads(line.strip())
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: is not JSON: {error}; give one JSON object per line, or plain lines.") from error
    if not isinstance(row.get("question"), str):
        raise ValueError(f"{place}: has no 'question'; give plain lines or jsonl with that key.")
    picture = row.get("picture", row.get("image"))
    return Question("", row["question"], metadata={"picture": picture} if picture else {})


def _typed() -> Iterator[str]:
    """Questions from the keyboard until an empty line, or all lines of a pipe that are not empty."""
    keyboard = sys.stdin.isatty()
    if keyboard:
        say("Type a question and press return; an empty line or ctrl-D ends.")
    while True:
        try:
            text = _line() if keyboard else input()
        except EOFError:
            if keyboard:
                say("")  # the shell's own prompt starts on a new line
            return
        if not text.strip():
            if keyboard:
                return
            continue
        yield text.strip()


def _line() -> str:
    """A line from the keyboard, with editing and history where there is a screen to show them on."""
    if sys.stdout.isatty():
        with suppress(ImportError):  # Python on Windows comes without it
            import readline  # noqa: F401  (being imported is what `input` needs of it)
        return input("? ")
    click.echo("? ", nl=False, err=True)  # standard output gets answers only
    return input()


def as_mapping(question: str, answer: Answer) -> dict[str, Any]:
    """An answer as the JSON object `ask --json` prints."""
    support = answer.support
    return {
        "question": question,
        "answer": answer.text,
        "quote": answer.quote,
        "confidence": answer.confidence,
        "abstained": answer.abstained,
        "withheld": answer.withheld,
        "support": None if support is None else {"id": support.id, "title": support.title, "span": support.span},
        "passages": [
            {
                "id": item.id,
                "title": item.title,
                "score": item.score,
                "text": item.text,
                "source": item.source,
                "gate": item.gate,
                "picture": item.picture,
                "kept": item.kept,
                "share": item.share,
                "span": item.span,
                "metadata": dict(item.metadata),
            }
            for item in answer.passages
        ],
        "log_likelihood": answer.log_likelihood,
        "milliseconds": dict(answer.milliseconds),
        "flops": answer.flops or None,  # not counted
    }


def as_text(question: str, answer: Answer, show: int) -> str:
    """An answer for people: the text with the number of the passage it rests on, the passages, what it cost."""
    support = answer.support
    number = answer.passages.index(support) + 1 if support else 0
    lines = [f"Q: {question}", f"A: {_said(answer, number)}"]
    several = len({item.source for item in answer.passages}) > 1
    for place, item in enumerate(answer.passages, start=1):
        if place <= show or place == number:
            gate = "" if item.gate is None else f" gate {item.gate:.2f}"
            source = f" {item.source}{gate} " if several or gate else ""
            score = f"score {item.score:.2f}" if math.isfinite(item.score) else "not read"
            told = f"{item.share:4.0%} {score} {source} {item.title or item.id}  ({_place(item)})"
            lines.append(f"   [{place}] {told}")
            lines.append(f"       {_shown(item.text, item.span if support else None)}")
    spent = [f"{name} {value:.0f} ms" for name, value in answer.milliseconds.items()]
    spent += [f"{answer.flops / 1e9:.2f} GFLOPs"] if answer.flops else []
    return "\n".join([*lines, "   " + "  ".join(spent)])


def _said(answer: Answer, number: int) -> str:
    """The answer with its citation, or why there is none. number: of the supporting passage, from 1; 0 for none."""
    sure = "" if answer.confidence is None else f"confidence {answer.confidence:.2f}"
    if not answer.passages:
        return "(no answer: no passage was found)"
    if answer.abstained:
        return f"(no answer: {sure} is too low)"
    if not answer.text:
        return "(no answer)"
    source = f"[{number}]" if number else "(from the model's weights)"
    return f"{answer.quote or answer.text} {source}" + (f"  ({sure})" if sure else "")


def _place(passage: CitedPassage) -> str:
    """Where a passage comes from: its file and page, where it has them, and its id."""
    file, page = passage.metadata.get("file"), passage.metadata.get("page")
    place = [str(file)] if file else []
    return ", ".join([*place, *([f"page {page}"] if page else []), passage.id])


def _shown(text: str, span: tuple[int, int] | None, width: int = 160) -> str:
    """A piece of the passage around the answer on one line, the answer in [brackets]."""
    text = re.sub(r"\s", " ", text)
    if span is None:
        return text[:width] + ("..." if len(text) > width else "")
    start = max(0, span[0] - width // 2)
    end = min(len(text), span[1] + width // 2)
    marked = f"{text[start : span[0]]}[{text[span[0] : span[1]]}]{text[span[1] : end]}"
    return ("..." if start else "") + marked + ("..." if end < len(text) else "")
