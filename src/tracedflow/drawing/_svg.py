"""A picture as SVG: one text, no address outside it, light and dark by the reader's preference."""

from __future__ import annotations

import re
import unicodedata
from html import escape
from itertools import pairwise

from ._layout import Layout, Point, Rect, arrange
from ._picture import Box, Picture
from ._style import NOTE_SIZE, TITLE_SIZE, TONES, colour_of, style_sheet

MARGIN = 20.0

_MONO = 0.61  # the widest usual monospaced fonts, in parts of their size
_SANS = 0.62  # bold, as a verdict is
_LEAST_WIDTH = 72.0
_PILE = 6.0  # what a pile shows of the boxes below the first
_PAD = 14.0

_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")


def svg(picture: Picture) -> str:
    """Return the picture as a complete SVG document."""
    layout = arrange({box.id: size_of(box) for box in picture.boxes}, [(arrow.source, arrow.target) for arrow in picture.arrows])
    width, height = layout.width + 2 * MARGIN, layout.height + 2 * MARGIN
    heading = ", ".join(part for part in (picture.title, picture.verdict, *picture.facts) if part)
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tf" role="group" aria-label="{_attribute(heading)}" {size}>',
        f"<title>{_text(heading)}</title><style>{style_sheet()}</style><defs>{_tips()}</defs>",
        f'<rect class="paper" width="{width:.0f}" height="{height:.0f}" fill="var(--paper)"/>',
        f'<g transform="translate({MARGIN:g} {MARGIN:g})">',
        *_arrows(picture, layout),
        *(_box(box, layout.boxes[box.id]) for box in sorted(picture.boxes, key=lambda box: _reading_order(layout.boxes[box.id]))),
        "</g></svg>",
    ]
    return "".join(parts)


def _reading_order(at: Rect) -> Point:
    return at.y + at.height / 2, at.x


def size_of(box: Box) -> Point:
    """Return the width and height of a box, from how wide its text can be."""
    widest = max(_width(box.title, TITLE_SIZE * _MONO), *(_width(note, NOTE_SIZE * _SANS) for note in box.notes), 0.0)
    width = max(_LEAST_WIDTH, widest + 2 * (_PAD if _is_square(box) else _PAD + 6))
    height = (34.0 if _is_square(box) else 28.0) + 15.0 * len(box.notes) + (7.0 if box.bar is not None else 0.0)
    pile = _PILE if box.count > 1 else 0.0
    return round(width) + pile, height + pile


def _is_square(box: Box) -> bool:
    return box.kind in ("step", "handler", "external", "generic")


def _width(text: str, each: float) -> float:
    """Return how wide a text is, at most: letters of East Asia and pictures take two places."""
    return sum(each * (1.8 if unicodedata.east_asian_width(letter) in "WF" else 1.0) for letter in text)


def _box(box: Box, at: Rect) -> str:
    colour = colour_of(box.kind)
    spoken = f'aria-label="{_attribute(box.spoken)}"><title>{_text(box.spoken)}</title>'
    parts = [f'<g class="b k-{colour} is-{box.tone}" data-id="{_attribute(box.id)}" tabindex="0" role="button" {spoken}']
    if box.count > 1:
        at = Rect(at.x, at.y, at.width - _PILE, at.height - _PILE)
        parts += [_body(box, Rect(at.x + shift, at.y + shift, at.width, at.height)) for shift in (_PILE, _PILE / 2)]
    parts.append(_body(box, at))
    baseline = at.y + (22 if _is_square(box) else 18.5)
    parts.append(f'<text class="t" x="{at.middle:.1f}" y="{baseline:.1f}">{_text(box.title)}</text>')
    for number, note in enumerate(box.notes, 1):
        verdict = " v" if number == len(box.notes) and box.tone in TONES else ""
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
        tip = arrow.style if arrow.style in ("many", "failure", "resource") else "plain"
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
    tips = (("plain", "tip", 8), ("many", "tip", 12), ("failure", "tip-failure", 9), ("resource", "tip-resource", 8))
    return "".join(
        f'<marker id="tf-{name}" viewBox="0 0 10 10" refX="9.5" refY="5" markerWidth="{size}" markerHeight="{size}" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path class="{css}" d="M0 0.8L10 5L0 9.2z"/></marker>'
        for name, css, size in tips
    )


def _text(text: str) -> str:
    return escape(printable(text), quote=False)


def _attribute(text: str) -> str:
    return escape(printable(text), quote=True)


def printable(text: str) -> str:
    """Leave out what XML may not contain, escaped or not."""
    return _FORBIDDEN.sub("", text)
