"""`wellread demo`: from a folder of documents to cited answers, on the almanac that comes with wellread."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wellread.cli.opening import DEFAULT_MODEL
from wellread.cli.output import POSITIVE, emit, json_option, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wellread.pipeline import Pipeline
    from wellread.types import Answer, Question

BATCH_SIZE = 8


@click.command()
@click.option("--out", default=".demo", show_default=True, help="Folder of everything the demo makes.")
@click.option("--questions", "count", default=12, show_default=True, type=POSITIVE, help="Questions asked aloud.")
@click.option("--limit", default=235, show_default=True, type=POSITIVE, help="Measure on so many of the 705 questions.")
@json_option
def command(out: str, count: int, limit: int, as_json: bool) -> None:
    """Build corpus, index and memory of the embedded almanac, ask three readers, and compare what they cost.

    \b
    Example:
      wellread demo --out .demo
    """
    from wellread.corpus.questions import evenly, read_questions

    home = Path(out)
    home.mkdir(parents=True, exist_ok=True)
    _say("1/4  corpus and index of the almanac")
    _build(home)
    questions = list(read_questions(home / "questions.jsonl"))
    dev = [question for question in questions if question.metadata.get("split") == "dev"]
    pipelines = _default_readers(home)
    picked, measured = evenly(dev, count), evenly(questions, limit)
    _say(f"3/4  {len(picked)} questions")
    shown = {name: _ask(picked, *reader) for name, reader in pipelines.items()}
    _show(picked, shown)
    _say(f"4/4  quality and cost, over {len(measured)} questions; this takes a minute or two")
    rows = [_row(name, *reader, shown[name], measured) for name, reader in pipelines.items()]
    emit({"systems": rows, "out": out}, as_json, _table(rows))


def _say(text: str) -> None:
    say(f"\n{text}")


# -- steps -------------------------------------------------------------------------------------------------


def _build(home: Path) -> None:
    from importlib.resources import as_file, files

    from wellread.corpus.ingest import ingest
    from wellread.corpus.store import Corpus
    from wellread.retrieval import RETRIEVERS

    almanac = files("wellread.data").joinpath("almanac")
    with as_file(almanac.joinpath("questions.jsonl")) as questions:
        shutil.copyfile(questions, home / "questions.jsonl")
    if not (home / "corpus" / "corpus.json").is_file():
        with as_file(almanac.joinpath("passages.jsonl")) as passages:
            ingest([passages], home / "corpus")
    if not (home / "index" / "index.json").is_file():
        RETRIEVERS["lexical"].build(Corpus.open(home / "corpus"), home / "index", overwrite=True)


def _default_readers(home: Path) -> dict[str, tuple[Pipeline, int]]:
    """The model that comes with wellread, as several systems, and how many passages each retrieves."""
    from importlib.resources import files

    from wellread.corpus.store import Corpus
    from wellread.pipeline import load_model, memorize_corpus, open_pipeline

    _say(f"2/4  memory: {DEFAULT_MODEL} reads the almanac once, ahead of all questions")
    corpus, readers = Corpus.open(home / "corpus"), {}
    asked = json.loads(files("wellread.data").joinpath("almanac", "readers.json").read_text(encoding="utf8"))
    for reader in asked:
        model = load_model(DEFAULT_MODEL, system=reader["system"])
        # Named by what it is bound to: the memory of another version's weights is left alone.
        kind = model.fingerprint().encoder if "states" in model.system.stores else "tokens"
        memory = home / f"memory-{kind}"
        memorize_corpus(corpus, model, memory, codec="int8", retriever="none", progress=False)
        readers[reader["name"]] = (open_pipeline(model=model, memory=memory, index=home / "index"), reader["top_k"])
    say(f"All read the same weights. They were trained as {load_model(DEFAULT_MODEL).name}, the others read with them.")
    return readers


def _ask(questions: Sequence[Question], pipeline: Pipeline, top_k: int) -> list[Answer]:
    """Answers to questions asked one by one."""
    pipeline.ask([questions[0].text], top_k=top_k, flops=False)  # the first call warms caches and handles
    return [pipeline.ask_measured(question, top_k=top_k) for question in questions]


def _row(
    name: str, pipeline: Pipeline, top_k: int, shown: Sequence[Answer], questions: Sequence[Question]
) -> dict[str, Any]:
    from wellread.evaluation.metrics import exact_match, mean, recall_by_answer

    answers = list(pipeline.ask_many(questions, top_k=top_k, batch_size=BATCH_SIZE, flops=False))
    right = [exact_match(answer.text, question.answers) for question, answer in zip(questions, answers, strict=True)]
    dev = [value for value, question in zip(right, questions) if question.metadata.get("split") == "dev"]
    cited = [
        recall_by_answer([answer.support.text if answer.support else ""], question.answers, 1)
        for question, answer in zip(questions, answers, strict=True)
    ]
    info = pipeline.memory.info()
    stages = ("retrieve", "fetch", "read", "generate", "total")
    return {
        "system": name,
        "top_k": top_k,
        "em_dev": 100 * mean(dev),
        "em": 100 * mean(right),
        "answer_cited": 100 * mean(cited),
        "milliseconds": {key: statistics.median(item.milliseconds[key] for item in shown) for key in stages},
        "gflops": statistics.fmean(item.flops for item in shown) / 1e9,
        "bytes_per_passage": info["bytes"] / info["passages"],
        "n_dev": len(dev),
        "n": len(questions),
    }


# -- what is shown -----------------------------------------------------------------------------------------


def _show(questions: Sequence[Question], shown: dict[str, list[Answer]]) -> None:
    for index, question in enumerate(questions):
        say(f"\nQ  {question.text}   [{question.answers[0]}]")
        for name, answers in shown.items():
            answer, source = answers[index], answers[index].support
            said = f"{source.title} ({source.share:.0%} of the answer)" if source else "nothing was found"
            say(f"   {name:<8} {answer.text or '(no answer)':<28} from {said}")


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        f"\n{'system':<9}{'passages':>9}{'EM dev':>8}{'EM all':>8}{'cited':>7}{'retrieve':>10}{'fetch':>7}{'read':>8}"
        f"{'write':>8}{'total ms':>10}{'GFLOPs':>8}{'bytes/passage':>15}"
    ]
    for row in rows:
        spent = row["milliseconds"]
        lines.append(
            f"{row['system']:<9}{row['top_k']:>9}{row['em_dev']:>8.1f}{row['em']:>8.1f}{row['answer_cited']:>7.1f}"
            f"{spent['retrieve']:>10.1f}{spent['fetch']:>7.1f}{spent['read']:>8.1f}{spent['generate']:>8.1f}"
            f"{spent['total']:>10.1f}{row['gflops']:>8.2f}{row['bytes_per_passage']:>15.0f}"
        )
    lines.append(
        f"EM in per cent of the {rows[0]['n_dev']} dev and of all {rows[0]['n']} questions; cited: an accepted answer "
        "stands in the passage cited for it; milliseconds are medians of single questions."
    )
    return "\n".join(lines)
