"""Word files: headings, paragraphs and tables, and what cannot be read."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from wellread.corpus import Document, Problem, read_documents
from wellread.corpus import word as word_module

pytest.importorskip("mammoth")
SPACE = "http://schemas.openxmlformats.org"
TYPES = (
    f'<Types xmlns="{SPACE}/package/2006/content-types"><Default Extension="xml" ContentType="application/xml"/>'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/word/document.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>'
)
RELATIONS = (
    f'<Relationships xmlns="{SPACE}/package/2006/relationships"><Relationship Id="r1" Target="word/document.xml" '
    f'Type="{SPACE}/officeDocument/2006/relationships/officeDocument"/></Relationships>'
)


def written(path: Path, body: str) -> Path:
    document = f'<w:document xmlns:w="{SPACE}/wordprocessingml/2006/main"><w:body>{body}</w:body></w:document>'
    with zipfile.ZipFile(path, "w") as file:
        for name, text in (
            ("[Content_Types].xml", TYPES),
            ("_rels/.rels", RELATIONS),
            ("word/document.xml", document),
        ):
            file.writestr(name, text)
    return path


def paragraph(text: str, style: str = "") -> str:
    styled = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{styled}<w:r><w:t>{text}</w:t></w:r></w:p>"


def test_headings_paragraphs_and_tables(tmp_path):
    cells = "".join(f"<w:tc>{paragraph(text)}</w:tc>" for text in ("Oslo", "Åse Lund"))
    body = paragraph("Offices", "Heading1") + paragraph("There are two.") + f"<w:tbl><w:tr>{cells}</w:tr></w:tbl>"
    (document,) = read_documents(written(tmp_path / "places.docx", body))
    assert (document.title, document.metadata) == ("Offices", {"file": "places.docx"})
    assert document.text.split() == ["Offices", "There", "are", "two.", "Oslo", "Åse", "Lund"]


def test_a_file_without_a_heading_has_its_name(tmp_path):
    (document,) = read_documents(written(tmp_path / "note.docx", paragraph("Nothing but this.")))
    assert (document.title, document.text) == ("note", "Nothing but this.")


def test_a_line_of_the_style_title_is_the_title(tmp_path):
    path = written(tmp_path / "a.docx", paragraph("Lease", "Title") + paragraph("Offices", "Heading1"))
    with zipfile.ZipFile(path, "a") as file:
        style = '<w:style w:type="paragraph" w:styleId="Title"><w:name w:val="Title"/></w:style>'
        file.writestr("word/styles.xml", f'<w:styles xmlns:w="{SPACE}/wordprocessingml/2006/main">{style}</w:styles>')
    (document,) = read_documents(path)
    assert document.title == "Lease"


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7])
def test_a_damaged_stream_costs_nothing_but_its_file(tmp_path, place):
    """Bytes inside a packed part are changed: what comes out is text or a problem, never an error."""
    path = written(tmp_path / "a.docx", "".join(paragraph(f"Line {number} of many.") for number in range(200)))
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in parts.items():
            file.writestr(name, text)
    raw = bytearray(path.read_bytes())
    at = int(len(raw) * place)
    raw[at : at + 5] = bytes(255 - byte for byte in raw[at : at + 5])
    path.write_bytes(raw)
    (tmp_path / "b.txt").write_text("Another file.")
    found = list(read_documents(tmp_path))
    assert [each.text for each in found if isinstance(each, Document)] == ["Another file."]
    assert "is a damaged Word file" in next(each.reason for each in found if isinstance(each, Problem))


def test_what_cannot_be_read_is_said(tmp_path, monkeypatch):
    reasons = []
    broken, other, empty = tmp_path / "a.docx", tmp_path / "b.docx", written(tmp_path / "c.docx", "")
    broken.write_bytes(b"PK nothing more")
    with zipfile.ZipFile(other, "w") as file:
        file.writestr("readme.txt", "no Word file")
    for path in (broken, other, empty):
        (problem,) = read_documents(path)
        assert isinstance(problem, Problem)
        reasons.append(problem.reason)
    assert reasons[0].startswith("is a damaged Word file, or one with a password (")
    assert reasons[1].startswith("is a damaged Word file, or one with a password (")
    assert reasons[2] == "holds no text"
    monkeypatch.setattr(word_module, "find_spec", lambda name: None)
    (problem,) = read_documents(empty)
    assert "mammoth is not installed; run: pip install '.[documents]'" in problem.reason
