"""Line plots as files: one panel or several side by side, the same bytes for the same numbers.

Drawn by matplotlib, which is imported when something is drawn (it comes with the extra `dev`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Line", "Panel", "check_plot", "line_plot", "panel_plot"]

ENDINGS = (".svg", ".png")
# Element names in an SVG come from a hash of this, not from chance; text stays text, which is small and searchable.
SETTINGS = {"svg.hashsalt": "wellread", "svg.fonttype": "none", "font.size": 9}
# Told apart also by readers who do not see red and green as different (Okabe and Ito 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
STYLES = {
    "line": {"linestyle": "-", "marker": "o", "markersize": 3},
    "plain": {"linestyle": "-"},
    "dashed": {"linestyle": "--", "color": "#888888", "linewidth": 1},
    "points": {"linestyle": "", "marker": "o", "markersize": 4},
}
WIDTH, HEIGHT = 4.8, 3.6  # of a panel, inches


@dataclass(frozen=True)
class Line:
    """One series of a panel.

    x, y: as many of each, in the order they are joined. low, high: a band around the line, such as an interval.
    style: a name in STYLES: "line" with a dot at each value, "plain", "dashed" for a reference, "points" only.
    """

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    style: str = "line"

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise ValueError(f"style={self.style!r} is unknown; use one of: {', '.join(STYLES)}.")
        if (self.low is None) != (self.high is None):
            raise ValueError("a band needs both of its sides; give low and high, or neither.")
        counts = {len(each) for each in (self.x, self.y, self.low, self.high) if each is not None}
        if len(counts) > 1:
            raise ValueError(f"a line has {len(self.x)} x and {len(self.y)} y; each point (and its band) needs both.")


@dataclass(frozen=True)
class Panel:
    """What is drawn between two axes.

    series: name -> Line, or name -> (x, y); names that begin with "_" are left out of the legend. log_x, log_y:
    logarithmic axes. x_range, y_range: [from, to]; None fits the values.
    """

    series: Mapping[str, Line | tuple[Sequence[float], Sequence[float]]]
    title: str
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.series:
            raise ValueError(f"the plot {self.title!r} has no series; give at least one.")

    @property
    def lines(self) -> dict[str, Line]:
        """Every series as a Line."""
        return {name: line if isinstance(line, Line) else Line(*line) for name, line in self.series.items()}


def line_plot(
    path: str | Path,
    series: Mapping[str, Line | tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    **options: Any,
) -> Path:
    """Draw one panel into an .svg or .png file. series: name -> (x, y) or Line; options: those of `Panel`."""
    return panel_plot(path, [Panel(series, title=title, x_label=x_label, y_label=y_label, **options)])


def panel_plot(path: str | Path, panels: Sequence[Panel]) -> Path:
    """Draw panels side by side into an .svg or .png file. The same panels give the same bytes.

    ValueError for another ending, for no panels, and where matplotlib is not installed.
    """
    path = Path(path)
    check_plot(path)
    if not panels:
        raise ValueError("there are no panels to draw; give at least one.")
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        # A figure of its own, without pyplot: no window system is looked for, no state is kept between plots.
        figure = Figure(figsize=(WIDTH * len(panels), HEIGHT), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw(axes, panel)
        nothing = {".svg": {"Date": None, "Creator": None}, ".png": {"Software": None}}
        figure.savefig(path, metadata=nothing[path.suffix], dpi=150)
    return path


def check_plot(path: str | Path) -> None:
    """Raise ValueError where a plot cannot be drawn into this file; to be told before long work."""
    if Path(path).suffix not in ENDINGS:
        raise ValueError(
            f"plot {path} ends in {Path(path).suffix!r}; give a file that ends in one of: {', '.join(ENDINGS)}."
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("plots need matplotlib, which is not installed; run: pip install matplotlib.")


def _draw(axes: Any, panel: Panel) -> None:
    for place, (name, line) in enumerate(panel.lines.items()):
        look = {"color": COLOURS[place % len(COLOURS)], **STYLES[line.style]}
        axes.plot(line.x, line.y, label=name, **look)
        if line.low is not None:
            axes.fill_between(line.x, line.low, line.high, color=look["color"], alpha=0.15, linewidth=0)
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    axes.set(**({"xscale": "log"} if panel.log_x else {}), **({"yscale": "log"} if panel.log_y else {}))
    axes.set(**({"xlim": panel.x_range} if panel.x_range else {}), **({"ylim": panel.y_range} if panel.y_range else {}))
    axes.grid(alpha=0.25)
    if any(not name.startswith("_") for name in panel.lines):
        axes.legend(frameon=False)
