"""Real backends as processes on loopback: started for a test session, stopped whatever happens, their logs shown on failure."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("TRACEDFLOW_BACKENDS", Path.home() / ".cache" / "tracedflow-backends"))
ROOT = Path(__file__).resolve().parents[2]
_READY_WITHIN = 60.0  # seconds; MLflow takes 20


class Missing(Exception):
    """A backend that is not installed; the text says why."""


def program(name: str, path: str = "") -> Path:
    """Return the path of an installed program.

    Raises:
        Missing: it is not installed.
    """
    found = CACHE / (path or f"bin/{name}")
    if found.exists():
        return found
    said = CACHE / "missing" / {"otelcol": "collector", "promtool": "prometheus"}.get(name, name)
    raise Missing(said.read_text().strip() if said.exists() else f"{found} is not there; `make backends` installs it")


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str, *, accept: str = "*/*", **query: str) -> Any:
    """Return the JSON, or else the text, that a server gives."""
    full = f"{url}?{urllib.parse.urlencode(query)}" if query else url
    request = urllib.request.Request(full, headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            text = response.read().decode()
    except urllib.error.HTTPError as error:
        error.close()  # it is a response too
        raise
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def eventually(look: Callable[[], Any], *, within: float = 30.0, what: str = "") -> Any:
    """Return what `look` gives once it is true; an assertion in it counts as not yet."""
    ends = time.monotonic() + within
    while True:
        try:
            found = look()
        except (AssertionError, OSError, urllib.error.URLError, KeyError, IndexError) as error:
            if time.monotonic() > ends:
                raise
            found, what = None, what or repr(error)
        if found:
            return found
        if time.monotonic() > ends:
            raise AssertionError(f"not within {within:g} s: {what or look}")
        time.sleep(0.1)


class Service:
    """One process, with its log in a file."""

    def __init__(self, name: str, command: Sequence[str | Path], ready: str, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.folder = folder
        self.log = folder / f"{name}.log"
        folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        try:
            eventually(lambda: self._is_ready(ready), within=_READY_WITHIN, what=f"{name} at {ready}")
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{error}\n{self.tail()}") from None

    def _is_ready(self, url: str) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")
        try:
            get(url)
        except urllib.error.HTTPError as error:
            return error.code < 500
        return True

    def tail(self, lines: int = 30) -> str:
        """Return the last lines of its log."""
        return "\n".join(line[:200] for line in self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """End it, and whatever it started."""
        if self.process.poll() is not None:
            return
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


class Jaeger(Service):
    """Jaeger all-in-one, in memory."""

    def __init__(self, folder: Path) -> None:
        ports = {name: free_port() for name in ("otlp_grpc", "otlp_http", "query", "query_grpc", "admin", "grpc", "http", "zipkin")}
        self.otlp_grpc = f"127.0.0.1:{ports['otlp_grpc']}"
        self.otlp_http = f"http://127.0.0.1:{ports['otlp_http']}"
        self.url = f"http://127.0.0.1:{ports['query']}"
        command = [
            program("jaeger"),
            f"--collector.otlp.grpc.host-port={self.otlp_grpc}",
            f"--collector.otlp.http.host-port=127.0.0.1:{ports['otlp_http']}",
            f"--query.http-server.host-port=127.0.0.1:{ports['query']}",
            f"--query.grpc-server.host-port=127.0.0.1:{ports['query_grpc']}",
            f"--admin.http.host-port=127.0.0.1:{ports['admin']}",
            f"--collector.grpc-server.host-port=127.0.0.1:{ports['grpc']}",
            f"--collector.http-server.host-port=127.0.0.1:{ports['http']}",
            "--collector.otlp.enabled=true",
        ]
        super().__init__("jaeger", command, f"http://127.0.0.1:{ports['admin']}/", folder, {"OTEL_TRACES_SAMPLER": "always_off"})

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """Return the spans of a trace as its API gives them; none if it does not know it."""
        try:
            found: list[dict[str, Any]] = get(f"{self.url}/api/traces/{trace_id}")["data"]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            raise
        return found[0]["spans"] if found else []


class Tempo(Service):
    """Tempo with our configuration; only its ports and folders are changed."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        command = [program("tempo"), f"-config.file={folder / 'tempo.yml'}"]
        port, grpc, own_grpc = free_port(), free_port(), free_port()
        self.otlp_grpc = f"127.0.0.1:{grpc}"
        self.url = f"http://127.0.0.1:{port}"
        config["server"] = {"http_listen_address": "127.0.0.1", "http_listen_port": port, "grpc_listen_port": own_grpc}
        config["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"] = self.otlp_grpc
        config["storage"]["trace"] |= {"wal": {"path": str(folder / "wal")}, "local": {"path": str(folder / "blocks")}}
        (folder / "tempo.yml").write_text(json.dumps(config))  # JSON is YAML
        super().__init__("tempo", command, f"{self.url}/ready", folder)


