"""The same timer beside 1,000 spans a second that are exported by OTLP over HTTP to another process.

The exporter runs in a thread of the SDK and holds the interpreter while it encodes a batch: what helps is for the application to set.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import CollectorRegistry

from tracedflow.telemetry import Logs, Metrics, Tracing

from ._fairness import PAUSE, Condition, Waiting, live_runs, p99_delays
from ._report import Figure

PER_SECOND = 1_000
SMALL_BATCH = 64
_SINK = """
import http.server
class Sink(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
print(server.server_port, flush=True)
server.serve_forever()
"""


async def exporting_figures() -> list[Figure]:
    """Return the delay with the SDK's defaults, and with what an application can set."""
    with _sink() as endpoint:
        conditions: dict[str, Condition] = {
            "SDK defaults": lambda: _exporting(endpoint),
            f"batches of {SMALL_BATCH}": lambda: _exporting(endpoint, batch=SMALL_BATCH),
            f"batches of {SMALL_BATCH}, switch interval 0.5 ms": lambda: _exporting(endpoint, batch=SMALL_BATCH, switch=0.0005),
        }
        return [Figure(name=name, value=p99, unit="ms") for name, p99 in (await p99_delays(conditions)).items()]


@asynccontextmanager
async def _exporting(endpoint: str, *, batch: int = 512, switch: float | None = None) -> AsyncIterator[None]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint), max_export_batch_size=batch))
    flow = Waiting(timeout=None, telemetry=False, middleware=[Tracing(provider), Metrics(CollectorRegistry()), Logs()])
    before = sys.getswitchinterval()
    sys.setswitchinterval(switch or before)
    try:
        async with live_runs(flow, round(PER_SECOND * PAUSE)):
            yield
    finally:
        sys.setswitchinterval(before)
        await asyncio.to_thread(provider.shutdown)


@contextmanager
def _sink() -> Iterator[str]:
    process = subprocess.Popen([sys.executable, "-c", _SINK], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1/traces"
    finally:
        process.terminate()
        process.wait()
