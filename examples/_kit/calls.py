"""The calls of a model that are the same for every backend: a backend gives pieces and a reply, the rest is here."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .genai import model_span, tell_reply
from .messages import Asked, Message, Prompt, Reply, Wanted, as_messages, assistant, user

Schema = TypeVar("Schema", bound=BaseModel)

ONLY_JSON = "\n\nAnswer with one JSON value and nothing else. It has to fit this JSON schema:\n{schema}"
REPAIR = "This answer cannot be used: {problem}\nGive the whole answer again, as one JSON value and nothing else."


class StructuredOutputError(Exception):
    """A model's answer was no JSON of the schema, also after it was told why."""

    def __init__(self, schema: str, prompt_name: str, problem: str, answer: str) -> None:
        super().__init__(f"the answer to prompt {prompt_name!r} is no {schema}, also after one repair: {problem}")
        self.answer = answer


class ModelUnavailableError(ConnectionError):
    """A model did not answer, and may do so later: it was not reached, is busy, or broke off. What retry policies wait for.

    `status` is that of the HTTP answer, if there was one; `retry_after` the seconds it asks to wait, if it does.
    """

    def __init__(self, problem: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(problem)
        self.status, self.retry_after = status, retry_after


class ModelRefusedError(Exception):
    """A server does not answer, and will not later either: the key is wrong, it has no such model, it does not speak the protocol."""

    def __init__(self, problem: str, status: int | None = None) -> None:
        super().__init__(problem)
        self.status = status


class NoSchemaSupportError(Exception):
    """A server does not take a JSON schema; a prompt has to ask for it."""


class ModelCalls(ABC):
    """A backend implements `_reply` and `_vectors`."""

    name: str
    description: str
    provider: str
    address: str | None = None
    takes_schemas = True

    @abstractmethod
    def _reply(self, asked: Asked, wanted: Wanted) -> AsyncIterator[str | Reply]:
        """Give the pieces of the text if a stream is wanted, and at last the reply."""

    @abstractmethod
    async def _vectors(self, texts: Sequence[str]) -> list[list[float]]: ...

    async def complete(self, prompt: Prompt, *, prompt_name: str = "") -> str:
        return (await self._chat(Asked(as_messages(prompt), (), prompt_name), Wanted())).content

    async def chat(
        self,
        messages: Prompt,
        tools: Sequence[dict[str, Any]] = (),
        *,
        prompt_name: str = "",
        on_text: Callable[[str], None] | None = None,
    ) -> Message:
        return await self._chat(Asked(as_messages(messages), tools, prompt_name), Wanted(stream=on_text is not None), on_text)

    async def stream(self, prompt: Prompt, *, prompt_name: str = "") -> AsyncIterator[str]:
        asked = Asked(as_messages(prompt), (), prompt_name)
        with model_span("chat", self.provider, self.name, self.address, prompt_name) as span:
            async with aclosing(self._reply(asked, Wanted(stream=True))) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    if isinstance(piece, Reply):
                        tell_reply(span, piece)
                    else:
                        yield piece

    async def structured(self, schema: type[Schema], prompt: Prompt, *, prompt_name: str = "") -> Schema:
        """Return the answer as an instance of `schema`.

        Raises:
            StructuredOutputError: the second answer does not fit either.
        """
        messages = as_messages(prompt)
        answer = await self._json(messages, schema, prompt_name)
        try:
            return schema.model_validate(json_in(answer))
        except (ValueError, ValidationError) as error:
            again = [*messages, assistant(answer), user(REPAIR.format(problem=error))]
        answer = await self._json(again, schema, prompt_name)
        try:
            return schema.model_validate(json_in(answer))
        except (ValueError, ValidationError) as error:
            raise StructuredOutputError(schema.__name__, prompt_name, str(error), answer) from error

    async def embed(self, texts: Sequence[str], *, prompt_name: str = "") -> list[list[float]]:
        with model_span("embeddings", self.provider, self.name, self.address, prompt_name) as span:
            vectors = await self._vectors(texts)
            if vectors:
                span.set_attribute("gen_ai.embeddings.dimension.count", len(vectors[0]))
            return vectors

    async def _json(self, messages: list[Message], schema: type[BaseModel], prompt_name: str) -> str:
        """Ask with the schema as a parameter; from a server that does not know it, ask by the prompt, now and ever after."""
        shape = schema.model_json_schema()
        if self.takes_schemas:
            try:
                wanted = Wanted(schema=shape, schema_name=schema.__name__)
                return (await self._chat(Asked(messages, (), prompt_name), wanted)).content
            except NoSchemaSupportError:
                self.takes_schemas = False
        last = messages[-1].model_copy(update={"content": messages[-1].content + ONLY_JSON.format(schema=json.dumps(shape))})
        return (await self._chat(Asked([*messages[:-1], last], (), prompt_name), Wanted())).content

    async def _chat(self, asked: Asked, wanted: Wanted, on_text: Callable[[str], None] | None = None) -> Message:
        with model_span("chat", self.provider, self.name, self.address, asked.prompt_name) as span:
            if wanted.schema is not None:
                span.set_attribute("gen_ai.output.type", "json")
            async for piece in self._reply(asked, wanted):
                if isinstance(piece, Reply):
                    tell_reply(span, piece)
                    return piece.message
                if on_text is not None:
                    on_text(piece)
        raise RuntimeError(f"{self.name} ended without a reply to prompt {asked.prompt_name!r}")


def json_in(text: str) -> Any:
    """Return the JSON value in an answer, which may stand in a fence or in prose.

    Raises:
        ValueError: there is none.
    """
    try:
        return json.loads(text)
    except ValueError:
        starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
        if not starts:
            raise
        return json.JSONDecoder().raw_decode(text[min(starts) :])[0]
