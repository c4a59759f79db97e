"""What a shell offers on Tab. Nothing is imported or run for it: modules are only parsed, and errors offer nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..inspect.trace_file import read_runs

_SKIPPED = {"__pycache__", "node_modules", "site-packages"}
_MOST_BYTES = 50_000_000  # of a trace file: a larger one would keep the shell waiting


def workflows(incomplete: str) -> list[str]:
    """Return the targets that begin so: modules here, or the workflows of the one that is named."""
    module, colon, name = incomplete.partition(":")
    if colon:
        return [f"{module}:{each}" for each in _workflows_in(module) if each.startswith(name)]
    return [each for each in _modules(module) if each.startswith(module)]


def runs(ctx: Any, incomplete: str) -> list[str]:
    """Return the ids, last first, of the runs of the file that was given."""
    return list(dict.fromkeys(reversed([each for each in _run_ids(ctx.params.get("file")) if each.startswith(incomplete)])))


def named_runs(incomplete: str) -> list[str]:
    """Return the files that begin so, or the `FILE:RUN`s of the one that is named."""
    file, colon, run = incomplete.rpartition(":")
    if colon:
        return [f"{file}:{each}" for each in _run_ids(file) if each.startswith(run)]
    folder, slash, start = incomplete.rpartition("/")
    found = sorted(path for path in Path(folder + slash or ".").glob("*") if path.name.startswith(start) and not path.name.startswith("."))
    return [f"{folder}{slash}{path.name}{'/' if path.is_dir() else ''}" for path in found]


def _run_ids(file: object) -> list[str]:
    path = Path(str(file))
    try:
        return [run.run_id for run in read_runs(path)] if file and path.stat().st_size < _MOST_BYTES else []
    except OSError:
        return []


def _modules(start: str) -> Iterator[str]:
    """Yield `module:` of each module that has a workflow, and `package.` of each package: as far as the last dot of `start`."""
    package, dot, _ = start.rpartition(".")
    for path in sorted(Path(package.replace(".", "/") or ".").glob("*")):
        name = f"{package}{dot}{path.stem}"
        if path.suffix == ".py" and path.stem.isidentifier() and _workflows_in(name):
            yield f"{name}:"
        elif path.is_dir() and path.name.isidentifier() and path.name not in _SKIPPED and any(path.glob("*.py")):
            yield f"{name}."


def _workflows_in(module: str) -> list[str]:
    path = Path(*module.split("."))
    source = next((each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()), None)
    try:
        tree = ast.parse(source.read_bytes()) if source is not None else ast.Module([], [])
    except (OSError, ValueError, SyntaxError):
        return []
    found: dict[str, None] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any(_is_workflow(base, found) for base in node.bases):
            found[node.name] = None
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and _is_workflow(node.value.func, found):
            found.update({target.id: None for target in node.targets if isinstance(target, ast.Name)})
    return [name for name in found if not name.startswith("_")]


def _is_workflow(node: ast.expr, known: dict[str, None]) -> bool:
    """Return whether an expression looks like a workflow class: `Workflow`, `Workflow[Stop]`, or one of this module."""
    name = ast.unparse(node).partition("[")[0].rpartition(".")[2]
    return name in known or name.endswith("Workflow")
