"""Contact sheets: one image with what was asked, the answer and the entries."""

from __future__ import annotations

import pytest
from PIL import Image

from wellread.pictures.sheet import COLUMNS, check_sheet, draw_sheet
from wellread.types import Answer, CitedPassage, Question


def cited(number: int, **more) -> CitedPassage:
    return CitedPassage(f"p{number}", f"Title {number}", "A long text " * 40, 1.5, source="facts", **more)


def colours(path) -> set:
    with Image.open(path) as sheet:
        return {colour for _, colour in sheet.convert("RGB").getcolors(1 << 20)}


def test_entries_with_and_without_pictures(tmp_path):
    Image.new("RGB", (8, 4), (10, 200, 30)).save(tmp_path / "asked.png")
    Image.new("RGB", (4, 8), (200, 10, 30)).save(tmp_path / "entry.png")
    question = Question("", "What is this? " * 20, metadata={"picture": str(tmp_path / "asked.png")})
    found = (cited(1, picture=str(tmp_path / "entry.png"), gate=0.5), cited(2, kept=False, picture="gone"), cited(3))
    out = draw_sheet(tmp_path / "sheet.png", question, Answer("Peru", found, confidence=0.5))
    assert {(10, 200, 30), (200, 10, 30)} <= colours(out)
    with Image.open(out) as three:
        size = three.size
    many = Answer("", tuple(cited(number) for number in range(40)), withheld="Peru", abstained=True)
    with Image.open(draw_sheet(tmp_path / "many.webp", Question("", "Why?"), many, show=COLUMNS + 1)) as six:
        assert six.height > size[1]  # a second row
        assert six.width > size[0]
    with Image.open(draw_sheet(tmp_path / "none.jpg", Question("", "Why?"), Answer(""))) as empty:
        assert empty.width < size[0]


def test_the_same_answer_gives_the_same_bytes(tmp_path):
    drawn = [
        draw_sheet(tmp_path / name, Question("", "Why?"), Answer("So", (cited(1),))) for name in ("a.png", "b.png")
    ]
    assert drawn[0].read_bytes() == drawn[1].read_bytes()


def test_places_that_cannot_be_written_to_are_told_first(tmp_path):
    with pytest.raises(ValueError, match=r"a\.pdf must end in one of: \.png"):
        check_sheet(tmp_path / "a.pdf")
    with pytest.raises(ValueError, match="there is no folder"):
        check_sheet(tmp_path / "no" / "a.png")
    question = Question("", "What?", metadata={"picture": str(tmp_path / "gone.png")})
    with pytest.raises(ValueError, match=r"gone\.png is no picture that can be read"):
        draw_sheet(tmp_path / "a.png", question, Answer("x"))
