"""Commands about a workflow that is not run: check, draw, dashboards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from .._targets import instance, load
from ..errors import WorkflowValidationError
from . import _completion
from ._wrong import FAILED, Wrong

Named = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:NAME", help="A workflow class or an instance, such as app:MyFlow.", autocompletion=_completion.workflows
    ),
]

_Found = TypeVar("_Found")

_DRAWERS = {  # in `drawing`, which takes a tenth of a second to import
    ".html": "draw_all_possible_flows",
    ".svg": "draw_all_possible_flows_svg",
    ".mermaid": "draw_all_possible_flows_mermaid",
    ".mmd": "draw_all_possible_flows_mermaid",
}


def check(target: Named) -> None:
    """Check how a workflow is wired; print every problem.

    Nothing is run. Exit code 1 if there is a problem.
    """
    try:
        workflow = instance(target)
        takes_people = workflow.validate()
    except WorkflowValidationError as error:
        typer.echo(str(error))
        raise typer.Exit(FAILED) from None
    steps = len(workflow._built_graph().steps)
    people = ", and it waits for people" if takes_people else ""
    typer.echo(f"{workflow.workflow_name} is well: {steps} step{'' if steps == 1 else 's'}{people}.")


def draw(
    target: Named,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Ends in .html, .svg or .mermaid; NAME.html if left out.")
    ] = None,
) -> None:
    """Draw every way through a workflow.

    As a page, as SVG or as Mermaid text, by the suffix of the file.
    """
    workflow = valid(target, load)
    file = out or Path(target.rpartition(":")[2] + ".html")
    if file.suffix.lower() not in _DRAWERS:
        raise Wrong(f"{file} has a suffix that cannot be drawn; use one of {', '.join(_DRAWERS)}")
    from .. import drawing

    drawer: Callable[..., Any] = getattr(drawing, _DRAWERS[file.suffix.lower()])
    try:
        drawer(workflow, filename=str(file))
    except OSError as error:
        raise Wrong(f"{file} cannot be written: {error.strerror or error}") from None
    except WorkflowValidationError as error:
        raise Wrong(_unsound(target, error)) from None
    typer.echo(f"wrote {file}")


def dashboards(
    target: Named,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where to.")] = Path("dashboards"),
    slo: Annotated[float, typer.Option("--slo", metavar="SHARE", help="The share of its runs that shall end well.")] = 0.99,
    latency: Annotated[
        float | None, typer.Option("--latency", metavar="SECONDS", help="Within which 95 % of them shall end; not promised if left out.")
    ] = None,
) -> None:
    """Write a Grafana dashboard of a workflow, and alerts.

    The alerts defend the objective that is given.
    """
    workflow = valid(target, load)
    try:
        from ..dashboards import Objective, files_of, write
    except ImportError as error:
        raise Wrong(str(error)) from None
    try:
        texts = files_of(workflow, Objective(success=slo, latency=latency))
    except ValueError as error:
        raise Wrong(f"--slo, --latency: {error}") from None
    try:
        changed = write(texts, out)
    except OSError as error:
        raise Wrong(f"{error.filename or out} cannot be written: {error.strerror or error}") from None
    for file in changed:
        typer.echo(f"wrote {file}")
    if not changed:
        typer.echo(f"{out} is up to date")


def valid(target: str, get: Callable[[str], _Found]) -> _Found:
    """Return what `get` finds; a workflow that is declared wrongly is wrong input here.

    Raises:
        TargetError: as `get`.
        Wrong: it is declared wrongly.
    """
    try:
        return get(target)
    except WorkflowValidationError as error:
        raise Wrong(_unsound(target, error)) from None


def _unsound(target: str, error: WorkflowValidationError) -> str:
    first = str(error).splitlines()[0].rstrip(":")
    return f"{first}; `tracedflow check {target}` tells all"
