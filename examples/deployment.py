"""Workflows in a web application: start, follow as server-sent events, answer, cancel, reconnect; metrics and traces.

A workflow needs no server of its own: it lives in the application, here one made with Starlette. A run belongs to the
process and not to the request that started it, so a client may leave, come back and read on where it stopped. The trace
context of a request goes into its run, `/metrics` is mounted, and at the end of the process the live runs may finish.

```mermaid
sequenceDiagram
  participant C as client
  participant A as application
  participant R as run
  C->>A: POST /workflows/number_prompt/runs
  A->>R: run(text=...)
  A-->>C: 202, id of the run
  C->>A: GET /runs/ID/events
  R-->>C: NumberWanted
  C->>A: POST /runs/ID/events, NumberGiven
  A->>R: send_event
  R-->>C: StopEvent
  C->>A: GET /runs/ID/result
```

`python -m examples.deployment [TEXT] [--serve]`; needs `pip install 'tracedflow[examples]'`. With `--serve` it stays up until
Ctrl-C, and reads its own flags `--host` and `--port`; without, the example is its own client, and ends. The client sends the
trace it is part of, so that `--trace` writes the request and the run as one.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from argparse import ArgumentParser
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from examples._kit.cli import Stage, WrongInputError, run_example
from examples._kit.flags import refuse
from examples._kit.http_client import ask, asked, follow
from examples.managing_events import NumberPrompt, Progress
from examples.stepwise import Notice
from tracedflow import HumanResponseEvent, RunOptions, Workflow, WorkflowHandler, drain
from tracedflow.errors import DrainingError, StreamOffsetError, WorkflowDone
from tracedflow.events import Event, WorkflowCancelledEvent, WorkflowFailedEvent, WorkflowTimedOutEvent
from tracedflow.telemetry import metrics_app

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Mount, Route
except ImportError as error:
    refuse(f"The example `deployment` needs a web framework ({error}): {sys.executable} -m pip install 'tracedflow[examples]'")

QUESTION = "boats for the island leave at seven"  # what the client's run is about

KEPT = 1000  # runs that are over, and whose result may still be asked for
GRACE = 10.0  # seconds that live runs have to end when the process does
SILENCE = 15.0  # seconds after which a stream shows that it is alive, so that no proxy closes it


class Runs:
    """The runs that this process was asked for: all that are live, and the last that are over."""

    def __init__(self, workflows: Mapping[str, Workflow[Any]]) -> None:
        self.workflows = workflows
        self._handlers: OrderedDict[str, WorkflowHandler[Any]] = OrderedDict()

    def start(self, name: str, fields: Mapping[str, Any], headers: Mapping[str, str]) -> WorkflowHandler[Any]:
        workflow = self.workflows.get(name)
        if workflow is None:
            raise HTTPException(404, f"there is no workflow {name!r}; there are {', '.join(self.workflows)}")
        # What a client sends becomes an event here, so that none of it can be an argument of `run`, as `ctx` and `options` are.
        start_event = made(workflow.start_event_class, fields)
        try:
            handler = workflow.run(start_event=start_event, options=RunOptions(headers=headers))  # with the caller's trace, if it has one
        except DrainingError:
            raise HTTPException(503, "this process is about to end", headers={"Retry-After": "1"}) from None
        self._handlers[handler.run_id] = handler
        for run_id in [run_id for run_id, each in self._handlers.items() if each.done()][:-KEPT]:
            del self._handlers[run_id]
        return handler

    def all(self) -> list[WorkflowHandler[Any]]:
        return list(self._handlers.values())

    def of(self, request: Request) -> WorkflowHandler[Any]:
        handler = self._handlers.get(request.path_params["run_id"])
        if handler is None:
            raise HTTPException(404, f"there is no run {request.path_params['run_id']!r}")
        return handler


def made(kind: type[Event], fields: Mapping[str, Any]) -> Any:
    try:
        return kind(**fields)
    except (ValueError, TypeError) as error:
        raise HTTPException(422, str(error)) from None


def shown(event: Event) -> str:
    """Return an event as JSON. The text of an error is for the logs and the trace, not for whoever asks."""
    if isinstance(event, WorkflowFailedEvent):
        return json.dumps({"step_name": event.step_name, "error": type(event.exception).__name__})
    return event.model_dump_json(fallback=str)


STATES = {WorkflowFailedEvent: "failed", WorkflowTimedOutEvent: "timed out", WorkflowCancelledEvent: "cancelled"}


def facts(handler: WorkflowHandler[Any]) -> dict[str, Any]:
    """Return what is known of a run."""
    last = handler.get_stop_event()
    if last is None:
        return {"run_id": handler.run_id, "state": "live"}
    return {"run_id": handler.run_id, "state": STATES.get(type(last), "completed"), "result": json.loads(shown(last))}


# The requests.


async def body_of(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return body


async def list_workflows(request: Request) -> Response:
    workflows: Mapping[str, Workflow[Any]] = request.app.state.runs.workflows
    return JSONResponse({name: workflow.start_event_class.model_json_schema() for name, workflow in workflows.items()})


async def start(request: Request) -> Response:
    handler = request.app.state.runs.start(request.path_params["name"], await body_of(request), request.headers)
    return JSONResponse(facts(handler), 202, headers={"Location": f"/runs/{handler.run_id}"})


async def state(request: Request) -> Response:
    return JSONResponse(facts(request.app.state.runs.of(request)))


async def result(request: Request) -> Response:
    handler = request.app.state.runs.of(request)
    await handler.stop_event_result()  # unlike `await handler`, this leaves the run alone when the client goes away
    found = facts(handler)
    return JSONResponse(found, 200 if found["state"] == "completed" else 409)


async def answer(request: Request) -> Response:
    """Send an answer into a run: only events that people send, not those that its steps send each other."""
    runs: Runs = request.app.state.runs
    handler, body = runs.of(request), await body_of(request)
    kinds = {kind.__name__: kind for each in runs.workflows.values() for kind in each.events if issubclass(kind, HumanResponseEvent)}
    kind = kinds.get(str(body.get("type")))
    if kind is None:
        raise HTTPException(422, f"`type` must be one of {', '.join(kinds)}")
    event = made(kind, body.get("data") or {})
    try:
        handler.ctx.send_event(event)
    except WorkflowDone:
        raise HTTPException(409, "the run is over") from None
    return JSONResponse(facts(handler), 202)


async def cancel(request: Request) -> Response:
    handler = request.app.state.runs.of(request)
    await handler.cancel_run()
    return JSONResponse(facts(handler))


async def events(request: Request) -> Response:
    """Stream a run from its first event, or from the one after `Last-Event-ID`, which browsers send when they reconnect."""
    handler = request.app.state.runs.of(request)
    last = request.headers.get("last-event-id", "-1")
    if not last.removeprefix("-").isdecimal() or int(last) < -1:
        raise HTTPException(400, f"Last-Event-ID {last!r} is no number of an event")
    return StreamingResponse(frames(handler, int(last) + 1), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def frames(handler: WorkflowHandler[Any], offset: int) -> AsyncIterator[str]:
    reader = handler.stream_events(offset=offset)
    while True:
        try:
            event = await asyncio.wait_for(anext(reader), SILENCE)
        except TimeoutError:
            yield ": still here\n\n"
        except StreamOffsetError as error:
            yield f"event: gone\ndata: {json.dumps(str(error))}\n\n"
            return
        except StopAsyncIteration:
            yield "event: end\ndata:\n\n"  # an EventSource would connect again, unless it is told
            return
        else:
            yield f"id: {reader.offset - 1}\nevent: {type(event).__name__}\ndata: {shown(event)}\n\n"


# The application.


def application(workflows: Mapping[str, Workflow[Any]], grace: float = GRACE) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for workflow in workflows.values():
                await stack.enter_async_context(workflow)  # closes its resources at the end
            yield
            await drain(grace)  # takes no new runs, lets the live ones end, then cancels them, and sends what telemetry there is

    routes = [
        Route("/workflows", list_workflows),
        Route("/workflows/{name}/runs", start, methods=["POST"]),
        Route("/runs/{run_id}", state),
        Route("/runs/{run_id}", cancel, methods=["DELETE"]),
        Route("/runs/{run_id}/result", result),
        Route("/runs/{run_id}/events", events),
        Route("/runs/{run_id}/events", answer, methods=["POST"]),
        Mount("/metrics", metrics_app()),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: refuse})
    app.state.runs = Runs(workflows)
    return app


async def refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def served() -> dict[str, Workflow[Any]]:
    """Return new instances of the workflows that the example serves."""
    return {"number_prompt": NumberPrompt(timeout=3600), "progress": Progress(), "notice": Notice()}


def server_of(app: Starlette, grace: float = GRACE) -> uvicorn.Server:
    """Return what serves an application; when it is to end, open streams have `grace` seconds to end before."""
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=round(grace)))


@asynccontextmanager
async def serving(app: Starlette, grace: float = GRACE) -> AsyncIterator[str]:
    """Serve an application on any free port of this machine while the block lasts; gives its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = server_of(app, grace)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield "http://{}:{}".format(*listener.getsockname())
    finally:
        server.should_exit = True
        await task


