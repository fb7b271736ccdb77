"""A contact sheet: the picture that was asked about, the answer, and the entries it rests on, as one image file."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wellread.pictures.store import open_image

if TYPE_CHECKING:
    from PIL.Image import Image

    from wellread.pictures.folder import Pictures
    from wellread.types import Answer, CitedPassage, Question

__all__ = ["FORMATS", "check_sheet", "draw_sheet"]

FORMATS = (".png", ".jpg", ".jpeg", ".webp")
CARD, HEIGHT, GAP = 190, 290, 12  # pixels
PICTURE = CARD - 2 * GAP  # on a side, of what was asked about
SMALLER = PICTURE - 2 * GAP  # of an entry
COLUMNS = 5
INK, FAINT, GROUND, PAPER, LINE = "#1c2026", "#667080", "#f2f3f5", "#ffffff", "#c9ced6"
SIZES = {"large": 20, "plain": 13, "small": 11}
LETTERS = {"large": 34, "plain": 26, "small": 29}  # in a line of a card


def check_sheet(path: str | Path) -> Path:
    """The path, where a sheet can be written to it; ValueError before anything is asked."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"sheet={path} must end in one of: {', '.join(FORMATS)}.")
    if not path.parent.is_dir():
        raise ValueError(f"sheet={path}: there is no folder {path.parent}; make it, or choose another.")
    return path


def draw_sheet(
    path: str | Path, question: Question, answer: Answer, *, pictures: Pictures | None = None, show: int = 10
) -> Path:
    """Write a contact sheet of an answer.

    On the left what was asked and answered; on the right the first `show` entries, in the order they are cited: their
    picture or their text, and below it source, gate (where the system has one), score and share of the attention.
    """
    from PIL import Image as images
    from PIL import ImageDraw

    path = check_sheet(path)
    cards = answer.passages[:show]
    columns = max(min(len(cards), COLUMNS), 1)
    rows = max(-(-len(cards) // COLUMNS), 1)
    left = CARD + 4 * GAP
    sheet = images.new("RGB", (left + columns * (CARD + GAP) + GAP, rows * (HEIGHT + GAP) + GAP), GROUND)
    pen = _Pen(ImageDraw.Draw(sheet))
    _question(sheet, pen, question, answer, pictures)
    for place, cited in enumerate(cards):
        row, column = divmod(place, COLUMNS)
        _card(sheet, pen, left + column * (CARD + GAP) + GAP, row * (HEIGHT + GAP) + GAP, place + 1, cited, pictures)
    sheet.save(path)
    return path


class _Pen:
    """Writes lines of text in the font that comes with Pillow."""

    def __init__(self, draw: Any) -> None:
        from PIL import ImageFont

        self.draw = draw
        self.fonts = {name: ImageFont.load_default(size) for name, size in SIZES.items()}

    def write(self, x: int, y: int, text: str, *, size: str = "plain", ink: str = INK, most: int = 99) -> int:
        """Write text, broken into at most so many lines; the place below it."""
        lines = textwrap.wrap(text, LETTERS[size]) or [""]
        if len(lines) > most:
            lines = [*lines[: most - 1], f"{lines[most - 1][: LETTERS[size] - 3]}..."]
        for line in lines:
            self.draw.text((x, y), line, fill=ink, font=self.fonts[size])
            y += SIZES[size] + 4
        return y


def _question(sheet: Image, pen: _Pen, question: Question, answer: Answer, pictures: Pictures | None) -> None:
    """What was asked and what was answered."""
    y = GAP
    if question.picture is not None:
        _paste(sheet, _image(question.picture, pictures), GAP, y, PICTURE)
        y += PICTURE + GAP
    y = pen.write(GAP, y, question.text, ink=FAINT, most=3)
    y = pen.write(GAP, y + 2, answer.text or answer.withheld or "(no answer)", size="large", most=2)
    if answer.confidence is not None:
        pen.write(GAP, y, f"confidence {answer.confidence:.2f}", size="small", ink=FAINT)


def _card(sheet: Image, pen: _Pen, x: int, y: int, number: int, cited: CitedPassage, pictures: Pictures | None) -> None:
    """One entry: its picture and the beginning of its text, or more of its text."""
    pen.draw.rectangle((x, y, x + CARD, y + HEIGHT), fill=PAPER, outline=INK if cited.kept else LINE)
    shown = None if cited.picture is None else _image(cited.picture, pictures, missing=True)
    if shown is not None:
        _paste(sheet, shown, x + (CARD - SMALLER) // 2, y + GAP, SMALLER)
    below = y + GAP + (SMALLER if shown is not None else 0)
    below = pen.write(x + GAP, below, f"[{number}] {cited.title or cited.id}", most=1)
    text = " ".join(cited.text.split())
    pen.write(x + GAP, below, text, size="small", ink=FAINT, most=13 if shown is None else 4)
    gate = "" if cited.gate is None else f"  gate {cited.gate:.2f}"
    told = (f"{cited.source}{gate}", f"score {cited.score:.2f}  share {cited.share:.0%}")
    for line, text in enumerate(told):
        pen.write(x + GAP, y + HEIGHT - 40 + 16 * line, text, size="small", most=1)


def _image(name: str, pictures: Pictures | None, *, missing: bool = False) -> Image | None:
    """A picture by id or by file. missing: None where it is neither, instead of an error."""
    if pictures is not None and name in pictures:
        return pictures.image(name)
    if missing and not Path(name).is_file():
        return None
    return open_image(name)


def _paste(sheet: Image, picture: Image, x: int, y: int, size: int) -> None:
    from wellread.nn.vision import squared

    sheet.paste(squared(picture, size), (x, y))
