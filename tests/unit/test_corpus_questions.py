"""Question files: every layout gives the same values; bad rows are named."""

from __future__ import annotations

import gzip
import json

import pytest

from wellread.corpus import Corpus, Problem, ingest, iter_questions, read_qrels, read_questions
from wellread.corpus.questions import evenly


def write(path, content) -> object:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def one(path, row, **options):
    (question,) = read_questions(write(path, json.dumps(row) + "\n"), **options)
    return question


@pytest.mark.parametrize(
    ("row", "text", "answers", "positive", "task"),
    [
        ({"question": "q?", "answers": ["a", "b", "a"], "positive": ["p"]}, "q?", ("a", "b"), ("p",), "qa"),
        ({"question": "q?", "answer": "a", "positive": "p"}, "q?", ("a",), ("p",), "qa"),
        ({"question": "q?", "answer": ["a"]}, "q?", ("a",), (), "qa"),  # NQ-open
        ({"claim": "c.", "label": "SUPPORTS"}, "c.", ("SUPPORTS",), (), "claim"),
        ({"input": "Bob [SEP] born", "answers": ["1976"]}, "Bob [SEP] born", ("1976",), (), "slot"),
        ({"query": "q", "task": "retrieval"}, "q", (), (), "retrieval"),
        ({"question": "in 1990?", "answers": [1990, True]}, "in 1990?", ("1990", "True"), (), "qa"),
        (
            {
                "input": "q",
                "output": [
                    {"answer": "a", "provenance": [{"wikipedia_id": 7, "title": "T"}, {"wikipedia_id": 7}]},
                    {"provenance": [{"wikipedia_id": "8"}]},
                    {"answer": "b"},
                ],
            },
            "q",
            ("a", "b"),
            ("7", "8"),
            "qa",
        ),
        (
            {"question": "q", "answers": {"text": ["a", "a", "b"], "answer_start": [1, 1, 2]}},
            "q",
            ("a", "b"),
            (),
            "qa",
        ),
        ({"question": {"text": "q"}, "answers": ["a"]}, "q", ("a",), (), "qa"),
        ({"question": "q", "positive_ctxs": [{"passage_id": 3, "text": "t"}], "answers": []}, "q", (), ("3",), "qa"),
        ({"qText": "q", "qId": "w1", "answers": ["a"]}, "q", ("a",), (), "qa"),
        (
            {"utterance": "q", "targetValue": '(list (description "Jazmyn \\"B\\"") (description Jaxon))'},
            "q",
            ('Jazmyn \\"B\\"', "Jaxon"),
            (),
            "qa",
        ),
    ],
)
def test_rows(tmp_path, row, text, answers, positive, task):
    question = one(tmp_path / "a.jsonl", row)
    assert (question.text, question.answers, question.positive, question.task) == (text, answers, positive, task)
    assert question.id


def test_ids_tasks_and_metadata(tmp_path):
    question = one(tmp_path / "a.jsonl", {"id": 5, "question": "q", "relation": "r", "none": None}, task="slots")
    assert (question.id, question.task, question.metadata) == ("5", "slots", {"relation": "r"})
    path = write(tmp_path / "b.jsonl", '{"question": "same"}\n{"question": "same"}\n{"question": "other"}\n')
    first, second, third = (item.id for item in read_questions(path))
    assert second == f"{first}-2"
    assert third not in (first, second)
    assert [item.id for item in read_questions(path)] == [first, second, third]


def test_kilt_rows_say_which_pages_count_together(tmp_path):
    pages = [{"wikipedia_id": 7}, {"wikipedia_id": 9}, {"wikipedia_id": 7}]
    output = [{"answer": "SUPPORTS", "provenance": pages}, {"provenance": [{"wikipedia_id": 8}]}, {"provenance": []}]
    question = one(tmp_path / "a.jsonl", {"input": "Bob is tall.", "output": output})
    assert question.positive == ("7", "9", "8")
    assert question.metadata == {"provenance_sets": [["7", "9"], ["8"]], "provenance_pages": True}
    assert question.task == "claim"
    plain = one(tmp_path / "b.jsonl", {"question": "q", "answers": ["a"], "positive": ["p"]})
    assert plain.metadata == {}


def test_triviaqa_and_webquestions_files(tmp_path):
    trivia = {
        "Data": [
            {
                "Question": "Who?",
                "QuestionId": "tc_1",
                "Answer": {"Value": "Bob", "Aliases": ["Bobby", "Bob"], "NormalizedAliases": ["bob"]},
                "EntityPages": [],
            }
        ],
        "Version": 1.0,
    }
    (question,) = read_questions(write(tmp_path / "trivia.json", trivia))
    assert (question.id, question.text, question.answers) == ("tc_1", "Who?", ("Bob", "Bobby"))
    web = [{"url": "u", "targetValue": "(list (description Padme))", "utterance": "what?"}]
    (question,) = read_questions(write(tmp_path / "web.json", web))
    assert (question.text, question.answers) == ("what?", ("Padme",))


