"""What docs/production.md has one do: its program, run as it stands there, is seen in Jaeger and shows its metrics."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.backends.services import ROOT, Jaeger, eventually, free_port, get

ORDERS = 150  # a few seconds


def program_of_the_page() -> str:
    text = (ROOT / "docs/production.md").read_text()
    (program,) = (block for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if "telemetry.setup" in block)
    return str(program)


def test_the_program_of_the_page_is_seen(jaeger: Jaeger, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(program_of_the_page())
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "TRACEDFLOW_"))}
    environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.otlp_http, "METRICS_PORT": str(port), "ORDERS": str(ORDERS)}
    command = [sys.executable, "-W", "error", "app.py"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def shows_its_metrics() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode}: {process.communicate()[0]}")
        return 'tracedflow_runs_total{outcome="success",workflow="Order"}' in get(f"http://127.0.0.1:{port}/metrics")

    try:
        eventually(shows_its_metrics)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, said) == (0, "")
    runs = eventually(lambda: len(found := get(f"{jaeger.url}/api/traces", service="shop", limit="1000")["data"]) == ORDERS - 1 and found)
    assert {span["operationName"] for trace in runs for span in trace["spans"]} == {
        "invoke_workflow Order", "run_step pick", "run_step pack", "run_step ship",
    }  # fmt: skip
