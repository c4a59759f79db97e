"""The main job, `make demo`: two joke flows that tell what they do, a folder digest, and the metrics of all three.

No network, no account, nothing to set up. Sections and results go to stdout; what the runs tell of themselves goes to
stderr, as always.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import time
import warnings

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY, generate_latest

from examples import folder_digest
from examples._kit.model import introduce
from examples._kit.screen import heading, show_waterfall
from examples._kit.terminal import ended_quietly
from examples.joke_flow import JokeFlow, joke_flow, llm

# The lines that are shown; the others are counted.
TELLING = re.compile(
    r"tracedflow_("
    r"runs_total|run_duration_seconds_sum|step_retries_total|step_timeouts_total"
    r'|step_attempts_total.*step="(digest_file|gather_files|write_index|summarize)"'
    r'|step_duration_seconds_(count|sum).*step="digest_file"'
    r'|step_queue_wait_seconds_sum.*step="digest_file"'
    r'|step_concurrency_limit.*step="digest_file"'
    r'|events_total\{action="(emitted|streamed|collected)",event_type="File'
    r")"
)


def set_up_tracing() -> InMemorySpanExporter:
    """Give the process a trace provider, which is the application's job; this one keeps the spans in memory."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


async def show_jokes() -> None:
    heading(1, "A workflow as a class", "JokeFlow(timeout=60, verbose=True): every step as it happens, then where the time went.")
    introduce(llm)
    print(await JokeFlow(timeout=60, verbose=True).run(topic="pirates"))

    heading(2, "The same workflow as free functions", "joke_flow = Workflow(timeout=60, verbose=True), and @step(workflow=joke_flow).")
    print(await joke_flow.run(topic="event loops"))


async def show_digest() -> None:
    heading(
        3,
        "A folder digest of this Python's standard library",
        f"One event for each file, {folder_digest.WORKERS} workers, two joins. Planted: the index writer fails twice and is retried; "
        "the summary exceeds its timeout, and the next attempt takes a shorter way. Not verbose: the waterfall says it.",
    )
    report, handler = await folder_digest.digest()
    print(file=sys.stderr)
    show_waterfall(handler.record, sys.stderr)
    print(file=sys.stderr)
    print(folder_digest.as_text(report))
    print(f"{'trace':<9}{handler.record[-1].trace_id}")


def show_metrics() -> None:
    heading(4, "What Prometheus would scrape now", "Counted by the same hook that made the spans and the lines above.")
    samples = [line for line in generate_latest(REGISTRY).decode().splitlines() if line.startswith("tracedflow_")]
    shown = [line for line in samples if TELLING.match(line)]
    print("\n".join(shown))
    print(f"... and {len(samples) - len(shown)} more: prometheus_client.start_http_server(9464) serves them all.")


def main() -> InMemorySpanExporter:
    """Run everything; return the spans that it made."""
    sys.stdout.reconfigure(line_buffering=True, errors="replace")  # so that both streams keep their order in a file
    warnings.filterwarnings("ignore", category=SyntaxWarning)  # of the sources that are read, not of this program
    began = time.perf_counter()
    exporter = set_up_tracing()
    asyncio.run(_show_runs())
    show_metrics()
    spans = exporter.get_finished_spans()
    traces = {span.context.trace_id for span in spans}
    print(f"\n{len(spans):,} spans in {len(traces)} traces, {time.perf_counter() - began:.1f} s. Next: {_python()} -m examples")
    return exporter


def _python() -> str:
    """Return how to call the Python that runs this: as it was found, which for `make demo` is the one of its environment."""
    found = os.path.relpath(sys.executable)
    return sys.executable if found.startswith(os.pardir) else found


async def _show_runs() -> None:
    await show_jokes()
    await show_digest()


def program() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=(__doc__ or "").partition("\n")[0])
    parser.parse_args()
    main()
    return 0


if __name__ == "__main__":
    sys.exit(ended_quietly(program))