class Collector(Service):
    """A collector with our file, unchanged; only its environment is set."""

    def __init__(
        self, folder: Path, traces_to: str, *, logs_to: str = "http://127.0.0.1:1", keep_percent: int = 0, decision_wait: str = "1s"
    ) -> None:
        ports = {name: free_port() for name in ("grpc", "http", "spans", "own", "health")}
        self.otlp_grpc = f"http://127.0.0.1:{ports['grpc']}"
        self.otlp_http = f"http://127.0.0.1:{ports['http']}"
        self.span_metrics = f"127.0.0.1:{ports['spans']}"
        self.own_metrics = f"127.0.0.1:{ports['own']}"
        env = {
            "OTLP_GRPC": f"127.0.0.1:{ports['grpc']}",
            "OTLP_HTTP": f"127.0.0.1:{ports['http']}",
            "TEMPO_OTLP": traces_to,
            "JAEGER_OTLP": traces_to,
            "LOKI_OTLP": logs_to,
            "SPAN_METRICS": self.span_metrics,
            "SPAN_METRICS_EVERY": "1s",
            "SELF_METRICS_PORT": str(ports["own"]),
            "HEALTH": f"127.0.0.1:{ports['health']}",
            "KEEP_PERCENT": str(keep_percent),
            "DECISION_WAIT": decision_wait,
        }
        command = [program("otelcol"), "--config", ROOT / "otel-collector.yaml"]
        super().__init__("collector", command, f"http://127.0.0.1:{ports['health']}/", folder, env)

    def counts(self) -> dict[str, float]:
        """Return its own counters, summed over labels."""
        found: dict[str, float] = {}
        for line in str(get(f"http://{self.own_metrics}/metrics")).splitlines():
            if not line.startswith("#"):
                name = line.partition("{")[0].partition(" ")[0]
                found[name] = found.get(name, 0.0) + float(line.rsplit(" ", 1)[1])
        return found


class Prometheus(Service):
    """Prometheus with exemplar storage, our rules, and every target scraped each second."""

    def __init__(self, folder: Path, targets: Mapping[str, str], rules: Sequence[Path] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        jobs = [
            {"job_name": job, "static_configs": [{"targets": [target]}], "scrape_interval": "1s", "honor_labels": job == "spans"}
            for job, target in targets.items()
        ]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": jobs,
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        command = [
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
        ]
        super().__init__("prometheus", command, f"{self.url}/-/ready", folder)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression has now."""
        found: list[dict[str, Any]] = get(f"{self.url}/api/v1/query", query=expression)["data"]["result"]
        return found

    def exemplars(self, expression: str) -> list[dict[str, Any]]:
        """Return the exemplars of the last five minutes."""
        now = time.time()
        series = get(f"{self.url}/api/v1/query_exemplars", query=expression, start=str(now - 300), end=str(now + 1))["data"]
        return [exemplar for each in series for exemplar in each["exemplars"]]


class Mlflow(Service):
    """MLflow's tracking server: takes OTLP over HTTP, keeps links."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            program("mlflow", "mlflow/bin/mlflow"), "server", "--host", "127.0.0.1", "--port", str(port),
            "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1",
        ]  # fmt: skip
        super().__init__("mlflow", command, f"{self.url}/health", folder)
