"""The language model of the examples: one small protocol, a scripted backend without a network, an OpenAI-compatible one.

The scripted one answers unless `TRACEDFLOW_LLM_BASE_URL`, `TRACEDFLOW_LLM_API_KEY` and `TRACEDFLOW_LLM_MODEL` are all set.
Every call opens a span by OpenTelemetry's GenAI conventions, under the span of the step that makes the call.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, TextIO, TypeVar

from pydantic import BaseModel

from .calls import ModelRefusedError, ModelUnavailableError, StructuredOutputError
from .flags import refuse
from .messages import Asked, Message, Prompt, ToolCall, assistant, call_of, system, tool_result, user
from .openai_compat import OpenAICompatModel
from .scripted import NoRuleError, Rule, ScriptedModel

__all__ = [
    "Asked",
    "Message",
    "Model",
    "ModelRefusedError",
    "ModelUnavailableError",
    "NoRuleError",
    "OpenAICompatModel",
    "Prompt",
    "Rule",
    "ScriptedModel",
    "StructuredOutputError",
    "ToolCall",
    "assistant",
    "call_of",
    "choose_model",
    "introduce",
    "system",
    "tool_result",
    "user",
]

BASE_URL, API_KEY, MODEL = "TRACEDFLOW_LLM_BASE_URL", "TRACEDFLOW_LLM_API_KEY", "TRACEDFLOW_LLM_MODEL"

Schema = TypeVar("Schema", bound=BaseModel)


class Model(Protocol):
    """Whatever answers. `name` is what spans call it, `description` what a reader is told; `prompt_name` says which prompt it is."""

    name: str
    description: str

    async def complete(self, prompt: Prompt, *, prompt_name: str = "") -> str: ...

    def stream(self, prompt: Prompt, *, prompt_name: str = "") -> AsyncIterator[str]: ...

    async def structured(self, schema: type[Schema], prompt: Prompt, *, prompt_name: str = "") -> Schema: ...

    async def chat(
        self,
        messages: Prompt,
        tools: Sequence[dict[str, Any]] = (),
        *,
        prompt_name: str = "",
        on_text: Callable[[str], None] | None = None,
    ) -> Message: ...

    async def embed(self, texts: Sequence[str], *, prompt_name: str = "") -> list[list[float]]: ...


def choose_model(environment: Mapping[str, str] = os.environ, name: str | None = None) -> Model:
    """Return the model that the three variables name, and the scripted one unless all three are set.

    `name` stands for the third variable; `"scripted"` is the scripted one whatever is set. Nothing else is looked at: an
    `OPENAI_API_KEY` that happens to be there sends nothing anywhere.
    """
    if name == ScriptedModel.name:
        return ScriptedModel()
    settings = [environment.get(BASE_URL, ""), environment.get(API_KEY, ""), name or environment.get(MODEL, "")]
    if all(settings):
        return OpenAICompatModel(*settings)
    if name is not None:
        refuse(f"--model {name} needs {BASE_URL} and {API_KEY} in the environment: where is it, and who asks?")
    return ScriptedModel()


def introduce(model: Model, file: TextIO | None = None) -> None:
    """Say which model answers; end the program with one sentence if it cannot."""
    if isinstance(model, OpenAICompatModel):
        try:
            import_module("openai")  # here, as it takes half a second, and in a step that would stop the event loop
        except ImportError:
            refuse(
                f"The model {model.name} needs the package `openai`, which is not installed: {sys.executable} -m pip install openai. "
                f"Or take the scripted one: --model scripted."
            )
    print(f"Model: {model.description}", flush=True, file=file or sys.stdout)
