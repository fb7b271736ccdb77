"""`wellread calibrate`: fit how sure a model may be of its answers, and measure what that is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wellread.cli.asked import answered_questions
from wellread.cli.opening import answering_options, opened
from wellread.cli.output import POSITIVE, emit, json_option

if TYPE_CHECKING:
    from wellread.evaluation.reliability import ConfidenceReport


@click.command()
@answering_options
@click.option("--questions", required=True, help="File of questions with answers, none of them trained on.")
@click.option("--split", default=None, help="Only the questions of this split.")
@click.option("--limit", default=None, type=POSITIVE, help="This many questions, evenly spaced.")
@click.option("--batch-size", default=8, show_default=True, type=POSITIVE, help="Questions answered together.")
@click.option("--seed", default=0, show_default=True, help="Seed of the bootstrap intervals.")
@click.option("--out", default=None, help="Folder for confidence.json; default: the model's, where `ask` looks for it.")
@click.option("--plot", default=None, metavar="FILE", help="Draw reliability and risk into this .svg or .png file.")
@json_option
def command(out: str | None, plot: str | None, as_json: bool, **choice: Any) -> None:
    """Fit the confidence of a model's answers on one half of the questions and measure it on the other half.

    Printed of the other half: the expected calibration error (ece), the Brier score, the area under the
    risk-coverage curve (aurc), and the percentage of right answers among the surest; before (the mean probability of
    the answer's tokens) and after. It holds for this system with these options, this retriever
    and --top-k.

    \b
    Example:
      wellread calibrate --model model --memory memory --questions dev.jsonl
      wellread ask "Which river flows through Prague?" --model model --memory memory --min-confidence 0.5
    """
    from wellread.config import to_mapping
    from wellread.evaluation.confidence import calibrate
    from wellread.evaluation.plots import check_plot
    from wellread.evaluation.reliability import plot_confidence
    from wellread.model import model_path

    if plot is not None:
        check_plot(plot)
    questions, counts = answered_questions(
        choice["questions"], split=choice["split"], limit=choice["limit"], has_answer=lambda item: bool(item.answers)
    )
    pipeline = opened(choice)
    settings = {"top_k": pipeline.model.read_at_once(choice["top_k"]), "num_beams": choice["beams"]}
    fixed = {"verbatim": True} if choice["verbatim"] else {}
    answers = list(
        pipeline.ask_many(questions, batch_size=choice["batch_size"], progress=True, flops=False, **settings)
    )
    facts = {"questions": Path(choice["questions"]).name, "system": pipeline.model.name, **settings}
    facts["options"] = to_mapping(pipeline.model.system.config)
    found = calibrate(
        questions, answers, fitted={**facts, **fixed, "retriever": pipeline.retriever.name}, seed=choice["seed"]
    )
    folder = model_path(choice["model"]) if out is None else Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    file = found.confidence.save(folder)
    if plot is not None:
        plot_confidence(plot, {"before": found.raw, "after": found.sure}, found.right)
    result = {**found.to_json(), **counts, "out": str(file), **({} if plot is None else {"plot": plot})}
    emit(result, as_json, _as_text(found.before, found.after, file))


def _as_text(before: ConfidenceReport, after: ConfidenceReport, file: Path) -> str:
    from wellread.evaluation.report import to_markdown

    rows: list[dict[str, Any]] = [
        {"measure": name, "before": getattr(before, name), "after": getattr(after, name)}
        for name in ("ece", "brier", "aurc")
    ]
    rows += [
        {"measure": f"% right of the surest {share} %", "before": before.accuracy_at_coverage[share], "after": right}
        for share, right in after.accuracy_at_coverage.items()
    ]
    told = [
        f"--min-confidence {least}: answers {answered:.0f} %, {f'{right:.0f}' if answered else '-'} % of them rightly"
        for least, (answered, right) in after.at_min_confidence.items()
    ]
    if after.brier > before.brier:
        told.append("It came out worse than what it was made from (brier): give more questions.")
    return "\n".join([to_markdown(rows), *told, f"Of {after.n} questions it was not fitted on. Written: {file}"])