# The example as its own client.


async def play(stage: Stage) -> str:
    """Serve, and be the client of a run: read its stream, answer what it asks, come back for the result, look at the metrics."""
    if stage.arguments.serve:
        await serve(stage.arguments.host, stage.arguments.port)
    app = application(served())
    async with serving(app) as url:
        print(f"  serving {', '.join(served())} at {url}", file=sys.stderr)
        status, found = await ask(url, "/workflows/number_prompt/runs", "POST", {"text": stage.question})
        if status != 202:
            raise WrongInputError(found["error"])
        stage.handlers += app.state.runs.all()
        run_id, left = found["run_id"], iter([*stage.arguments.answers.split(","), "1"])
        async for number, name, data in follow(url, run_id):
            print(f"  {number} {name} {data}", file=sys.stderr)
            if name == "NumberWanted":
                await ask(url, f"/runs/{run_id}/events", "POST", {"type": "NumberGiven", "data": {"response": next(left)}})
        _, found = await ask(url, f"/runs/{run_id}/result")
        async with asked(url, "/metrics/") as (_, metrics):
            told = (await metrics.read()).decode().splitlines()
        for line in told:
            if line.startswith("tracedflow_runs_total"):
                print(f"  {line}", file=sys.stderr)
    return str(found["result"]["result"])


async def serve(host: str, port: int) -> None:
    """Serve until Ctrl-C, or until the process is told to end."""
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise WrongInputError(f"{host}:{port}: {error}") from None
    port = listener.getsockname()[1]
    print(f"serving {', '.join(served())} at http://{host}:{port}, metrics at /metrics; Ctrl-C ends it", file=sys.stderr, flush=True)
    await server_of(application(served())).serve(sockets=[listener])


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("--answers", default="zero,2", help="what the client answers, with commas between (default: zero,2)")
    parser.add_argument("--serve", action="store_true", help="serve until Ctrl-C, without being the client")
    parser.add_argument("--host", default="127.0.0.1", help="with --serve (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="with --serve (default: 8000)")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=flags, needs_model=False)


if __name__ == "__main__":
    sys.exit(main())
