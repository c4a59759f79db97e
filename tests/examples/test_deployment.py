"""Each test serves the application on a free port of this machine, and asks it over a socket."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from examples._kit.cli import Stage, WrongInputError
from examples._kit.model import ScriptedModel
from examples.deployment import application, ask, asked, follow, main, play, served, serving
from examples.managing_events import NumberPrompt
from tracedflow import Context, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, drain, runs, step
from tracedflow.inspect.trace_file import read_runs
from tracedflow.telemetry import Tracing

ROOT = Path(__file__).resolve().parents[2]
TEXT = "boats for the island leave at seven"
CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"  # trace and span


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with serving(application(served(), grace=5), grace=5) as found:
        yield found


async def started(url: str, name: str = "number_prompt", **fields: Any) -> str:
    status, found = await ask(url, f"/workflows/{name}/runs", "POST", {"text": TEXT, **fields})
    assert (status, found["state"]) == (202, "live")
    return str(found["run_id"])


async def answer(url: str, run_id: str, response: str) -> int:
    status, _ = await ask(url, f"/runs/{run_id}/events", "POST", {"type": "NumberGiven", "data": {"response": response}})
    return status


async def test_what_is_served_is_listed_with_what_a_run_takes(url: str) -> None:
    status, found = await ask(url, "/workflows")
    assert status == 200
    assert sorted(found) == sorted(served())
    assert found["number_prompt"]["required"] == ["text"]
    assert sorted(found["notice"]["required"]) == ["room", "text"]


async def test_a_run_is_started_followed_and_its_result_fetched(url: str) -> None:
    run_id = await started(url, "progress")
    seen = [event async for event in follow(url, run_id)]
    assert [number for number, _, _ in seen] == list(range(len(seen)))
    assert [data["word"] for _, name, data in seen if name == "Reading"] == TEXT.split()
    assert seen[-1][1:] == ("StopEvent", {"result": max(TEXT.split(), key=len)})
    assert await ask(url, f"/runs/{run_id}/result") == (
        200, {"run_id": run_id, "state": "completed", "result": {"result": max(TEXT.split(), key=len)}},
    )  # fmt: skip


async def test_a_question_is_answered_over_http(url: str) -> None:
    run_id = await started(url)
    asked_for: list[str] = []
    answers = iter(["zero", "2"])
    async for _, name, data in follow(url, run_id):
        if name == "NumberWanted":
            asked_for.append(data["prefix"])
            assert await answer(url, run_id, next(answers)) == 202
    assert len(asked_for) == 2
    assert "zero" in asked_for[1]
    status, found = await ask(url, f"/runs/{run_id}/result")
    assert (status, found["result"]["result"]) == (200, TEXT.split()[1])


async def test_who_comes_back_reads_on_after_what_was_seen(url: str) -> None:
    run_id = await started(url)
    first, name, _ = await anext(follow(url, run_id))  # then the connection is lost
    assert name == "NumberWanted"
    assert await answer(url, run_id, "99") == 202
    assert await answer(url, run_id, "3") == 202
    rest = [event async for event in follow(url, run_id, last_id=first)]
    assert [(number, name) for number, name, _ in rest] == [(first + 1, "NumberWanted"), (first + 2, "StopEvent")]
    assert [event async for event in follow(url, run_id, last_id=first + 2)] == [], "there is nothing after the end"
    assert len([event async for event in follow(url, run_id)]) == 3, "another client reads from the first"


async def test_two_runs_at_once_do_not_mix(url: str) -> None:
    one = await started(url, text="red green blue")
    two = await started(url, text="one two three")
    assert await answer(url, two, "1") == 202
    assert await answer(url, one, "3") == 202
    found = [await ask(url, f"/runs/{run_id}/result") for run_id in (one, two)]
    assert [each["result"]["result"] for _, each in found] == ["blue", "one"]


async def test_a_run_may_be_cancelled_and_its_stream_ends(url: str) -> None:
    run_id = await started(url)
    stream = asyncio.ensure_future(collect(url, run_id))
    status, found = await ask(url, f"/runs/{run_id}", "DELETE")
    assert (status, found["state"]) == (200, "cancelled")
    assert (await stream)[-1] == "WorkflowCancelledEvent"
    assert (await ask(url, f"/runs/{run_id}/result"))[0] == 409
    assert await answer(url, run_id, "1") == 409
    assert runs() == []


async def collect(url: str, run_id: str) -> list[str]:
    return [name async for _, name, _ in follow(url, run_id)]


async def test_a_client_that_goes_away_leaves_the_run_alone(url: str) -> None:
    run_id = await started(url)
    waiting = asyncio.ensure_future(ask(url, f"/runs/{run_id}/result"))
    async for _ in follow(url, run_id):
        break
    waiting.cancel()
    await asyncio.wait([waiting])
    assert (await ask(url, f"/runs/{run_id}"))[1]["state"] == "live"
    assert await answer(url, run_id, "1") == 202
    assert (await ask(url, f"/runs/{run_id}/result"))[0] == 200


@pytest.mark.parametrize(
    ("path", "method", "body", "status", "says"),
    [
        ("/workflows/nothing/runs", "POST", {}, 404, "number_prompt"),
        ("/workflows/number_prompt/runs", "POST", {}, 422, "text"),
        ("/workflows/number_prompt/runs", "POST", {"text": 3}, 422, "text"),
        ("/workflows/number_prompt/runs", "POST", [1], 400, "JSON object"),
        ("/runs/nothing", "GET", None, 404, "nothing"),
        ("/runs/nothing/events", "GET", None, 404, "nothing"),
        ("/runs/nothing/events", "POST", {}, 404, "nothing"),
        ("/runs/nothing", "DELETE", None, 404, "nothing"),
    ],
)
async def test_a_wrong_request_is_told_what_is_wrong(url: str, path: str, method: str, body: Any, status: int, says: str) -> None:
    found, error = await ask(url, path, method, body)
    assert found == status
    assert says in error["error"]
    assert runs() == []


async def test_arguments_of_run_cannot_be_set_from_outside(url: str) -> None:
    run_id = await started(url, run_id="mine", stepwise=True, ctx="x", options=1, start_event={})
    assert run_id != "mine"
    assert await answer(url, run_id, "1") == 202
    assert (await ask(url, f"/runs/{run_id}/result"))[0] == 200


@pytest.mark.parametrize(
    ("body", "says"), [({"type": "StopEvent"}, "NumberGiven"), ({"type": "NumberGiven", "data": {}}, "response"), ({}, "NumberGiven")]
)
async def test_only_answers_of_people_get_into_a_run(url: str, body: Any, says: str) -> None:
    run_id = await started(url)
    status, error = await ask(url, f"/runs/{run_id}/events", "POST", body)
    assert status == 422
    assert says in error["error"]
    assert (await ask(url, f"/runs/{run_id}"))[1]["state"] == "live"
    await ask(url, f"/runs/{run_id}", "DELETE")


async def test_a_number_of_an_event_that_is_none_is_refused(url: str) -> None:
    run_id = await started(url, "progress")
    for wrong in ("x", "-2", "1.5"):
        async with asked(url, f"/runs/{run_id}/events", last_event_id=wrong) as (status, body):
            assert status == 400
            assert wrong in json.loads(await body.read())["error"]


async def test_the_text_of_an_error_is_not_shown_to_clients() -> None:
    class Leaky(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            raise PermissionError("the password is tide")

    async with serving(application({"leaky": Leaky()})) as url:
        run_id = await started(url, "leaky")
        seen = [event async for event in follow(url, run_id)]
        found = await ask(url, f"/runs/{run_id}/result")
    assert seen == [(0, "WorkflowFailedEvent", {"step_name": "only", "error": "PermissionError"})]
    assert found == (409, {"run_id": run_id, "state": "failed", "result": {"step_name": "only", "error": "PermissionError"}})


async def test_the_trace_of_the_client_goes_on_in_the_run() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    flows = {"number_prompt": NumberPrompt(middleware=[Tracing(provider)], telemetry=False)}
    trace, span = CALLER
    async with serving(application(flows)) as url:
        header = {"traceparent": f"00-{trace}-{span}-01"}
        _, found = await ask(url, "/workflows/number_prompt/runs", "POST", {"text": TEXT}, **header)
        assert await answer(url, found["run_id"], "1") == 202
        await ask(url, f"/runs/{found['run_id']}/result")
        alone = await started(url)
        assert await answer(url, alone, "1") == 202
        await ask(url, f"/runs/{alone}/result")
    made = [each for each in exporter.get_finished_spans() if each.name == "invoke_workflow NumberPrompt"]
    first = next(each for each in made if (each.attributes or {})["tracedflow.run.id"] == found["run_id"])
    assert f"{first.get_span_context().trace_id:032x}" == trace
    assert first.parent is not None
    assert f"{first.parent.span_id:016x}" == span
    other = next(each for each in made if (each.attributes or {})["tracedflow.run.id"] == alone)
    assert f"{other.get_span_context().trace_id:032x}" != trace


async def test_metrics_are_scraped_where_prometheus_looks(url: str) -> None:
    labels = {"workflow": "Notice", "outcome": "success"}
    before = REGISTRY.get_sample_value("tracedflow_runs_total", labels) or 0
    run_id = await started(url, "notice", room=10)
    await ask(url, f"/runs/{run_id}/result")
    async with asked(url, "/metrics/") as (status, body):
        text = (await body.read()).decode()
    assert status == 200
    sample = 'tracedflow_runs_total{outcome="success",workflow="Notice"}'
    counted = next(line for line in text.splitlines() if line.startswith(sample))
    assert float(counted.rsplit(maxsplit=1)[1]) == before + 1
    assert re.search(r'tracedflow_step_duration_seconds_bucket\{.*step="review".*workflow="Notice"', text)


async def test_a_process_that_is_about_to_end_takes_no_new_runs(url: str) -> None:
    run_id = await started(url)
    draining = asyncio.ensure_future(drain(5))
    async with asked(url, "/runs/nothing"):
        pass  # a turn of the server
    status, error = await ask(url, "/workflows/number_prompt/runs", "POST", {"text": TEXT})
    assert status == 503
    assert "about to end" in error["error"]
    assert await answer(url, run_id, "1") == 202, "what is live may still be answered"
    assert await draining == {}
    assert (await ask(url, f"/runs/{run_id}/result"))[0] == 200


async def test_the_end_of_the_process_ends_live_runs() -> None:
    cleaned: list[str] = []

    class Waiting(Workflow):
        @step
        async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                await ctx.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent())
            finally:
                cleaned.append("cleaned")
            return StopEvent()

    app = application({"waiting": Waiting()}, grace=0)
    async with serving(app, grace=0) as url:
        run_id = await started(url, "waiting")
        async for _ in follow(url, run_id):
            break
    assert cleaned == ["cleaned"]
    assert runs() == []
    handler = app.state.runs._handlers[run_id]
    assert type(handler.get_stop_event()).__name__ == "WorkflowCancelledEvent"


# The command.


def test_the_command_is_its_own_client(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([TEXT, "--answers", "no,4"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == TEXT.split()[3]
    assert "'no' is no number" in printed.err
    assert 'tracedflow_runs_total{outcome="success",workflow="NumberPrompt"}' in printed.err


async def test_a_text_that_no_run_takes_is_told_in_the_words_of_the_server() -> None:
    stage = Stage(ScriptedModel(), question=" ", arguments=Namespace(serve=False, answers=""))
    with pytest.raises(WrongInputError, match="text"):
        await play(stage)


def test_the_request_and_its_run_are_one_trace(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    command = [sys.executable, "-m", "examples.deployment", TEXT, "--trace", str(file)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    trace_id = ended.stderr.splitlines()[-1].split()[1]
    assert [run.trace_id for run in read_runs(file)] == [trace_id]


def test_a_port_that_is_taken_is_told_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["--serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "Address already in use" in capsys.readouterr().err


def test_a_missing_extra_is_told_in_a_sentence() -> None:
    hide = "import sys; sys.modules['starlette.applications'] = None; import examples.deployment"
    ended = subprocess.run([sys.executable, "-c", hide], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "pip install 'tracedflow[examples]'" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_server_ends_when_it_is_told_to() -> None:
    command = [sys.executable, "-m", "examples.deployment", "--serve", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        assert server.stderr.readline().startswith("Model: none")
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)", server.stderr.readline())[1])  # type: ignore[index]
        found = asyncio.run(ask(f"http://127.0.0.1:{port}", "/workflows"))  # answered, so it is up
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 130
        assert "Traceback" not in server.stderr.read()
    assert found[0] == 200
