"""The corpus folder and ingestion: order, lookup, duplicates, reports, bounded memory."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys

import pytest

from wellread.corpus import Corpus, CorpusWriter, Cutting, ingest
from wellread.types import Passage


def passages(count: int, start: int = 0) -> list[Passage]:
    return [
        Passage(f"p{n}", f"text {n} ü", title=f"T{n}", metadata={"n": n, "s": "ß"}, source="wiki" if n % 2 else "text")
        for n in range(start, start + count)
    ]


def lines(path, rows) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


def quiet(*args, **options):
    return ingest(*args, progress=False, **options)


def test_round_trip_over_several_batches(tmp_path):
    given = passages(2500)
    corpus = Corpus.write(given, tmp_path / "c")
    assert len(corpus) == 2500
    assert list(corpus) == given
    assert corpus.ids() == [passage.id for passage in given]
    assert [len(batch) for batch in corpus.batches(999)] == [999, 999, 502]
    assert [passage for batch in corpus.batches(7) for passage in batch] == given
    order = [*random.Random(2).sample(range(2500), 50), 0, 2499, 1023, 1024]
    assert corpus.get([f"p{n}" for n in order]) == [given[n] for n in order]
    assert corpus.at(order) == [given[n] for n in order]
    assert "p17" in corpus
    assert "p2500" not in corpus
    again = pickle.loads(pickle.dumps(corpus))
    assert again.get(["p5"]) == [given[5]]
    assert "2,500" in repr(corpus)


def test_fingerprint_follows_the_content_alone(tmp_path):
    base = Corpus.write(passages(10), tmp_path / "a").fingerprint
    assert Corpus.write(passages(10), tmp_path / "b", cutting=Cutting("words")).fingerprint == base
    assert Corpus.write(passages(9), tmp_path / "c").fingerprint != base
    assert Corpus.write(passages(10)[::-1], tmp_path / "d").fingerprint != base
    changed = [*passages(9), Passage("p9", "text 9 ü", title="T", source="wiki")]
    assert Corpus.write(changed, tmp_path / "e").fingerprint != base


def test_errors_of_lookup(tmp_path):
    corpus = Corpus.write(passages(5), tmp_path / "c")
    with pytest.raises(ValueError, match=r"ids 'x', 'p9' are not in corpus .*\(5 passages\); ask for ids of this"):
        corpus.get(["p1", "x", "p9"])
    with pytest.raises(ValueError, match=r"'x4' and 3 more are not in corpus"):
        corpus.get([f"x{n}" for n in range(8)])
    with pytest.raises(ValueError, match=r"row 5 is not in corpus .*; rows go from 0 to 4"):
        corpus.at([5])
    with pytest.raises(ValueError, match=r"size=0 is too small; a batch needs at least 1 passage"):
        next(corpus.batches(0))


def test_errors_of_opening(tmp_path):
    with pytest.raises(ValueError, match=r"corpus .*none has no corpus.json; build one with wellread corpus SOURCE"):
        Corpus.open(tmp_path / "none")
    for name, content in [("passages.arrow", b"ARROW1"), ("ids.npy", b""), ("corpus.json", b"{")]:
        folder = Corpus.write(passages(3), tmp_path / name).path
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"is damaged \(.*\); build it again with --overwrite"):
            Corpus.open(folder)
    folder = Corpus.write(passages(3), tmp_path / "short").path
    info = json.loads((folder / "corpus.json").read_text())
    (folder / "corpus.json").write_text(json.dumps({**info, "passages": 4}))
    with pytest.raises(ValueError, match=r"is damaged \(parts are missing\)"):
        Corpus.open(folder)


def test_same_id_twice(tmp_path):
    with CorpusWriter(tmp_path / "c") as writer:
        for _ in range(2):  # within a batch and, after 1024 more, across batches
            writer.add(Passage("a", "one"))
            writer.add(Passage("a", "one", metadata={"other": 1}), file="f", line=2)
            writer.add(Passage("a", "two"), file="f", line=3)
            for passage in passages(1100):
                writer.add(passage)
        writer.finish()
    assert writer.passages == 1101
    assert writer.duplicates == 1 + 1 + 1 + 1100
    assert [str(item) for item in writer.problems] == [
        "f:3: id 'a' is taken by a passage with other content; ids must be different"
    ] * 2
    assert Corpus.open(tmp_path / "c").get(["a"])[0].text == "one"
    with pytest.raises(ValueError, match=r"id 'a' is taken by a passage with other content"):
        Corpus.write([Passage("a", "one"), Passage("a", "two")], tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_ids_that_share_a_hash_are_told_apart(tmp_path, monkeypatch):
    from wellread.corpus import store

    monkeypatch.setattr(store, "_hash64", lambda name: 7 if name in ("a", "b") else len(name))
    corpus = Corpus.write([Passage("a", "one")], tmp_path / "c")
    assert "b" not in corpus
    assert corpus.get(["a"])[0].text == "one"


def test_nothing_is_left_after_a_failure_and_the_old_corpus_stays(tmp_path):
    Corpus.write(passages(3), tmp_path / "c")
    with pytest.raises(ValueError, match="passage id='' is empty"):
        Corpus.write((Passage(name, "y") for name in ("x", "")), tmp_path / "c", overwrite=True)
    assert [item.name for item in tmp_path.iterdir()] == ["c"]
    assert len(Corpus.open(tmp_path / "c")) == 3


def test_existing_output(tmp_path):
    (tmp_path / "in.txt").write_text("some words")
    quiet(tmp_path / "in.txt", tmp_path / "c")
    with pytest.raises(ValueError, match=r"out=.*c exists; give a new folder, or --overwrite"):
        quiet(tmp_path / "in.txt", tmp_path / "c")
    (tmp_path / "in.txt").write_text("other words")
    quiet(tmp_path / "in.txt", tmp_path / "c", overwrite=True)
    assert next(iter(Corpus.open(tmp_path / "c"))).text == "other words"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not delete")
    with pytest.raises(ValueError, match=r"out=.*mine exists and is not a corpus; give a new folder"):
        quiet(tmp_path / "in.txt", tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    (tmp_path / "empty").mkdir()
    assert quiet(tmp_path / "in.txt", tmp_path / "empty").passages == 1


def test_report(tmp_path):
    rows = [
        {"id": "a", "text": "one", "source": "nq"},
        "{broken",
        {"id": "a", "text": "one", "source": "nq"},
        {"id": "a", "text": "other"},
        {"id": "b", "text": "x\\u0000".replace("\\u0000", "\0")},
    ]
    lines(tmp_path / "a.jsonl", rows)
    report = quiet([tmp_path / "a.jsonl"], tmp_path / "c")
    assert (report.documents, report.passages, report.skipped, report.duplicates, report.repaired) == (4, 2, 2, 1, 1)
    assert [(item.line, item.reason[:6]) for item in report.problems] == [(2, "is not"), (4, "id 'a'")]
    assert [(item.file, item.line) for item in report.repairs] == [(str(tmp_path / "a.jsonl"), 5)]
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.fingerprint == report.fingerprint
    assert corpus.get(["a"])[0].source == "nq"
    assert corpus.info["documents"] == 4
    assert corpus.info["sources"] == [str(tmp_path / "a.jsonl")]
    with pytest.raises(ValueError, match=r"a.jsonl:2: is not JSON: .*Mend it, or leave strict off to skip it"):
        quiet(tmp_path / "a.jsonl", tmp_path / "d", strict=True)
    assert not (tmp_path / "d").exists()


def test_many_problems_are_counted_and_few_kept(tmp_path):
    lines(tmp_path / "a.jsonl", ["{"] * 3000 + [{"text": "good"}])
    report = quiet(tmp_path / "a.jsonl", tmp_path / "c")
    assert (report.passages, report.skipped, len(report.problems)) == (1, 3000, 1000)


def test_auto_keeps_passages_and_cuts_documents(tmp_path):
    lines(tmp_path / "passages.jsonl", [{"id": f"p{n}", "text": "w " * (400 if n == 3 else 150)} for n in range(20)])
    lines(tmp_path / "pages.jsonl", [{"id": f"d{n}", "text": f"v{n} " * 950} for n in range(5)])
    (tmp_path / "page.txt").write_text("u " * 250)
    report = quiet([tmp_path / name for name in ("passages.jsonl", "pages.jsonl", "page.txt")], tmp_path / "c")
    assert report.documents == 26
    assert report.passages == 20 + 50 + 3
    assert Corpus.open(tmp_path / "c").cutting == Cutting("auto")


def test_corpora_can_be_joined_and_cut_again(tmp_path):
    Corpus.write(passages(3), tmp_path / "a")
    Corpus.write(passages(3, start=2), tmp_path / "b")
    report = quiet([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert (report.passages, report.duplicates) == (5, 1)
    joined = Corpus.open(tmp_path / "c")
    assert list(joined) == passages(5)
    assert quiet(tmp_path / "c", tmp_path / "d", cutting=Cutting("words", size=2)).passages == 10
    (tmp_path / "note.txt").write_text("only this")  # corpora lying in a source folder are not sources
    assert quiet(tmp_path, tmp_path / "e").passages == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", r"no passage came out of .*a.jsonl: nothing readable was found"),
        ("a.txt", b"\n \n", r"no passage came out of .*: 0 documents read, 1 skipped. Why: .*holds no text"),
        ("a.jsonl", b"{\n" * 9, r"0 documents read, 9 skipped. Why: .*a.jsonl:1: is not JSON: [^;]*"),
    ],
)
def test_an_empty_corpus_is_an_error_that_says_why(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        quiet(tmp_path / name, tmp_path / "c")
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_no_sources_or_missing_ones(tmp_path):
    with pytest.raises(ValueError, match=r"sources=\[\] is empty; give at least one file or folder"):
        quiet([], tmp_path / "c")
    with pytest.raises(ValueError, match=r"source .*gone does not exist"):
        quiet([tmp_path / "gone"], tmp_path / "c")


def test_real_passages_keep_the_ids_that_questions_name(tmp_path, shared_data):
    from wellread.corpus import read_questions

    report = quiet(shared_data / "qa" / "squad_passages.jsonl.gz", tmp_path / "c")
    assert (report.passages, report.documents, report.skipped, report.duplicates) == (3326, 3326, 0, 0)
    corpus = Corpus.open(tmp_path / "c")
    named = {name for item in read_questions(shared_data / "qa" / "squad_dev.jsonl.gz") for name in item.positive}
    assert len(corpus.get(sorted(named))) == len(named) > 100


MEMORY = """
import resource, sys
from wellread.corpus import ingest
report = ingest(sys.argv[1], sys.argv[2], progress=False)
print(report.passages, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_source(tmp_path):
    text = " ".join(f"word{n % 977}" for n in range(420))
    row = json.dumps({"title": "NUMBER", "text": text})
    lines(tmp_path / "small.jsonl", [row])
    with open(tmp_path / "large.jsonl", "w") as file:
        for number in range(60_000_000 // len(row)):
            file.write(row.replace("NUMBER", str(number)) + "\n")
    peaks = []
    for name in ("small", "large"):
        command = [sys.executable, "-c", MEMORY, str(tmp_path / f"{name}.jsonl"), str(tmp_path / name)]
        count, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        peaks.append(int(peak) / 1024)
    assert int(count) > 80_000
    assert peaks[1] - peaks[0] < 150, peaks  # MiB; the file alone is 57
