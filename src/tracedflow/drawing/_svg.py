"""A picture as SVG: one text, no address outside it, light and dark by the reader's preference."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from html import escape
from itertools import pairwise

from ._layout import Layout, Point, Rect, arrange
from ._picture import Box, Kind, Picture

MARGIN = 20.0

_TITLE = 13.0  # pixels
_NOTE = 11.0
_MONO = 0.61  # the widest usual monospaced fonts, in parts of their size
_SANS = 0.56
_LEAST_WIDTH = 72.0
_PAD = 14.0

# Fill, border and text of each kind, in the light and in the dark. Contrast of text on fill is at least 7 : 1.
_PALETTE: dict[str, dict[str, str]] = {
    "light": {
        "paper": "#ffffff", "ink": "#1b1f24", "dim": "#57606a", "line": "#8a939d", "hair": "#d5dae0",
        "step": "#dcebfb", "step-edge": "#4a86c5", "handler": "#fde3dc", "handler-edge": "#c8674b",
        "event": "#eef3e3", "event-edge": "#8ba05b", "start": "#e5e0fa", "start-edge": "#7e6cc9", "stop": "#fbe6c4", "stop-edge": "#bd8420",
        "external": "#d9f1ee", "external-edge": "#3d9387", "resource": "#f6dff0", "resource-edge": "#ad5c9a",
        "generic": "#eceef1", "generic-edge": "#7d8791",
        "good": "#2b8a3e", "odd": "#a86400", "bad": "#c92a2a", "live": "#1864ab",
    },
    "dark": {
        "paper": "#14181d", "ink": "#e8ebee", "dim": "#a3adb8", "line": "#76808b", "hair": "#343b44",
        "step": "#1d3450", "step-edge": "#5b95d3", "handler": "#4a251b", "handler-edge": "#d8795c",
        "event": "#28301b", "event-edge": "#8ea560", "start": "#2f2852", "start-edge": "#9383dd", "stop": "#46330f", "stop-edge": "#d09a3c",
        "external": "#143a36", "external-edge": "#4fa89b", "resource": "#42213b", "resource-edge": "#c274ae",
        "generic": "#2a3037", "generic-edge": "#8a949e",
        "good": "#69c77b", "odd": "#e9a33c", "bad": "#ff7b72", "live": "#6cb2f5",
    },
}  # fmt: skip
_FORBIDDEN = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\ud800-\\udfff\\ufffe\\uffff]")
_COLOUR: dict[Kind, str] = {"resource_config": "resource"}


def style_sheet() -> str:
    """Return the rules of the drawing. A `data-theme` of an element around it wins over the reader's preference."""
    light, dark = (";".join(f"--{name}:{value}" for name, value in _PALETTE[theme].items()) for theme in ("light", "dark"))
    return (
        f".tf{{{light}}}@media(prefers-color-scheme:dark){{.tf{{{dark}}}}}"
        f"[data-theme=light] .tf,.tf[data-theme=light]{{{light}}}[data-theme=dark] .tf,.tf[data-theme=dark]{{{dark}}}"
        ".tf text{fill:var(--ink);text-anchor:middle}"
        f".tf .t{{font:600 {_TITLE:g}px ui-monospace,'SF Mono',Menlo,Consolas,'DejaVu Sans Mono',monospace}}"
        f".tf .n{{font:{_NOTE:g}px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}}"
        ".tf .n{fill:var(--dim)}"
        ".tf .body{stroke-width:1.3}.tf .bar{fill:var(--hair)}.tf .done{fill:var(--c)}"
        ".tf .a{fill:none;stroke:var(--line);stroke-width:1.4}.tf .many{stroke-width:3}"
        ".tf .failure{stroke:var(--bad);stroke-dasharray:6 4}.tf .outside{stroke-dasharray:2 4;stroke-linecap:round}"
        ".tf .resource{stroke:var(--resource-edge);stroke-dasharray:6 4}"
        ".tf .tip{fill:var(--line)}.tf .tip-failure{fill:var(--bad)}.tf .tip-resource{fill:var(--resource-edge)}"
        + "".join(f".tf .k-{kind} .body{{fill:var(--{kind});stroke:var(--{kind}-edge)}}.tf .k-{kind}{{--c:var(--{kind}-edge)}}" for kind in _KINDS)
        + "".join(f".tf .is-{tone} .body{{stroke:var(--{tone});stroke-width:2.2}}.tf .is-{tone} .n.v{{fill:var(--{tone});font-weight:600}}" for tone in _TONES)
    )  # fmt: skip


_KINDS = ("step", "handler", "event", "start", "stop", "external", "resource", "generic")
_TONES = ("odd", "bad", "live")


def svg(picture: Picture) -> str:
    """Return the picture as a complete SVG document."""
    layout = arrange({box.id: size_of(box) for box in picture.boxes}, [(arrow.source, arrow.target) for arrow in picture.arrows])
    width, height = layout.width + 2 * MARGIN, layout.height + 2 * MARGIN
    heading = ", ".join(part for part in (picture.title, picture.verdict, *picture.facts) if part)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tf" role="group" aria-label="{_attribute(heading)}" '
        f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">',
        f"<title>{_text(heading)}</title><style>{style_sheet()}</style><defs>{_tips()}</defs>",
        f'<rect class="paper" width="{width:.0f}" height="{height:.0f}" fill="var(--paper)"/>',
        f'<g transform="translate({MARGIN:g} {MARGIN:g})">',
        *_arrows(picture, layout),
        *(_box(box, layout.boxes[box.id]) for box in picture.boxes),
        "</g></svg>",
    ]
    return "".join(parts)


