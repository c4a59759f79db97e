"""The page docs/examples.md: each example with what it shows, how it is run, and the graph of its workflows.

`python -m examples --gallery` writes it; tests/examples/test_gallery.py holds it to the examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tracedflow import Workflow, draw_all_possible_flows_mermaid

PAGE = Path(__file__).parents[2] / "docs" / "examples.md"
FIRST = ("joke_flow", "folder_digest", "demo")
GUIDES = (
    "customizing_entry_exit_points",
    "managing_events",
    "managing_state",
    "resources",
    "retry_steps",
    "stepwise",
    "drawing",
    "deployment",
)

HEAD = """\
# Examples

Each is one file to read and a program to run, offline and in a few seconds: `python -m examples` lists them. What a program does
goes to stderr, its result alone to stdout. A scripted model answers, from the messages alone; any OpenAI-compatible server takes its
place if `TRACEDFLOW_LLM_BASE_URL`, `TRACEDFLOW_LLM_API_KEY` and `TRACEDFLOW_LLM_MODEL` are set. The data is that of an invented town, so
that no model knows an answer by heart.

All but `demo` take `--draw FILE` (the last run as .html, .svg or .mmd), `--trace FILE` (OTLP-JSON lines; `tracedflow show FILE`, with
the extra `cli`, reads them), `--metrics-port N`, `--verbose`, `--data DIR` and, where a model is asked, `--model NAME`.

The graphs are drawn from the workflows themselves; `python -m examples --gallery` writes this page anew.
"""


def page(examples: Mapping[str, str]) -> str:
    """Return the page, from the names of the examples and the first lines of their docstrings."""
    others = [name for name in examples if name not in FIRST + GUIDES]
    parts = [HEAD]
    for title, names in (("To begin with", FIRST), ("One idea each", GUIDES), ("Whole programs", others)):
        parts.append(f"## {title}\n")
        parts += [_entry(name, examples[name]) for name in names if name in examples]
    return "\n".join(parts)


def _entry(name: str, shows: str) -> str:
    module = import_module(f"examples.{name}")
    how = re.search(rf"`(python -m examples\.{name}\b[^`]*)`", module.__doc__ or "")
    command = " ".join(how[1].split()) if how else f"python -m examples.{name}"
    lines = [f"### {name}\n", f"{shows}\n", f"`{command}` · [source](../examples/{name}.py)\n"]
    graphs = list(_graphs(module))
    for title, graph in graphs:
        lines += [f"{title}:\n"] * (len(graphs) > 1)
        lines.append(f"```mermaid\n{graph}\n```\n")
    return "\n".join(lines)


def _graphs(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Yield the name and the Mermaid text of each workflow that a module defines, variants with the same graph once.

    A module without one shows the picture of its docstring, if it has one.
    """
    drawn: set[frozenset[str]] = set()  # lines, as an overridden step changes their order
    for name, value in vars(module).items():
        if _is_own_workflow(value, module):
            graph = draw_all_possible_flows_mermaid(value, filename=None).strip()
            if (lines := frozenset(graph.splitlines())) not in drawn:
                yield f"`{name}`", graph
            drawn.add(lines)
    if not drawn and (picture := re.search(r"^```mermaid\n(.*?)\n```$", module.__doc__ or "", re.MULTILINE | re.DOTALL)):
        yield module.__name__, picture[1]


def _is_own_workflow(value: Any, module: ModuleType) -> bool:
    if isinstance(value, type):
        return issubclass(value, Workflow) and value.__module__ == module.__name__
    return isinstance(value, Workflow) and value.workflow_name == module.__name__  # free functions attached to an instance


def write(examples: Mapping[str, str]) -> Path:
    PAGE.write_text(page(examples), encoding="utf-8")
    return PAGE
