"""Spans and records as lines of OTLP JSON, which collectors read too. No I/O."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import names

if TYPE_CHECKING:
    import logging

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Link, SpanContext

    from ...records import AttemptRecord

_SEVERITIES = {"DEBUG": 5, "INFO": 9, "WARNING": 13, "ERROR": 17, "CRITICAL": 21}
_NANO = 1_000_000_000


class Lines:
    """Makes the lines of one process, which all name its resource."""

    def __init__(self, resource: Resource) -> None:
        self._resource = _json({"attributes": _pairs(resource.attributes)})

    def ended(self, span: ReadableSpan) -> str:
        """Return the line of a span that has ended."""
        scope = span.instrumentation_scope
        described = _json({"name": scope.name, "version": scope.version or ""} if scope else {"name": ""})
        return (
            f'{{"resourceSpans":[{{"resource":{self._resource},"scopeSpans":[{{"scope":{described},"spans":[{_json(_span(span))}]}}]}}]}}'
        )

    def started(self, span: ReadableSpan) -> str:
        """Return the line of a span that has begun: a log record, as OTLP has no half spans."""
        facts = dict(span.attributes or {})
        if span.parent is not None:
            facts[names.PARENT_SPAN_ID] = f"{span.parent.span_id:016x}"
        context = span.get_span_context()
        return self._log(
            names.SPAN_STARTED_LOG, span.start_time or 0, span.name, facts, _ids(context.trace_id, context.span_id) if context else {}
        )

    def attempt(self, record: AttemptRecord) -> str:
        """Return the line of an attempt's record, as JSON in the body of a log record."""
        ids = {"traceId": record.trace_id, "spanId": record.span_id} if record.trace_id and record.span_id else {}
        facts = {names.RUN_ID: record.run_id, names.WORKFLOW_NAME: record.workflow}
        return self._log(names.ATTEMPT_LOG, int(record.ended_at * _NANO), _json(dataclasses.asdict(record)), facts, ids)

    def logged(self, record: logging.LogRecord, text: str) -> str:
        """Return the line of a log record that has the fields of `LogCorrelation`."""
        fields = record.__dict__
        facts = {names.RUN_ID: fields["run_id"], names.WORKFLOW_NAME: fields["workflow"], names.STEP_NAME: fields["step"]}
        ids = {"traceId": fields["trace_id"], "spanId": fields["span_id"]} if fields["trace_id"] else {}
        severity = {"severityText": record.levelname, "severityNumber": _SEVERITIES.get(record.levelname, 0)}
        return self._log("", int(record.created * _NANO), text, facts, {**ids, **severity}, scope=record.name)

    def _log(self, event: str, at: int, body: str, facts: Mapping[str, Any], more: Mapping[str, Any], scope: str = names.SCOPE) -> str:
        record = {"timeUnixNano": str(at), "body": {"stringValue": body}, "attributes": _pairs(facts), **more}
        if event:
            record["eventName"] = event
        described = _json({"name": scope})
        return f'{{"resourceLogs":[{{"resource":{self._resource},"scopeLogs":[{{"scope":{described},"logRecords":[{_json(record)}]}}]}}]}}'


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _span(span: ReadableSpan) -> dict[str, Any]:
    context = span.get_span_context()
    assert context is not None
    data: dict[str, Any] = {
        **_ids(context.trace_id, context.span_id),
        "name": span.name,
        "kind": span.kind.value + 1,  # OTLP counts from `UNSPECIFIED`
        "flags": int(context.trace_flags),
        "startTimeUnixNano": str(span.start_time or 0),
        "endTimeUnixNano": str(span.end_time or 0),
        "attributes": _pairs(span.attributes),
        "status": {"code": span.status.status_code.value},
    }
    if span.parent is not None:
        data["parentSpanId"] = f"{span.parent.span_id:016x}"
    if context.trace_state:
        data["traceState"] = context.trace_state.to_header()
    if span.status.description:
        data["status"]["message"] = span.status.description
    if span.links:
        data["links"] = [_link(link) for link in span.links]
    if span.events:
        data["events"] = [
            {"timeUnixNano": str(event.timestamp), "name": event.name, "attributes": _pairs(event.attributes)} for event in span.events
        ]
    return data


def _link(link: Link) -> dict[str, Any]:
    context: SpanContext = link.context
    return {**_ids(context.trace_id, context.span_id), "flags": int(context.trace_flags), "attributes": _pairs(link.attributes)}


def _ids(trace_id: int, span_id: int) -> dict[str, str]:
    return {"traceId": f"{trace_id:032x}", "spanId": f"{span_id:016x}"}


def _pairs(attributes: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in (attributes or {}).items()]


def _value(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case str():
            return {"stringValue": value}
        case Mapping():
            return {"kvlistValue": {"values": _pairs(value)}}  # pyright: ignore[reportUnknownArgumentType]
        case Sequence():
            return {"arrayValue": {"values": [_value(each) for each in value]}}  # pyright: ignore[reportUnknownVariableType]
        case _:
            return {"stringValue": str(value)}