def test_tables(tmp_path):
    csv = write(tmp_path / "a.csv", 'id,question,answers\n1,"who, me?","[""a"", ""b""]"\n2,two,plain\n')
    assert [(item.id, item.text, item.answers) for item in read_questions(csv)] == [
        ("1", "who, me?", ("a", "b")),
        ("2", "two", ("plain",)),
    ]
    dpr = write(tmp_path / "nq.qa.csv", 'who is it\t[\'Bob\', "B\'"]\nwhen\t"[\'""x""\']"\n')
    assert [(item.text, item.answers) for item in read_questions(dpr)] == [
        ("who is it", ("Bob", "B'")),
        ("when", ('"x"',)),
    ]
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"question": ["q"], "answers": [["a"]], "split": ["dev"]}), tmp_path / "a.parquet")
    assert read_questions(tmp_path / "a.parquet", split="dev")[0].answers == ("a",)


SQUAD = {
    "data": [
        {
            "title": "New_York",
            "paragraphs": [
                {
                    "context": " New York is big. ",
                    "qas": [
                        {
                            "id": "1",
                            "question": "What is big?",
                            "answers": [{"text": "New York", "answer_start": 1}] * 2,
                        },
                        {"id": "2", "question": "No?", "answers": [], "is_impossible": True},
                        {"id": "3"},
                    ],
                }
            ],
        }
    ]
}


def test_squad_questions_name_the_passages_that_ingest_makes(tmp_path):
    path = write(tmp_path / "squad.json", SQUAD)
    problems: list[Problem] = []
    big, impossible = read_questions(path, problems=problems)
    assert (big.id, big.answers, big.metadata) == ("1", ("New York",), {"title": "New York"})
    assert impossible.answers == ()
    assert impossible.metadata["is_impossible"] is True
    assert "question 3 of a paragraph of 'New York' holds no question (fields: id)" in str(problems[0])
    ingest(path, tmp_path / "c", progress=False)
    (passage,) = Corpus.open(tmp_path / "c").get(big.positive)
    assert passage.text == "New York is big."


def beir(folder):
    (folder / "qrels").mkdir(parents=True)
    write(folder / "corpus.jsonl", '{"_id": "d1", "title": "", "text": "x"}\n')
    write(folder / "queries.jsonl", '{"_id": "1", "text": "one"}\n{"_id": "2", "text": "two"}\n')
    write(folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\n1\td1\t2\n1\td2\t0\n")
    write(folder / "qrels_train.tsv", "query-id\tcorpus-id\tscore\n2\td1\t1\n")
    return folder


def test_beir(tmp_path):
    folder = beir(tmp_path / "set")
    (question,) = read_questions(folder, split="test")
    assert (question.id, question.text, question.positive) == ("1", "one", ("d1",))
    assert question.metadata["relevance"] == {"d1": 2, "d2": 0}
    assert [item.id for item in read_questions(folder, split="train")] == ["2"]
    assert len(read_questions(folder)) == 2
    with pytest.raises(ValueError, match=r"split='dev' is not in .*; it has: test, train"):
        read_questions(folder, split="dev")


def test_beir_judgements_may_be_packed_and_the_corpus_elsewhere(tmp_path):
    folder = beir(tmp_path / "set")
    for plain, packed in (("qrels/test.tsv", "qrels/test.tsv"), ("qrels_train.tsv", "qrels_train.tsv")):
        (folder / f"{packed}.gz").write_bytes(gzip.compress((folder / plain).read_bytes()))
        (folder / plain).unlink()
    (folder / "queries.jsonl.gz").write_bytes(gzip.compress((folder / "queries.jsonl").read_bytes()))
    (folder / "queries.jsonl").unlink()
    (folder / "corpus.jsonl").unlink()
    (question,) = read_questions(folder, split="test")
    assert (question.id, question.positive, question.metadata["relevance"]) == ("1", ("d1",), {"d1": 2, "d2": 0})
    assert [item.id for item in read_questions(folder, split="train")] == ["2"]
    with pytest.raises(ValueError, match=r"split='dev' is not in .*; it has: test, train"):
        read_questions(folder, split="dev")


def test_real_beir_folders(shared_data):
    counts = {"scifact": 300, "cranfield": 225, "cisi": 76, "npl": 93}
    for name, count in counts.items():
        questions = read_questions(shared_data / "retrieval" / name, split="test")
        assert len(questions) == count
        assert any(item.positive for item in questions)
    grades = {
        grade
        for item in read_questions(shared_data / "retrieval" / "cranfield", split="test")
        for grade in item.metadata["relevance"].values()
    }
    assert grades >= {1, 2, 3, 4}


def test_qrels(tmp_path):
    trec = write(tmp_path / "trec.txt", "1 0 d1 2\n1 0 d2 -1\n2 0 d1 0\n")
    assert read_qrels(trec) == {"1": {"d1": 2, "d2": -1}, "2": {"d1": 0}}
    bad = write(tmp_path / "bad.tsv", "query-id\tcorpus-id\tscore\n1\td1\tgood\n")
    with pytest.raises(ValueError, match=r"bad.tsv:2: .* is no judgement; a line needs query-id, corpus-id and score"):
        read_qrels(bad)


def test_splits(tmp_path):
    rows = '{"question": "a", "split": "train"}\n{"question": "b", "split": "dev"}\n'
    path = write(tmp_path / "a.jsonl", rows)
    assert [item.text for item in read_questions(path, split="dev")] == ["b"]
    with pytest.raises(ValueError, match=r"split='test' is not in .*a.jsonl; it has: dev, train"):
        read_questions(path, split="test")
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "nq_train.jsonl", '{"question": "t"}\n')
    write(folder / "nq_dev.jsonl", '{"question": "d"}\n')
    assert [item.text for item in read_questions(folder, split="dev")] == ["d"]
    assert [item.text for item in read_questions(folder / "nq_dev.jsonl", split="dev")] == ["d"]
    with pytest.raises(ValueError, match=r"split='dev' is not in .*; it has: no split field"):
        read_questions(folder / "nq_train.jsonl", split="dev")


