"""Mistakes in asking, measuring and calibrating."""

from __future__ import annotations

from error_rows.kit import ASK, CALIBRATE, EVAL, Row, without

TOPICS: dict[str, list[Row]] = {
    "Asking": [
        Row(
            "empty-question", "an empty question", "ask '' --model model --memory memory", r"the question is empty; .*"
        ),
        Row(
            "question-twice",
            "a question and a file of questions",
            f"{ASK} --questions questions.jsonl",
            r"both a question and --questions were given; give one of them\.",
        ),
        Row(
            "nothing-to-read",
            "neither a memory nor a corpus",
            "ask 'Which planet?' --model model",
            r"no memory and no corpus were given; give at least one to answer from \(--memory DIR, --corpus DIR\)\.",
        ),
        Row(
            "no-index",
            "a corpus without an index",
            "ask 'Which planet?' --model model --corpus corpus",
            r"no search index was given; build one with wellread index and pass --index DIR\.",
        ),
        Row("top-k", "no passage retrieved", f"{ASK} --top-k 0", r"top_k=0; it must be at least 1\."),
        Row("beams", "no beam", f"{ASK} --beams 0", r"Invalid value for '--beams': 0 is not in the range x>=1\."),
        Row(
            "where",
            "a filter on what no passage has",
            f"{ASK} --where colour=red",
            r"metadata key 'colour' does not occur in this index; use one of: file, kind, source\.",
        ),
        Row(
            "questions-missing",
            "a file of questions that does not exist",
            "ask --questions nowhere.txt --model model --memory memory",
            r"questions nowhere\.txt does not exist; give a file of questions, or - for standard input\.",
        ),
        Row(
            "questions-bad-line",
            "a bad line among the questions",
            "ask --questions bad.jsonl --model model --memory memory",
            r"no question came out of bad\.jsonl; rows need one of the fields question, .*; the first problem: "
            r"bad\.jsonl:1: is not JSON: .*\.",
            lambda place: place.write("bad.jsonl", '{"question": \n'),
        ),
        Row(
            "eval-questions-missing",
            "a file of questions that does not exist",
            "eval --model model --memory memory --questions nowhere.jsonl",
            r"source nowhere\.jsonl does not exist; give a file or a folder\.",
        ),
        Row(
            "eval-no-answers",
            "questions without answers",
            EVAL,
            r"questions\.jsonl holds no questions with answers; give a file that does\.",
            lambda place: place.write("questions.jsonl", '{"question": "Which planet?"}\n'),
        ),
        Row(
            "eval-split",
            "a part that the questions do not have",
            f"{EVAL} --split dev",
            r"split='dev' is not in questions\.jsonl; it has: no split field\.",
        ),
        Row(
            "eval-batch-size",
            "no question at a time",
            f"{EVAL} --batch-size 0",
            r"Invalid value for '--batch-size': 0 is not in the range x>=1\.",
        ),
    ],
    "Confidence": [
        Row(
            "min-confidence",
            "a confidence above 1",
            f"{ASK} --min-confidence 50",
            r"min_confidence=50\.0; it must be between 0 and 1\.",
        ),
        Row(
            "no-confidence",
            "withholding answers of a model that was not calibrated",
            f"{ASK} --min-confidence 0.5",
            r"min_confidence=0\.5, but no confidence was fitted for this glimmer model as it is set; fit one with "
            r"`wellread calibrate`, or leave min_confidence out\.",
        ),
        Row(
            "confidence-damaged",
            "a confidence.json that lacks a part",
            ASK,
            r"model/confidence\.json is damaged: features is missing; it has no default\.; .* Fit it again with "
            r"`wellread calibrate`\.",
            lambda place: (place.own("model") / "confidence.json").write_text('{"format": 1}', encoding="utf8"),
        ),
        Row(
            "confidence-format",
            "a confidence.json of another version of wellread",
            ASK,
            r"model/confidence\.json is of another version of wellread; fit it again with `wellread calibrate`\.",
            lambda place: (place.own("model") / "confidence.json").write_text('{"format": 2}', encoding="utf8"),
        ),
        Row(
            "calibrate-few",
            "fewer questions than there is to fit",
            CALIBRATE,
            r"2 questions are too few to fit a confidence and judge it; give 4 or more\.",
        ),
        Row(
            "calibrate-all-wrong",
            "a model that answers nothing rightly",
            CALIBRATE,
            r"all \d answers to fit a confidence on are wrong; it takes right and wrong ones\. Give more questions, "
            r"or another reader\.",
            lambda place: place.write("questions.jsonl", '{"question": "Which planet?", "answers": ["none"]}\n' * 6),
        ),
        Row(
            "calibrate-no-answers",
            "questions without answers",
            CALIBRATE,
            r"questions\.jsonl holds no questions with answers; give a file that does\.",
            lambda place: place.write("questions.jsonl", '{"question": "Which planet?"}\n'),
        ),
        Row(
            "calibrate-plot",
            "a plot in a format that is not drawn",
            f"{CALIBRATE} --plot curves.pdf",
            r"plot curves\.pdf ends in '\.pdf'; give a file that ends in one of: \.svg, \.png\.",
        ),
        Row(
            "calibrate-no-matplotlib",
            "a plot without the package that draws",
            f"{CALIBRATE} --plot curves.svg",
            r"plots need matplotlib, which is not installed; run: pip install matplotlib\.",
            lambda place: without(place, "matplotlib"),
        ),
    ],
}
