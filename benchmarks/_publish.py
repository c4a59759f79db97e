"""Writes what was measured into a page of docs, between two marks, and has a chart drawn for each table."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby

from ._processes import BENCH_VENV, IS_COMPILED, ROOT, python_of
from ._report import COLUMNS, Figure, Section, number, rows_of

NAME = "performance-compiled" if IS_COMPILED else "performance"
PAGE = ROOT / "docs" / f"{NAME}.md"
CHARTS = ROOT / "docs" / NAME
BEGIN, END = "<!-- measured: written by `python -m benchmarks --publish` -->", "<!-- end of what was measured -->"
HEADINGS = {
    "chain": "1. A chain",
    "fan-out": "2. Fan-out and join",
    "runs": "3. Many short runs at once",
    "traced": "4. Everything on",
    "memory": "5. Memory",
    "import": "6. Import",
    "fairness": "7. Fairness",
    "exporting": "7b. Fairness while spans are exported",
    "snapshots": "8. Snapshot and resume",
    "peers": "Against the peers",
    "uvloop": "On uvloop",
}


def publish(sections: Sequence[Section], rounds: int) -> None:
    """Replace what stands between the marks of the page, and draw the charts."""
    drawn = _draw(sections)
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or END not in page:
        raise SystemExit(f"{PAGE} lacks the lines {BEGIN!r} and {END!r}, between which the tables go")
    PAGE.write_text("\n".join([before + BEGIN, "", *_measured(sections, rounds, drawn), END + after]))
    print(f"wrote {PAGE.relative_to(ROOT)} and {len(drawn)} charts", file=sys.stderr)


def _draw(sections: Sequence[Section]) -> set[str]:
    python = python_of(BENCH_VENV)
    if python is None:
        print(f"no charts: there is no complete {BENCH_VENV}", file=sys.stderr)
        return set()
    CHARTS.mkdir(exist_ok=True)
    command = [str(python), "-m", "benchmarks._charts", str(CHARTS)]
    data = json.dumps([asdict(section) for section in sections])
    done = subprocess.run(command, cwd=ROOT, input=data, stdout=subprocess.PIPE, text=True, check=True)
    return set(done.stdout.split())


def _measured(sections: Sequence[Section], rounds: int, drawn: set[str]) -> Iterator[str]:
    missed = sum(figure.is_missed for section in sections for figure in section.figures)
    held = sum(figure.limit is not None for section in sections for figure in section.figures) - missed
    yield f"Python {platform.python_version()}, {platform.system()}, {os.cpu_count()} CPUs; medians of {rounds} interleaved rounds."
    yield f"{held} limits held, {missed} missed."
    yield from _losses(sections)
    for part, heading in HEADINGS.items():
        of_part = [section for section in sections if section.part == part]
        if of_part:
            yield from ["", f"### {heading}", ""]
            yield from [f"![{heading}]({NAME}/{part}.png)", ""] if part in drawn else []
        for section in of_part:
            yield from _table(section)


def _losses(sections: Sequence[Section]) -> Iterator[str]:
    figures = [(section, figure) for section in sections for figure in section.figures]
    beaten = [figure for section, figure in figures if section.part == "peers" and figure.value < 1]
    missed = [(section, figure) for section, figure in figures if figure.is_missed]
    yield from ["", "### Where we lose", ""]
    if not beaten and not missed:
        yield "Nowhere, in these figures."
    for figure in beaten:
        yield f"- A peer is faster: {figure.name}. It takes {number(figure.value)} times as long as we do."
    if missed:
        yield from ["", _line(("part", "limits missed", "the furthest of them")), _line(["---"] * 3)]
    for title, group in groupby(missed, key=lambda pair: pair[0].title):
        figures_missed = [figure for _, figure in group]
        held = sum(figure.limit is not None for section, figure in figures if section.title == title)
        worst = max(figures_missed, key=_excess)
        yield _line((title, f"{len(figures_missed)} of {held}", _miss(worst)))


def _excess(figure: Figure) -> float:
    """How many times a figure is over its limit, or under it."""
    assert figure.limit is not None
    return figure.limit / figure.value if figure.at_least else figure.value / figure.limit


def _miss(figure: Figure) -> str:
    bound = f"{'≥' if figure.at_least else '≤'} {figure.limit:g}"
    return f"{figure.name}: **{number(figure.value)}** {figure.unit} ({bound})"


def _table(section: Section) -> Iterator[str]:
    yield from [f"**{section.title}**", ""]
    if section.figures:
        yield from [_line(COLUMNS[:-1] + ("held?",)), _line(["---"] * len(COLUMNS))]
        yield from (_line(row) for row in _bold_misses(section))
        yield ""
    for note in section.notes:
        yield from [f"*{note}*", ""]


def _bold_misses(section: Section) -> Iterator[tuple[str, ...]]:
    for row in rows_of(section.figures):
        yield (*row[:-1], f"**{row[-1]}**" if row[-1] == "MISSED" else row[-1])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
