"""`telemetry.setup()`: one line, the standard variables, and an exit that nothing can hold. Each in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tracedflow.testing.otlp import OtlpSink

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import asyncio, logging, os, sys, time
logging.basicConfig(level=logging.WARNING, format="%(name)s %(message)s", stream=sys.stdout)
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, drain, step, telemetry
class Done(Event):
    pass
class Flow(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Done | None:
        for _ in range(3):
            ctx.send_event(Done())
        return None
    @step
    async def end(self, ctx: Context, ev: Done) -> StopEvent | None:
        return None if ctx.collect_events(ev, [Done] * 3) is None else StopEvent(result="done")
"""


@pytest.fixture
def sink() -> Iterator[OtlpSink]:
    with OtlpSink() as sink:
        yield sink


def run(script: str, **variables: str) -> tuple[str, float]:
    """Run a script after the program; return what it printed, and how many seconds its exit took after `print("bye")`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "TRACEDFLOW_"))}
    environment = {**kept, **variables, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM + script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    lines: list[str] = []
    said = time.monotonic()
    for line in child.stdout:
        lines.append(line.strip())
        if line.strip() == "bye":
            said = time.monotonic()
    child.wait(timeout=30)
    took = time.monotonic() - said
    assert child.stderr is not None
    errors = child.stderr.read()
    child.stdout.close()
    child.stderr.close()
    assert child.returncode == 0, errors
    assert "Traceback" not in errors
    return "\n".join(lines), took


# ------------------------------------------------------------------------------------------------------ where it goes


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_one_line_and_the_standard_variables_send_everything_by_the_time_the_process_is_gone(sink: OtlpSink, protocol: str) -> None:
    printed, _ = run(
        "telemetry.setup()\nprint(Flow(timeout=5).run_sync())",
        OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint if protocol == "grpc" else sink.http_endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_SERVICE_NAME="shop",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
        OTEL_METRICS_EXPORTER="otlp",
    )
    assert printed == "done"
    assert sorted(span.name for span in sink.spans) == [
        "invoke_workflow Flow",
        "run_step begin",
        "run_step end",
    ]  # not the unfinished joins
    assert {span.protocol for span in sink.spans} == {"grpc" if protocol == "grpc" else "http"}
    assert {(span.resource["service.name"], span.resource["deployment.environment.name"]) for span in sink.spans} == {("shop", "test")}
    names = {
        metric.name
        for request in sink.metrics
        for batch in request.resource_metrics
        for scope in batch.scope_metrics
        for metric in scope.metrics
    }
    assert {"tracedflow.runs", "tracedflow.run.duration", "tracedflow.step.attempts", "tracedflow.events"} <= names


def test_a_sampler_and_a_service_name_may_be_given(sink: OtlpSink) -> None:
    run(
        "from opentelemetry.sdk.trace.sampling import ALWAYS_OFF\n"
        "telemetry.setup(service_name='mine', sampler=ALWAYS_OFF)\nprint(Flow(timeout=5).run_sync())",
        OTEL_EXPORTER_OTLP_ENDPOINT=sink.http_endpoint,
    )
    assert sink.spans == []


def test_a_file_alone_asks_for_no_endpoint(tmp_path: Path) -> None:
    printed, _ = run(
        "started = telemetry.setup()\nprint(Flow(timeout=5).run_sync(), len(started.pipelines), started.active)\n"
        "from tracedflow.inspect.trace_file import read_runs\nimport os\n"
        "print([(run.workflow, run.outcome, len(run.attempts)) for run in read_runs(os.environ['TRACEDFLOW_TRACE_FILE'])])",
        TRACEDFLOW_TRACE_FILE=str(tmp_path / "runs.jsonl"),
    )
    assert printed.splitlines() == ["done 0 True", "[('Flow', 'success', 4)]"]


def test_a_provider_that_is_set_already_is_kept(tmp_path: Path) -> None:
    script = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
mine = TracerProvider()
trace.set_tracer_provider(mine)
started = telemetry.setup(trace_file=sys.argv[1] if len(sys.argv) > 1 else os.environ["FILE"])
print(trace.get_tracer_provider() is mine, started.provider is mine, telemetry.setup() is started, Flow(timeout=5).run_sync())
print(sum(1 for line in open(os.environ["FILE"]) if "resourceSpans" in line))
"""
    printed, _ = run(script, FILE=str(tmp_path / "runs.jsonl"))
    assert printed.splitlines() == ["True True True done", "5"]


# ------------------------------------------------------------------------------------------------------ without

NO_SDK = """
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry.sdk"):
            raise ImportError("broken " + name)
sys.meta_path.insert(0, Missing())
"""


