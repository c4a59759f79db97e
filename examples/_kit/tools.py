"""Tools that a model may call: a function, described by its signature and its docstring, called with JSON."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from .retrieve import HybridIndex, read_file, read_folder


class ToolError(Exception):
    """A tool does not exist, was called with wrong arguments, or raised; the text is for the model."""


class Tool:
    """A function, sync or async, as a tool. Its name, its docstring and its annotations are what a model is told."""

    def __init__(self, function: Callable[..., Any], name: str | None = None, description: str | None = None) -> None:
        self.function = function
        self.name = name or function.__name__
        self.description = description or inspect.getdoc(function) or ""
        self._arguments = _model_of(function)

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments."""
        schema = self._arguments.model_json_schema()
        schema.pop("title", None)
        for each in schema.get("properties", {}).values():
            each.pop("title", None)
        return schema

    @property
    def spec(self) -> dict[str, Any]:
        """What goes to a model: `model.chat(messages, [tool.spec])`."""
        return {"type": "function", "function": {"name": self.name, "description": self.description, "parameters": self.schema}}

    async def call(self, arguments: str) -> str:
        """Call the function with arguments as JSON text and return its result as text.

        Raises:
            ToolError: the arguments do not fit, or the function raised.
        """
        try:
            checked = self._arguments.model_validate_json(arguments or "{}")
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'arguments'}: {each['msg']}" for each in error.errors())
            raise ToolError(f"{self.name} cannot be called with {arguments}: {problems}") from error
        given = {name: getattr(checked, name) for name in type(checked).model_fields}
        try:
            if inspect.iscoroutinefunction(self.function):
                return str(await self.function(**given))
            return str(await asyncio.to_thread(self.function, **given))
        except ToolError:
            raise
        except Exception as error:
            raise ToolError(f"{self.name} failed: {type(error).__name__}: {error}") from error


def tool_named(tools: Sequence[Tool], name: str) -> Tool:
    """Return the tool of a name.

    Raises:
        ToolError: there is none.
    """
    for tool in tools:
        if tool.name == name:
            return tool
    raise ToolError(f"there is no tool {name!r}; there are {', '.join(tool.name for tool in tools) or 'none'}")


def _model_of(function: Callable[..., Any]) -> type[BaseModel]:
    hints = get_type_hints(function)
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
    }
    return create_model(function.__name__, __config__=ConfigDict(extra="forbid"), **fields)


def handbook_tools(data: Path, passages: int = 3) -> list[Tool]:
    """Return the tools of the agents: two for sums, one that looks into the handbook of the town."""
    index = HybridIndex(read_folder(data / "handbook"))

    def add(a: int, b: int) -> int:
        """Add two whole numbers."""
        return a + b

    def multiply(a: int, b: int) -> int:
        """Multiply two whole numbers."""
        return a * b

    def lookup(question: str) -> str:
        """Look up what the handbook of the town of Karrow says about a question."""
        return _found(index, question, passages)

    return [Tool(add), Tool(multiply), Tool(lookup)]


def budget_tools(data: Path, passages: int = 3) -> list[Tool]:
    """Return a tool for each budget book of the town: it finds passages in the book of its year and in no other."""
    return [_book_tool(path, passages) for path in sorted((data / "budgets").glob("*.md"))]


def _book_tool(path: Path, passages: int) -> Tool:
    index = HybridIndex(read_file(path))

    def search(query: str) -> str:
        return _found(index, query, passages)

    return Tool(search, f"budget_{path.stem}", f"What the budget book of the year {path.stem} says.")


def _found(index: HybridIndex, question: str, passages: int) -> str:
    found = [hit.chunk for hit in index.search(question, passages)]
    return "\n".join(f'<passage title="{chunk.title}">\n{chunk.text}\n</passage>' for chunk in found) or "Nothing was found."
