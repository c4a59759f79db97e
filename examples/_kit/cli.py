"""The command line of the examples: which model answers, what happens, the result, the trace.

Progress goes to stderr, the result alone to stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from pydantic import BaseModel

from tracedflow import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StopEvent,
    Workflow,
    WorkflowHandler,
    draw_most_recent_execution,
    telemetry,
)
from tracedflow.drawing import draw_most_recent_execution_mermaid, draw_most_recent_execution_svg
from tracedflow.errors import WorkflowTimeoutError
from tracedflow.events import StepState, StepStateChanged

from .flags import drawing_file, output_file, port_number, refuse, some_text
from .model import Model, ModelRefusedError, ModelUnavailableError, ScriptedModel, StructuredOutputError, choose_model, introduce
from .search import SearchUnavailableError
from .terminal import INTERRUPTED, NO_READER, drop_closed_pipes, ended_quietly

__all__ = [
    "CORPUS",
    "Answer",
    "NotFoundError",
    "Play",
    "Stage",
    "WrongInputError",
    "as_text",
    "output_file",
    "run_example",
    "some_text",
]

CORPUS = Path(__file__).parent / "corpus"

Answer = Callable[[InputRequiredEvent], Awaitable[HumanResponseEvent]]


class NotFoundError(Exception):
    """The data does not hold the answer."""


class WrongInputError(Exception):
    """What the command line gave cannot be used."""


@dataclass
class Stage:
    """Where an example plays: its model, its data, what it is asked; and `run`, which shows what a workflow does."""

    model: Model
    data: Path = CORPUS
    question: str = ""
    arguments: argparse.Namespace = field(default_factory=argparse.Namespace)
    handlers: list[WorkflowHandler[Any]] = field(default_factory=list)  # of all runs so far

    async def run(self, workflow: Workflow[Any], *, answer: Answer | None = None, **start: Any) -> Any:
        """Run a workflow to its end and return its result.

        Args:
            workflow: what to run.
            answer: gives the answer to each question that the run asks a person.
            start: what `workflow.run` takes: fields of the start event, `start_event`, `ctx`.
        """
        return await self.follow(workflow.run(**start), answer=answer)

    async def follow(self, handler: WorkflowHandler[Any], *, answer: Answer | None = None) -> Any:
        """Show a run that was started elsewhere, and return its result."""
        self.handlers.append(handler)
        shown = _Progress(getattr(self.arguments, "verbose", False))
        try:
            async for event in handler.stream_events(expose_internal=True):
                shown.tell(event)
                if answer is not None and isinstance(event, InputRequiredEvent):
                    await handler.send_event(await answer(event))
        finally:
            shown.end_line()
        return await handler


Play = Callable[[Stage], Awaitable[Any]]


class _Progress:
    """A line on stderr for each step that ended and each event of the stream; text that comes in pieces stays on one line."""

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose  # then the engine's own lines tell of the steps
        self._began = time.perf_counter()
        self._within = False

    def tell(self, event: Event) -> None:
        if isinstance(piece := _values(event).get("delta"), str):
            print(piece, end="", file=sys.stderr, flush=True)
            self._within = True
        elif isinstance(event, StepStateChanged):
            made = _short(event.output_event_name or "")
            if event.step_state is StepState.NOT_RUNNING and made not in ("", "NoneType") and not self._verbose:
                self._line(f"{event.name} -> {made}")
        elif not isinstance(event, StopEvent) and not type(event).__module__.startswith("tracedflow"):
            self._line(f"{type(event).__name__}({_fields(event)})")

    def end_line(self) -> None:
        """End the line of a text that came in pieces, whole or not."""
        if self._within:
            print(file=sys.stderr)
        self._within = False

    def _line(self, text: str) -> None:
        self.end_line()
        print(f"+{time.perf_counter() - self._began:.3f}s {text}", file=sys.stderr, flush=True)


def _short(name: str) -> str:
    return name.removeprefix("<class '").removesuffix("'>").rpartition(".")[2]


def _values(event: Event) -> dict[str, Any]:
    """Return what an event holds: declared fields and the others."""
    return {name: getattr(event, name) for name in type(event).model_fields} | dict(event.items())


def _fields(event: Event, longest: int = 60) -> str:
    shown = []
    for name, value in _values(event).items():
        text = f"{len(value)} items" if isinstance(value, list | tuple | dict) else str(value).replace("\n", " ")
        shown.append(f"{name}={text if len(text) <= longest else text[: longest - 3] + '...'}")
    return ", ".join(shown)


# --- running an example as a program ---


def run_example(
    play: Play,
    doc: str | None,
    question: str | None = None,
    argv: Sequence[str] | None = None,
    *,
    flags: Callable[[argparse.ArgumentParser], None] | None = None,
    needs_model: bool = True,
) -> int:
    """Run an example as its flags say; return the status of the process.

    It is 0, or 1 if the model did not answer, 2 for a wrong call, 3 if the answer is not in the data; 130 after Ctrl-C, and 141
    if nobody read the result.

    Args:
        play: what the example does; what it returns is printed.
        doc: the docstring of the module; its first line is what `--help` says.
        question: what is asked if the command line does not; None for an example that is asked nothing.
        argv: the command line, `sys.argv` if left out.
        flags: adds flags of the example's own.
        needs_model: whether it asks a model; if not, there is no `--model`, and the first line says so.
    """
    return ended_quietly(lambda: _run(play, doc, question, argv, flags, needs_model))


def _run(
    play: Play,
    doc: str | None,
    question: str | None,
    argv: Sequence[str] | None,
    flags: Callable[[argparse.ArgumentParser], None] | None,
    needs_model: bool,
) -> int:
    name = Path(sys.modules[play.__module__].__file__ or "example").stem
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.{name}",
        description=(doc or "").partition("\n")[0],
        epilog="The result goes to stdout, everything else to stderr. Status: 0, or 1 no model answers, 2 a wrong call, 3 not in the data.",
    )
    arguments = _arguments(parser, question, argv, flags, needs_model)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that knows few letters is no reason to fail
    if arguments.verbose:
        os.environ["TRACEDFLOW_VERBOSE"] = "1"
    port = _serve_metrics(arguments.metrics_port)
    _start_tracing(arguments.trace)
    model = choose_model(name=arguments.model) if needs_model else ScriptedModel()
    stage = Stage(model, arguments.data, getattr(arguments, "question", None) or "", arguments)
    if needs_model:
        introduce(model, sys.stderr)
    else:
        print("Model: none is needed", file=sys.stderr, flush=True)
    with trace.get_tracer("tracedflow.examples").start_as_current_span(f"example {name}") as span:
        status = _play(play, stage)
        trace_id = f"{span.get_span_context().trace_id:032x}"
    if port is not None and status != INTERRUPTED:
        _wait_for_reader(port)
    if arguments.trace:
        trace.get_tracer_provider().force_flush()  # type: ignore[attr-defined]
    print(f"Trace: {trace_id}{f' in {arguments.trace}' if arguments.trace else ''}", file=sys.stderr)
    return status


def _play(play: Play, stage: Stage) -> int:
    try:
        result = asyncio.run(_as_coroutine(play, stage))
    except NotFoundError as error:
        print(f"Not found: {_brief(error)}", file=sys.stderr)
        return 3
    except WrongInputError as error:
        print(f"Wrong input: {_brief(error)}", file=sys.stderr)
        return 2
    except (ModelUnavailableError, ModelRefusedError, StructuredOutputError, SearchUnavailableError, WorkflowTimeoutError) as error:
        print(f"No answer: {_brief(error)}", file=sys.stderr)
        return 1
    except FileNotFoundError as error:
        if not Path(error.filename or "").is_relative_to(stage.data):
            raise
        print(f"Wrong input: --data {stage.data} lacks {Path(error.filename).relative_to(stage.data)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)  # the terminal has ^C on its line, or a question
        return INTERRUPTED
    finally:
        sys.stderr.flush()
        if stage.handlers:
            _show_last(stage)
    try:
        print(as_text(result), flush=True)
    except BrokenPipeError:
        drop_closed_pipes()
        return NO_READER
    return 0


def _brief(error: Exception, longest: int = 600) -> str:
    """Return what an error says, which may quote a question of any length."""
    text = str(error)
    return text if len(text) <= longest else f"{text[: longest // 2]} ... {text[-longest // 4 :]} ({len(text):,} characters)"


async def _as_coroutine(play: Play, stage: Stage) -> Any:
    return await play(stage)


def _show_last(stage: Stage) -> None:
    last = stage.handlers[-1]
    if drawing := getattr(stage.arguments, "draw", None):
        _draw(last, drawing)
        print(f"Drawn: {drawing}", file=sys.stderr)


def _draw(handler: WorkflowHandler[Any], file: Path) -> None:
    match file.suffix:
        case ".svg":
            draw_most_recent_execution_svg(handler, str(file))
        case ".mmd" | ".mermaid":
            draw_most_recent_execution_mermaid(handler, str(file))
        case _:
            draw_most_recent_execution(handler, str(file))


def as_text(result: Any) -> str:
    """Return a result for a reader: a text as it is, anything else as JSON."""
    match result:
        case str():
            return result
        case StopEvent() if type(result) is StopEvent:
            return as_text(result.result)
        case BaseModel():
            return str(result) if type(result).__str__ is not BaseModel.__str__ else result.model_dump_json(indent=1)
        case _:
            return json.dumps(result, indent=1, default=str)


def _arguments(
    parser: argparse.ArgumentParser,
    question: str | None,
    argv: Sequence[str] | None,
    flags: Callable[[argparse.ArgumentParser], None] | None,
    needs_model: bool,
) -> argparse.Namespace:
    if question is not None:
        parser.add_argument("question", nargs="?", type=some_text, default=question, help=f"default: {question}".replace("%", "%%"))
    if needs_model:
        parser.add_argument("--model", metavar="NAME", help="a model of the server in the environment; `scripted` for the one offline")
    parser.add_argument("--data", type=Path, default=CORPUS, metavar="DIR", help="data in place of that of the examples")
    parser.add_argument("--draw", type=drawing_file, metavar="FILE", help="draw the last run: .html, .svg or .mmd")
    parser.add_argument("--trace", type=output_file, metavar="FILE", help="write the trace as OTLP-JSON lines")
    parser.add_argument("--metrics-port", type=port_number, metavar="N", help="serve Prometheus metrics until stdin ends; 0: any free port")
    parser.add_argument("--verbose", action="store_true", help="tell each step as it happens, and where the time went")
    if flags is not None:
        flags(parser)
    arguments = parser.parse_args(argv)
    if not arguments.data.is_dir():
        parser.error(f"--data {arguments.data}: there is no such folder")
    return arguments


def _start_tracing(file: Path | None) -> None:
    """Send traces where the flags or the environment say; else there are trace ids, and nothing is sent."""
    if file is not None or any(name.startswith("OTEL_EXPORTER_OTLP") for name in os.environ):
        telemetry.setup(trace_file=file)
    elif isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(TracerProvider())


def _serve_metrics(port: int | None) -> int | None:
    """Serve the metrics of this process; return on which port, as 0 is any that is free."""
    if port is None:
        return None
    from prometheus_client import start_http_server

    try:
        server, _ = start_http_server(port, addr="127.0.0.1")
    except OSError as error:
        refuse(f"--metrics-port {port}: {error.strerror}. 0 takes any port that is free.")
    return int(server.server_port)


def _wait_for_reader(port: int) -> None:
    print(f"Metrics: http://127.0.0.1:{port}/metrics until Ctrl-D", file=sys.stderr, flush=True)
    try:
        if sys.stdin is not None:
            sys.stdin.read()
    except KeyboardInterrupt:
        return
