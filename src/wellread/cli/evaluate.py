"""`wellread eval`: measure quality and cost on a file of questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource

from wellread.cli.asked import answered_questions
from wellread.cli.opening import answering_options, opened
from wellread.cli.output import POSITIVE, emit, json_line, json_option, say
from wellread.extras import install_hint

DEPTH = 100  # passages retrieved for the measures of retrieval; the reader gets the first --top-k
OF_TEXTS = ("neighbours", "database", "k", "sequence_chunks", "overlap", "shuffled")
OF_QUESTIONS = (
    "memory",
    "corpus",
    "index",
    "pictures",
    "top_k",
    "beams",
    "verbatim",
    "split",
    "timed",
    "keep",
    "run_out",
)


@click.command()
@answering_options
@click.option("--questions", default=None, help="File of questions with answers, FILE[?FIELD=VALUE].")
@click.option(
    "--texts",
    default=None,
    help="Instead of questions: a folder of chunks, for bits per byte (cut with a tokenizer that loses nothing).",
)
@click.option(
    "--neighbours", multiple=True, help="With --texts: lists of neighbours, FOLDER or NAME=FOLDER; repeatable."
)
@click.option("--database", default=None, help="With --texts: the chunks that the lists name; default: the texts'.")
@click.option("-k", "k", multiple=True, default=(2,), type=click.IntRange(min=0), help="With --texts; repeatable.")
@click.option("--sequence-chunks", default=8, show_default=True, type=POSITIVE, help="With --texts: read at once.")
@click.option(
    "--overlap",
    is_flag=True,
    help="With --texts: by the share of a chunk that its neighbours, all that are listed, hold word for word.",
)
@click.option("--shuffled", default=None, type=int, metavar="SEED", help="With --texts: another document's, too.")
@click.option("--split", default=None, help="Only the questions of this split.")
@click.option(
    "--limit", default=None, type=POSITIVE, help="This many questions, evenly spaced; or the first documents."
)
@click.option("--batch-size", default=8, show_default=True, type=POSITIVE, help="Questions answered together.")
@click.option(
    "--timed", default=16, show_default=True, type=POSITIVE, help="Questions asked singly, for time and FLOPs."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the bootstrap intervals.")
@click.option("--answers", "keep", default=None, help="Write every answer to this file (jsonl).")
@click.option("--run-out", default=None, help="Write what was retrieved to this TREC run.")
@json_option
def command(as_json: bool, keep: str | None, run_out: str | None, **choice: Any) -> None:
    """Measure quality (EM, F1, recall, with bootstrap intervals) and cost (time, FLOPs, bytes).

    Where the questions name passages that hold the answer, recall@K says for how many of them retrieval found one
    among the first K; nDCG@10 and MRR@10 judge the same order.

    Questions without answers and rows that hold no question are told on standard error and left out.

    Questions about pictures also have VQA accuracy, captions BLEU and CIDEr; questions that say their type are
    scored by type as well.

    Where the questions name the passages that prove their answers, KILT's measures come too: R-precision, recall@5,
    and EM, F1 or accuracy that count only where the proof is ranked first.

    With --texts, how many bits per byte a language model needs for held-out texts, with and without neighbours, with
    the paired interval of the difference over documents; `lossless` says whether the tokens hold all of the texts.

    \b
    Examples:
      wellread eval --model model --memory memory --questions dev.jsonl --json
      wellread eval --model model --texts chunks/test --neighbours chunks/test/neighbours --database chunks/database
    """
    if (choice["questions"] is None) == (choice["texts"] is None):
        raise ValueError("--questions and --texts: give one of them, questions to answer or texts to score.")
    _check_options(OF_QUESTIONS if choice["questions"] is None else OF_TEXTS)
    if choice["texts"] is not None:
        from wellread.cli.evaluate_texts import evaluate_texts

        result, told = evaluate_texts(choice)
        emit(result, as_json, told)
        return
    from wellread.evaluation.ranking import available
    from wellread.evaluation.report import can_be_scored
    from wellread.evaluation.vision import captions_available
    from wellread.retrieval.given import write_run

    questions, counts = answered_questions(
        choice["questions"], split=choice["split"], limit=choice["limit"], has_answer=can_be_scored
    )
    pipeline = opened(choice)
    if told := pipeline.model.frame.left_out([item.text for item in questions]):
        say(told)
    if not available() and any(question.positive for question in questions):
        say(f"ndcg@10 and mrr@10 are left out; they need: {install_hint('ranking')}")
    if any(question.task == "caption" for question in questions) and not captions_available():
        say(f"bleu and cider are left out; they need: {install_hint('captions')}")
    top_k = pipeline.model.read_at_once(choice["top_k"])
    found = pipeline.retrieve(questions, top_k=max(top_k, DEPTH))
    if run_out is not None:
        write_run(run_out, questions, found, name=pipeline.model.name)
    report, answers = pipeline.evaluate(
        questions,
        top_k=top_k,
        num_beams=choice["beams"],
        batch_size=choice["batch_size"],
        timed=choice["timed"],
        seed=choice["seed"],
        progress=True,
        candidates=found,
    )
    if keep is not None:
        _write(keep, questions, answers)
    result = {"system": pipeline.model.name, **report.to_json(), **counts}
    emit(result, as_json, report.to_markdown())


def _check_options(without: Sequence[str]) -> None:
    """ValueError where an option was given that would change nothing."""
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in without and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            other = "--questions" if without is OF_QUESTIONS else "--texts"
            raise ValueError(f"{option.opts[0]} belongs to {other}; leave it out.")


def _write(path: str, questions: list, answers: list) -> None:
    from wellread.cli.ask import as_mapping

    with open(path, "w", encoding="utf8") as file:
        for question, answer in zip(questions, answers, strict=True):
            row = {"id": question.id, "answers": question.answers, **as_mapping(question.text, answer)}
            file.write(json_line(row) + "\n")