def size_of(box: Box) -> Point:
    """Return the width and height of a box, from how wide its text can be."""
    widest = max(_width(box.title, _TITLE * _MONO), *(_width(note, _NOTE * _SANS) for note in box.notes), 0.0)
    width = max(_LEAST_WIDTH, widest + 2 * (_PAD if _is_square(box) else _PAD + 6))
    height = (34.0 if _is_square(box) else 28.0) + 15.0 * len(box.notes) + (7.0 if box.bar is not None else 0.0)
    return round(width), height


def _is_square(box: Box) -> bool:
    return box.kind in ("step", "handler", "external", "generic")


def _width(text: str, each: float) -> float:
    """Return how wide a text is, at most: letters of East Asia and pictures take two places."""
    return sum(each * (1.8 if unicodedata.east_asian_width(letter) in "WF" else 1.0) for letter in text)


def _box(box: Box, at: Rect) -> str:
    colour = _COLOUR.get(box.kind, box.kind)
    spoken = f'aria-label="{_attribute(box.spoken)}"><title>{_text(box.spoken)}</title>'
    parts = [f'<g class="b k-{colour} is-{box.tone}" data-id="{_attribute(box.id)}" tabindex="0" role="button" {spoken}']
    if box.count > 1:  # a pile
        parts += [_body(box, Rect(at.x + shift, at.y + shift, at.width, at.height)) for shift in (6, 3)]
    parts.append(_body(box, at))
    baseline = at.y + (22 if _is_square(box) else 18.5)
    parts.append(f'<text class="t" x="{at.middle:.1f}" y="{baseline:.1f}">{_text(box.title)}</text>')
    for number, note in enumerate(box.notes, 1):
        verdict = " v" if number == len(box.notes) and box.tone in _TONES else ""
        parts.append(f'<text class="n{verdict}" x="{at.middle:.1f}" y="{baseline + 15 * number:.1f}">{_text(note)}</text>')
    if box.bar is not None:
        parts.append(_bar(box.bar, at))
    return "".join(parts) + "</g>"


def _body(box: Box, at: Rect) -> str:
    radius = 6.0 if _is_square(box) else 3.0 if box.kind.startswith("resource") else min(14.0, at.height / 2)
    size = f'x="{at.x:.1f}" y="{at.y:.1f}" width="{at.width:.1f}" height="{at.height:.1f}"'
    return f'<rect class="body" {size} rx="{radius:g}"/>'


def _bar(part: tuple[float, float], at: Rect) -> str:
    """Draw the time of the run, and in it the part in which this box was at work."""
    left, width, y = at.x + 8, at.width - 16, at.y + at.height - 9
    start, end = part
    done = max(2.0, (end - start) * width)
    return (
        f'<rect class="bar" x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" height="3" rx="1.5"/>'
        f'<rect class="done" x="{min(left + start * width, left + width - done):.1f}" y="{y:.1f}" width="{done:.1f}" height="3" rx="1.5"/>'
    )


def _arrows(picture: Picture, layout: Layout) -> list[str]:
    named = {box.id: box.full_name for box in picture.boxes}
    drawn: list[str] = []
    for arrow in picture.arrows:
        route = layout.routes.get((arrow.source, arrow.target))
        if route is None:
            continue
        tip = arrow.style if arrow.style in ("failure", "resource") else "plain"
        label = f"{named[arrow.source]} → {named[arrow.target]}" + (f" ({arrow.text})" if arrow.text else "")
        drawn.append(
            f'<path class="a {arrow.style}" data-from="{_attribute(arrow.source)}" data-to="{_attribute(arrow.target)}" '
            f'd="{_path(route)}" marker-end="url(#tf-{tip})"><title>{_text(label)}</title></path>'
        )
    return drawn


def _path(route: tuple[Point, ...]) -> str:
    """Draw straight down where two points have one x, and in an S otherwise."""
    (x, y), *_ = route
    parts = [f"M{x:.1f} {y:.1f}"]
    for (x0, y0), (x1, y1) in pairwise(route):
        half = (y0 + y1) / 2
        parts.append(f"V{y1:.1f}" if abs(x1 - x0) < 0.05 else f"C{x0:.1f} {half:.1f} {x1:.1f} {half:.1f} {x1:.1f} {y1:.1f}")
    return "".join(parts)


def _tips() -> str:
    tips: Mapping[str, str] = {"plain": "tip", "failure": "tip-failure", "resource": "tip-resource"}
    return "".join(
        f'<marker id="tf-{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse" '
        f'orient="auto"><path class="{css}" d="M0 0.8L10 5L0 9.2z"/></marker>'
        for name, css in tips.items()
    )


def _text(text: str) -> str:
    return escape(_printable(text), quote=False)


def _attribute(text: str) -> str:
    return escape(_printable(text), quote=True)


def _printable(text: str) -> str:
    """Leave out what XML may not contain, escaped or not."""
    return _FORBIDDEN.sub("", text)
