"""A picture as one HTML page. Everything is in the file; its own policy forbids it to load anything else."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha256
from html import escape

from ._picture import ARROW_NAMES, KIND_NAMES, ArrowStyle, Box, Kind, Picture
from ._style import asset, colour_of, style_sheet
from ._svg import printable, svg

_FRAME_HEIGHT = 560  # pixels

_ICON = "data:,"  # or browsers ask the server for one


def page(picture: Picture) -> str:
    """Return the page of a picture: the SVG, with pan and zoom, and what each box is on hover."""
    script = asset("page.js")
    digest = b64encode(sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en" class="tf">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f'<link rel="icon" href="{_ICON}">\n<title>{escape(picture.title)}</title>\n'
        f"<style>{style_sheet()}</style>\n<style>{asset('page.css')}</style>\n</head>\n<body>\n"
        f"{_header(picture)}\n<main>{svg(picture)}{_legend(picture)}</main>\n"
        '<aside aria-live="polite" aria-label="Details" tabindex="0" hidden></aside>\n'
        f'<script type="application/json" id="facts">{_facts(picture)}</script>\n<script>{script}</script>\n</body>\n</html>\n'
    )


def frame(picture: Picture) -> str:
    """Return the page as a frame that a notebook can show: cut off from the notebook, and the notebook from it."""
    return (
        f'<iframe sandbox="allow-scripts" title="{escape(picture.title)}" width="100%" height="{_FRAME_HEIGHT}" '
        f'style="border:0" srcdoc="{escape(page(picture))}"></iframe>'
    )


def _header(picture: Picture) -> str:
    parts = [f"<h1>{escape(picture.title)}</h1>"]
    if picture.verdict:
        parts.append(f'<span class="verdict {picture.tone}">{escape(picture.verdict)}</span>')
    parts.append(f'<span class="facts">{escape(" · ".join(picture.facts))}</span>')
    parts.append(
        '<span class="tools" role="toolbar" aria-label="View">'
        '<button type="button" data-do="out" aria-label="Zoom out">&minus;</button>'
        '<button type="button" data-do="in" aria-label="Zoom in">+</button>'
        '<button type="button" data-do="fit">Fit</button>'
        '<button type="button" data-do="theme" aria-label="Light or dark">◐</button></span>'
    )
    if picture.text:
        parts.append(f'<p class="about">{escape(picture.text.partition(chr(10) * 2)[0])}</p>')
    return f"<header>{''.join(parts)}</header>"


def _legend(picture: Picture) -> str:
    kinds: list[Kind] = list(dict.fromkeys([box.kind for box in picture.boxes]))
    parts = [f'<span><i style="background:var(--{colour_of(kind)})"></i>{KIND_NAMES[kind]}</span>' for kind in kinds]
    styles: list[ArrowStyle] = list(dict.fromkeys([arrow.style for arrow in picture.arrows if arrow.style != "plain"]))
    parts += [f'<span><svg class="tf"><path class="a {style}" d="M1 4H25"/></svg>{ARROW_NAMES[style]}</span>' for style in styles]
    if any(box.bar is not None for box in picture.boxes):
        parts.append('<span><svg class="tf"><rect class="bar" y="2" width="26" height="3"/><rect x="6" y="2" width="10" height="3" '
                     'fill="var(--step-edge)"/></svg>when in the run</span>')  # fmt: skip
    return f'<div class="legend" aria-hidden="true">{"".join(parts)}</div>'


def _facts(picture: Picture) -> str:
    """Return what the page says of each box, as JSON in which no tag can begin or end."""
    text = json.dumps({printable(box.id): _told(box) for box in picture.boxes}, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _told(box: Box) -> dict[str, object]:
    table = None if box.table is None else {"head": box.table.head, "rows": box.table.rows, "more": box.table.more}
    return {
        "name": box.full_name,
        "kind": KIND_NAMES[box.kind],
        "text": box.text,
        "notes": box.notes,
        "facts": box.facts,
        "table": table,
    }
