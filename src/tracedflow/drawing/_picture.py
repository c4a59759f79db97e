"""What is drawn, before anybody knows how: boxes and arrows with what they say. Knows no coordinates and no file formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["step", "handler", "event", "start", "stop", "external", "resource", "resource_config", "generic"]
Tone: TypeAlias = Literal["plain", "good", "odd", "bad", "live"]
"""How what a box stands for fared: `odd` is worth a look (retried, cancelled), `bad` failed, `live` still runs."""

ArrowStyle: TypeAlias = Literal["plain", "many", "failure", "outside", "resource"]

KIND_NAMES: dict[Kind, str] = {
    "step": "step",
    "handler": "error handler",
    "start": "start event",
    "event": "event",
    "stop": "stop event",
    "external": "outside",
    "resource": "resource",
    "resource_config": "configuration",
    "generic": "other",
}
ARROW_NAMES: dict[ArrowStyle, str] = {
    "plain": "one event",
    "many": "several events",
    "failure": "failure",
    "outside": "from or to outside",
    "resource": "is used by",
}


@dataclass(slots=True, kw_only=True)
class Table:
    """Rows of text below the facts of a box."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    more: int = 0  # rows left out


@dataclass(slots=True, kw_only=True)
class Box:
    """A node. `notes` are the small lines inside it; `bar` is the part of the run, from 0 to 1, in which it was at work."""

    id: str
    kind: Kind
    title: str
    name: str = ""  # the whole title, if it was cut
    notes: tuple[str, ...] = ()
    tone: Tone = "plain"
    count: int = 1
    bar: tuple[float, float] | None = None
    text: str | None = None  # a docstring
    facts: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    table: Table | None = None

    @property
    def full_name(self) -> str:
        """The title, uncut."""
        return self.name or self.title

    @property
    def spoken(self) -> str:
        """What a screen reader says, and what a plain SVG shows on hover."""
        facts = [f"{name}: {value}" for name, value in self.facts]
        return "\n".join(part for part in (f"{KIND_NAMES[self.kind]} {self.full_name}", self.text, *self.notes, *facts) if part)


@dataclass(slots=True, kw_only=True)
class Arrow:
    """An edge between two boxes, by their ids."""

    source: str
    target: str
    style: ArrowStyle = "plain"
    text: str | None = None


@dataclass(slots=True, kw_only=True)
class Picture:
    """One drawing: `facts` stand in its head, `tone` colours `verdict`."""

    title: str
    text: str | None = None
    verdict: str | None = None
    tone: Tone = "plain"
    facts: Sequence[str] = ()
    boxes: list[Box] = field(default_factory=list[Box])
    arrows: list[Arrow] = field(default_factory=list[Arrow])

    def cut(self, length: int | None) -> Picture:
        """Shorten titles that are longer than `length`; the whole stays in `name`."""
        for box in self.boxes:
            if length is not None and len(box.title) > length:
                box.name, box.title = box.full_name, box.title[: max(1, length - 1)] + "…"
        return self
