"""Any server with an OpenAI-style `/chat/completions` and `/embeddings`. Needs the package `openai`, imported when it is used."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .calls import ModelCalls, ModelRefusedError, ModelUnavailableError, NoSchemaSupportError
from .messages import Asked, Message, Reply, ToolCall, Wanted

if TYPE_CHECKING:
    from openai import AsyncOpenAI

PROMPT_HEADER = "x-prompt-name"  # which prompt it is; servers ignore it, but for the scripted one


class OpenAICompatModel(ModelCalls):
    """It does not retry by itself: retries are the retry policy's, where the trace shows them."""

    provider = "openai"
    timeout = 120.0  # seconds without a sign of the server; the client's own 600 outlast every run

    def __init__(self, base_url: str, api_key: str, model: str) -> None:
        self.name = model
        self.description = f"{model} at {base_url}"
        self.address = urlsplit(base_url).hostname
        self._base_url, self._api_key = base_url, api_key

    def _client(self) -> AsyncOpenAI:
        """Return a client for one call: a client belongs to one event loop, and an example may use several."""
        from openai import AsyncOpenAI  # an optional extra

        return AsyncOpenAI(base_url=self._base_url, api_key=self._api_key, timeout=self.timeout, max_retries=0)

    async def _reply(self, asked: Asked, wanted: Wanted) -> AsyncIterator[str | Reply]:
        async with self._client() as client, _named_errors(self.description):
            request = self._request(asked, wanted)
            if wanted.stream:
                parts = _Parts(self.name)
                async for chunk in await client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}):
                    if text := parts.take(chunk):
                        yield text
                yield parts.reply()
            else:
                answer = await self._whole(client, request, wanted)
                if not getattr(answer, "choices", None):  # a text, if it was a page; or JSON of another kind
                    raise ModelRefusedError(f"{self.description} {NO_ANSWER}")
                yield _reply_of(answer)

    async def _whole(self, client: AsyncOpenAI, request: dict[str, Any], wanted: Wanted) -> Any:
        from openai import BadRequestError, UnprocessableEntityError

        try:
            return await client.chat.completions.create(**request)
        except (BadRequestError, UnprocessableEntityError) as error:
            if wanted.schema is None:
                raise
            raise NoSchemaSupportError from error

    def _request(self, asked: Asked, wanted: Wanted) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.name,
            "messages": [_on_the_wire(message) for message in asked.messages],
            "extra_headers": {PROMPT_HEADER: asked.prompt_name},
        }
        if asked.tools:
            request["tools"] = list(asked.tools)
        if wanted.schema is not None:
            request["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": wanted.schema_name, "schema": wanted.schema},
            }
        return request

    async def _vectors(self, texts: Sequence[str]) -> list[list[float]]:
        async with self._client() as client, _named_errors(self.description):
            # As numbers: the client asks for base64 by default, which not every server knows.
            answer = await client.embeddings.create(model=self.name, input=list(texts), encoding_format="float")
        return [item.embedding for item in answer.data]


@asynccontextmanager
async def _named_errors(place: str) -> AsyncIterator[None]:
    """Turn the package's errors into two that do not need it: one that a later attempt may mend, and one that says what to mend first."""
    from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

    try:
        yield
    except APIStatusError as error:
        if error.status_code not in (408, 409, 429) and error.status_code < 500:
            raise ModelRefusedError(f"{place} refused with status {error.status_code}: {_reason(error)}", error.status_code) from error
        seconds = error.response.headers.get("retry-after", "")
        wait = float(seconds) if re.fullmatch(r"\d+(\.\d+)?", seconds) else None
        later = f", and asks to wait {wait:g} s" if wait else ""
        raise ModelUnavailableError(f"{place} answered with status {error.status_code}{later}", error.status_code, wait) from error
    except APITimeoutError as error:
        raise ModelUnavailableError(f"{place} did not answer in time") from error
    except APIConnectionError as error:
        raise ModelUnavailableError(f"{place} cannot be reached, or broke off") from error
    except APIError as error:  # within a stream that began well
        raise ModelUnavailableError(f"{place} broke off: {error.message}") from error
    except json.JSONDecodeError as error:
        raise ModelRefusedError(f"{place} {NO_ANSWER}") from error


NO_ANSWER = "sent what is no answer of a model. Is that the base URL of an OpenAI-style server? It often ends in /v1"


def _reason(error: Any) -> str:
    """Return what a server says of its refusal: its own words if it has any, and no page of HTML."""
    told = error.body.get("message") if isinstance(error.body, dict) else None
    return str(told or error.response.reason_phrase)


def _on_the_wire(message: Message) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        wire["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    return wire


def _reply_of(answer: Any) -> Reply:
    choice, usage = answer.choices[0], answer.usage
    calls = [ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments) for call in choice.message.tool_calls or ()]
    return Reply(
        Message(role="assistant", content=choice.message.content or "", tool_calls=calls),
        answer.model,
        usage.prompt_tokens if usage else None,
        usage.completion_tokens if usage else None,
        choice.finish_reason or "stop",
    )


class _Parts:
    """Puts the chunks of a stream together: text in pieces, and calls of tools whose arguments come in pieces too."""

    def __init__(self, model: str) -> None:
        self._is_empty = True
        self._text: list[str] = []
        self._calls: dict[int, ToolCall] = {}
        self._reply = Reply(Message(role="assistant"), model, finish_reason="")

    def take(self, chunk: Any) -> str:
        """Return the text in a chunk, which may be none."""
        self._is_empty = False
        if chunk.model:
            self._reply.model = chunk.model
        if chunk.usage is not None:
            self._reply.input_tokens, self._reply.output_tokens = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        self._reply.finish_reason = choice.finish_reason or self._reply.finish_reason
        for piece in choice.delta.tool_calls or ():
            call = self._calls.setdefault(piece.index, ToolCall(id="", name="", arguments=""))
            call.id = piece.id or call.id
            call.name += (piece.function and piece.function.name) or ""
            call.arguments += (piece.function and piece.function.arguments) or ""
        text = choice.delta.content or ""
        self._text.append(text)
        return text

    def reply(self) -> Reply:
        if self._is_empty:
            raise ModelRefusedError(f"{self._reply.model} {NO_ANSWER}")
        if not self._reply.finish_reason:
            raise ModelUnavailableError(f"the stream of {self._reply.model} ended in the middle of its answer")
        self._reply.message = Message(
            role="assistant", content="".join(self._text), tool_calls=[self._calls[at] for at in sorted(self._calls)]
        )
        return self._reply
