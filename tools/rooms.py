"""Draw the rooms of the package and what they import: `python -m tools.rooms` writes docs/images/rooms.svg.

The rows are the layers that import-linter holds (`pyproject.toml`), the arrows the imports that are there, those inside
functions too. An arrow that follows from others is left out: what the rooms below use, a room may use as well.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import click
import grimp

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "rooms.svg"
PACKAGE = "rlhf_loop"

_WIDTH, _BOX, _HEIGHT, _GAP = 960, 124, 28, 30
_MARGIN = 24
#: What a room is for, as a colour: the four phases of the loop, and what stands around it.
_PHASES = {
    "collect": ("#fff1d6", "#b7791f", ("store", "accounts", "exchange", "reviewing")),
    "train": ("#e3f0ff", "#2b6cb0", ("encoders", "reward", "training", "registry")),
    "serve": ("#e4f6e7", "#2f855a", ("sources", "answering", "web", "ranking")),
    "improve": ("#f6e6fb", "#805ad5", ("monitoring",)),
    "around it": ("#f0f1f3", "#5a6472", ()),
}


def layers() -> list[list[str]]:
    """Return the layers from top to bottom, each with its units."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    contract = next(each for each in settings["contracts"] if each["type"] == "layers")
    return [[unit.strip() for unit in line.replace(":", "|").split("|")] for line in contract["layers"]]


def imports(units: Sequence[str]) -> dict[str, set[str]]:
    """Return for each unit the other ones that it imports, wherever in its files."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    found: dict[str, set[str]] = {unit: set() for unit in units}
    for module in graph.modules:
        unit = module.split(".")[1] if "." in module else ""
        for imported in graph.find_modules_directly_imported_by(module):
            other = imported.split(".")[1] if "." in imported else ""
            if unit in found and other in found and other != unit:
                found[unit].add(other)
    return found


def reduced(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the arrows that do not follow from others; there must be no circle."""

    def reached(unit: str) -> set[str]:
        return arrows[unit].union(*(reached(other) for other in arrows[unit]))

    return {unit: others - set().union(*(reached(other) for other in others)) for unit, others in arrows.items()}


def picture(rows: Sequence[Sequence[str]], arrows: Mapping[str, set[str]]) -> str:
    """Return the picture as SVG."""
    place = {
        unit: (
            # Every other row a bit to the side, or arrows would hide behind the boxes in the middle.
            (_WIDTH - _BOX) / 2 + (column - (len(row) - 1) / 2) * (_BOX + 76) + (45 if line % 2 else -45),
            _MARGIN + line * (_HEIGHT + _GAP),
        )
        for line, row in enumerate(rows)
        for column, unit in enumerate(row)
    }
    height = _MARGIN + len(rows) * (_HEIGHT + _GAP) + _MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'font-family="sans-serif" font-size="15">',
        "<title>The rooms of rlhf_loop, and which of them import which</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#8a94a3"/></marker></defs>',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for unit, others in sorted(arrows.items()):
        for other in sorted(others):
            lines.append(_arrow(place[unit], place[other]))
    for unit, (x, y) in place.items():
        fill, ink = _colours(unit)
        lines.append(
            f'<rect x="{x:g}" y="{y:g}" width="{_BOX}" height="{_HEIGHT}" rx="6" fill="{fill}" stroke="{ink}"/>'
            f'<text x="{x + _BOX / 2:g}" y="{y + 19:g}" text-anchor="middle" fill="#1d2530">{escape(unit)}</text>'
        )
    for number, (phase, (fill, ink, _)) in enumerate(_PHASES.items()):
        y = _MARGIN + 24 * number
        lines.append(
            f'<rect x="{_MARGIN}" y="{y}" width="14" height="14" rx="3" fill="{fill}" stroke="{ink}"/>'
            f'<text x="{_MARGIN + 22}" y="{y + 12}" fill="#1d2530" font-size="13">{phase}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _colours(unit: str) -> tuple[str, str]:
    for fill, ink, units in _PHASES.values():
        if unit in units:
            return fill, ink
    fill, ink, _ = _PHASES["around it"]
    return fill, ink


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = start, end
    x1, y1, x2 = x1 + _BOX / 2, y1 + _HEIGHT, x2 + _BOX / 2
    bend = (y2 - y1) / 2
    return (
        f'<path d="M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2:g}" fill="none" '
        'stroke="#8a94a3" stroke-width="1.3" marker-end="url(#tip)"/>'
    )


@click.command()
def main() -> None:
    """Draw docs/images/rooms.svg, and say how many arrows there are."""
    rows = layers()
    arrows = imports([unit for row in rows for unit in row])
    PICTURE.write_text(picture(rows, reduced(arrows)), "utf-8")
    total = sum(len(others) for others in arrows.values())
    click.echo(f"{len(arrows)} units, {total} arrows between them, {sum(map(len, reduced(arrows).values()))} drawn.")


if __name__ == "__main__":
    main()
