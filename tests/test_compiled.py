"""What `make wheel-compiled` compiles is written in a way that means the same there: see CONTRIBUTING.md. `make test-compiled` tests it."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOOK = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]
COMPILED = [ROOT / name.lstrip("/") for name in HOOK["include"]]


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.stem)
def test_a_compiled_module_is_there_and_awaits_nothing(path: Path) -> None:
    """What awaits must be seen in tracebacks and by what looks at a task's frames, and compiled `finally` clauses of it went wrong."""
    waiting = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.AsyncFunctionDef | ast.Await)]
    assert not waiting, f"{path.name} awaits in line {waiting}"


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.stem)
def test_a_compiled_dataclass_that_sets_its_own_attributes_has_no_defaults_on_the_class(path: Path) -> None:
    """Compiled, it would not have them: a default counts only where `dataclass` writes `__init__`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and any("init=False" in ast.unparse(decorator) for decorator in node.decorator_list):
            defaults = [ast.unparse(field) for field in node.body if isinstance(field, ast.AnnAssign) and field.value is not None]
            assert all(field.endswith("= field(init=False)") for field in defaults), f"{node.name}: {defaults}"


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.stem)
def test_a_compiled_class_has_no_decorator_that_makes_it_slow(path: Path) -> None:
    known = {"dataclass", "final"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            names = {ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list}
            assert names <= known, f"{node.name} is decorated with {names - known}: it would not be compiled"
