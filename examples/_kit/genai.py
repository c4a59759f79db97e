"""The span of one model call, by OpenTelemetry's GenAI conventions (semantic conventions 1.37 and later).

https://opentelemetry.io/docs/specs/semconv/gen-ai/. Texts are not recorded: they may hold anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from .messages import Reply


@contextmanager
def model_span(operation: str, provider: str, model: str, address: str | None = None, prompt_name: str = "") -> Iterator[Span]:
    """Open a span below the current one; an error marks it by its type, as its text may repeat the prompt.

    It is not made the current span: a stream is a generator, and a context must not stay attached across its `yield`.
    """
    facts = {"gen_ai.operation.name": operation, "gen_ai.request.model": model, "gen_ai.provider.name": provider}
    if address is not None:
        facts["server.address"] = address
    if prompt_name:
        facts["gen_ai.prompt.name"] = prompt_name
    span = trace.get_tracer("tracedflow.examples").start_span(f"{operation} {model}", kind=SpanKind.CLIENT, attributes=facts)
    try:
        yield span
    except Exception as error:
        span.set_attribute("error.type", str(getattr(error, "status", None) or type(error).__qualname__))
        span.set_status(Status(StatusCode.ERROR))
        raise
    finally:
        span.end()


def tell_reply(span: Span, reply: Reply) -> None:
    span.set_attribute("gen_ai.response.model", reply.model)
    span.set_attribute("gen_ai.response.finish_reasons", [reply.finish_reason])
    if reply.input_tokens is not None:
        span.set_attribute("gen_ai.usage.input_tokens", reply.input_tokens)
    if reply.output_tokens is not None:
        span.set_attribute("gen_ai.usage.output_tokens", reply.output_tokens)
