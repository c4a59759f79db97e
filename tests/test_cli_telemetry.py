"""`tracedflow metrics` against a server, and `tracedflow doctor` with settings that are right, missing and wrong."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tracedflow.cli._app import app
from tracedflow.telemetry import names

METRICS = r"""# HELP python_info Python platform information
# TYPE python_info gauge
python_info{implementation="CPython"} 1.0
# TYPE tracedflow_runs_active gauge
tracedflow_runs_active{state="running",workflow="Flow"} 2.0
# TYPE tracedflow_step_attempts_total counter
tracedflow_step_attempts_total{error_type="",outcome="success",step="work",workflow="Flow"} 40.0
tracedflow_step_attempts_total{error_type="KeyError",outcome="error",step="work",workflow="Odd \"{name}\""} 2.0 1700000000.0
# TYPE tracedflow_run_duration_seconds histogram
tracedflow_run_duration_seconds_bucket{le="0.5",outcome="success",workflow="Flow"} 18.0
tracedflow_run_duration_seconds_bucket{le="1.0",outcome="success",workflow="Flow"} 20.0 # {trace_id="4bf9"} 0.7 1700000000.0
tracedflow_run_duration_seconds_bucket{le="+Inf",outcome="success",workflow="Flow"} 20.0
tracedflow_run_duration_seconds_count{outcome="success",workflow="Flow"} 20.0
tracedflow_run_duration_seconds_sum{outcome="success",workflow="Flow"} 5.0
tracedflow_run_duration_seconds_created{outcome="success",workflow="Flow"} 1.7e+09
"""


class Answers(BaseHTTPRequestHandler):
    pages = {"/metrics": METRICS, "/other": "python_info 1\n", "/odd": "\x00 } { tracedflow_ x\ntracedflow_x{ 1\n"}

    def do_GET(self) -> None:
        text = self.pages.get(self.path)
        self.send_response(404 if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the name is the library's
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Host and port of a server with metrics."""
    with HTTPServer(("127.0.0.1", 0), Answers) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def metrics(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["metrics", *arguments])


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_metrics_of_a_process_are_a_table_for_each_family(server: str) -> None:
    text = metrics(server).stdout
    assert "python_info" not in text
    families = [block.splitlines() for block in text.strip().split("\n\n")]
    assert [family[0] for family in families] == [
        "tracedflow_run_duration_seconds",
        "tracedflow_runs_active",
        "tracedflow_step_attempts_total",
    ]
    assert [line.split() for line in families[0][1:]] == [
        ["workflow", "outcome", "value"],
        ["Flow", "success", "20,", "mean", "250", "ms,", "95", "%", "within", "1.00", "s"],
    ]
    assert families[2][1].split() == ["workflow", "step", "outcome", "error_type", "value"]
    assert families[2][2].split() == ["Flow", "work", "success", "-", "40"]
    assert families[2][3].endswith("2")


def test_metrics_as_json_have_the_buckets(server: str) -> None:
    found = json.loads(metrics(f"http://{server}/metrics", "--json").stdout)
    assert found["url"] == f"http://{server}/metrics"
    by_name = {each["name"]: each for each in found["metrics"]}
    assert by_name["tracedflow_runs_active"] == {
        "name": "tracedflow_runs_active", "labels": {"workflow": "Flow", "state": "running"}, "value": 2.0,
    }  # fmt: skip
    duration = by_name["tracedflow_run_duration_seconds"]
    assert (duration["count"], duration["sum"]) == (20.0, 5.0)
    assert duration["buckets"] == [{"le": 0.5, "count": 18.0}, {"le": 1.0, "count": 20.0}, {"le": "+Inf", "count": 20.0}]


@pytest.mark.parametrize(
    ("path", "told"),
    [("/other", "no metric of tracedflow"), ("/odd", "no metric of tracedflow"), ("/nowhere", "answers 404 Not Found")],
)
def test_a_server_without_our_metrics_is_told_of(server: str, path: str, told: str) -> None:
    done = metrics(f"http://{server}{path}")
    assert (done.exit_code, told in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("ftp://localhost", "is neither a file nor an address"),
        ("nowhere", "is neither a file nor an address"),
        ("http://", "is neither a file nor an address"),
        ("http://[bad", "is no address of metrics"),
        ("http://a b", "cannot be read"),
    ],
)
def test_what_is_no_address_is_told_with_an_example(address: str, told: str) -> None:
    done = metrics(address)
    assert (done.exit_code, done.stdout, told in done.stderr) == (2, "", True)