def test_saved_datasets_folder(tmp_path):
    import pyarrow as pa

    for split in ("train", "validation"):
        folder = tmp_path / "saved" / split
        folder.mkdir(parents=True)
        data = pa.table({"question": [f"{split}?"], "answer": [["a"]]})
        with pa.OSFile(str(folder / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, data.schema) as stream:
            stream.write_table(data)
        write(folder / "state.json", {"_data_files": [{"filename": "data.arrow"}]})
    write(tmp_path / "saved" / "dataset_dict.json", {"splits": ["train", "validation"]})
    assert len(read_questions(tmp_path / "saved")) == 2
    assert read_questions(tmp_path / "saved", split="validation")[0].text == "validation?"
    with pytest.raises(ValueError, match=r"split='test' is not in .*; it has: train, validation"):
        read_questions(tmp_path / "saved", split="test")


def test_bad_rows_are_named(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"question": "a"}\n{oops\n{"text": "b"}\n[1]\n{"question": "c"}\n')
    with pytest.raises(ValueError, match=r"a.jsonl:2: is not JSON: .*Mend it, or take it out\."):
        read_questions(path)
    problems: list[Problem] = []
    assert [item.text for item in read_questions(path, problems=problems)] == ["a", "c"]
    assert [item.line for item in problems] == [2, 3, 4]
    assert "holds no question (fields: text); one of question, claim" in str(problems[1])
    assert len(list(iter_questions(path))) == 5
    with pytest.raises(ValueError, match=r"no question came out of .*; rows need one of the fields question, claim"):
        read_questions(write(tmp_path / "b.jsonl", ""))
    with pytest.raises(ValueError, match=r"is no question file; give JSON lines"):
        read_questions(write(tmp_path / "b.html", "<p>"))


def test_real_question_files(shared_data):
    dev = read_questions(shared_data / "qa" / "squad_dev.jsonl.gz")
    assert len(dev) == 2824
    assert all(item.answers and item.positive for item in dev)
    assert len(read_questions(shared_data / "retrieval" / "scifact", split="test")) == 300
    trec = read_questions(shared_data / "qa" / "curatedtrec_test.jsonl.gz")
    assert all(item.metadata["answer_regex"] and not item.answers for item in trec)
    slots = read_questions(shared_data / "kilt" / "slots_dev.jsonl.gz")
    assert {item.task for item in slots} == {"slot"}
    claims = read_questions(shared_data / "kilt" / "fever_symmetric_dev.jsonl.gz")
    assert {answer for item in claims for answer in item.answers} == {"SUPPORTS", "REFUTES"}


def test_evenly_reaches_over_the_whole_file_and_never_repeats():
    assert evenly(list("abcdefghij"), 4) == ["a", "c", "f", "h"]
    assert [evenly(range(7), count)[:] for count in (7, 9, None)] == [range(7)] * 3
    assert evenly([], 3) == []
