"""The rules of the scripted model behind a loopback server that speaks as OpenAI's does: for tests of the real client, and of faults.

`python -m examples._kit.scripted_server` serves until Ctrl-C, for trying the examples against "a server".
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, TypeAlias

from .messages import Asked, Message, ToolCall
from .retrieve import hash_vector
from .scripted import Rule, answer_by_rule, in_pieces, tokens_of

Fault: TypeAlias = Literal["401", "429", "500", "slow", "drop", "garbled", "page"]
"""One request fails: with a status, by taking `slowness` seconds, by a connection that ends in the middle of the answer, by JSON that
is none, or by a page of HTML."""

MODEL = "scripted-over-http"


class ScriptedServer:
    """A server on a free port of the loopback interface, from `__enter__` to `__exit__`.

    Args:
        rules: as `ScriptedModel` takes them.
        faults: what goes wrong with the first requests, one after the other; None is a request that goes well.
        takes_schemas: False refuses `response_format`, as some servers do.
        slowness: seconds of a slow answer.
        retry_after: what the header of that name says with a status 429 or 500, in seconds.
    """

    def __init__(
        self,
        rules: Mapping[str, Rule] | None = None,
        *,
        faults: Sequence[Fault | None] = (),
        takes_schemas: bool = True,
        slowness: float = 5.0,
        retry_after: float = 0,
        port: int = 0,
    ) -> None:
        self.rules = rules or {}
        self.takes_schemas, self.slowness, self.retry_after = takes_schemas, slowness, retry_after
        self.requests: list[dict[str, Any]] = []  # every body that was sent, with its `path` and `prompt_name`
        self.ending = threading.Event()
        self._faults = iter(list(faults))
        self._lock = threading.Lock()
        self._http = _Http(("127.0.0.1", port), _Handler)
        self._http.script = self
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, name="scripted-server", daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    @property
    def environment(self) -> dict[str, str]:
        """The three variables that make an example use this server."""
        return {"TRACEDFLOW_LLM_BASE_URL": self.url, "TRACEDFLOW_LLM_API_KEY": "none-needed", "TRACEDFLOW_LLM_MODEL": MODEL}

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.ending.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def took(self, request: dict[str, Any]) -> Fault | None:
        """Keep a request; return what goes wrong with it."""
        with self._lock:
            self.requests.append(request)
            return next(self._faults, None)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    script: ScriptedServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that left: that is what several tests are about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        prompt_name = self.headers.get("x-prompt-name", "")
        fault = self.server.script.took({**body, "path": self.path, "prompt_name": prompt_name})
        if fault in ("401", "429", "500"):
            later = {"retry-after": f"{self.server.script.retry_after:g}"} if fault != "401" else {}
            self._json(int(fault), {"error": {"message": f"planted: {fault}", "type": "planted"}}, later)
            return
        if fault in ("garbled", "page"):
            kind, data = ("application/json", b'{"choices": [') if fault == "garbled" else ("text/html", b"<h1>Welcome</h1>")
            self._send(200, kind, data)
            return
        if fault == "slow":
            self.server.script.ending.wait(self.server.script.slowness)
        try:
            answer = self._answer(body, prompt_name, drops=fault == "drop")
        except LookupError as error:
            self._json(404, {"error": {"message": str(error), "type": "no_rule"}})
            return
        if answer is not None:
            self._json(200 if "error" not in answer else 400, answer)

    def _answer(self, body: dict[str, Any], prompt_name: str, *, drops: bool) -> dict[str, Any] | None:
        """Return the answer, or None if it is sent already."""
        if self.path.endswith("/embeddings"):
            texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
            data = [{"object": "embedding", "index": at, "embedding": hash_vector(text)} for at, text in enumerate(texts)]
            return {"object": "list", "model": body["model"], "data": data, "usage": {"prompt_tokens": 0, "total_tokens": 0}}
        if "response_format" in body and not self.server.script.takes_schemas:
            return {"error": {"message": "response_format is not supported", "type": "invalid_request_error"}}
        asked = Asked([_from_wire(message) for message in body["messages"]], body.get("tools") or (), prompt_name)
        message = answer_by_rule(asked, self.server.script.rules)
        if body.get("stream"):
            self._stream(_chunks(message, asked, body["model"]), drops=drops)
            return None
        if drops:
            self.close_connection = True
            return None
        return _completion(message, asked, body["model"])

    def _json(self, status: int, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
        self._send(status, "application/json", json.dumps(body).encode(), headers)

    def _send(self, status: int, kind: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, chunks: Iterable[dict[str, Any]], *, drops: bool) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number, chunk in enumerate(chunks):
            if drops and number == 2:  # after some text: the client must not take it for the whole
                self.close_connection = True
                return
            self._piece(f"data: {json.dumps(chunk)}\n\n")
            time.sleep(0.001)  # lets the client read it before the next, so that it sees more than one
        self._piece("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _piece(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


def _from_wire(wire: dict[str, Any]) -> Message:
    calls = [ToolCall(id=call["id"], **call["function"]) for call in wire.get("tool_calls") or ()]
    return Message(role=wire["role"], content=wire.get("content") or "", tool_calls=calls, tool_call_id=wire.get("tool_call_id"))


def _usage(message: Message, asked: Asked) -> dict[str, int]:
    sent, got = tokens_of(asked.messages), tokens_of([message])
    return {"prompt_tokens": sent, "completion_tokens": got, "total_tokens": sent + got}


def _completion(message: Message, asked: Asked, model: str) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": "assistant", "content": message.content or None}
    if message.tool_calls:
        wire["tool_calls"] = [_call_on_the_wire(call) for call in message.tool_calls]
    choice = {"index": 0, "message": wire, "finish_reason": "tool_calls" if message.tool_calls else "stop", "logprobs": None}
    head = {"id": "scripted", "object": "chat.completion", "created": 0, "model": model}
    return {**head, "choices": [choice], "usage": _usage(message, asked)}


def _call_on_the_wire(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _chunks(message: Message, asked: Asked, model: str) -> Iterator[dict[str, Any]]:
    """Give the pieces of an answer: text by words, the arguments of a call in pieces of a few letters, at last the count of tokens."""
    head = {"id": "scripted", "object": "chat.completion.chunk", "created": 0, "model": model}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": None}

    yield chunk({"role": "assistant", "content": ""})
    for piece in in_pieces(message.content):
        yield chunk({"content": piece})
    for at, call in enumerate(message.tool_calls):
        first = _call_on_the_wire(call.model_copy(update={"arguments": ""}))
        yield chunk({"tool_calls": [{"index": at, **first}]})
        for start in range(0, len(call.arguments), 7):
            yield chunk({"tool_calls": [{"index": at, "function": {"arguments": call.arguments[start : start + 7]}}]})
    yield chunk({}, "tool_calls" if message.tool_calls else "stop")
    yield {**head, "choices": [], "usage": _usage(message, asked)}


def main() -> None:
    with ScriptedServer() as server:
        print("\n".join(f"export {name}={value}" for name, value in server.environment.items()), flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
