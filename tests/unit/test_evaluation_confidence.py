"""A confidence is fitted on answers, kept as a file, and judged by figures that can be worked out by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from wellread.evaluation.confidence import FEATURES, Confidence, calibrate, fit_confidence, raw_confidence
from wellread.evaluation.metrics import bootstrap
from wellread.evaluation.reliability import (
    accuracy_at_coverage,
    area_under_risk,
    brier_score,
    calibration_error,
    judge,
    plot_confidence,
    reliability,
    risk_coverage,
)
from wellread.types import Answer, CitedPassage, Question

# Figures worked out by hand in the same few float64 operations.
EXACT = {"abs": 1e-12}


def made_up(count: int, seed: int = 0) -> tuple[list[Question], list[Answer]]:
    """Answers of a reader that is too sure of itself, and surer where the passage holds the answer."""
    draw = np.random.default_rng(seed)
    questions, answers = [], []
    for index in range(count):
        tokens, held = int(draw.integers(2, 6)), bool(draw.random() < 0.5)
        mean = -0.6 * draw.random()
        right = draw.random() < 1 / (1 + math.exp(1.5 - 2.5 * held - 4 * (mean + 0.3)))
        found = [
            CitedPassage("a", "", "It is old.", score=9.0, share=0.7, span=(6, 9) if held else None),
            CitedPassage("b", "", "", score=5.0, share=0.3),
        ]
        questions.append(Question(f"q{index}", "Is it?", answers=("old",)))
        said = "old" if right else "new"
        answers.append(Answer(said, tuple(found), log_likelihood=tokens * mean, num_tokens=tokens))
    return questions, answers


# -- figures ---------------------------------------------------------------------------------------------------


def test_bins_hold_equally_many_answers():
    sure, right = np.array([0.9, 0.1, 0.8, 0.2]), np.array([1, 0, 1, 1])
    assert [count for *_, count in reliability(sure, right, bins=3)] == [2, 1, 1]
    low, high = reliability(sure, right, bins=2)
    assert low == pytest.approx((0.15, 0.5, 2), **EXACT)
    assert high == pytest.approx((0.85, 1.0, 2), **EXACT)
    assert calibration_error(sure, right, bins=2) == pytest.approx((0.35 * 2 + 0.15 * 2) / 4, **EXACT)
    # Bins of equal width would put three answers in one and one in the other.
    skewed = np.array([0.05, 0.1, 0.15, 0.9])
    assert [count for *_, count in reliability(skewed, right, bins=2)] == [2, 2]
    assert len(reliability(sure, right, bins=10)) == 4  # no more bins than answers


def test_a_confidence_that_keeps_its_word_has_no_error():
    sure = np.repeat([0.0, 0.25, 0.5, 1.0], 4)
    right = np.array([0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1])
    assert calibration_error(sure, right, bins=4) == pytest.approx(0, **EXACT)
    assert calibration_error(1 - sure, right, bins=4) == pytest.approx((1 + 0.5 + 0 + 1) / 4, **EXACT)
    assert brier_score(sure, right) == pytest.approx((0.25 * 0.75 + 0.25) / 4, **EXACT)


def test_the_best_ranking_has_the_area_it_must_have():
    right = np.array([1] * 6 + [0] * 4)
    by_hand = (1 / 7 + 2 / 8 + 3 / 9 + 4 / 10) / 10
    assert area_under_risk(right, right) == pytest.approx(by_hand, **EXACT)
    assert area_under_risk(np.linspace(1, 0, 10), right) == pytest.approx(by_hand, **EXACT)
    # For many answers it nears  e + (1 - e) ln(1 - e), e the share of wrong ones; a sum of n terms is 1/n off.
    right = np.arange(10_000) < 7_000
    assert area_under_risk(right, right) == pytest.approx(0.3 + 0.7 * math.log(0.7), abs=1e-4)
    # A confidence that knows nothing leaves the risk what it is at every coverage.
    assert area_under_risk(np.full(10_000, 0.5), right) == pytest.approx(0.3, **EXACT)
    assert area_under_risk(1 - right, right) > 0.3


def test_risk_grows_with_coverage():
    coverage, risk = risk_coverage(np.array([0.2, 0.9, 0.6, 0.4]), np.array([0, 1, 0, 1]))
    assert coverage == pytest.approx([0.25, 0.5, 0.75, 1.0], **EXACT)
    assert risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2], **EXACT)


def test_accuracy_among_the_surest():
    sure, right = np.linspace(1, 0, 10), np.array([1, 1, 1, 1, 0, 1, 0, 0, 0, 0])
    shares = {1.0: 0.5, 0.8: 5 / 8, 0.5: 4 / 5, 0.75: 5 / 8, 0.01: 1.0}  # of seven and a half answers, eight
    assert {share: accuracy_at_coverage(sure, right, share) for share in shares} == pytest.approx(shares, **EXACT)
    for share in (0, 1.01):
        with pytest.raises(ValueError, match=rf"coverage={share}; it must be above 0 and at most 1"):
            accuracy_at_coverage(sure, right, share)


def test_the_order_of_the_answers_does_not_matter():
    sure, right = np.array([0.5] * 6 + [0.7] * 4), np.array([0, 1, 1, 0, 1, 0, 1, 1, 0, 1])
    told = judge(sure, right, samples=2)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(10)
        again = judge(sure[order], right[order], samples=2)
        figures = ("ece", "brier", "aurc")
        assert [getattr(again, name) for name in figures] == pytest.approx([getattr(told, name) for name in figures])
        assert again.accuracy_at_coverage == pytest.approx(told.accuracy_at_coverage)


def test_a_report_says_all_figures_with_intervals():
    draw = np.random.default_rng(0)
    sure = draw.random(200)
    right = (draw.random(200) < sure).astype(float)
    report = judge(sure, right, samples=200, seed=3)
    assert report.ece == calibration_error(sure, right)
    assert report.aurc == area_under_risk(sure, right)
    # The same draws as the bootstrap of a mean.
    assert report.intervals["brier"] == pytest.approx(bootstrap((sure - right) ** 2, samples=200, seed=3), **EXACT)
    for name in ("aurc", "brier"):
        low, high = report.intervals[name]
        assert low < getattr(report, name) < high
    told = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert told.keys() == {"n", "ece", "brier", "aurc", "accuracy_at_coverage", "at_min_confidence", "intervals"}
    assert told["accuracy_at_coverage"].keys() == {"100", "80", "50"}
    assert told["accuracy_at_coverage"]["100"] == pytest.approx(100 * right.mean())
    given = sure >= 0.75
    expected = {"answered": 100 * given.mean(), "right": 100 * right[given].mean()}
    assert told["at_min_confidence"]["0.75"] == pytest.approx(expected, abs=0.005)  # rounded to two places
    assert judge(np.full(4, 0.1), right[:4], samples=2).to_json()["at_min_confidence"]["0.5"]["right"] is None


def test_confidences_and_outcomes_come_in_pairs():
    with pytest.raises(ValueError, match=r"3 confidences and 2 outcomes; give one of each per answer"):
        calibration_error(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match=r"0 confidences and 0 outcomes"):
        area_under_risk(np.zeros(0), np.zeros(0))


# -- fitting ---------------------------------------------------------------------------------------------------


def test_a_fitted_confidence_is_as_often_right_as_it_says():
    found = calibrate(*made_up(1200), fitted={"system": "fid"}, samples=20, seed=5)
    assert found.before.n == found.after.n == len(found.sure) == 600
    assert found.after.ece < 0.5 * found.before.ece
    assert found.after.brier < found.before.brier
    assert found.after.aurc < found.before.aurc  # what a passage holds, probabilities do not know
    assert found.after.accuracy_at_coverage[50] > found.after.accuracy_at_coverage[100] + 10
    # Chance alone gives 600 answers in 10 bins about sqrt(p (1 - p) / 60) = 0.06 at most.
    assert found.after.ece < 0.07
    assert found.confidence.fitted == {"system": "fid", "n": 600, "seed": 5}
    told = found.to_json()
    assert told["before"]["ece"] == pytest.approx(found.before.ece, abs=1e-4)
    assert told["fitted"]["n"] == 600


def test_no_answer_is_judged_that_was_fitted_on():
    questions, answers = made_up(80)
    found = calibrate(questions, answers, samples=2)
    others = [replace(answer, text="new" if answer.text == "old" else "old") for answer in answers]
    turned = [pair[index % 2] for index, pair in enumerate(zip(answers, others, strict=True))]
    assert calibrate(questions, turned, samples=2).confidence == found.confidence
    assert calibrate(questions, turned, samples=2).after.aurc != found.after.aurc


def test_the_weights_are_at_the_minimum():
    _, answers = made_up(60)
    right = np.array([answer.text == "old" for answer in answers], dtype=float)
    found = fit_confidence(answers, right, l2=0.5)
    sure = np.array([found(answer) for answer in answers])
    values = np.array([[feature(answer) for feature in FEATURES.values()] for answer in answers])
    slope = ((values - found.means) / found.scales).T @ (sure - right) + 0.5 * np.array(found.weights)
    # Newton's method ends where a step is below 1e-9; slopes are at most 60 times as steep.
    assert slope == pytest.approx(np.zeros(len(FEATURES)), abs=1e-7)
    assert sure.mean() == pytest.approx(right.mean(), abs=1e-8)
    constant = [list(FEATURES).index(name) for name in ("share", "score_above_second", "score_above_mean")]
    assert np.array(found.weights)[constant] == pytest.approx(np.zeros(3), abs=1e-9)
    heavy = fit_confidence(answers, right, l2=1e6)
    assert np.abs(heavy.weights).max() < 1e-3  # only the bias is free


def test_answers_that_can_be_told_apart_give_finite_weights():
    _, answers = made_up(40)
    held = [float(answer.passages[0].span is not None) for answer in answers]
    found = fit_confidence(answers, held)
    assert max(map(abs, found.weights)) < 10
    assert [found(answer) > 0.5 for answer in answers] == [value == 1 for value in held]


def test_features_say_what_they_mean():
    cited = [
        CitedPassage("a", "", "", score=4.0, share=0.5),
        CitedPassage("b", "", "", score=8.0, share=0.2, span=(0, 1)),
        CitedPassage("c", "", "", score=0.0, share=0.1, span=(0, 1)),
        CitedPassage("d", "", "", score=4.0, share=0.2, span=(0, 1), kept=False),
    ]
    found = {name: feature(Answer("x", tuple(cited), -3.0, num_tokens=4)) for name, feature in FEATURES.items()}
    assert found == pytest.approx(
        {
            "log_likelihood": -3.0,
            "mean_log_likelihood": -0.75,
            "num_tokens": 4.0,
            "share": 0.5,
            "score_above_second": 4 / math.sqrt(8),
            "score_above_mean": 4 / math.sqrt(8),
            "supported": 1.0,
            "supported_share": 0.3,
        }
    )
    rescaled = [replace(item, score=0.001 * item.score - 7) for item in cited]  # another retriever's scores
    again = {name: feature(Answer("x", tuple(rescaled), -3.0, num_tokens=4)) for name, feature in FEATURES.items()}
    # A difference of numbers near 7 loses a few of 16 digits.
    assert again == pytest.approx(found, rel=1e-9)
    unread = tuple(replace(item, score=-math.inf, kept=False) for item in cited)
    for nothing in (Answer(""), Answer("x", (cited[0],)), Answer("x", unread)):
        assert all(math.isfinite(feature(nothing)) for feature in FEATURES.values())


def test_raw_confidence_is_the_mean_probability_of_a_token():
    assert raw_confidence(Answer("x", log_likelihood=2 * math.log(0.5), num_tokens=2)) == pytest.approx(0.5)
    assert raw_confidence(Answer("")) == 0


def test_saying_nothing_is_never_right():
    questions, answers = made_up(40)
    found = calibrate(questions, [*answers[:38], Answer(""), replace(answers[39], text=" ")], samples=2)
    assert found.confidence.fitted["n"] == 20
    assert found.sure[-1] == 0
    assert found.confidence(Answer("")) == 0


# -- withholding -----------------------------------------------------------------------------------------------


def test_answers_below_a_confidence_are_withheld():
    questions, answers = made_up(40)
    confidence = calibrate(questions, answers, samples=2).confidence
    sure = confidence(answers[0])
    assert confidence.rate(answers[0]) == replace(answers[0], confidence=sure)
    assert confidence.rate(answers[0], sure) == replace(answers[0], confidence=sure)  # at least as sure
    held = confidence.rate(answers[0], sure + 1e-9)
    assert (held.text, held.abstained, held.withheld, held.confidence) == ("", True, answers[0].text, sure)
    assert held.passages == answers[0].passages
    assert held.support == answers[0].support
    nothing = confidence.rate(Answer(""), 0.1)
    assert (nothing.confidence, nothing.abstained, nothing.withheld) == (0, True, "")


# -- keeping ---------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path) -> Confidence:
    questions, answers = made_up(40)
    confidence = calibrate(questions, answers, fitted={"system": "fid", "top_k": 20}, samples=2).confidence
    confidence.save(tmp_path)
    return confidence


def test_a_confidence_is_read_back_as_it_was(kept, tmp_path):
    assert Confidence.load(tmp_path) == kept
    assert Confidence.load(tmp_path, system="fid") == kept
    assert Confidence.load(tmp_path, system="lumen") is None
    told = json.loads((tmp_path / "confidence.json").read_text())
    assert told["features"] == list(FEATURES)
    assert told["fitted"] == {"system": "fid", "top_k": 20, "n": 20, "seed": 0}
    assert Confidence.load(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, r"confidence\.json is of another version of wellread; fit it again with `wellread calibrate`"),
        ({"bias": "high"}, r"is damaged: bias='high' is str; it must be float\. Fit it again with `wellread calib"),
        ({"bias": math.nan}, r"is damaged: a weight, mean or scale is not finite; it must be a number"),
        ({"features": ["luck"]}, r"is damaged: features=\['luck'\] are unknown; this version knows: log_likelihood"),
        ({"weights": [1.0]}, r"features, weights, means and scales differ in number; each feature has one"),
        ({"scales": [0.0] * len(FEATURES)}, r"is damaged: a scale is not above 0; it must be"),
    ],
)
def test_a_damaged_file_is_told(kept, tmp_path, change, message):
    file = tmp_path / "confidence.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        Confidence.load(tmp_path)


def test_what_cannot_be_fitted_is_told():
    questions, answers = made_up(40)
    with pytest.raises(ValueError, match=r"all 20 answers to fit a confidence on are wrong; it takes right and wrong"):
        calibrate(questions, [replace(answer, text="new") for answer in answers])
    with pytest.raises(ValueError, match=r"all 20 answers to fit a confidence on are right"):
        calibrate(questions, [replace(answer, text="old") for answer in answers])
    with pytest.raises(ValueError, match=r"40 questions and 39 answers; there must be one of each"):
        calibrate(questions, answers[1:])
    with pytest.raises(ValueError, match=r"3 questions are too few to fit a confidence and judge it; give 4 or more"):
        calibrate(questions[:3], answers[:3])


# -- drawing ---------------------------------------------------------------------------------------------------


def test_both_diagrams_are_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    found = calibrate(*made_up(100), samples=2)
    files = [
        plot_confidence(tmp_path / name, {"before": found.raw, "after": found.sure}, found.right).read_text()
        for name in ("a.svg", "b.svg")
    ]
    assert files[0] == files[1]
    assert all(f">{word}<" in files[0] for word in ("Reliability", "Risk and coverage", "before", "after"))


def test_an_answer_from_one_passage_alone_is_not_judged_by_how_alone_it_is():
    """Such an answer has all of the attention, which among the answers that were fitted on none had."""
    features = {"log_likelihood": (1.0, -1.5, 1.2), "share": (-0.4, 0.3, 0.07)}
    weights, means, scales = (tuple(part) for part in zip(*features.values()))
    found = Confidence(tuple(features), weights, 0.0, means, scales)
    alone = Answer("Rio", (CitedPassage("a", "", "Rio", 0.0, share=1.0),), log_likelihood=-0.1, num_tokens=2)
    expected = 1 / (1 + math.exp(-((-0.1 + 1.5) / 1.2 - 0.4 * 3)))  # ten scales away, counted as three
    assert found(alone) == pytest.approx(expected)


def test_a_confidence_is_that_of_its_options(tmp_path):
    confidence = calibrate(
        *made_up(40), fitted={"system": "reveal", "options": {"sources": ("text",), "keep": 5}}
    ).confidence
    confidence.save(tmp_path)
    now = {"sources": ("text",), "keep": 5, "added later": 1}
    assert Confidence.load(tmp_path, system="reveal", options=now) is not None
    assert Confidence.load(tmp_path, system="reveal", options=now | {"keep": 4}) is None
    assert Confidence.load(tmp_path, system="reveal", options=now | {"sources": ("text", "pictures")}) is None
