"""Readers: every format gives the same documents, and damage never costs a good one."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import zlib

import pytest
import zstandard

from wellread.corpus import FORMATS, Document, Problem, read_documents
from wellread.corpus import files as files_module
from wellread.corpus.files import read_lines
from wellread.corpus.readers import format_of

ROWS = [
    {"id": "a", "title": "Nile", "text": 'The "long" river, in Africa.', "year": 1900},
    {"id": "b", "title": "Aß", "text": "Zwei\tTabs und Ünïcode 河."},
    {"id": "c", "title": "", "text": "Third."},
]


def documents(source, **options) -> list[Document]:
    found = list(read_documents(source, **options))
    assert not [item for item in found if isinstance(item, Problem)], found
    return found


def both(source, **options) -> tuple[list[Document], list[Problem]]:
    found = list(read_documents(source, **options))
    return [i for i in found if isinstance(i, Document)], [i for i in found if isinstance(i, Problem)]


def jsonl(rows=ROWS) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(delimiter: str) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["id", "title", "text"], delimiter=delimiter, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue().encode()


def triples(found) -> list[tuple]:
    return [(item.id, item.title, item.text) for item in found]


EXPECTED = [(row["id"], row["title"], row["text"]) for row in ROWS]
PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", jsonl()),
        ("a.json", json.dumps(ROWS, indent=1).encode()),
        ("wrapped.json", json.dumps({"version": 1, "rows": ROWS}).encode()),
        ("lines.json", jsonl()),
        ("a.csv", table(",")),
        ("semicolons.csv", table(";")),
        ("a.tsv", table("\t")),
    ],
)
def test_rows_are_the_same_in_every_format_and_packing(tmp_path, name, content, packing):
    path = tmp_path / (name + packing)
    path.write_bytes(PACK[packing](content))
    assert triples(documents(path)) == EXPECTED


@pytest.mark.parametrize("packing", PACK)
def test_parquet(tmp_path, packing):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pictures = pa.array([b"\x89PNG", None, b""], pa.binary())
    pq.write_table(pa.Table.from_pylist(ROWS).append_column("image", pictures), buffer)
    path = tmp_path / f"a.parquet{packing}"
    path.write_bytes(PACK[packing](buffer.getvalue()))
    found = documents(path)
    assert triples(found) == EXPECTED
    assert found[0].metadata == {"year": 1900, "file": path.name}


def test_parquet_with_bytes_that_are_not_utf8(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.array([b"good", b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    found = documents(tmp_path / "a.parquet")
    assert [(item.text, item.repaired) for item in found] == [("good", False), ("caf\ufffd", True)]


def test_saved_datasets_folder_is_read_without_the_library(tmp_path):
    import pyarrow as pa

    for split, rows in {"train": ROWS[:2], "test": ROWS[2:]}.items():
        folder = tmp_path / "saved" / split
        folder.mkdir(parents=True)
        data = pa.Table.from_pylist(rows)
        path = str(folder / "data-00000-of-00001.arrow")
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, data.schema) as stream:
            stream.write_table(data)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": split}
        (folder / "state.json").write_text(json.dumps(state))
    (tmp_path / "saved" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    found = documents(tmp_path / "saved")
    assert triples(found) == EXPECTED
    assert [item.metadata["split"] for item in found] == ["train", "train", "test"]


def test_rows_of_json_say_their_file_and_keep_what_they_call_so(tmp_path):
    (tmp_path / "sub").mkdir()
    rows = [{"text": "hello", "file": "plan.pdf"}, {"text": "there"}]
    for path in (tmp_path / "a.jsonl", tmp_path / "sub" / "b.jsonl"):
        path.write_bytes(jsonl(rows))
    (tmp_path / "c.json").write_text(json.dumps({"rows": rows}))
    assert [item.metadata for item in documents(tmp_path)] == [
        each
        for file in ("a.jsonl", "c.json", "sub/b.jsonl")
        for each in ({"file": file, "column file": "plan.pdf"}, {"file": file})
    ]


def test_squad_and_kilt_and_beir(tmp_path):
    squad = {"data": [{"title": "New_York", "paragraphs": [{"context": "A city.", "qas": []}, {"context": " "}]}]}
    (tmp_path / "dev.json").write_text(json.dumps(squad))
    found, problems = both(tmp_path / "dev.json")
    assert [(item.title, item.text) for item in found] == [("New York", "A city.")]
    assert found[0].id
    assert "data[0].paragraphs[1] has no context" in str(problems[0])

    kilt = {
        "wikipedia_id": "290",
        "wikipedia_title": "A",
        "text": ["A\n", "A is a letter.\n", "Section::::History.\n", "BULLET::::- first"],
        "categories": "Letters",
    }
    (tmp_path / "kilt.jsonl").write_text(json.dumps(kilt))
    (page,) = documents(tmp_path / "kilt.jsonl", format="kilt")
    assert (page.id, page.title, page.text) == ("290", "A", "A is a letter.\n\nfirst")
    assert page.metadata == {"categories": "Letters", "file": "kilt.jsonl"}

    beir = tmp_path / "beir"
    beir.mkdir()
    (beir / "corpus.jsonl.gz").write_bytes(gzip.compress(jsonl([{"_id": "7", "title": "T", "text": "X"}])))
    (beir / "queries.jsonl").write_bytes(jsonl([{"_id": "q", "text": "not a document"}]))
    assert triples(documents(beir)) == [("7", "T", "X")]


def test_markdown(tmp_path):
    page = (
        "---\ntitle: 'Front'\ntags: [x]\n---\n# Top\n\nIntro\nmore.\n## Part ##\n\n\nBody.\n\nSecond\n======\n"
        "tail\n\n***\n\n```\n# not a heading\n```\n"
    )
    (tmp_path / "a.md").write_text(page)
    (found,) = documents(tmp_path / "a.md")
    assert found.title == "Front"
    paragraphs = [part.strip() for part in found.text.split("\n\n") if part.strip()]
    assert paragraphs == ["Top\nIntro\nmore.", "Part\nBody.", "Second\ntail", "```\n# not a heading\n```"]
    (tmp_path / "b.md").write_text("text first\n\n# Heading\n\nx")
    assert documents(tmp_path / "b.md")[0].title == "Heading"
    (tmp_path / "c.md").write_text("---\nnot front matter, a rule")
    assert "not front matter" in documents(tmp_path / "c.md")[0].text


def test_html(tmp_path):
    page = (
        "<!DOCTYPE html><html><head><title> My\n page </title><style>p{}</style></head><body><script>var a='<p>no';"
        "</script><h1>Head</h1>\n<p>One &amp; <b>two</b>\nthree</p><ul><li>x<li>y</ul><![weird[ z ]]><p>End"
    )
    (tmp_path / "a.html").write_text(page)
    (found,) = documents(tmp_path / "a.html")
    assert found.title == "My page"
    assert found.text.split("\n\n")[0] == "Head\nOne & two three"
    assert "var a" not in found.text
    assert "p{}" not in found.text
    assert found.text.endswith("End")
    (tmp_path / "latin.html").write_bytes('<meta charset="iso-8859-1"><h1>Café</h1><p>é'.encode("latin-1"))
    (found,) = documents(tmp_path / "latin.html")
    assert (found.title, found.text, found.repaired) == ("Café", "Café\né", False)
    (tmp_path / "open.html").write_text("<title>never closed<body><p>kept")
    assert documents(tmp_path / "open.html")[0].text == "kept"


def test_folder_takes_known_files_in_order_and_reports_the_rest(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("bee")
    (tmp_path / "a.md").write_text("ay")
    (tmp_path / "sub" / "c.html").write_text("<p>sea")
    (tmp_path / "d.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (tmp_path / "e.txt").write_text(" \n")
    (tmp_path / ".hidden.txt").write_text("no")
    found, problems = both(tmp_path)
    assert [item.text for item in found] == ["ay", "bee", "sea"]
    assert found[2].metadata == {"file": "sub/c.html"}
    assert sorted(str(item).split(": ")[1][:9] for item in problems) == ["has no kn", "holds no "]


def test_format_is_guessed_from_content_and_can_be_forced(tmp_path):
    for name, content, expected in [
        ("x1", b'{"text": "a"}\n', "json"),
        ("x2", b"<!DOCTYPE html><p>a", "html"),
        ("x3", b"PAR1....", "parquet"),
        ("x4", b"plain words\n", "text"),
        ("x5.json", b'{"data": [{"title": "", "paragraphs": []}]}', "squad"),
    ]:
        (tmp_path / name).write_bytes(content)
        assert format_of(tmp_path / name) == expected, name
    assert documents(tmp_path / "x1", format="text")[0].text == '{"text": "a"}'
    with pytest.raises(ValueError, match=r"format='jsnol' is unknown; use one of: .*Did you mean 'jsonl'"):
        list(read_documents(tmp_path / "x1", format="jsnol"))
    with pytest.raises(ValueError, match=r"source .*nowhere does not exist; give a file or a folder"):
        list(read_documents(tmp_path / "nowhere"))
    for name in FORMATS:  # every registered reader exists
        assert callable(FORMATS[name])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{broken", "is not JSON"),
        (b"[1, 2]", "is a list; a row must be an object"),
        (b'"text"', "is text; a row must be an object"),
        (b'{"question": "x"}', r"has no text (fields: question)"),
        (b'{"text": ""}', "'text' is empty"),
        (b'{"text": "  "}', "'text' is empty"),
        (b'{"text": 3}', "'text' is a number; it must be text"),
        (b'{"text": "x", "title": ["a"]}', "'title' is a list; it must be text"),
        (b'{"title": "only"}', "has a title but no text"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "is not JSON"),
    ],
)
def test_a_bad_line_is_named_and_the_next_one_read(tmp_path, line, reason):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n\n' + line + b'\n{"text": "two"}')
    found, problems = both(tmp_path / "a.jsonl")
    assert [item.text for item in found] == ["one", "two"]
    assert len(problems) == 1
    assert str(problems[0]).startswith(f"{tmp_path / 'a.jsonl'}:3: ")
    assert reason in str(problems[0])


@pytest.mark.parametrize(
    ("raw", "text", "repaired"),
    [
        ("\ufeff{}".encode(), "Größe", False),
        ("{}".encode("utf-16"), "Größe", False),
        ("{}".encode("utf-16-le"), "Größe", False),
        ("{}".encode("utf-16-be"), "Größe", False),
        (b"{}", "Größe", True),
    ],
)
def test_encodings(tmp_path, raw, text, repaired):
    encoding = {b"\xff\xfe": "utf-16-le", b"{\0": "utf-16-le", b"\0{": "utf-16-be"}.get(raw[:2], "utf-8")
    codec = "latin-1" if repaired else encoding
    mark = raw[:2] if raw[:2] == b"\xff\xfe" else raw[:3] if raw[:3] == b"\xef\xbb\xbf" else b""
    content = "".join(f'{{"id": "{n}", "text": "Größe"}}\r\n' for n in range(20))
    (tmp_path / "a.jsonl").write_bytes(mark + content.encode(codec))
    found = documents(tmp_path / "a.jsonl")
    assert [(item.id, item.text, item.repaired) for item in found] == [(str(n), text, repaired) for n in range(20)]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("Müller – 5 € für Tür “7”".encode("cp1252"), "Müller – 5 € für Tür “7”"),
        ("Müller".encode() + b" caf\xe9", "Müller caf\ufffd"),  # mostly UTF-8
        (
            "Привет, мир и все остальные".encode("cp1251"),
            "\ufffd" * 6 + ", " + "\ufffd" * 3 + " \ufffd " + "\ufffd" * 3 + " " + "\ufffd" * 9,
        ),
        (b"caf\xe9\x01 \x02", "caf\ufffd\x01 \x02"),
    ],
)
def test_western_letters_are_kept_and_others_are_not_guessed(tmp_path, raw, text):
    (tmp_path / "a.txt").write_bytes(raw)
    lines = list(read_lines(tmp_path / "a.txt"))
    assert [(line.text, line.repaired) for line in lines] == [(text, True)]


def test_nuls_and_halves_of_pairs_are_mended(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a\0b"}\n{"text": "x\\ud800y\\u0000", "m": "\\ud800"}\n')
    found = documents(tmp_path / "a.jsonl")
    assert [(item.text, item.repaired) for item in found] == [("ab", True), ("x\ufffdy", True)]


def test_utf16_mark_on_one_line_of_rubbish_does_not_cost_the_file(tmp_path):
    (tmp_path / "a.jsonl").write_bytes("\ufeffhello".encode("utf-16-le") + b"\n" + jsonl())
    found, problems = both(tmp_path / "a.jsonl")
    assert triples(found) == EXPECTED
    assert len(problems) == 1


def test_marked_utf16_without_ascii(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeff長江是亞洲第一長河和世界第三長河".encode("utf-16-le"))
    assert documents(tmp_path / "a.txt")[0].text == "長江是亞洲第一長河和世界第三長河"


def garbage(generator: random.Random) -> bytes:
    kind = generator.randrange(6)
    raw = generator.randbytes(generator.randrange(1, 300)).replace(b"\n", b"")
    return [
        raw,
        b"\0" * generator.randrange(1, 50),
        b"\xff\xfe" + raw,
        b'{"id": "broken", "text": "' + raw,
        b'"' + raw.replace(b'"', b"") + b",",
        json.dumps({"nothing": "here"}).encode(),
    ][kind]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
@pytest.mark.parametrize("packing", PACK)
def test_rubbish_between_good_lines_never_costs_one(tmp_path, kind, packing):
    generator = random.Random(7)
    for trial in range(25):
        rows = [(f"id{n}", f"Title {n}", f'Text number {n}, with commas, ünï and "quotes"') for n in range(30)]
        delimiter = {"csv": ",", "tsv": "\t"}.get(kind)
        lines = [] if delimiter is None else [delimiter.join(("id", "title", "text")).encode()]
        for row in rows:
            lines += [garbage(generator) for _ in range(generator.choice([0, 0, 1, 3]))]
            if delimiter is None:
                lines.append(json.dumps(dict(zip(("id", "title", "text"), row)), ensure_ascii=False).encode())
            else:
                fields = [f'"{field.replace(chr(34), chr(34) * 2)}"' for field in row]
                lines.append(delimiter.join(fields).encode())
        path = tmp_path / f"{trial}.{kind}{packing}"
        path.write_bytes(PACK[packing](b"\n".join(lines)))
        found, _ = both(path)
        assert set(rows) <= {(item.id, item.title, item.text) for item in found}, trial


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "corpus"])
def test_no_bytes_make_a_reader_fail(tmp_path, name):
    generator = random.Random(3)
    seeds = [
        b"",
        b"\0",
        b"\xff\xfe",
        b"PAR1",
        b"ARROW1\0\0",
        b"\x1f\x8b\x08\0",
        b"\x28\xb5\x2f\xfd",
        b"<![if",
        b"{",
        b"[",
    ]
    for trial, start in enumerate(seeds * 3):
        path = tmp_path / f"file{trial}"
        path.write_bytes(start + generator.randbytes(generator.choice([0, 5, 400, 5000])))
        for item in read_documents(path, format=name):
            assert isinstance(item, (Document, Problem))
            assert "\0" not in str(item)


def test_truncated_and_damaged_packing_keeps_what_came_before(tmp_path):
    rows = [{"id": str(n), "text": f"{random.Random(n).random()} text"} for n in range(5000)]
    for suffix, least in ((".gz", 0.8), (".zst", 0.0)):  # a Zstandard frame this small is nearly one block
        packed = PACK[suffix](jsonl(rows))
        path = tmp_path / f"cut.jsonl{suffix}"
        path.write_bytes(packed[: int(len(packed) * 0.9)])
        found, problems = both(path)
        assert len(found) >= least * len(rows)
        assert any("ends before its packed data does" in str(item) for item in problems)
    packed = gzip.compress(jsonl(rows))
    (tmp_path / "crc.jsonl.gz").write_bytes(packed[:-8] + b"12345678")  # wrong checksum, data complete
    found, problems = both(tmp_path / "crc.jsonl.gz")
    assert len(found) == len(rows)
    assert "damaged" in str(problems[0])


def test_joined_gzip_members_and_zero_padding(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl(ROWS[:1])) + gzip.compress(jsonl(ROWS[1:])) + b"\0" * 512)
    assert triples(documents(tmp_path / "a.jsonl.gz")) == EXPECTED
    (tmp_path / "plain.jsonl.gz").write_bytes(jsonl())  # the name lies
    assert triples(documents(tmp_path / "plain.jsonl.gz")) == EXPECTED
    assert zlib.decompress(gzip.compress(b"x"), wbits=31) == b"x"


def test_line_beyond_the_limit_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "MAX_LINE", 1 << 20)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n' + b"x" * (3 << 20) + b'\n{"text": "two"}\n')
    found, problems = both(tmp_path / "a.jsonl")
    assert [item.text for item in found] == ["one", "two"]
    assert "a.jsonl:2: longer than 1 MiB; break the line up" in str(problems[0])


def test_long_text_comes_in_sections_that_lose_nothing(tmp_path):
    words = [f"w{n}" for n in range(500_000)]
    (tmp_path / "a.txt").write_text(" ".join(words))
    found = documents(tmp_path / "a.txt")
    assert [item.part for item in found] == list(range(len(found)))
    assert len(found) > 2
    assert max(len(item.text) for item in found) <= 1 << 20
    assert " ".join(item.text for item in found).split() == words


def test_one_line_without_spaces_is_broken_between_letters(tmp_path):
    text = "é" * 1_500_000
    (tmp_path / "a.txt").write_text("x" + text + "\nsecond")
    found = documents(tmp_path / "a.txt")
    assert "".join(item.text for item in found) == "x" + text + "\nsecond"
    assert not any(item.repaired for item in found)


def test_binary_text_file_is_reported(tmp_path):
    (tmp_path / "a.txt").write_bytes(random.Random(1).randbytes(20_000))
    found, problems = both(tmp_path / "a.txt")
    assert not found
    assert "is not text (a binary file, or not UTF-8); convert it to UTF-8" in str(problems[0])
