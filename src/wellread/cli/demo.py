"""`wellread demo`: from a folder of documents to cited answers, on the almanac that comes with wellread."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wellread.cli.output import emit, json_option, say

if TYPE_CHECKING:
    from wellread.model import Model
    from wellread.types import Answer, Question

# name shown -> (system that is trained, system it is read as, options, options of asking)
READERS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "FiD": ("fid", "fid", {}, 5),
    "LUMEN": ("glimmer", "lumen", {}, 5),
    "GLIMMER": ("glimmer", "glimmer", {"keep": 3}, 10),
}
TRAINED = {
    "fid": {},
    "glimmer": {"live_share": 0.5, "rerank_share": 0.3, "keep": 3, "distill_over": "kept"},
}


@click.command()
@click.option("--out", default=".demo", show_default=True, help="Folder of everything the demo makes.")
@click.option("--questions", "count", default=12, show_default=True, help="Questions asked aloud.")
@click.option("--steps", default=None, type=int, help="Training steps, for a shorter or longer demo.")
@json_option
def command(out: str, count: int, steps: int | None, as_json: bool) -> None:
    """Build corpus, index and memory of the embedded almanac, train small readers, ask, and compare costs.

    \b
    Example:
      wellread demo --out .demo
    """
    from wellread.corpus.questions import read_questions

    home = Path(out)
    home.mkdir(parents=True, exist_ok=True)
    _say("1/4  corpus, index")
    _build(home)
    _say("2/4  readers: no trained model comes with this version, so two small ones are trained now, for a few minutes")
    models = {system: _train(home, system, options, steps) for system, options in TRAINED.items()}
    _say("3/4  memory: the almanac is read once, ahead of all questions")
    pipelines = _memorize(home, models)
    _say(f"4/4  {count} questions the readers have never seen, about passages they were never asked about")
    questions = list(read_questions(home / "questions.jsonl", split="dev"))
    picked = questions[:: max(len(questions) // count, 1)][:count]
    rows, shown = [], {}
    for name, (pipeline, top_k) in pipelines.items():
        pipeline.ask([picked[0].text], top_k=top_k, flops=False)  # the first call warms caches and handles
        shown[name] = [pipeline.ask_measured(question, top_k=top_k) for question in picked]
        answers = list(pipeline.ask_many(questions, top_k=top_k, batch_size=8, flops=False))
        rows.append(_row(name, pipeline, top_k, shown[name], questions, answers))
    _show(picked, shown)
    emit({"systems": rows, "out": out}, as_json, _table(rows))


def _say(text: str) -> None:
    say(f"\n{text}")


def _build(home: Path) -> None:
    import shutil
    from importlib.resources import as_file, files

    from wellread.corpus.ingest import ingest
    from wellread.retrieval import RETRIEVERS

    almanac = files("wellread.data").joinpath("almanac")
    with as_file(almanac.joinpath("questions.jsonl")) as questions:
        shutil.copyfile(questions, home / "questions.jsonl")
    if not (home / "corpus" / "corpus.json").is_file():
        with as_file(almanac.joinpath("passages.jsonl")) as passages:
            ingest([passages], home / "corpus")
    if not (home / "index" / "index.json").is_file():
        from wellread.corpus.store import Corpus

        RETRIEVERS["lexical"].build(Corpus.open(home / "corpus"), home / "index", overwrite=True)


def _train(home: Path, system: str, options: dict[str, Any], steps: int | None) -> Path:
    import tomllib
    from importlib.resources import files

    from wellread.training.recipes import parse_recipe
    from wellread.training.run import run_recipe

    mapping = tomllib.loads(files("wellread.data").joinpath("demo", "recipe.toml").read_text(encoding="utf8"))
    mapping["system"] = {"name": system, **options}
    mapping["data"] |= {"corpus": str(home / "corpus"), "index": str(home / "index")}
    mapping["tasks"]["almanac"]["questions"] = str(home / "questions.jsonl")
    if steps is not None:
        mapping["training"]["steps"] = steps
    report = run_recipe(parse_recipe(mapping), home / system)
    if not report.finished:
        raise click.Abort  # stopped by a signal; the same command goes on from here
    return report.checkpoint


def _memorize(home: Path, models: dict[str, Path]) -> dict[str, tuple[Any, int]]:
    from wellread.corpus.store import Corpus
    from wellread.pipeline import load_model, memorize_corpus, open_pipeline

    corpus, pipelines = Corpus.open(home / "corpus"), {}
    for name, (trained, system, options, top_k) in READERS.items():
        model: Model = load_model(models[trained], system=system, options=options)
        memory = home / f"memory-{trained}"
        memorize_corpus(corpus, model, memory, retriever="none", progress=False)
        pipelines[name] = (open_pipeline(model=model, memory=memory, index=home / "index"), top_k)
    return pipelines


def _row(
    name: str, pipeline: Any, top_k: int, shown: list[Answer], questions: list[Question], answers: list[Answer]
) -> dict[str, Any]:
    from wellread.evaluation.metrics import exact_match

    right = [exact_match(answer.text, question.answers) for question, answer in zip(questions, answers, strict=True)]
    cited = [
        bool(answer.passages) and answer.passages[0].id in question.positive
        for question, answer in zip(questions, answers, strict=True)
    ]
    stages = ("retrieve", "fetch", "read", "generate", "total")
    info = pipeline.memory.info()
    return {
        "system": name,
        "top_k": top_k,
        "em": 100 * statistics.fmean(right),
        "cited_right_passage": 100 * statistics.fmean(cited),
        "milliseconds": {key: statistics.median(item.milliseconds[key] for item in shown) for key in stages},
        "gflops": statistics.fmean(item.flops for item in shown) / 1e9,
        "bytes_per_passage": info["bytes"] / info["passages"],
        "n": len(questions),
    }


def _show(questions: list[Question], shown: dict[str, list[Answer]]) -> None:
    for index, question in enumerate(questions):
        say(f"\nQ  {question.text}   [{question.answers[0]}]")
        for name, answers in shown.items():
            answer = answers[index]
            best = answer.passages[0] if answer.passages else None
            source = f"{best.title} ({best.share:.0%} of the attention)" if best else "nothing was found"
            say(f"   {name:<8} {answer.text or '(no answer)':<28} from {source}")


def _table(rows: list[dict[str, Any]]) -> str:
    head = (
        f"\n{'system':<9}{'passages':>9}{'EM':>7}{'cited':>8}{'retrieve':>10}{'fetch':>8}{'read':>8}{'write':>8}"
        f"{'total ms':>10}{'GFLOPs':>9}{'bytes/passage':>15}"
    )
    lines = [head]
    for row in rows:
        spent = row["milliseconds"]
        lines.append(
            f"{row['system']:<9}{row['top_k']:>9}{row['em']:>7.1f}{row['cited_right_passage']:>8.1f}"
            f"{spent['retrieve']:>10.1f}{spent['fetch']:>8.1f}{spent['read']:>8.1f}{spent['generate']:>8.1f}"
            f"{spent['total']:>10.1f}{row['gflops']:>9.2f}{row['bytes_per_passage']:>15.0f}"
        )
    lines.append(
        f"EM and cited (the passage most attended to holds the answer) over {rows[0]['n']} questions kept out of "
        "training; milliseconds are medians of single questions."
    )
    return "\n".join(lines)