@pytest.mark.parametrize(
    ("script", "variables", "warned"),
    [
        ("", {}, ""),  # no provider is set
        ("started = telemetry.setup()\nassert not started.active\n", {"OTEL_SDK_DISABLED": "true"}, ""),
        (NO_SDK + "started = telemetry.setup()\nassert not started.active\n", {}, "the OpenTelemetry SDK cannot be imported"),
        (NO_SDK.replace("opentelemetry.sdk", "opentelemetry.exporter") + "telemetry.setup()\n", {}, "pip install 'tracedflow[otlp]'"),
        ("telemetry.setup()\n", {"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER=zipkin is not known here"),
    ],
    ids=["no provider", "switched off", "no SDK", "no exporter", "unknown exporter"],
)  # fmt: skip
def test_runs_go_on_where_telemetry_does_not(script: str, variables: dict[str, str], warned: str) -> None:
    printed, _ = run(script + "print(Flow(timeout=5).run_sync())", **variables)
    *before, last = printed.splitlines()
    assert last == "done"
    assert (warned in printed) if warned else before == []


# ------------------------------------------------------------------------------------------------------ the end


def test_a_dead_endpoint_cannot_hold_an_exit() -> None:
    """It takes connections and never answers, which is the worst a backend can do."""
    with socket.socket() as dead, ThreadPoolExecutor(2) as pool:
        dead.bind(("127.0.0.1", 0))
        dead.listen(16)

        def exit_with(protocol: str) -> tuple[str, float]:
            return run(
                "telemetry.setup()\nprint(Flow(timeout=5).run_sync())\nprint('bye')",
                OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{dead.getsockname()[1]}",
                OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            )

        for printed, took in pool.map(exit_with, ("http/protobuf", "grpc")):
            assert printed.splitlines()[:2] == ["done", "bye"]
            assert took < 6


def test_a_forked_child_sends_its_own_spans(sink: OtlpSink) -> None:
    script = """
telemetry.setup()
Flow(timeout=5, workflow_name="parent").run_sync()
child = os.fork()
if child == 0:
    Flow(timeout=5, workflow_name="child").run_sync()
    sys.exit(0)
os.waitpid(child, 0)
"""
    run(script, OTEL_EXPORTER_OTLP_ENDPOINT=sink.http_endpoint)
    names = [span.name for span in sink.spans if span.name.startswith("invoke_workflow")]
    assert sorted(names) == ["invoke_workflow child", "invoke_workflow parent"]


def test_draining_sends_what_is_buffered(sink: OtlpSink) -> None:
    script = """
telemetry.setup()
async def main():
    await Flow(timeout=5).run()
    await drain(timeout=1)
    print("drained", flush=True)
    os._exit(0)
asyncio.run(main())
"""
    run(script, OTEL_EXPORTER_OTLP_ENDPOINT=sink.http_endpoint)
    assert "invoke_workflow Flow" in [span.name for span in sink.spans]


def test_a_backend_that_refuses_changes_no_outcome_and_is_diagnosed(sink: OtlpSink) -> None:
    sink.answer = 400
    script = """
logging.disable(logging.CRITICAL)
started = telemetry.setup()
print(Flow(timeout=5).run_sync(), started.flush())
for finding in telemetry.diagnose():
    print(finding.topic, finding.status, finding.text)
"""
    printed, _ = run(script, OTEL_EXPORTER_OTLP_ENDPOINT=sink.http_endpoint)
    lines = printed.splitlines()
    assert lines[0] == "done True"
    told = {line.split()[0]: line for line in lines[1:]}
    assert told["provider"] == "provider ok opentelemetry.sdk.trace.TracerProvider, set by setup()"
    assert told["exporter"] == "exporter ok BatchSpanProcessor to OTLPSpanExporter"
    assert told["endpoint"].startswith("endpoint ok 127.0.0.1:")
    assert "0 spans arrived, 0 wait, 3 failed, 0 found the queue full, 2 of unfinished joins" in told["dropped"]
    assert told["capture"].startswith("capture ok types and ids")
    assert told["sampling"].startswith("sampling ok ParentBased")


def test_a_diagnosis_names_what_is_missing() -> None:
    script = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
print([f"{finding.topic} {finding.status}" for finding in telemetry.diagnose()])
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)
print([str(finding) for finding in telemetry.diagnose() if finding.status == "problem"])
"""
    printed, _ = run(script, TRACEDFLOW_CAPTURE="full")
    first, second = printed.splitlines()
    assert "provider warning" in first
    assert "capture warning" in first
    assert "SimpleSpanProcessor to ConsoleSpanExporter" in second
    assert "use BatchSpanProcessor" in second
