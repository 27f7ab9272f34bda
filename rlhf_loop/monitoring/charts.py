"""Draws a figure as SVG: light or dark, for a desktop or a phone, the same bytes for the same numbers.

Matplotlib's objects only, without its global figures; what it reads globally is set under a lock. The words are texts
in the SVG, not outlines: so the browser draws names in any script, and the files are small.
"""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, Any

from rlhf_loop.monitoring import chart_rows
from rlhf_loop.monitoring.chart_over import diagonal, over_x
from rlhf_loop.monitoring.chart_style import DARK, FONT, LIGHT, Brush, by_name, legend_size
from rlhf_loop.monitoring.chart_words import Words
from rlhf_loop.monitoring.figures.figure import Figure, Form

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_WIDE, _NARROW = (500, 280), (280, 230)
_LEGEND_ROW = 20
#: What matplotlib reads globally, whatever the user's own settings are.
_GLOBALS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rlhf-loop",
    "text.usetex": False,
    "text.parse_math": False,
    "text.hinting": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": FONT,
    "axes.titlelocation": "left",
    "axes.xmargin": 0.04,
    "axes.ymargin": 0.08,
    "axes.autolimit_mode": "data",
    "axes.labelsize": FONT,
    "legend.fontsize": FONT,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    "hatch.linewidth": 1.0,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.5,
    "path.simplify": True,
    "path.effects": [],
    "path.sketch": None,
    "savefig.facecolor": "auto",
    "savefig.bbox": None,
    "savefig.pad_inches": 0.0,
}
_FAMILY = "font-family: 'DejaVu Sans'"
#: The pages' own letters; DejaVu Sans, which measured the words, is wider than these.
_LETTERS = "font-family: system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"
_ONE_AT_A_TIME = threading.Lock()


def draw(figure: Figure, *, dark: bool = False, narrow: bool = False) -> str:
    """Return the picture as SVG; `narrow` is for a phone."""
    # Imported here: matplotlib takes a second.
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    look = DARK if dark else LIGHT
    across, down = size(figure, narrow=narrow)
    words = Words(widest=across - 24, font_size=FONT)
    with _ONE_AT_A_TIME, matplotlib.rc_context(_GLOBALS):
        canvas = Canvas(figsize=(across / 72, down / 72), dpi=72, layout="constrained", facecolor=look.card)
        brush = Brush(figure, canvas.subplots(), look, words, narrow)
        _dress(brush)
        if not figure.rows:
            _nothing(brush)
        elif figure.form is Form.PROGRESS:
            chart_rows.progress(brush)
        elif by_name(figure):
            chart_rows.rows(brush)
        elif figure.form is Form.DIAGONAL:
            diagonal(brush)
        else:
            over_x(brush)
        _legend(canvas, brush, across)
        with io.StringIO() as file:
            # Nothing that changes from day to day.
            about: dict[str, Any] = {"Date": None, "Creator": None, "Title": words(figure.title)}
            canvas.savefig(file, format="svg", metadata=about)
            drawn = file.getvalue()
    return words.put_back(drawn.replace(_FAMILY, _LETTERS))


def size(figure: Figure, *, narrow: bool = False) -> tuple[int, int]:
    """Return the picture's width and height in pixels."""
    across, down = _NARROW if narrow else _WIDE
    if figure.rows and by_name(figure):
        down = chart_rows.height(figure)
    _, rows = legend_size(figure, across)
    return across, down + _LEGEND_ROW * rows


def _dress(brush: Brush) -> None:
    brush.axes.set_facecolor(brush.look.card)
    brush.axes.tick_params(colors=brush.look.soft, length=0, pad=6)
    for name, spine in brush.axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(brush.look.soft)
    brush.axes.set_axisbelow(True)


def _nothing(brush: Brush) -> None:
    brush.axes.set_axis_off()
    place = {"ha": "center", "va": "center", "transform": brush.axes.transAxes}
    brush.axes.text(0.5, 0.5, "Nothing to show yet", color=brush.look.soft, **place)


def _legend(canvas: Canvas, brush: Brush, across: int) -> None:
    columns, rows = legend_size(brush.figure, across)
    if not rows:
        return
    signs, labels = brush.axes.get_legend_handles_labels()
    room = {"borderpad": 0, "borderaxespad": 0.1, "handlelength": 1.9, "handletextpad": 0.6}
    between = {"columnspacing": 1.4, "labelspacing": 0.35}
    look = {"frameon": False, "labelcolor": brush.look.ink}
    canvas.legend(signs, labels, loc="outside upper left", ncols=columns, **look, **room, **between)
