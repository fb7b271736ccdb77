"""Plots are files whose bytes depend on nothing but what is drawn."""

from __future__ import annotations

import importlib.util

import pytest

from wellread.evaluation.plots import Line, Panel, check_plot, line_plot, panel_plot

AXES = {"title": "A title", "x_label": "steps", "y_label": "loss"}
SERIES = {"first": ([1, 10, 100], [3.0, 2.0, 1.0]), "second": Line([1, 2], [1, 2], low=[0, 1], high=[2, 3])}


@pytest.fixture(autouse=True)
def _installed() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    files = [line_plot(tmp_path / name, SERIES, **AXES, log_x=True) for name in ("a.svg", "b.svg")]
    first, second = (file.read_bytes() for file in files)
    assert first == second
    text = first.decode()
    assert all(f">{word}<" in text for word in ("A title", "steps", "loss", "first", "second"))
    assert "date" not in text
    assert "matplotlib.org" not in text
    other = line_plot(tmp_path / "c.svg", {**SERIES, "first": ([1, 10, 100], [3.0, 2.0, 1.5])}, **AXES, log_x=True)
    assert other.read_bytes() != first


def test_panels_stand_side_by_side(tmp_path):
    panels = [
        Panel({"a": Line([0, 1], [0, 1], style=style)}, title=style, x_label="x", y_label="y", y_range=(0, 2))
        for style in ("plain", "dashed", "points")
    ]
    text = panel_plot(tmp_path / "a.svg", panels).read_text()
    assert all(f">{panel.title}<" in text for panel in panels)
    one = panel_plot(tmp_path / "b.svg", panels[:1]).read_text()
    assert one.split('width="', 1)[1].startswith("345.6pt")  # 4.8 inches of 72 points
    assert text.split('width="', 1)[1].startswith("1036.8pt")


def test_names_that_begin_with_an_underscore_are_not_explained(tmp_path):
    text = line_plot(tmp_path / "a.svg", {"_hidden": ([0, 1], [0, 1])}, **AXES).read_text()
    assert "hidden" not in text
    assert "legend" not in text


def test_pixels_are_drawn_too(tmp_path):
    assert line_plot(tmp_path / "a.png", SERIES, **AXES, log_y=True).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Line([1, 2], [1]), r"a line has 2 x and 1 y; each point \(and its band\) needs both"),
        (lambda: Line([1], [1], low=[0]), r"a band needs both of its sides; give low and high, or neither"),
        (lambda: Line([1], [1], low=[0], high=[1, 2]), r"a line has 1 x and 1 y"),
        (lambda: Line([1], [1], style="wavy"), r"style='wavy' is unknown; use one of: line, plain, dashed, points"),
        (lambda: Panel({}, **AXES), r"the plot 'A title' has no series; give at least one"),
        (lambda: panel_plot("a.svg", []), r"there are no panels to draw; give at least one"),
        (lambda: line_plot("a.pdf", SERIES, **AXES), r"plot a\.pdf ends in '\.pdf'; give a file that ends in one of: "),
    ],
)
def test_what_cannot_be_drawn_is_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_without_matplotlib_the_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"plots need matplotlib, which is not installed; run: pip install matplotlib"):
        check_plot("a.svg")
