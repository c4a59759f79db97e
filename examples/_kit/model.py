"""The language model of the examples: one small protocol, a scripted backend without a network, an OpenAI-compatible one.

The scripted one answers unless `TRACEDFLOW_LLM_BASE_URL`, `TRACEDFLOW_LLM_API_KEY` and `TRACEDFLOW_LLM_MODEL` are all set.
Every call opens a span by OpenTelemetry's GenAI conventions, under the span of the step that makes the call.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from importlib import import_module
from typing import Protocol
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

BASE_URL, API_KEY, MODEL = "TRACEDFLOW_LLM_BASE_URL", "TRACEDFLOW_LLM_API_KEY", "TRACEDFLOW_LLM_MODEL"


class Model(Protocol):
    """Whatever answers a prompt. `name` is what spans call it, `description` what a reader is told."""

    name: str
    description: str

    async def complete(self, prompt: str) -> str: ...


def choose_model(environment: Mapping[str, str] = os.environ) -> Model:
    """Return the model that the three variables name, and the scripted one unless all three are set."""
    settings = [environment.get(name, "") for name in (BASE_URL, API_KEY, MODEL)]
    return OpenAICompatibleModel(*settings) if all(settings) else ScriptedModel()


def introduce(model: Model) -> None:
    """Say which model answers; end the program with one sentence if it cannot."""
    if isinstance(model, OpenAICompatibleModel):
        try:
            import_module("openai")  # here, as it takes half a second, and in a step that would stop the event loop
        except ImportError:
            sys.exit(
                f"{MODEL} asks for {model.name}, but the package `openai` is not installed. Install it, "
                f"`pip install openai`, or unset {BASE_URL} for the scripted model."
            )
    print(f"Model: {model.description}", flush=True)


@contextmanager
def chat_span(provider: str, model: str, address: str | None = None) -> Iterator[Span]:
    """Open the span of one model call; an error marks it by its type, as its text may repeat the prompt."""
    facts = {"gen_ai.operation.name": "chat", "gen_ai.request.model": model, "gen_ai.provider.name": provider}
    if address is not None:
        facts["server.address"] = address
    with trace.get_tracer("tracedflow.examples").start_as_current_span(
        f"chat {model}", kind=SpanKind.CLIENT, attributes=facts, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except Exception as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR))
            raise


class OpenAICompatibleModel:
    """Any server with an OpenAI-style `/chat/completions`. Needs the package `openai`, which is imported when it is used."""

    def __init__(self, base_url: str, api_key: str, model: str) -> None:
        self.name = model
        self.description = f"{model} at {base_url}"
        self._base_url, self._api_key = base_url, api_key

    async def complete(self, prompt: str) -> str:
        from openai import AsyncOpenAI  # an optional extra

        with chat_span("openai", self.name, urlsplit(self._base_url).hostname) as span:
            # A client for each call: it belongs to one event loop, and an example may use several.
            async with AsyncOpenAI(base_url=self._base_url, api_key=self._api_key) as client:
                answer = await client.chat.completions.create(model=self.name, messages=[{"role": "user", "content": prompt}])
            span.set_attribute("gen_ai.response.model", answer.model)
            if answer.usage is not None:
                span.set_attribute("gen_ai.usage.input_tokens", answer.usage.prompt_tokens)
                span.set_attribute("gen_ai.usage.output_tokens", answer.usage.completion_tokens)
            return answer.choices[0].message.content or ""


class ScriptedModel:
    """Answers from the text of the prompt alone: the same prompt gets the same answer, on every machine.

    It takes its time, a little for each word of the answer, so that a trace looks like that of a model.
    """

    name = "scripted"
    description = f"scripted, offline (set {BASE_URL}, {API_KEY} and {MODEL} for a real one)"
    seconds_per_word = 0.003

    async def complete(self, prompt: str) -> str:
        with chat_span("scripted", self.name):
            answer = _answer(prompt)
            await asyncio.sleep(self.seconds_per_word * len(answer.split()))
            return answer


def _answer(prompt: str) -> str:
    if found := re.search(r"\bjoke about (.+?)\.?$", prompt, re.DOTALL):
        return _joke(found[1].strip())
    if found := re.search(r"\bfollowing joke: (.+)", prompt, re.DOTALL):
        return _critique(found[1].strip())
    return f"The scripted model has no rule for a prompt of {len(prompt.split())} words that begins with {prompt[:40]!r}."


_JOKES = {
    "pirate": "Why do pirates make poor bookkeepers? They bury the balance.",
    "cat": "Why did the cat get the night shift? It had already slept through the day one.",
    "compiler": "Why did the compiler leave the party early? Nobody there had declared anything.",
    "event loop": "How many event loops does it take to change a light bulb? Await.",
}
_PATTERNS = (
    "Why did {topic} refuse to be in this joke? The rehearsals clashed with the punchline.",
    "I bought a book about {topic}. The first chapter was an apology for the second.",
    "What do {topic} and my diet have in common? Both were announced on Monday and missing on Tuesday.",
    "My doctor told me to think less about {topic}. Now I think about {topic} in Latin.",
)


def _joke(topic: str) -> str:
    for known, joke in _JOKES.items():
        if known in topic.lower():
            return joke
    return _PATTERNS[sha256(topic.encode()).digest()[0] % len(_PATTERNS)].format(topic=topic)


def _critique(joke: str) -> str:
    setup, punchline = _halves(joke)
    words = re.findall(r"[\w']+", joke.lower())
    repeated = [word for word, count in Counter(words).items() if count > 1 and len(word) > 4]
    form = "a question and its answer" if "?" in joke else "a statement and its turn"
    share = len(punchline) / max(1, len(setup) + len(punchline))
    length = "short, as it should be" if share < 0.45 else "as long as what it answers, so trim it"
    echo = f"It says {repeated[0]!r} more than once, and the echo carries the turn. " if repeated else "No word of weight comes twice. "
    ending = punchline[-1].strip(".!?'\"") if punchline else "nothing"
    score = max(1, round(10 - 12 * abs(share - 0.35) - len(words) / 20))
    return (
        f'"{joke}" is {form}: '
        f"{len(setup)} words of setup, {len(punchline)} of punchline. The punchline is {length}. "
        f"{echo}It ends on {ending!r}, where the laugh has to be. Verdict: {score} of 10."
    )


def _halves(joke: str) -> tuple[list[str], list[str]]:
    """Return the words of the setup and of the punchline: what stands after the last sentence but one."""
    sentences = re.split(r"(?<=[.?!])\s+", joke)
    return " ".join(sentences[:-1]).split(), sentences[-1].split()
