"""`OtlpSink`: a collector inside the test's process, over HTTP and gRPC. What arrives is decoded and kept.

Needs `opentelemetry-proto`, and `grpcio` for gRPC: both come with `tracedflow[otlp]`.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from types import TracebackType
from typing import Any, Self

_STATUS = ("UNSET", "OK", "ERROR")
_KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_SERVICES = {"/v1/traces": "trace", "/v1/metrics": "metrics", "/v1/logs": "logs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkLink:
    """A link of a span."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkEvent:
    """An event of a span."""

    name: str
    at: int  # Unix nanoseconds
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSpan:
    """A span as a backend gets it. Ids are hexadecimal, times Unix nanoseconds."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str  # empty: a root
    kind: str
    start: int
    end: int
    status: str  # UNSET, OK or ERROR
    message: str  # of the status
    attributes: dict[str, Any]
    links: list[SinkLink]
    events: list[SinkEvent]
    scope: str
    resource: dict[str, Any]
    protocol: str  # http or grpc


@dataclass(slots=True)
class _Received:
    spans: list[SinkSpan] = field(default_factory=list[SinkSpan])
    metrics: list[Any] = field(default_factory=list[Any])
    logs: list[Any] = field(default_factory=list[Any])


class OtlpSink:
    """Takes OTLP over HTTP (`http_endpoint`) and gRPC (`grpc_endpoint`) on free local ports, for as long as it is entered.

    `spans` are decoded; `metrics` and `logs` are the requests as protobuf messages. `answer` is the HTTP status that
    requests get: set it to 503 to be a backend that is down.
    """

    def __init__(self) -> None:
        self.answer = 200
        self._received = _Received()
        self._lock = threading.Lock()
        self._http: ThreadingHTTPServer | None = None
        self._grpc: Any = None
        self._grpc_port = 0

    @property
    def spans(self) -> list[SinkSpan]:
        """The spans that arrived, in that order."""
        with self._lock:
            return list(self._received.spans)

    @property
    def metrics(self) -> list[Any]:
        """The metrics requests that arrived."""
        with self._lock:
            return list(self._received.metrics)

    @property
    def logs(self) -> list[Any]:
        """The logs requests that arrived."""
        with self._lock:
            return list(self._received.logs)

    @property
    def http_endpoint(self) -> str:
        """What `OTEL_EXPORTER_OTLP_ENDPOINT` takes for `http/protobuf`."""
        assert self._http is not None, "enter the sink first"
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def grpc_endpoint(self) -> str:
        """What `OTEL_EXPORTER_OTLP_ENDPOINT` takes for `grpc`."""
        assert self._grpc is not None, "enter the sink first"
        return f"http://127.0.0.1:{self._grpc_port}"

    def clear(self) -> None:
        """Forget what arrived."""
        with self._lock:
            self._received = _Received()

    def __enter__(self) -> Self:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.02,), name="otlp-sink", daemon=True).start()
        grpc = import_module("grpc")
        self._grpc = grpc.server(ThreadPoolExecutor(2, "otlp-sink-grpc"))
        for service in _SERVICES.values():
            self._serve(service)
        self._grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._grpc.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
        self._grpc.stop(0).wait()

    def _serve(self, service: str) -> None:
        module = import_module(f"opentelemetry.proto.collector.{service}.v1.{service}_service_pb2_grpc")
        title = service.capitalize()
        servicer = getattr(module, f"{title}ServiceServicer")()
        response = _message(service, "Response")

        def export(request: Any, context: Any) -> Any:
            self.take(service, request, "grpc")
            return response()

        servicer.Export = export
        getattr(module, f"add_{title}ServiceServicer_to_server")(servicer, self._grpc)

    def take(self, service: str, request: Any, protocol: str) -> None:
        """Keep a request: `service` is trace, metrics or logs."""
        with self._lock:
            match service:
                case "trace":
                    self._received.spans += _decoded(request, protocol)
                case "metrics":
                    self._received.metrics.append(request)
                case _:
                    self._received.logs.append(request)


def _message(service: str, which: str) -> Any:
    module = import_module(f"opentelemetry.proto.collector.{service}.v1.{service}_service_pb2")
    return getattr(module, f"Export{service.capitalize()}Service{which}")


def _handler(sink: OtlpSink) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            service = _SERVICES.get(self.path)
            status: int = sink.answer if service is not None else 404
            if service is not None and status == 200:
                request = _message(service, "Request")()
                request.ParseFromString(body)
                sink.take(service, request, "http")
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that http.server uses
            """Print nothing."""

    return Handler


def _decoded(request: Any, protocol: str) -> Iterable[SinkSpan]:
    for batch in request.resource_spans:
        resource = _attributes(batch.resource.attributes)
        for scope in batch.scope_spans:
            for span in scope.spans:
                yield SinkSpan(
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    kind=_KINDS[int(span.kind)],
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    status=_STATUS[int(span.status.code)],
                    message=span.status.message,
                    attributes=_attributes(span.attributes),
                    links=[_link(link) for link in span.links],
                    events=[
                        SinkEvent(name=event.name, at=event.time_unix_nano, attributes=_attributes(event.attributes))
                        for event in span.events
                    ],
                    scope=scope.scope.name,
                    resource=resource,
                    protocol=protocol,
                )


def _link(link: Any) -> SinkLink:
    return SinkLink(trace_id=link.trace_id.hex(), span_id=link.span_id.hex(), attributes=_attributes(link.attributes))


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return None if kind is None else getattr(value, kind)
