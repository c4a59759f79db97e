"""Drawing: every way a workflow may go, and the way one run went, as HTML without a network, as SVG and as Mermaid text.

The pictures are made of the annotations of the steps, and of the records of a run; there is nothing to draw by hand. The
workflow has one of each: a branch, a fan-out, a loop and a join.

```mermaid
flowchart LR
  start([Sign]) --> split
  split -->|Line x n| fit
  fit -->|"Line: still too long"| fit
  fit -->|Fitted| join --> stop([StopEvent])
  split -->|Nothing| refuse --> stop
```

`python -m examples.drawing [TEXT] [--folder DIR]`. Every example draws its last run with `--draw FILE`.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from examples._kit.cli import Stage, WrongInputError, run_example
from tracedflow import (
    Event,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowHandler,
    draw_all_possible_flows,
    draw_all_possible_flows_mermaid,
    draw_all_possible_flows_svg,
    draw_most_recent_execution,
    draw_most_recent_execution_mermaid,
    draw_most_recent_execution_svg,
    step,
)

QUESTION = "Harbour office and customs / Mill / The road to the lighthouse"


class Sign(StartEvent):
    text: str  # its lines, with a slash between them
    width: int  # letters


class Line(Event):
    number: int
    text: str
    width: int


class Nothing(Event):
    pass


class Fitted(Event):
    number: int
    text: str


class Signpost(Workflow[list[str]]):
    """Shorten each line of a text until it fits on a signpost."""

    @step
    async def split(self, ev: Sign) -> list[Line] | Nothing:
        lines = [line.strip() for line in ev.text.split("/") if line.strip()]
        return [Line(number=number, text=line, width=ev.width) for number, line in enumerate(lines)] if lines else Nothing()

    @step
    async def fit(self, ev: Line) -> Line | Fitted:
        if len(ev.text) <= ev.width or " " not in ev.text:
            return Fitted(number=ev.number, text=ev.text)
        return Line(number=ev.number, text=ev.text.rsplit(maxsplit=1)[0], width=ev.width)

    @step
    async def join(self, evs: list[Fitted]) -> StopEvent:
        # They come as they were ready, which is not the order of the lines.
        return StopEvent(result=[fitted.text for fitted in sorted(evs, key=lambda fitted: fitted.number)])

    @step
    async def refuse(self, ev: Nothing) -> StopEvent:
        return StopEvent(result=[])


def draw(handler: WorkflowHandler[list[str]], folder: Path) -> list[Path]:
    """Write all pictures of the workflow and of a run into a folder; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    flows, run = folder / "flows", folder / "run"
    draw_all_possible_flows(Signpost, filename=f"{flows}.html")
    draw_all_possible_flows_svg(Signpost, filename=f"{flows}.svg")
    draw_all_possible_flows_mermaid(Signpost, filename=f"{flows}.mermaid", max_label_length=8)  # longer names are cut
    draw_most_recent_execution(handler, filename=f"{run}.html")
    draw_most_recent_execution_svg(handler, filename=f"{run}.svg")
    draw_most_recent_execution_mermaid(handler, filename=f"{run}.mermaid", max_label_length=12)
    return sorted(folder.glob("flows.*")) + sorted(folder.glob("run.*"))


async def play(stage: Stage) -> str:
    """Shorten a text, and give its run as Mermaid text, or the names of the pictures."""
    handler = Signpost().run(text=stage.question, width=stage.arguments.width)
    print(await stage.follow(handler), file=sys.stderr)
    if stage.arguments.folder is None:
        return draw_most_recent_execution_mermaid(handler, filename=None).rstrip()
    try:
        return "\n".join(str(file) for file in draw(handler, stage.arguments.folder))
    except OSError as error:
        raise WrongInputError(str(error)) from None


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("--width", type=int, default=12, metavar="N", help="letters that fit on the signpost (default 12)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where all pictures go; without it, the run is printed as Mermaid text")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=flags, needs_model=False)


if __name__ == "__main__":
    sys.exit(main())
