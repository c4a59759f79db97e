"""The colours and rules of a drawing, in the light and in the dark, for SVG and page alike."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from ._picture import Kind

TITLE_SIZE = 13.0  # pixels
NOTE_SIZE = 11.0
TONES = ("odd", "bad", "live")
"""The tones that colour a border."""

_KINDS = ("step", "handler", "event", "start", "stop", "external", "resource", "generic")

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


def colour_of(kind: Kind) -> str:
    """Return the name of the colour of a kind."""
    return "resource" if kind == "resource_config" else kind


@cache
def style_sheet() -> str:
    """Return the rules of the drawing. A `data-theme` of an element around it wins over the reader's preference."""
    light, dark = (";".join(f"--{name}:{value}" for name, value in _PALETTE[theme].items()) for theme in ("light", "dark"))
    rules = [
        f".tf{{{light}}}",
        f"@media(prefers-color-scheme:dark){{.tf{{{dark}}}}}",
        f"[data-theme=light] .tf,.tf[data-theme=light]{{{light}}}",
        f"[data-theme=dark] .tf,.tf[data-theme=dark]{{{dark}}}",
        asset("drawing.css").replace("TITLE", f"{TITLE_SIZE:g}px").replace("NOTE", f"{NOTE_SIZE:g}px"),
    ]
    rules += [f".tf .k-{kind}{{--c:var(--{kind}-edge)}}.tf .k-{kind} .body{{fill:var(--{kind});stroke:var(--c)}}" for kind in _KINDS]
    for tone in TONES:
        rules.append(f".tf .is-{tone} .body{{stroke:var(--{tone});stroke-width:2.2}}")
        rules.append(f".tf .is-{tone} .v{{fill:var(--{tone});font-weight:600}}")
    return "".join(rules)


@cache
def asset(name: str) -> str:
    """Return the text of a file of this package."""
    return files("tracedflow.drawing").joinpath(name).read_text(encoding="utf-8").strip()
