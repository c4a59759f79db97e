"""The command that runs a workflow and prints its result."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from .. import telemetry
from .._targets import instance
from ..errors import TracedflowError
from ..handler import WorkflowHandler
from ..inspect import on_signal
from ..workflow import Workflow
from ._files import VARIABLE
from ._interrupts import Interrupts
from ._output import say
from ._source import Named, valid
from ._wrong import FAILED, Wrong

_RESERVED = frozenset({"ctx", "start_event", "run_id", "stepwise", "checkpoint_callback", "options"})
_SETTINGS = ("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER", "OTEL_EXPORTER_OTLP_", VARIABLE)


def run(
    target: Named,
    fields: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Fields of the start event; JSON, or else text.")] = None,
    trace: Annotated[Path | None, typer.Option("--trace", metavar="FILE", help="Write what the run does to a trace file.")] = None,
    run_id: Annotated[
        str | None, typer.Option("--run-id", metavar="ID", help="The id of the run, in place of one that is made up.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what happens, and a waterfall, on standard error.")] = False,
) -> None:
    """Run a workflow once and print its result.

    Exit code 1 if the run fails. The first Ctrl-C, or SIGTERM, cancels the run; the second ends the process. Meanwhile
    `tracedflow why --pid` tells what it does. Telemetry is sent where OTEL_* variables say so.
    """
    workflow = valid(target, instance)
    arguments = _start_fields(workflow, fields or []) | ({"run_id": run_id} if run_id else {})
    if verbose:
        os.environ["TRACEDFLOW_VERBOSE"] = "1"
    if trace is not None:
        _check_writable(trace)
    if trace is not None or any(name.startswith(_SETTINGS) and value for name, value in os.environ.items()):
        telemetry.setup(trace_file=trace)
    try:
        code = asyncio.run(_ended(workflow, arguments))
    finally:
        if trace is not None:
            _finish(trace)
    raise typer.Exit(code)


async def _ended(workflow: Workflow[Any], arguments: dict[str, Any]) -> int:
    """Run it, say how it ended, and return the exit code."""
    undo = on_signal() if hasattr(signal, "SIGUSR1") else None
    try:
        async with workflow:
            handler = workflow.run(**arguments)
            with Interrupts(handler) as interrupts:
                await asyncio.wait([handler])
    except Exception as error:  # noqa: BLE001 - it could not start, or what it used could not be closed
        typer.echo(f"{workflow.workflow_name} failed: {_explained(error)}", err=True)
        return FAILED
    finally:
        if undo is not None:
            undo()
    return _told(workflow.workflow_name, handler, interrupts)


def _told(name: str, handler: WorkflowHandler[Any], interrupts: Interrupts) -> int:
    if handler.cancelled():
        typer.echo(f"{name} was cancelled{f' by {interrupts.cause}' if interrupts.cause else ''}; run {handler.run_id}", err=True)
        return interrupts.exit_code or FAILED
    error = handler.exception()
    if error is not None:
        typer.echo(f"{name} failed: {_explained(error)}", err=True)
        return FAILED
    say(_shown(handler.result()))
    return 0


def _explained(error: BaseException) -> str:
    """Return the error with the notes that say in which step, where."""
    text = str(error) if isinstance(error, TracedflowError) else f"{type(error).__name__}: {error}"
    return "\n  ".join([text, *getattr(error, "__notes__", ())])


def _start_fields(workflow: Workflow[Any], given: list[str]) -> dict[str, Any]:
    model = workflow.start_event_class
    found: dict[str, Any] = {}
    for each in given:
        key, equals, text = each.partition("=")
        if not equals or not key.isidentifier():
            raise Wrong(f"`{each}` is not of the form KEY=VALUE, such as topic=pirates")
        if key in _RESERVED:
            raise Wrong(f"`{key}` is an argument of run() and no field of {model.__name__}; it cannot be given here")
        declared = model.model_fields.get(key)
        found[key] = text if declared is not None and declared.annotation is str else _value(text)
    try:
        model(**found)
    except (ValueError, TypeError) as error:
        raise Wrong(f"{model.__name__} cannot be made of {', '.join(found) or 'nothing'}: {_reason(error)}") from None
    return found


def _reason(error: Exception) -> str:
    """Return what is wrong with which field, in one line."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return str(error)
    return "; ".join(f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in errors())


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _check_writable(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a", encoding="utf-8").close()
    except OSError as error:
        raise Wrong(f"--trace {file} cannot be written: {error.strerror or error}") from None


def _finish(file: Path) -> None:
    """Write what is still buffered; then say where to look."""
    from ..telemetry import _process

    if _process.current is not None:
        _process.current.flush()
    typer.echo(f"trace in {file}: tracedflow why {file}", err=True)


def _shown(result: object) -> str:
    if isinstance(result, str):
        return result
    if isinstance(result, BaseModel):
        result = dict(result) or repr(result)
    try:
        return json.dumps(result, indent=2, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError):
        return repr(result)


def _plain(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else repr(value)
