"""`wellread questions`: make training questions of a corpus, of relevance labels, or of other questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from wellread.cli.output import POSITIVE, emit, json_option

if TYPE_CHECKING:
    from wellread.types import Question

__all__ = ["command"]

_out_option = click.option("--out", required=True, help="File of the questions: .jsonl, .jsonl.gz or .jsonl.zst.")
_overwrite_option = click.option("--overwrite", is_flag=True, help="Replace the file that is there.")


@click.group()
def command() -> None:
    """Make questions to train on, where nobody has asked any.

    \b
    Example:
      wellread questions masked corpus --out masked.jsonl.gz
    """


@command.command()
@click.argument("corpus")
@_out_option
@click.option("--limit", default=20_000, show_default=True, type=POSITIVE, help="Questions, of passages all over.")
@click.option(
    "--per-passage",
    default=None,
    type=POSITIVE,
    help="At most so many of one passage; default: one, or as many as --limit takes in a small corpus.",
)
@click.option(
    "--finder",
    default="auto",
    show_default=True,
    metavar="auto|spacy|rules|random-spans|random-tokens",
    help="What finds the words to mask: names and dates by spaCy (auto, where it is installed) or by rules, or "
    "random words for comparison.",
)
@click.option("--mask", default="[MASK]", show_default=True, help="What stands for them; <extra_id_0> for T5.")
@click.option("--hide-own", is_flag=True, help="Say in `hidden` that the passage must not be read for its question.")
@click.option("--most-words", default=40, show_default=True, help="Longer sentences are left out.")
@click.option("--tokenizer", metavar="MODEL", help="One mask per token of the answer, for models that fill them in.")
@click.option("--most-tokens", default=None, type=POSITIVE, help="With --tokenizer: longer sentences are left out.")
@click.option("--share", default=None, type=float, help="With --tokenizer: mask this share of the words (BERT: 0.15).")
@click.option("--seed", default=0, show_default=True, help="Which passages, sentences and words are drawn.")
@_overwrite_option
@json_option
def masked(corpus: str, out: str, overwrite: bool, as_json: bool, **choice: Any) -> None:
    """Sentences of a corpus with one name or date masked, which is the answer.

    \b
    Examples:
      wellread questions masked corpus --out masked.jsonl.gz --limit 50000
      wellread questions masked corpus --out masked.jsonl.gz --mask '<extra_id_0>' --hide-own
      wellread questions masked corpus --out masked.jsonl.gz --tokenizer default --most-tokens 46 --hide-own
    """
    from wellread.corpus import Corpus
    from wellread.corpus.masking import MaskingReport, masked_questions
    from wellread.corpus.salient import span_finder
    from wellread.corpus.writing import write_questions

    started, report = time.perf_counter(), MaskingReport()
    finder = span_finder(choice.pop("finder"))
    choice["tokens"] = _counted(choice.pop("tokenizer"))
    questions = masked_questions(Corpus.open(corpus), **choice, finder=finder, report=report)
    write_questions(out, _shown(questions, choice["limit"]), overwrite=overwrite)
    _tell(report, out, time.perf_counter() - started, as_json, finder=finder.name)


@command.command()
@click.argument("corpus")
@_out_option
@click.option("--limit", default=20_000, show_default=True, type=POSITIVE, help="Questions, of passages all over.")
@click.option("--kept-share", default=0.1, show_default=True, help="Of them, those whose passage is read whole.")
@click.option("--seed", default=0, show_default=True, help="Which passages and sentences are drawn.")
@_overwrite_option
@json_option
def cloze(corpus: str, out: str, overwrite: bool, as_json: bool, **choice: Any) -> None:
    """Sentences of a corpus that ask for the passage they are from (inverse cloze task).

    \b
    Example:
      wellread questions cloze corpus --out cloze.jsonl.gz
    """
    from wellread.corpus import Corpus
    from wellread.corpus.cloze import ClozeReport, cloze_questions
    from wellread.corpus.writing import write_questions

    started, report = time.perf_counter(), ClozeReport()
    questions = cloze_questions(Corpus.open(corpus), **choice, report=report)
    write_questions(out, _shown(questions, choice["limit"]), overwrite=overwrite)
    _tell(report, out, time.perf_counter() - started, as_json)


@command.command()
@click.argument("folder")
@_out_option
@click.option("--split", default="train", show_default=True, help="The judgements to take (qrels of this name).")
@click.option("--document-words", default=None, type=POSITIVE, help="Only so many words of a document.")
@_overwrite_option
@json_option
def labels(folder: str, out: str, split: str, document_words: int | None, overwrite: bool, as_json: bool) -> None:
    """Queries of a BEIR folder, to be answered by writing a relevant document ("relevance: 1. ...").

    A recipe should say target = "sample" for them: one of a query's relevant documents is then drawn each time.

    \b
    Example:
      wellread questions labels scifact --split train --out labels.jsonl.gz
    """
    from wellread.corpus.labels import LabelsReport, relevance_questions
    from wellread.corpus.writing import write_questions

    started, report = time.perf_counter(), LabelsReport()
    questions = relevance_questions(folder, split=split, document_words=document_words, report=report)
    write_questions(out, _shown(questions, None), overwrite=overwrite)
    _tell(report, out, time.perf_counter() - started, as_json)


@command.command("statements")
@click.argument("questions")
@_out_option
@click.option("--limit", default=None, type=POSITIVE, help="Of so many questions, evenly spaced; default: of all.")
@click.option("--split", default=None, help="Only the questions of this split.")
@click.option("--seed", default=0, show_default=True, help="Which statements are false, and how.")
@_overwrite_option
@json_option
def statements_(questions: str, out: str, overwrite: bool, as_json: bool, split: str | None, **choice: Any) -> None:
    """Claims to check, made of answered questions: true ones, and false ones with another question's answer.

    \b
    Example:
      wellread questions statements squad_train.jsonl.gz --out statements.jsonl.gz
    """
    from wellread.corpus.questions import read_questions
    from wellread.corpus.statements import StatementsReport, statements
    from wellread.corpus.writing import write_questions

    started, report = time.perf_counter(), StatementsReport()
    made = statements(read_questions(questions, split=split), **choice, report=report)
    write_questions(out, _shown(made, choice["limit"]), overwrite=overwrite)
    _tell(report, out, time.perf_counter() - started, as_json)


def _counted(tokenizer: str | None) -> Callable[[str], int] | None:
    """Counts the tokens of a text as a model's tokenizer does; "default" for that of the default encoder."""
    if tokenizer is None:
        return None
    from wellread.model import model_path
    from wellread.nn.building import default_encoder_path
    from wellread.nn.tokenizers import Tokenizer

    made = Tokenizer.load(default_encoder_path() if tokenizer == "default" else model_path(tokenizer))
    return lambda text: len(made.encode(text))


def _shown(questions: Iterable[Question], total: int | None) -> Iterator[Question]:
    from wellread.bars import progress_bar

    return iter(progress_bar(questions, total=total, unit=" questions"))


def _tell(report: Any, out: str, seconds: float, as_json: bool, **more: str) -> None:
    counts = {"questions": report.questions, "passages": report.passages, "skipped": report.skipped}
    result = {**counts, **more, "seconds": round(seconds, 3), "out": out}
    by = "".join(f", {name} {value}" for name, value in more.items())
    human = (
        f"{report.questions:,} questions from {report.passages:,} passages in {out} ({report.skipped:,} skipped{by}, "
        f"{seconds:.1f} s, {report.questions / seconds:,.0f} a second)"
    )
    emit(result, as_json, human)
