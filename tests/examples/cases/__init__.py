"""What each example is asked, and how its answer is known without it: one module for each example, with a `CASE`.

`tests/examples/test_every_example.py` holds all of them to the same rules. To add an example, add `cases/<name>.py`:

    CASE = Case(
        steps=("retrieve", "synthesize"),
        asks=[
            Ask(
                "How many steps does the lighthouse have?",
                truth=found("handbook/lighthouse.md", r"has (\\d+) steps"),
                edit=changed("handbook/lighthouse.md", r"has (\\d+) steps", "9041"),
                remove=removed("handbook/lighthouse.md"),
            )
        ],
        calls={"rag.answer": "synthesize"},
    )

A truth is computed from the data, by other means than the example's, and stands nowhere in the sources of the examples: of
a small number, take the words around it too, as in r"ferry (costs \\d+ marks)".
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from examples._kit.cli import CORPUS, NotFoundError, Play, Stage, as_text
from examples._kit.model import Model

Truth = Callable[[Path], str]
Change = Callable[[Path], None]


@dataclass(frozen=True)
class Ask:
    """A question, and what its answer has to hold: text that is computed from a folder of data."""

    question: str
    truth: Truth
    edit: Change | None = None  # changes one fact in a copy of the data: the answer has to follow
    remove: Change | None = None  # takes the fact away: the answer has to be that there is none
    arguments: Mapping[str, Any] = field(default_factory=dict)  # flags of the example's own


@dataclass(frozen=True)
class Case:
    steps: Sequence[str]  # the steps that run for the first question, each once, in the order in which they first start
    asks: Sequence[Ask]
    calls: Mapping[str, str] = field(default_factory=dict)  # prompt name -> the step that asks it
    play: Play | None = None  # in place of the module's own `play`
    missing: type[Exception] = NotFoundError  # what is raised where the fact was removed
    survives_broken_model: bool = False  # an example that is about answers without a model
    needs_model: bool = True
    program: Sequence[str] = ()  # the command line of the program in the tests, where the default takes long
    longest: int = 220  # lines of its source


def module_of(name: str) -> Any:
    return import_module(f"examples.{name}")


def case_of(name: str) -> Case:
    case: Case = import_module(f"tests.examples.cases.{name}").CASE
    return case


def names() -> list[str]:
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


async def played(name: str, ask: Ask, model: Model, data: Path = CORPUS) -> tuple[str, Stage]:
    """Return the result of an example as a reader sees it, and the stage on which it played."""
    stage = Stage(model, data, ask.question, Namespace(verbose=False, **ask.arguments))
    play = case_of(name).play or module_of(name).play
    return as_text(await play(stage)), stage


# --- for the authors of cases ---


def found(file: str, pattern: str) -> Truth:
    """Return the truth that a pattern's first group finds in a file; it has to find one."""

    def truth(data: Path) -> str:
        [value] = re.findall(pattern, (data / file).read_text(encoding="utf-8"))
        return str(value)

    return truth


def changed(file: str, pattern: str, value: str) -> Change:
    """Return the change that puts `value` in the place of the first group of a pattern, wherever it is found."""

    def change(data: Path) -> None:
        text = (data / file).read_text(encoding="utf-8")
        edited = re.sub(pattern, lambda match: match[0].replace(match[1], value), text)
        assert edited != text
        (data / file).write_text(edited, encoding="utf-8")

    return change


def removed(*files: str) -> Change:
    def change(data: Path) -> None:
        for file in files:
            (data / file).unlink()

    return change
