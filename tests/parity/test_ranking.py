"""Measures of rankings against torchmetrics, the formulas, and trec_eval on a run file; random graded judgements."""

from __future__ import annotations

import math
import random

import pytest
import pytrec_eval
import torch
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_recall,
    retrieval_reciprocal_rank,
)

from wellread.evaluation.ranking import values_of
from wellread.retrieval.given import write_run
from wellread.types import Candidates, Question

MEASURES = ("ndcg@10", "ndcg@3", "recall@5", "hit@5", "mrr@10")
# trec_eval keeps sums in double precision, torchmetrics in single: 24 bits, and a few roundings.
CLOSE = {"rel": 1e-5, "abs": 1e-6}


def draws(seed: int, count: int):
    """Judged passages, all of them ranked: torchmetrics takes what is ranked for all there is."""
    generator = random.Random(seed)
    for _ in range(count):
        names = [f"d{number}" for number in range(generator.randint(10, 30))]
        grades = {name: generator.choice((0, 0, 0, 1, 2, 4)) for name in names}
        grades[generator.choice(names)] = 3
        generator.shuffle(names)
        yield grades, names


def test_torchmetrics():
    grades, rankings = zip(*draws(3, 60))
    ours = values_of(grades, rankings, measures=MEASURES)
    for number, (judged, names) in enumerate(zip(grades, rankings)):
        scores = torch.arange(len(names), 0, -1, dtype=torch.float32)
        gains = torch.tensor([judged[name] for name in names])
        relevant = gains > 0
        theirs = {
            "ndcg@10": retrieval_normalized_dcg(scores, gains, top_k=10),
            "ndcg@3": retrieval_normalized_dcg(scores, gains, top_k=3),
            "recall@5": retrieval_recall(scores, relevant, top_k=5),
            "hit@5": retrieval_hit_rate(scores, relevant, top_k=5),
            "mrr@10": retrieval_reciprocal_rank(scores, relevant, top_k=10),
        }
        for name, value in theirs.items():
            assert ours[name][number] == pytest.approx(value.item(), **CLOSE), name


def test_formulas_where_not_everything_relevant_is_found():
    generator = random.Random(5)
    cases = [(grades, generator.sample(names, 8)) for grades, names in draws(4, 60)]
    ours = values_of(*zip(*cases), measures=("ndcg@10", "recall@5"))
    for number, (grades, names) in enumerate(cases):
        gained = sum(grades[name] / math.log2(rank + 1) for rank, name in enumerate(names[:10], start=1))
        ideal = sorted(grades.values(), reverse=True)[:10]
        best = sum(grade / math.log2(rank + 1) for rank, grade in enumerate(ideal, start=1))
        assert ours["ndcg@10"][number] == pytest.approx(gained / best)
        relevant = {name for name, grade in grades.items() if grade > 0}
        assert ours["recall@5"][number] == pytest.approx(len(relevant & set(names[:5])) / len(relevant))


def test_a_run_file_judged_by_trec_eval_gives_the_same(tmp_path):
    """Scores are all the same, so the order survives only if it is in the file."""
    cases = list(draws(6, 20))
    questions = [
        Question(f"q{number}", "?", metadata={"relevance": grades}) for number, (grades, _) in enumerate(cases)
    ]
    found = [Candidates(tuple(names), (7.0,) * len(names)) for _, names in cases]
    write_run(tmp_path / "run", questions, found)
    with open(tmp_path / "run", encoding="utf8") as file:
        run = pytrec_eval.parse_run(file)
    judged = {question.id: grades for question, (grades, _) in zip(questions, cases)}
    theirs = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10", "recip_rank"}).evaluate(run)
    ours = values_of(questions, found, measures=("ndcg@10", "mrr@100"))
    for number, question in enumerate(questions):
        assert ours["ndcg@10"][number] == theirs[question.id]["ndcg_cut_10"]
        assert ours["mrr@100"][number] == theirs[question.id]["recip_rank"]
