"""`wellread rank`: measure how well an index finds the passages that questions need."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wellread.cli.asked import readable_questions
from wellread.cli.output import POSITIVE, emit, json_option, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wellread.evaluation.metrics import Difference
    from wellread.evaluation.ranking import RankingReport
    from wellread.retrieval.documents import Documents
    from wellread.types import Candidates, Question


@click.command("rank")
@click.argument("questions", type=click.Path(path_type=Path))
@click.option("--index", required=True, type=click.Path(path_type=Path), help="Folder of the search index.")
@click.option("--split", default=None, help="Only the questions of this split, such as test.")
@click.option("--top-k", default=100, show_default=True, type=POSITIVE, help="How many are ranked for every question.")
@click.option("--where", multiple=True, metavar="KEY=VALUE", help="Only passages with this metadata, or this source.")
@click.option("--limit", default=None, type=POSITIVE, help="This many questions, evenly spaced.")
@click.option("--run-out", default=None, type=click.Path(path_type=Path), help="Write the rankings to this TREC run.")
@click.option("--run-name", default="wellread", show_default=True, help="What the run calls itself.")
@click.option(
    "--baseline",
    default=None,
    type=click.Path(path_type=Path),
    help="A run file or the folder of another index, to compare with on the same questions.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the bootstrap intervals.")
@json_option
def command(questions: Path, as_json: bool, **choice: Any) -> None:
    """Rank the passages of an index for QUESTIONS and judge the rankings: recall, nDCG@10 and MRR@10.

    QUESTIONS is a file of questions that name their passages (positive), or a BEIR folder. Where it names documents
    that were cut into passages, a document ranks where its best passage does. recall@K is the share of the relevant
    passages that is among the first K; measures with K above --top-k are left out. All have
    95 % intervals. Passages that are hidden from a question (`hidden`) are not ranked for it.

    \b
    Example:
      wellread rank scifact --split test --index index --run-out lexical.trec
      wellread rank scifact --split test --index dense --baseline lexical.trec --json
    """
    from wellread.config import parse_conditions
    from wellread.evaluation.ranking import check_available, compare
    from wellread.retrieval import open_index
    from wellread.retrieval.documents import Documents
    from wellread.retrieval.given import write_run

    check_available()
    where = parse_conditions(choice["where"]) or None
    asked, relevant, skipped = _asked(questions, choice["split"], choice["limit"])
    index = open_index(choice["index"])
    names = Documents(index)
    _check_known(names, relevant, questions, choice["index"])
    documents = names if names.are_judged(relevant) else None
    other = difference = None
    if choice["baseline"] is not None:  # first: what is wrong with it is told before a long search
        other = _judge(asked, _baseline(choice["baseline"], asked, choice["top_k"], documents, where), choice)
    found, milliseconds = _search(index, asked, choice["top_k"], documents, where)
    if choice["run_out"] is not None:
        write_run(choice["run_out"], asked, found, name=choice["run_name"])
    report = _judge(asked, found, choice)
    result = {
        **report.to_json(),
        "skipped": skipped,
        "milliseconds_per_question": round(milliseconds, 3),
        "retriever": index.name,
        "top_k": choice["top_k"],
        "judged": "passages" if documents is None else "documents",
        "run": None if choice["run_out"] is None else str(choice["run_out"]),
    }
    if other is not None:
        difference = compare(report, other, seed=choice["seed"])
        result["baseline"] = {"path": str(choice["baseline"]), **other.to_json()}
        result["difference"] = {name: _as_mapping(each) for name, each in difference.items()}
    emit(result, as_json, _human(report, other, difference, milliseconds))


def _asked(path: Path, split: str | None, limit: int | None) -> tuple[Sequence[Question], list[str], int]:
    """The questions that name relevant passages, the ids of all these (not those of pages (KILT), which no passage is
    called by), and how many rows hold no question."""
    from wellread.corpus.questions import evenly
    from wellread.evaluation.ranking import relevance_of

    read, skipped = readable_questions(path, split=split)
    judged = [(question, [name for name, grade in relevance_of(question).items() if grade > 0]) for question in read]
    chosen = evenly([pair for pair in judged if pair[1]], limit)
    if not chosen:
        raise ValueError(
            f"{path}: none of its {len(read)} questions names a relevant passage; "
            "give questions with `positive`, or a BEIR folder with qrels."
        )
    say(f"{len(chosen)} questions" + (f" ({len(read)} read)" if len(read) > len(chosen) else ""))
    relevant = [name for item, ids in chosen if not item.metadata.get("provenance_pages") for name in ids]
    return [question for question, _ in chosen], list(dict.fromkeys(relevant)), skipped


def _check_known(names: Documents, relevant: list[str], questions: Path, index: Path) -> None:
    missing = names.missing(relevant)
    if missing and len(missing) == len(relevant):
        raise ValueError(
            f"none of the {len(relevant)} relevant passages of {questions} is in index {index} "
            f"({missing[0]!r}, for one); give the index of the corpus that the questions are about."
        )
    if missing:
        say(f"{len(missing)} of the {len(relevant)} relevant passages are not in the index; they count as not found")


def _search(
    index: Any,
    questions: Sequence[Question],
    top_k: int,
    documents: Documents | None,
    where: dict[str, Any] | None,
) -> tuple[list[Candidates], float]:
    """What is found for every question, and milliseconds per question."""
    from wellread.retrieval.documents import search_documents
    from wellread.retrieval.given import GivenRetriever
    from wellread.retrieval.readable import search_readable
    from wellread.types import Probe

    if isinstance(index, GivenRetriever):
        index.know(questions)
    if index.of_a_model and (told := index.own_encoder().model.frame.left_out([item.text for item in questions])):
        say(f"{index.directory}: {told}")
    probes = [Probe(words=question.text, picture=question.picture) for question in questions]
    index.search(probes[:1], top_k=top_k)  # what is loaded at the first search is on no question's clock
    start = time.perf_counter()
    search = partial(search_documents, index, documents=documents, where=where, progress=True)
    if documents is None:
        found = search_readable(search, questions, probes, top_k=top_k, passages=index.about)
    else:
        found = search(probes, top_k=top_k)
    return found, 1000 * (time.perf_counter() - start) / len(probes)


def _judge(questions: Sequence[Question], found: Sequence[Candidates], choice: dict[str, Any]) -> RankingReport:
    from wellread.evaluation.ranking import rank_measures, up_to

    return rank_measures(questions, found, measures=up_to(choice["top_k"]), seed=choice["seed"])


def _baseline(
    path: Path,
    questions: Sequence[Question],
    top_k: int,
    documents: Documents | None,
    where: dict[str, Any] | None,
) -> Sequence[Candidates]:
    """The rankings to compare with, from a run file or another index, of which `where` chooses passages too."""
    if path.is_dir():
        from wellread.retrieval import open_index
        from wellread.retrieval.documents import Documents

        index = open_index(path)
        return _search(index, questions, top_k, None if documents is None else Documents(index), where)[0]
    if where and path.is_file():
        raise ValueError(
            f"--where cannot choose among the passages of baseline {path}, a run file; give the folder of an index."
        )
    return _from_run(path, questions, top_k, documents)


def _from_run(
    path: Path, questions: Sequence[Question], top_k: int, documents: Documents | None
) -> Sequence[Candidates]:
    from wellread.retrieval.given import read_run
    from wellread.types import Candidates

    if not path.is_file():
        raise ValueError(f"baseline {path} does not exist; give a run file or the folder of an index.")
    run, _ = read_run(path)
    unknown = sum(question.id not in run for question in questions)
    if unknown == len(questions):
        raise ValueError(
            f"baseline {path} ranks none of the {len(questions)} questions ({questions[0].id!r}, for one); "
            f"give a run of the same questions (it has {len(run)} others)."
        )
    if unknown:
        say(f"{unknown} of the questions are not in {path}; the baseline found nothing for them")
    found = [run.get(question.id, Candidates((), ())) for question in questions]
    deepest = max(len(each.ids) for each in found)
    if deepest < top_k:
        say(f"{path} ranks at most {deepest} per question; measures that look further see no more of it")
    return [each.top(top_k) for each in (found if documents is None else documents.fold(found))]


def _as_mapping(difference: Difference) -> dict[str, float]:
    return {name: round(number, 3) for name, number in difference._asdict().items()}


def _human(
    report: RankingReport, other: RankingReport | None, difference: dict[str, Difference] | None, milliseconds: float
) -> str:
    from wellread.evaluation.report import to_markdown

    rows: list[dict[str, Any]] = []
    for name, score in report.scores.items():
        low, high = report.intervals[name]
        row = {"measure": name, "value": score, "95 %": f"{low:.1f} to {high:.1f}"}
        if other is not None:
            mean, low, high = difference[name]
            row |= {"baseline": other.scores[name], "difference": f"{mean:+.1f}"}
            row |= {"95 % of it": f"{low:+.1f} to {high:+.1f}", "clear": "no" if low <= 0 <= high else "yes"}
        rows.append(row)
    return f"{to_markdown(rows)}\n{report.n} questions, {milliseconds:.3g} ms each"
