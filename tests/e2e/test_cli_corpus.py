"""wellread corpus, from the command line."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from wellread.cli.corpus import command
from wellread.corpus import Corpus


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def source(tmp_path):
    rows = [json.dumps({"id": f"d{n}", "title": "T", "text": f"word{n} " * 25}) for n in range(4)]
    (tmp_path / "a.jsonl").write_text("\n".join([*rows[:2], "{broken", *rows[2:]]))
    return tmp_path / "a.jsonl"


def test_json_object_on_stdout_and_talk_on_stderr(tmp_path, source):
    result = run(source, "--out", tmp_path / "c", "--cut", "words", "--size", 10, "--overlap", 2, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["passages"] == len(Corpus.open(tmp_path / "c")) == 12
    assert (answer["documents"], answer["skipped"], answer["duplicates"], answer["repaired"]) == (4, 1, 0, 0)
    assert answer["out"] == str(tmp_path / "c")
    assert answer["seconds"] >= 0
    assert f"skipped {source}:3: is not JSON" in result.stderr
    assert Corpus.open(tmp_path / "c").cutting.overlap == 2


def test_files_in_another_encoding_are_named(tmp_path):
    (tmp_path / "old.txt").write_bytes("Le médecin habite à Genève.".encode("latin-1"))
    result = run(tmp_path / "old.txt", "--out", tmp_path / "c")
    assert f"repaired {tmp_path / 'old.txt'}" in result.stderr
    assert "save it as UTF-8 to keep its letters" in result.stderr


def test_plain_words_by_default(tmp_path, source):
    result = run(source, "--out", tmp_path / "c")
    assert result.exit_code == 0
    assert result.stdout.startswith("4 passages from 4 documents in ")


def test_long_lists_of_problems_are_cut_short(tmp_path, source):
    source.write_text("{\n" * 30 + '{"text": "x"}\n')
    result = run(source, "--out", tmp_path / "c")
    assert result.stderr.count("skipped ") == 20
    assert "and 10 more" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strict"], r"a.jsonl:3: is not JSON"),
        (["--cut", "letters"], r"cut='letters' is unknown; use one of"),
        (["--format", "epub"], r"format='epub' is unknown; use one of"),
        (["--size", "0"], r"size=0 is too small"),
    ],
)
def test_user_errors(tmp_path, source, options, message):
    result = run(source, "--out", tmp_path / "c", *options)
    assert isinstance(result.exception, ValueError)
    assert message in str(result.exception)
    assert not (tmp_path / "c").exists()


def test_overwrite(tmp_path, source):
    assert run(source, "--out", tmp_path / "c").exit_code == 0
    assert "exists" in str(run(source, "--out", tmp_path / "c").exception)
    assert run(source, "--out", tmp_path / "c", "--overwrite").exit_code == 0


def test_through_the_program(tmp_path, source, capsys):
    from wellread.cli.main import main

    with pytest.raises(SystemExit) as stopped:
        main(["corpus", str(tmp_path / "none"), "--out", str(tmp_path / "c")])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "none does not exist; give a file or a folder" in line


def test_help_has_an_example():
    result = run("--help")
    assert "wellread corpus notes/ --out corpora/notes" in result.stdout
