"""Index directories: the table of retrievers, opening, overwriting, and the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from wellread import retrieval
from wellread.locking import locked
from wellread.retrieval import RETRIEVERS, default_retriever, open_index
from wellread.retrieval.lexical import LexicalRetriever
from wellread.types import Passage, Probe

PASSAGES = [Passage("a", "copper bridge"), Passage("b", "silver river")]


def test_the_table_lists_every_retriever_by_its_name():
    assert all(RETRIEVERS[name].name == name for name in RETRIEVERS)
    with pytest.raises(ValueError, match=r"retriever='lexica' is unknown.*Did you mean 'lexical'"):
        RETRIEVERS["lexica"]


def test_the_default_is_hybrid_where_a_dense_encoder_is_installed(monkeypatch):
    monkeypatch.setattr(retrieval.importlib.util, "find_spec", lambda name: object())
    assert default_retriever() == "hybrid"
    monkeypatch.setattr(retrieval.importlib.util, "find_spec", lambda name: None)
    assert default_retriever() == "lexical"


def test_heavy_packages_are_not_imported_with_the_table():
    code = "import sys, wellread.retrieval; print(*sorted({'torch', 'pyarrow', 'bm25s', 'faiss'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_an_index_is_not_overwritten_by_accident(tmp_path):
    LexicalRetriever.build(PASSAGES, tmp_path / "index")
    with pytest.raises(ValueError, match="already holds an index; bring it up to date"):
        LexicalRetriever.build(PASSAGES, tmp_path / "index")
    LexicalRetriever.build(PASSAGES[:1], tmp_path / "index", overwrite=True)
    assert len(open_index(tmp_path / "index")) == 1


def test_an_index_is_changed_by_one_process_at_a_time(tmp_path):
    index = LexicalRetriever.build(PASSAGES, tmp_path / "index")
    busy = pytest.raises(ValueError, match=r"another process is changing .*index; wait for it to end")
    with locked(tmp_path / "index"):
        for change in (lambda: index.add([Passage("c", "glass tower")]), lambda: index.delete(["a"]), index.compact):
            with busy:
                change()
        with busy:
            LexicalRetriever.build(PASSAGES, tmp_path / "index", overwrite=True)
    assert [len(index), len(open_index(tmp_path / "index"))] == [2, 2]
    index.delete(["a"])
    assert len(open_index(tmp_path / "index")) == 1


def test_changes_begin_with_what_others_changed(tmp_path):
    LexicalRetriever.build(PASSAGES, tmp_path / "index")
    one, two = open_index(tmp_path / "index"), open_index(tmp_path / "index")
    one.add([Passage("c", "glass house")])
    two.add([Passage("d", "stone wall")])
    one.delete(["d"])
    two.delete(["a"])
    two.compact()
    found = open_index(tmp_path / "index")
    assert len(found) == len(two) == 2
    assert [hits.ids for hits in found.search([Probe("glass"), Probe("silver"), Probe("stone copper")], top_k=3)] == [
        ("c",),
        ("b",),
        (),
    ]


def test_what_is_refused_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="more than once"):
        LexicalRetriever.build([*PASSAGES, PASSAGES[0]], tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf8")
    with pytest.raises(ValueError, match="but no index"):
        LexicalRetriever.build(PASSAGES, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_other_files_are_never_removed(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf8")
    with pytest.raises(ValueError, match=r"holds 'thesis\.txt' but no index; give an empty directory"):
        LexicalRetriever.build(PASSAGES, tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").exists()


def test_what_is_no_index_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no finished index"):
        open_index(tmp_path)
    (tmp_path / "index.json").write_text("{", encoding="utf8")
    with pytest.raises(ValueError, match="is not valid JSON"):
        open_index(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"format": 99}), encoding="utf8")
    with pytest.raises(ValueError, match="has format 99; this version reads format 1"):
        open_index(tmp_path)


def test_an_index_is_opened_by_its_own_retriever(tmp_path):
    LexicalRetriever.build(PASSAGES, tmp_path / "index")
    with pytest.raises(ValueError, match="holds a lexical index, not a dense one; use open_index"):
        RETRIEVERS["dense"].open(tmp_path / "index")


def test_the_fingerprint_follows_the_contents_and_not_the_order(tmp_path):
    one = LexicalRetriever.build(PASSAGES, tmp_path / "one").fingerprint
    other = LexicalRetriever.build(PASSAGES[::-1], tmp_path / "other").fingerprint
    changed = [PASSAGES[0], Passage("b", "silver rivers")]
    assert one == other
    assert LexicalRetriever.build(changed, tmp_path / "changed").fingerprint != one


def test_ids_and_texts_of_any_script(tmp_path):
    passages = [Passage("größe/1 \n", "Ελλάδα and 日本 copper"), Passage("\U0001f30d", "Ελλάδα")]
    retriever = LexicalRetriever.build(passages, tmp_path / "index")
    assert set(retriever.search([Probe(words="ΕΛΛΆΔΑ")], top_k=5)[0].ids) == {passage.id for passage in passages}
    assert retriever.delete(["\U0001f30d"]) == 1


def test_the_command_builds_an_index_and_prints_one_json_object(tmp_path):
    from click.testing import CliRunner

    from wellread.cli.index import command
    from wellread.corpus.store import Corpus

    Corpus.write(PASSAGES, tmp_path / "corpus")
    arguments = [str(tmp_path / "corpus"), "--retriever", "lexical", "--out", str(tmp_path / "index"), "--json"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    printed = json.loads(result.stdout)
    assert printed["retriever"] == "lexical"
    assert printed["passages"] == 2
    assert printed["bytes"] == sum(path.stat().st_size for path in (tmp_path / "index").rglob("*") if path.is_file())
    assert printed["seconds"] >= 0
    assert open_index(tmp_path / "index").fingerprint == printed["fingerprint"]
    with pytest.raises(ValueError, match=r"lexical\.encoder is unknown"):
        CliRunner().invoke(command, [*arguments, "--encoder", "x", "--overwrite"], catch_exceptions=False)
