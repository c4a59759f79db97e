"""The commands that take a workflow's code, named `module:attribute`: check, draw and run; and doctor."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from .. import drawing, telemetry
from ..errors import TracedflowError, WorkflowCancelledByUser, WorkflowValidationError
from ..handler import WorkflowHandler
from ..inspect import on_signal
from ..outcomes import error_type
from ..representation import WorkflowEventNode, WorkflowStepNode, get_workflow_representation
from ..workflow import Workflow
from ._output import note, say
from ._targets import FILE_VARIABLE, WrongInput, made, module_at, workflow_at

Program = Annotated[str, typer.Argument(metavar="MODULE:NAME", help="A workflow, its class, or a module that has one only.")]
_SETTINGS = ("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER", "OTEL_EXPORTER_OTLP_", FILE_VARIABLE)
_INTERRUPTED = 130  # as shells report a program that Ctrl-C ended


def check(
    target: Program, resources: Annotated[bool, typer.Option(help="Also make, and close again, what needs nothing of a run.")] = False
) -> None:
    """Check that the steps and events of a workflow fit together. Exit code 1 if they do not."""
    try:
        found = made(workflow_at(target), target)
        takes_input = found.validate(validate_resources=resources)
    except WorkflowValidationError as error:
        say(str(error))
        raise typer.Exit(1) from error
    graph = get_workflow_representation(found)
    steps = sum(isinstance(node, WorkflowStepNode) for node in graph.nodes)
    events = sum(isinstance(node, WorkflowEventNode) for node in graph.nodes)
    human = ", takes human input" if takes_input else ""
    say(f"{found.workflow_name}: {steps} step{'' if steps == 1 else 's'}, {events} events{human}, no problem found")


def draw(
    target: Program,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file .html, .svg or .mermaid; - is standard output.")] = None,
) -> None:
    """Draw every step, every event and every way between them. Nothing is run."""
    workflow = workflow_at(target)
    name = workflow.__name__ if isinstance(workflow, type) else workflow.workflow_name
    page = output or Path(f"{name}.html")
    try:
        _draw(workflow, page)
    except OSError as error:
        raise WrongInput(f"{page} cannot be written: {(error.strerror or str(error)).lower()}") from error
    except WorkflowValidationError as error:
        raise WrongInput(f"{target} cannot be drawn: {' '.join(str(error).split())}") from error


def _draw(workflow: Any, page: Path) -> None:
    match page.suffix.lower():
        case ".html":
            drawing.draw_all_possible_flows(workflow, str(page))
        case ".svg":
            drawing.draw_all_possible_flows_svg(workflow, str(page))
        case ".mermaid" | ".mmd":
            drawing.draw_all_possible_flows_mermaid(workflow, str(page))
        case "" if str(page) == "-":
            say(drawing.draw_all_possible_flows_mermaid(workflow, None))
            return
        case _:
            raise WrongInput(f"{page} is of no kind that can be drawn; end its name in .html, .svg or .mermaid")
    say(str(page))


def run(
    target: Program,
    fields: Annotated[list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Of the start event; values are JSON, else text.")] = None,
    given: Annotated[str | None, typer.Option("--input", "-i", help="The start event as a JSON file; - is standard input.")] = None,
    trace_file: Annotated[Path | None, typer.Option(help="Also record the run there, for show, why, path and report.")] = None,
    page: Annotated[Path | None, typer.Option("--report", help="Also write the run as an HTML page, whatever its end.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Tell nothing of what happens; only the result.")] = False,
    with_traceback: Annotated[bool, typer.Option("--traceback", help="Of a failure, the whole traceback.")] = False,
) -> None:
    """Run a workflow. What happens goes to standard error, the result to standard output. Exit code 1 if it fails."""
    if not quiet:
        os.environ["TRACEDFLOW_VERBOSE"] = "1"
    start = {**_read(given), **dict(_field(each) for each in fields or ())}
    if trace_file is not None or any(name.startswith(_SETTINGS) for name in os.environ):
        telemetry.setup(trace_file=trace_file)
    try:
        workflow = made(workflow_at(target), target)
    except WorkflowValidationError as error:
        raise WrongInput(f"{target} cannot be run; `tracedflow check {target}` says why: {str(error).splitlines()[0]}") from error
    raise typer.Exit(asyncio.run(_ran(workflow, start, page, with_traceback)))


async def _ran(workflow: Workflow[Any], start: Mapping[str, Any], page: Path | None, with_traceback: bool) -> int:
    try:
        handler = workflow.run(**start)
    except (TracedflowError, ValueError, TypeError) as error:
        raise WrongInput(f"{workflow.workflow_name} does not start: {' '.join(str(error).split())}") from error
    undo = on_signal() if hasattr(os, "fork") else None
    try:
        return await _ended(handler, with_traceback)
    finally:
        if undo is not None:
            undo()
        await workflow.aclose()
        if page is not None:
            _write_page(handler, page)


async def _ended(handler: WorkflowHandler[Any], with_traceback: bool) -> int:
    try:
        say(_shown(await handler))
    except (asyncio.CancelledError, WorkflowCancelledByUser):
        await handler.cancel_run()
        note(f"tracedflow: run {handler.run_id} was cancelled")
        return _INTERRUPTED
    except Exception as error:  # noqa: BLE001 - whatever a step raises is how the run ended
        if with_traceback:
            traceback.print_exception(error)
        else:
            note("tracedflow: " + _failure(handler, error))
        return 1
    return 0


def _failure(handler: WorkflowHandler[Any], error: Exception) -> str:
    """Return one line: what failed, with what, and where. The stall report of a hang is lines already, on the console."""
    notes = [each for each in getattr(error, "__notes__", ()) if each.startswith("in step ")]
    where = f" ({notes[0].partition(', which took')[0]})" if notes else ""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"run {handler.run_id} failed: {error_type(error)}{': ' + text if text else ''}{where}; --traceback shows more"


def _write_page(handler: WorkflowHandler[Any], page: Path) -> None:
    from ..report import write_report

    try:
        write_report(handler, page)
    except OSError as error:
        note(f"tracedflow: {page} cannot be written: {(error.strerror or str(error)).lower()}")
    else:
        note(f"report: {page}")


def _read(given: str | None) -> dict[str, Any]:
    if given is None:
        return {}
    try:
        text = sys.stdin.read() if given == "-" else Path(given).read_text(encoding="utf-8")
        found = json.loads(text)
    except OSError as error:
        raise WrongInput(f"--input {given} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        raise WrongInput(f"--input {given} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise WrongInput(f"--input {given} is a JSON {type(found).__name__}; the fields of the start event are a JSON object")
    return {str(name): value for name, value in found.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _field(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise WrongInput(f"{text} is not FIELD=VALUE; write, for example, topic=pirates or count=3")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _shown(result: Any) -> str:
    """Return a result as text: strings as they are, events and what else goes into it as JSON."""
    if isinstance(result, str):
        return result
    if isinstance(result, BaseModel):
        return result.model_dump_json()
    try:
        return json.dumps(result, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(result)


def doctor(
    module: Annotated[str | None, typer.Argument(metavar="[MODULE]", help="Imported first: an application that sets up its own telemetry.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Try no endpoint.")] = False,
) -> None:
    """Say what telemetry of a process here would be set, reachable, sampled and captured. Exit code 1 if something is wrong."""
    began = time.monotonic()
    if module is not None:
        module_at(module.partition(":")[0])
    else:
        note("as telemetry.setup() would start it from this environment")
        telemetry.setup()
    found = telemetry.diagnose(connect=not offline)
    for each in found:
        say(str(each))
    problems = sum(each.status == "problem" for each in found)
    note(f"{len(found)} looked at, {problems or 'no'} problem{'' if problems == 1 else 's'}, in {time.monotonic() - began:.1f} s")
    if problems:
        raise typer.Exit(1)


COMMANDS: Sequence[tuple[str, object]] = (("check", check), ("draw", draw), ("run", run), ("doctor", doctor))
