"""Draws one chart for each part from the sections on standard input, and prints which it drew. Needs matplotlib.

python -m benchmarks._charts DIRECTORY < sections.json
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from PIL import Image

from ._report import Figure, Section, number

OURS, OTHER, HELD, MISSED, QUIET = "#2563a8", "#b9c1cc", "#15803d", "#b91c1c", "#6b7280"
WIDTH, BAR, ABOVE, BELOW, HEAD = 9.4, 0.17, 0.3, 0.32, 0.25  # inches: of the picture, of a bar, around a panel, above all
LETTER = 0.066  # inches, of a label
COLOURS = 48
GAP = 0.8  # bars, between two groups
DOTS = 100  # per inch
COUNTS = ("runs", "objects")  # all or none of them: nothing to draw
WIDE = 60  # beyond this factor between the bars only a logarithmic axis shows both

mpl.use("Agg")
mpl.rcParams.update({"font.family": "DejaVu Sans", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False})


@dataclass(frozen=True, slots=True)
class Group:
    """A label, its one or two bars with their colours, and the verdict on the right."""

    label: str
    bars: tuple[tuple[float, str], ...]
    unit: str
    verdict: str = ""
    colour: str = QUIET


@dataclass(frozen=True, slots=True)
class Panel:
    """Groups on one axis."""

    title: str
    groups: list[Group]

    @property
    def bars(self) -> int:
        """How many bars it has."""
        return sum(len(group.bars) for group in self.groups)

    @property
    def height(self) -> float:
        """Its height in inches, with what is around it."""
        return (self.bars + GAP * len(self.groups)) * BAR + self.above + BELOW

    @property
    def above(self) -> float:
        """What is left for the title in inches."""
        return ABOVE if self.title else 0.05


def main(directory: str) -> None:
    """Draw what came on standard input."""
    sections = [
        Section(part=data["part"], title=data["title"], figures=[Figure(**figure) for figure in data["figures"]], notes=data["notes"])
        for data in json.load(sys.stdin)
    ]
    for part in dict.fromkeys(section.part for section in sections):
        of_part = [section for section in sections if section.part == part]
        panels = list(_contests(of_part) if part == "peers" else _panels(of_part))
        if panels:
            _draw(panels, Path(directory) / f"{part}.png")
            print(part)


def _panels(sections: Iterable[Section]) -> Iterator[Panel]:
    for section in sections:
        title = section.title
        for _, figures in groupby(filter(_is_drawn, section.figures), key=lambda figure: (figure.ours is None, _unit(figure))):
            yield Panel(title, [_group(figure) for figure in figures])
            title = ""


def _is_drawn(figure: Figure) -> bool:
    return not math.isnan(figure.value) and figure.unit not in COUNTS


def _unit(figure: Figure) -> str:
    return figure.unit if figure.ours is None else figure.each


def _group(figure: Figure) -> Group:
    bars = ((figure.value, OURS),) if figure.ours is None else ((figure.ours, OURS), (figure.other or 0, OTHER))
    limit = "" if figure.limit is None else f"{'≥' if figure.at_least else '≤'} {figure.limit:g}"
    parts = ["" if figure.ours is None else f"{number(figure.value)} {figure.unit}", limit, figure.verdict]
    colour = {"held": HELD, "MISSED": MISSED}.get(figure.verdict, QUIET)
    return Group(figure.name, bars, _unit(figure), "  ".join(filter(None, parts)), colour)


def _contests(sections: Sequence[Section]) -> Iterator[Panel]:
    """Return a panel for each contest, with all peers in it."""
    figures = [figure for section in sections for figure in section.figures if _is_drawn(figure) and figure.ours is not None]
    contests: dict[str, dict[str, Figure]] = {}
    for figure in figures:
        contest, _, peer = figure.name.partition(": ")
        if not peer.endswith("telemetry defaults") and "untraced" not in contest:
            contests.setdefault(contest, {})[peer.removesuffix(", telemetry off")] = figure
    for contest, peers in contests.items():
        ours = statistics.median(figure.ours or 0 for figure in peers.values())
        setting = "everything on" if "traced" in contest else "telemetry off"
        others = (Group(peer, ((figure.other or 0, OTHER),), "µs", *_times(figure)) for peer, figure in peers.items())
        yield Panel(contest, [Group(f"tracedflow, {setting}", ((ours, OURS),), "µs"), *others])


def _times(figure: Figure) -> tuple[str, str]:
    limit = "" if figure.limit is None else f"  ≥ {figure.limit:g}  {figure.verdict}"
    return f"{number(figure.value)} x ours{limit}", {"held": HELD, "MISSED": MISSED}.get(figure.verdict, QUIET)


def _draw(panels: Sequence[Panel], path: Path) -> None:
    height = sum(panel.height for panel in panels) + HEAD
    picture = plt.figure(figsize=(WIDTH, height))
    groups = [group for panel in panels for group in panel.groups]
    left = max(len(group.label) for group in groups) * LETTER + 0.15
    right = max(len(group.verdict) for group in groups) * LETTER + 0.15
    top = height - HEAD
    for panel in panels:
        inside = (left, top - panel.height + BELOW, WIDTH - left - right, panel.height - panel.above - BELOW)
        axis = picture.add_axes([part / whole for part, whole in zip(inside, (WIDTH, height) * 2, strict=True)])
        _fill(axis, panel)
        picture.text(0.1 / WIDTH, (top - panel.above / 2) / height, axis.get_label(), fontsize=9.5, fontweight="bold", va="center")
        top -= panel.height
    if any(colour == OTHER for group in groups for _, colour in group.bars):
        handles = [Patch(color=OURS, label="tracedflow"), Patch(color=OTHER, label="the other side")]
        picture.legend(handles=handles, loc="upper right", ncols=2, frameon=False, borderaxespad=0.2)
    _save(picture, path)
    plt.close(picture)


def _fill(axis: Axes, panel: Panel) -> None:
    values = [value for group in panel.groups for value, _ in group.bars]
    is_log = min(values) > 0 and max(values) / min(values) > WIDE
    top = 0.0
    middles: list[float] = []
    for group in panel.groups:
        for index, (value, colour) in enumerate(group.bars):
            axis.barh(top + index, value, height=0.9, color=colour)
            place = (max(value, 0), top + index)
            axis.annotate(f"{number(value)} {group.unit}", place, (3, 0), textcoords="offset points", va="center", fontsize=7)
        middles.append(top + (len(group.bars) - 1) / 2)
        axis.text(1.02, middles[-1], group.verdict, transform=axis.get_yaxis_transform(), va="center", color=group.colour)
        top += len(group.bars) + GAP
    if is_log:
        axis.set_xscale("log")
        axis.set_xlim(min(values) / 2, max(values) * (max(values) / min(values)) ** 0.25)
    else:
        axis.set_xlim(0, max(*values, 1e-9) * (1.14 + len(panel.groups[0].unit) / 80))
    axis.set_label(f"{panel.title}, logarithmic" if is_log and panel.title else panel.title)
    axis.set_ylim(top - GAP - 0.3, -0.7)
    axis.set_yticks(middles, [group.label for group in panel.groups])
    axis.tick_params(left=False)
    axis.tick_params(axis="x", colors=QUIET, labelsize=7)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(OTHER)


def _save(picture: Any, path: Path) -> None:
    """Save with as many colours as there are: a third of the bytes."""
    drawn = BytesIO()
    picture.savefig(drawn, dpi=DOTS)
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
