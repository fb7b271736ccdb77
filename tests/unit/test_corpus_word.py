"""Word files: headings, paragraphs and tables, and what cannot be read."""

from __future__ import annotations

import zipfile
from pathlib import Path

from wellread.corpus import Problem, read_documents
from wellread.corpus import word as word_module

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
    assert "mammoth is not installed; run: pip install 'wellread[documents]'" in problem.reason