def test_a_server_that_is_not_there_is_told_of() -> None:
    done = metrics(f"127.0.0.1:{closed_port()}")
    assert done.exit_code == 2
    assert "Connection refused; does the process run, and listen there?" in done.stderr


def test_without_a_server_all_names_are_listed() -> None:
    text = metrics().stdout
    assert all(f"{each.name}  ({each.kind} by {', '.join(each.labels)})\n    {each.help}\n" in text for each in names.METRICS)
    assert [each["name"] for each in json.loads(metrics("--json").stdout)["metrics"]] == [each.name for each in names.METRICS]


# -------------------------------------------------------------------------------------------------------------- doctor


def doctor(folder: Path, *arguments: str, before: str = "pass", **settings: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Return the exit code, and what is said by topic."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEDFLOW_", "OTEL_"))}
    script = f"import sys; {before}; sys.argv[1:] = {['doctor', '--json', *arguments]!r}; from tracedflow.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env={**clean, **settings}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    document = json.loads(done.stdout)
    assert document["ok"] == (done.returncode == 0)
    found: dict[str, list[dict[str, str]]] = {}
    for each in document["findings"]:
        found.setdefault(each["topic"], []).append(each)
    return done.returncode, found


def test_where_nothing_is_asked_for_nothing_is_broken(tmp_path: Path) -> None:
    code, found = doctor(tmp_path)
    assert code == 0
    assert found["switch"][0]["status"] == "ok"
    assert found["endpoint"][0]["status"] in ("ok", "warning")  # the default one: a collector may listen on this machine


def test_an_endpoint_that_was_asked_for_and_is_not_there_is_a_problem(tmp_path: Path) -> None:
    spans, logs = closed_port(), closed_port()
    code, found = doctor(
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{spans}",
        OTEL_LOGS_EXPORTER="otlp",
        OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=f"http://127.0.0.1:{logs}",
    )
    assert code == 1
    assert [(each["status"], each["text"].split()[0]) for each in found["endpoint"]] == [
        ("problem", f"127.0.0.1:{spans}"),
        ("problem", f"127.0.0.1:{logs}"),
    ]
    assert all(each["remedy"] for each in found["endpoint"])


def test_unless_it_shall_not_connect(tmp_path: Path) -> None:
    code, found = doctor(tmp_path, "--no-connect", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{closed_port()}")
    assert (code, "endpoint" in found) == (0, False)


def test_an_sdk_that_is_missing_is_a_problem(tmp_path: Path) -> None:
    code, found = doctor(tmp_path, before="sys.modules['opentelemetry.sdk'] = None", OTEL_TRACES_EXPORTER="otlp")
    assert code == 1
    assert (found["provider"][0]["status"], found["provider"][0]["remedy"]) == ("problem", "pip install opentelemetry-sdk")


def test_an_exporter_that_is_missing_is_a_problem(tmp_path: Path) -> None:
    code, found = doctor(tmp_path, before="sys.modules['opentelemetry.exporter'] = None", OTEL_TRACES_EXPORTER="otlp")
    assert code == 1
    assert (found["setup"][0]["status"], "pip install 'tracedflow[otlp]'" in found["setup"][0]["text"]) == ("problem", True)


@pytest.mark.parametrize(
    ("settings", "topic", "told"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "setup", "OTEL_TRACES_EXPORTER=zipkin is not known"),
        ({"TRACEDFLOW_CAPTURE": "everything", "OTEL_TRACES_EXPORTER": "none"}, "setup", "TRACEDFLOW_CAPTURE=everything is unknown"),
        ({"TRACEDFLOW_TRACE_FILE": "taken/runs.jsonl"}, "file", "taken/runs.jsonl cannot be written"),
    ],
)
def test_a_setting_that_cannot_be_done_is_a_problem_with_a_remedy(tmp_path: Path, settings: dict[str, str], topic: str, told: str) -> None:
    (tmp_path / "taken").write_text("a file where a folder should be")
    code, found = doctor(tmp_path, "--no-connect", **settings)
    assert code == 1
    assert [(each["status"], told in each["text"], bool(each["remedy"])) for each in found[topic]] == [("problem", True, True)]
