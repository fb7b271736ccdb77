"""`wellread rank` and the rankings of `wellread eval`: BEIR folders in, measures and runs out, two runs compared."""

from __future__ import annotations

import gzip
import importlib.util
import json
import re

import pytest

from wellread.evaluation.ranking import MEASURES

LONG = "word " * 120  # more than one piece of 100 words
DOCUMENTS = [
    ("d1", "Jupiter", f"{LONG} the largest planet"),
    ("d2", "Titan", "a moon with lakes of methane"),
    ("d3", "Mars", f"a red planet {LONG} with methane"),
    ("d4", "Io", "a moon with volcanoes"),
]
QUERIES = [("1", "largest planet"), ("2", "lakes of methane"), ("3", "volcanoes"), ("4", "of nothing")]
QRELS = "query-id\tcorpus-id\tscore\n1\td1\t2\n1\td3\t1\n2\td2\t1\n3\td2\t1\n4\td2\t0\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory, wellread):
    """A BEIR folder, packed in part, with an index of its cut documents and one of whole ones."""
    folder = tmp_path_factory.mktemp("rank")
    (folder / "set" / "qrels").mkdir(parents=True)
    corpus = "".join(json.dumps({"_id": i, "title": t, "text": x}) + "\n" for i, t, x in DOCUMENTS)
    (folder / "set" / "corpus.jsonl.gz").write_bytes(gzip.compress(corpus.encode()))
    queries = "".join(json.dumps({"_id": i, "text": x}) + "\n" for i, x in QUERIES)
    (folder / "set" / "queries.jsonl").write_text(queries)
    (folder / "set" / "qrels" / "test.tsv.gz").write_bytes(gzip.compress(QRELS.encode()))
    (folder / "set" / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n4\td4\t1\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        made = wellread("corpus set --cut words --out cut --json").json
        assert (made["documents"], made["passages"]) == (4, 6)
        assert wellread("corpus set/corpus.jsonl.gz --cut none --out whole --json").json["passages"] == 4
        for name in ("cut", "whole"):
            assert wellread(f"index {name} --retriever lexical --out {name}-index --json").code == 0
    return folder


@pytest.fixture
def place(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


def test_documents_of_a_beir_folder(wellread, place):
    said = wellread("rank set --split test --index cut-index --run-out runs/cut.trec --run-name bm25 --json")
    told = said.json
    assert said.err.startswith("3 questions (4 read)\n")
    assert {"n", *MEASURES, "intervals", "milliseconds_per_question", "run"} <= set(told)
    assert "difference" not in told
    assert (told["n"], told["judged"], told["retriever"], told["run"]) == (3, "documents", "lexical", "runs/cut.trec")
    # 1 and 2 find what they need, 3 finds another moon.
    assert told["recall@1"] == pytest.approx(100 * (1 / 2 + 1 + 0) / 3, abs=0.001)
    assert told["recall@5"] == pytest.approx(100 * (1 + 1 + 0) / 3, abs=0.001)
    assert told["mrr@10"] == pytest.approx(100 * 2 / 3, abs=0.001)
    assert told["milliseconds_per_question"] > 0
    lines = [line.split() for line in (place / "runs" / "cut.trec").read_text().splitlines()]
    assert lines[0][:4] == ["1", "Q0", "d1", "1"]
    assert {line[2] for line in lines} <= {"d1", "d2", "d3", "d4"}
    assert {line[5] for line in lines} == {"bm25"}
    train = wellread("rank set --split train --index cut-index --json").json
    assert train["n"] == 1
    assert wellread("rank set --index cut-index --limit 2 --json").json["n"] == 2


def test_a_baseline_is_a_run_or_an_index(wellread, place):
    (place / "bad.trec").write_text("1 Q0 d4 1 2 bad\n1 Q0 d1 2 1 bad\n2 Q0 d4 1 1 bad\n")
    ask = "rank set --split test --index whole-index"
    said = wellread(f"{ask} --baseline bad.trec --json")
    assert "1 of the questions are not in bad.trec; the baseline found nothing for them" in said.err
    assert "bad.trec ranks at most 2 per question" in said.err
    told = said.json
    assert told["judged"] == "passages"
    assert told["baseline"]["recall@1"] == 0
    difference = told["difference"]["recall@5"]
    assert difference["mean"] == pytest.approx(told["recall@5"] - told["baseline"]["recall@5"], abs=0.002)
    assert difference["low"] <= difference["mean"] <= difference["high"]
    same = wellread(f"{ask} --baseline whole-index --json").json["difference"]
    assert all(row == {"mean": 0, "low": 0, "high": 0} for row in same.values())
    table = wellread(f"{ask} --baseline bad.trec").out
    assert re.search(r"\| ndcg@10 \| [\d.]+ \| .* to .* \| [\d.]+ \| \+[\d.]+ \| .* to .* \| (yes|no) \|", table)
    assert "3 questions, " in table


def test_where_chooses_among_the_passages_of_both(wellread, place):
    ask = "rank set --split test --index cut-index --where document=d1 --baseline"
    told = wellread(f"{ask} cut-index --json").json
    assert told["recall@5"] == pytest.approx(100 / 2 / 3, abs=0.001)  # d1, one of two that the first question needs
    assert all(row == {"mean": 0, "low": 0, "high": 0} for row in told["difference"].values())


def test_a_run_becomes_an_index_that_ranks_the_same(wellread, place):
    first = wellread("rank set --split test --index whole-index --run-out whole.trec --json").json
    assert wellread("index whole --retriever given --run whole.trec --out given --json").code == 0
    again = wellread("rank set --split test --index given --json").json
    assert {name: again[name] for name in MEASURES} == {name: first[name] for name in MEASURES}


def test_measures_deeper_than_the_ranking_are_left_out(wellread, place):
    told = wellread("rank set --split test --index whole-index --top-k 5 --json").json
    assert [name for name in MEASURES if name in told] == ["recall@1", "recall@5"]


def test_what_the_index_lacks_is_told(wellread, place):
    rows = [{"question": "largest planet", "positive": ["d1", "d9"]}]
    (place / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = wellread("rank some.jsonl --index whole-index --json")
    assert "1 of the 2 relevant passages are not in the index" in said.err
    assert said.json["recall@20"] == 50


def test_rows_that_hold_no_question_are_told_and_left_out(wellread, place):
    (place / "some.jsonl").write_text('{"words": "none"}\n{"question": "largest planet", "positive": ["d1"]}\n')
    said = wellread("rank some.jsonl --index whole-index --json")
    assert said.err.startswith("skipped some.jsonl:1: holds no question (fields: words); ")
    assert (said.json["n"], said.json["skipped"]) == (1, 1)


ERRORS = [
    ("rank set --split dev --index cut-index", r"split='dev' is not in set; it has: test, train\."),
    ("rank nowhere --index cut-index", r"source nowhere does not exist; give a file or a folder\."),
    ("rank set --index set", r"set holds no finished index \(no index\.json\); make one with `wellread index`\."),
    (
        "rank answered.jsonl --index cut-index",
        r"answered\.jsonl: none of its 1 questions names a relevant passage; "
        r"give questions with `positive`, or a BEIR folder with qrels\.",
    ),
    (
        "rank other.jsonl --index cut-index",
        r"none of the 1 relevant passages of other\.jsonl is in index cut-index \('elsewhere', for one\); "
        r"give the index of the corpus that the questions are about\.",
    ),
    (
        "rank set --split test --index cut-index --baseline nowhere.trec",
        r"baseline nowhere\.trec does not exist; give a run file or the folder of an index\.",
    ),
    (
        "rank set --split test --index cut-index --baseline strange.trec",
        r"baseline strange\.trec ranks none of the 3 questions \('1', for one\); "
        r"give a run of the same questions \(it has 1 others\)\.",
    ),
    (
        "rank set --split test --index cut-index --where document=d1 --baseline strange.trec",
        r"--where cannot choose among the passages of baseline strange\.trec, a run file; "
        r"give the folder of an index\.",
    ),
    (
        "rank set --split test --index cut-index --run-out run.trec --run-name 'my run'",
        r"'my run' is empty or holds white space, which a TREC run cannot; write JSON lines \(a \.jsonl file\)\.",
    ),
]


@pytest.mark.parametrize(("command", "says"), ERRORS)
def test_mistakes(wellread, place, command, says):
    (place / "answered.jsonl").write_text('{"question": "Who?", "answers": ["Ada"]}\n')
    (place / "other.jsonl").write_text('{"question": "Who?", "positive": ["elsewhere"]}\n')
    (place / "strange.trec").write_text("77 Q0 d1 1 2 bad\n")
    said = wellread(command)
    assert said.code == 2
    assert re.fullmatch(f"wellread: {says}", said.err.splitlines()[-1])
    assert not (place / "run.trec").exists()


def without_package(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "pytrec_eval" else find(name, *more)
    )


def test_rank_says_what_to_install(wellread, place, monkeypatch):
    without_package(monkeypatch)
    said = wellread("rank set --split test --index cut-index")
    assert said.code == 2
    assert "missing (pytrec_eval); install it with: pip install '.[ranking]' (" in said.err


EVAL = "eval --model model --memory memory --questions questions.jsonl --top-k 3"


def test_eval_writes_what_was_retrieved(wellread, world, monkeypatch, tmp_path):
    monkeypatch.chdir(world)
    report = wellread(f"{EVAL} --run-out {tmp_path}/run.trec --json").json
    assert report["recall@1"] == 100
    assert "ndcg@10" not in report  # there are six passages, fewer than it looks at
    lines = [line.split() for line in (tmp_path / "run.trec").read_text().splitlines()]
    assert [line[:4] for line in lines if line[3] == "1"] == [
        ["q-jupiter", "Q0", "jupiter", "1"],
        ["q-titan", "Q0", "titan", "1"],
    ]
    assert {line[5] for line in lines} == {"glimmer"}
    assert max(int(line[3]) for line in lines) > 3  # as deep as is measured, not only what was read


def test_eval_goes_without_the_package_and_says_so(wellread, world, monkeypatch):
    monkeypatch.chdir(world)
    assert "ranking" not in wellread(f"{EVAL} --json").err
    without_package(monkeypatch)
    said = wellread(f"{EVAL} --json")
    assert "ndcg@10 and mrr@10 are left out; they need: pip install '.[ranking]'" in said.err
    assert said.json["recall@1"] == 100


def test_bm25_on_cranfield(wellread, shared_data, tmp_path, monkeypatch):
    """The published figures of the collection: 34.3 nDCG@10 and 72.2 recall@100, whole documents, k1 0.9, b 0.4."""
    monkeypatch.chdir(tmp_path)
    folder = shared_data / "retrieval" / "cranfield"
    assert wellread(f"corpus {folder} --cut none --out corpus --json").json["passages"] == 1398  # two are empty
    assert wellread("index corpus --retriever lexical --out index --json").code == 0
    said = wellread(f"rank {folder} --split test --index index --json")
    assert "relevant passages are not in the index" in said.err  # one of the empty two
    told = said.json
    # The figures have one digit; the same words cut by another version of the library may move a few ranks.
    assert told["ndcg@10"] == pytest.approx(34.3, abs=0.3)
    assert told["recall@100"] == pytest.approx(72.2, abs=0.3)
