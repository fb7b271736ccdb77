"""PDF files: a page is a document, and what cannot be read is said."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import pytest

from wellread.corpus import Document, Problem, read_documents
from wellread.corpus import pdf as pdf_module

pypdf = pytest.importorskip("pypdf")


def made(*pages: str | None, title: str = "", unpacked_by: str = "") -> bytes:
    """A PDF by hand: each page shows the lines of a text, None shows nothing. unpacked_by: filter of the last page."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    objects.append(
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding "
        "<< /BaseEncoding /WinAnsiEncoding /Differences [1 /fi] >> >>"
    )
    kids = []
    for text in pages:
        shown = "" if text is None else " T* ".join(f"({line}) Tj" for line in text.split("\n"))
        stream = f"BT /F1 12 Tf 14 TL 72 720 Td {shown} ET" if shown else ""
        packing = f"/Filter /{unpacked_by} " if unpacked_by and len(kids) == len(pages) - 1 else ""
        objects.append(f"<< {packing}/Length {len(stream.encode('cp1252'))} >>\nstream\n{stream}\nendstream")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(objects)} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    objects.append(f"<< /Title ({title}) >>")
    out, starts = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        starts.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("cp1252")
    table = "".join(f"{start:010d} 00000 n \n" for start in starts)
    size = len(objects) + 1
    trailer = f"trailer << /Size {size} /Root 1 0 R /Info {size - 1} 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    return out + f"xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}".encode()


def read(path: Path) -> tuple[list[Document], list[str]]:
    found = list(read_documents(path))
    return [each for each in found if isinstance(each, Document)], [
        str(each) for each in found if isinstance(each, Problem)
    ]


def test_a_page_is_a_document_with_its_number(tmp_path):
    (tmp_path / "lease.pdf").write_bytes(made(None, "The rent is due monthly.", "Keys: two.", title="Lease of 2019"))
    documents, problems = read(tmp_path / "lease.pdf")
    assert problems == []
    assert [(each.text, each.metadata, each.part) for each in documents] == [
        ("The rent is due monthly.", {"file": "lease.pdf", "page": 2}, 0),
        ("Keys: two.", {"file": "lease.pdf", "page": 3}, 1),
    ]
    assert {each.title for each in documents} == {"Lease of 2019"}


def test_a_file_without_a_title_has_its_name_also_in_folders_and_packed(tmp_path):
    (tmp_path / "legal").mkdir()
    (tmp_path / "legal" / "lease.pdf.gz").write_bytes(gzip.compress(made("The rent is due.")))
    documents, problems = read(tmp_path)
    assert problems == []
    assert [(each.title, each.metadata["file"]) for each in documents] == [("lease", "legal/lease.pdf.gz")]


def test_words_cut_at_the_end_of_a_line_are_joined_and_names_with_hyphens_are_not(tmp_path):
    (tmp_path / "a.pdf").write_bytes(
        made("the agree- \nment with Saint-\nDenis of 1990-\n1995, a caf\u00e9-\n\u00e9t\u00e9")
    )
    documents, _ = read(tmp_path / "a.pdf")
    assert documents[0].text.split() == [
        "the",
        "agreement",
        "with",
        "Saint-",
        "Denis",
        "of",
        "1990-",
        "1995,",
        "a",
        "caféété",
    ]


def test_letters_drawn_as_one_are_told_as_two(tmp_path):
    (tmp_path / "a.pdf").write_bytes(made("The of\\001ce is closed."))
    assert read(tmp_path / "a.pdf")[0][0].text == "The office is closed."


def test_what_cannot_be_read_is_said(tmp_path, monkeypatch):
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4 and nothing more")
    assert "is a damaged PDF" in read(tmp_path / "a.pdf")[1][0]
    (tmp_path / "b.pdf").write_bytes(made(None, None))
    assert read(tmp_path / "b.pdf") == (
        [],
        [f"{tmp_path / 'b.pdf'}: holds no text; if its pages are scanned, run text recognition on it first"],
    )
    writer = pypdf.PdfWriter(clone_from=tmp_path / "b.pdf")
    locked = "is locked by a password; save it without one"
    for password, kind, reason in (
        ("", "RC4-128", "holds no text"),
        ("", "AES-256", "holds no text"),
        ("secret", "RC4-128", locked),
    ):
        writer.encrypt(password, "owner", algorithm=kind)
        writer.write(tmp_path / "c.pdf")
        documents, problems = read(tmp_path / "c.pdf")
        assert documents == []
        assert reason in problems[0]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(pdf_module, "find_spec", lambda name: None)
    assert "pypdf is not installed; run: pip install '.[documents]'" in read(tmp_path / "b.pdf")[1][0]


def test_a_lock_that_needs_a_package_is_said(tmp_path, monkeypatch):
    (tmp_path / "a.pdf").write_bytes(made("Words."))

    def missing(self, password):
        raise pypdf.errors.DependencyError("cryptography is required")

    writer = pypdf.PdfWriter(clone_from=tmp_path / "a.pdf")
    writer.encrypt("", "owner", algorithm="RC4-128")
    writer.write(tmp_path / "a.pdf")
    monkeypatch.setattr(pypdf.PdfReader, "decrypt", missing)
    assert "a lock that needs a package (cryptography is required)" in read(tmp_path / "a.pdf")[1][0]


def test_a_page_that_cannot_be_read_costs_no_other(tmp_path):
    (tmp_path / "a.pdf").write_bytes(made("First page.", "Second page.", unpacked_by="Nonsense"))
    documents, problems = read(tmp_path / "a.pdf")
    assert [each.text for each in documents] == ["First page."]
    assert len(problems) == 1
    assert "page 2 cannot be read" in problems[0]
