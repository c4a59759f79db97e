"""A picture as Mermaid text, for Markdown pages that render it."""

from __future__ import annotations

import re

from ._picture import Arrow, Box, Kind, Picture

# Opening and closing of each shape, prefix of the id, style: fill and border.
_SHAPES: dict[Kind, tuple[str, str, str, str]] = {
    "step": ('["', '"]', "step", "fill:#dcebfb,stroke:#4a86c5,color:#1b1f24"),
    "handler": ('["', '"]', "step", "fill:#fde3dc,stroke:#c8674b,color:#1b1f24"),
    "start": ('(["', '"])', "event", "fill:#e5e0fa,stroke:#7e6cc9,color:#1b1f24"),
    "event": ('(["', '"])', "event", "fill:#eef3e3,stroke:#8ba05b,color:#1b1f24"),
    "stop": ('(["', '"])', "event", "fill:#fbe6c4,stroke:#bd8420,color:#1b1f24"),
    "external": ('[/"', '"/]', "external", "fill:#d9f1ee,stroke:#3d9387,color:#1b1f24"),
    "resource": ('{{"', '"}}', "resource", "fill:#f6dff0,stroke:#ad5c9a,color:#1b1f24"),
    "resource_config": ('{{"', '"}}', "resource", "fill:#f6dff0,stroke:#ad5c9a,color:#1b1f24"),
    "generic": ('["', '"]', "node", "fill:#eceef1,stroke:#7d8791,color:#1b1f24"),
}
_STYLES: dict[Kind, str] = {
    "step": "stepStyle", "handler": "handlerStyle", "start": "startEventStyle", "event": "eventStyle", "stop": "stopEventStyle",
    "external": "externalStyle", "resource": "resourceStyle", "resource_config": "resourceStyle", "generic": "genericStyle",
}  # fmt: skip
_FAILED = "classDef failed stroke:#c92a2a,stroke-width:3px"


def mermaid(picture: Picture) -> str:
    """Return the picture as a Mermaid flowchart, with one style class for each kind of box."""
    ids = _ids(picture)
    used: list[Kind] = list(dict.fromkeys([box.kind for box in picture.boxes]))
    lines = ["flowchart TD"]
    lines += [f"    {_box(box, ids[box.id])}" for box in picture.boxes]
    lines += [f"    {ids[arrow.source]} {_line(arrow)} {ids[arrow.target]}" for arrow in picture.arrows]
    lines += dict.fromkeys(f"    classDef {_STYLES[kind]} {_SHAPES[kind][3]}" for kind in used)
    failed = [ids[box.id] for box in picture.boxes if box.tone == "bad"]
    lines += [f"    {_FAILED}", f"    class {','.join(failed)} failed"] if failed else []
    return "\n".join(lines) + "\n"


def _ids(picture: Picture) -> dict[str, str]:
    """Return an id for each box that Mermaid accepts and no other box has."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for box in picture.boxes:
        name = re.sub(r"^(event|step|resource|workflow|external)[ _]", "", box.id)
        wanted = f"{_SHAPES[box.kind][2]}_{re.sub(r'[^0-9A-Za-z]+', '_', name).strip('_') or 'x'}"
        number, mermaid_id = 2, wanted
        while mermaid_id in taken:
            number, mermaid_id = number + 1, f"{wanted}_{number}"
        taken.add(mermaid_id)
        found[box.id] = mermaid_id
    return found


def _box(box: Box, mermaid_id: str) -> str:
    before, after, _, _ = _SHAPES[box.kind]
    label = "<br/>".join(map(_text, (box.title, *box.notes)))
    return f"{mermaid_id}{before}{label}{after}:::{_STYLES[box.kind]}"


def _line(arrow: Arrow) -> str:
    match arrow.style:
        case "many":
            return "==>"
        case "failure" | "outside" | "resource":
            return "-.->"
        case "plain":
            return "-->"


def _text(text: str) -> str:
    """Write letters that mean something to Mermaid or to HTML as the entities that Mermaid reads."""
    return "".join(f"#{ord(letter)};" if letter in '"<>&#`\\{}[]()|;' else max(letter, " ") for letter in text)
