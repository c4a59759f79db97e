"""Holds what DESIGN says about layers, tasks, the one call of a step and the cost of an import.

Reads the source with `ast` and imports the package in processes of its own. A new module gets a line in `LAYERS`;
a message says which line of which file broke which rule.
"""

from __future__ import annotations

import ast
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

import tracedflow

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
PACKAGE = "tracedflow"

# From first to last; a module imports at run time only what stands before it. An entry stands for its submodules too,
# unless they have an entry of their own. Inside an entry imports are free.
LAYERS: dict[str, tuple[str, ...]] = {
    "declare": (
        "errors",
        "events",
        "types",
        "collect",
        "_descriptors",
        "retry_policy",
        "_signature",
        "decorators",
        "_checks",
        "_problems",
        "_graph",
        "representation",
    ),
    "mechanism": (
        "_factories",
        "_notebook",
        "clock",
        "records",
        "_record_log",
        "outcomes",
        "middleware",
        "limits",
        "context.serializers",
        "context.state_store",
        "resource",
        "journal",
        "_config",
    ),
    "engine": (
        "_engine",
        "_engine._state",
        "_engine._form",
        "_engine._soundness",
        "_engine._snapshot",
        "_engine._bridge",
        "_engine._sending",
        "context",
        "_engine._threads",
        "_engine._stream",
        "_engine._lifecycle",
        "_engine._alarm",
        "_engine._watchdog",
        "_engine._turn",
        "_engine._causes",
        "_engine._permits",
        "_engine._parking",
        "_engine._record",
        "_engine._results",
        "_engine._part",
        "_engine._scope",
        "_engine._lead",
        "_engine._checkpoint",
        "_engine._dispatch",
        "_engine._announce",
        "_engine._shortly",
        "_engine._report",
        "_engine._stalls",
        "_engine._stepwise",
        "_engine._settings",
        "_engine._deadline",
        "_engine._ending",
        "_engine._live",
        "_engine._runner",
        "handler",
    ),
    "facade": ("_naming", "_owner", "_persistence", "_result_type", "workflow", "checkpointer", "_targets"),
    "edges": (
        "telemetry",
        "drawing",
        "inspect",
        "journal.memory",
        "journal.sqlite",
        "journal.postgres",
        "checkpointer.sqlite",
        "server",
        "dashboards",
        "report",
        "testing",
        "cli",
        "__main__",
    ),
}
ORDER = [entry for entries in LAYERS.values() for entry in entries]
KNOWS_ALL_EDGES = ("report", "testing", "cli", "__main__")  # they compose the others
EDGE_EXCEPTIONS = {
    ("inspect", "telemetry.names"),  # inspect reads what telemetry writes
    ("telemetry", "inspect.waterfall"),  # the console shows one analysis live
    ("telemetry", "inspect.durations"),
    ("drawing", "inspect.durations"),
    ("dashboards", "telemetry.names"),  # what is shown is what is emitted
}
COMPOSITION_ROOT = ""  # tracedflow/__init__.py: names every module, as factories

# Where a library may be imported; the longest name that matches decides.
HOMES: dict[str, tuple[str, ...]] = {
    "opentelemetry": ("telemetry.tracing", "telemetry.metrics", "telemetry.logs", "telemetry.sdk", "telemetry.diagnosis", "testing"),
    "opentelemetry.sdk": ("telemetry.sdk", "testing"),
    "opentelemetry.exporter": ("telemetry.sdk", "testing"),
    "opentelemetry.proto": ("testing",),
    "grpc": ("testing",),
    "prometheus_client": ("telemetry.metrics", "testing"),
    "rich": ("telemetry._screen", "inspect"),
    "sqlite3": ("journal.sqlite", "checkpointer.sqlite"),
    "psycopg": ("journal.postgres",),
    "asyncpg": ("journal.postgres",),
    "starlette": ("server",),
    "uvicorn": ("server",),
    "openai": (),
    "grafana_foundation_sdk": ("dashboards",),
    "typer": ("cli",),
}
MAY_PRINT = ("telemetry.console", "cli", "__main__")

TASK_MAKERS = {
    "create_task",
    "ensure_future",
    "create_future",
    "call_later",
    "call_at",
    "run_in_executor",
    "run_coroutine_threadsafe",
    "to_thread",
    "TaskGroup",
    "Thread",
    "Timer",
    "ThreadPoolExecutor",
}
ASYNCIO_PRIMITIVES = {"Lock", "Event", "Condition", "Semaphore", "BoundedSemaphore", "Queue", "Barrier"}
MAY_LOCK = ("context.state_store", "resource")

STEP_RUNNERS = {"run", "partial", "to_thread", "run_in_executor", "submit", "create_task", "call_soon", "_in_thread"}

PUBLIC_MODULES = (
    "checkpointer",
    "collect",
    "context",
    "context.serializers",
    "context.state_store",
    "decorators",
    "drawing",
    "errors",
    "events",
    "handler",
    "representation",
    "resource",
    "retry_policy",
    "testing",
    "types",
    "workflow",
)
MAX_LINES = 450
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc"}
IMPORT_LIMIT = 1.0  # seconds; generous, since a test shares its machine. The benchmark holds 250 ms.


@dataclass(frozen=True)
class Import:
    """An import that happens at run time."""

    target: str  # full dotted name
    line: int


@dataclass(frozen=True)
class Module:
    """A source file of the package; `name` is dotted and without the package: "" is its `__init__`."""

    name: str
    path: Path
    is_package: bool

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=str(self.path))

    @property
    def dotted(self) -> str:
        return f"{PACKAGE}.{self.name}" if self.name else PACKAGE

    @property
    def entry(self) -> str | None:
        return entry_of(self.name)

    @property
    def layer(self) -> str | None:
        return next((layer for layer, entries in LAYERS.items() if self.entry in entries), None)

    def at(self, line: int) -> str:
        return f"{self.path.relative_to(SRC)}:{line}"


def _read_package() -> dict[str, Module]:
    found = {}
    for path in sorted((SRC / PACKAGE).rglob("*.py")):
        parts = path.relative_to(SRC / PACKAGE).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found[name] = Module(name, path, is_package)
    return found


MODULES = _read_package()
CODE = [module for module in MODULES.values() if module.name != COMPOSITION_ROOT]


def is_within(name: str, parent: str) -> bool:
    """Whether the dotted `name` is `parent` or below it."""
    return name == parent or name.startswith(parent + ".")


def entry_of(name: str) -> str | None:
    """Return the most specific entry of LAYERS that stands for the module."""
    return max((entry for entry in ORDER if is_within(name, entry)), key=len, default=None)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING")


def _runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield every node but those that only a type checker sees."""
    yield node
    skip_body = isinstance(node, ast.If) and _is_type_checking(node.test)
    children = node.orelse if skip_body and isinstance(node, ast.If) else ast.iter_child_nodes(node)
    for child in children:
        yield from _runtime_nodes(child)


def runtime_imports(tree: ast.Module, dotted: str, is_package: bool) -> list[Import]:
    """Return what the module imports at run time, inside functions too; `import_module` counts where its name is written out."""
    package = dotted if is_package else dotted.rpartition(".")[0]
    found: list[Import] = []
    for node in _runtime_nodes(tree):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            found += [Import(f"{base}.{alias.name}", node.lineno) for alias in node.names]
        elif isinstance(node, ast.Call) and called_name(node) in {"import_module", "__import__"} and node.args:
            match node.args[0]:
                case ast.Constant(value=str(name)):
                    found.append(Import(_absolute(name, package), node.lineno))
    return found


def _absolute(name: str, package: str) -> str:
    level = len(name) - len(name.lstrip("."))
    if not level:
        return name
    parents = package.split(".")
    base = ".".join(parents[: len(parents) - level + 1])
    return f"{base}.{name[level:]}".rstrip(".")


def imports_of(module: Module) -> list[Import]:
    return runtime_imports(module.tree, module.dotted, module.is_package)


def own_module(target: str) -> str | None:
    """Return the module of the package that a dotted name belongs to, or None if it is not ours."""
    if not is_within(target, PACKAGE):
        return None
    name = target.removeprefix(PACKAGE).lstrip(".")
    while name and name not in MODULES and name not in ORDER:
        name = name.rpartition(".")[0]
    return name


def called_name(call: ast.Call) -> str:
    """Return the last part of the name of what is called."""
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def calls(module: Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(module.tree) if isinstance(node, ast.Call))


def is_allowed(importer: str, imported: str) -> bool:
    """Whether a module may import another one at run time."""
    source, target = entry_of(importer), entry_of(imported)
    if source is None or target is None:
        return source in KNOWS_ALL_EDGES and imported == COMPOSITION_ROOT
    if source == target:
        return True
    if target not in LAYERS["edges"]:
        return ORDER.index(target) < ORDER.index(source)
    return source in KNOWS_ALL_EDGES or (source, imported) in EDGE_EXCEPTIONS


# ---------------------------------------------------------------------------------------------------------- layers


def test_every_module_has_a_place_in_the_layers() -> None:
    homeless = [module.name for module in CODE if module.entry is None]
    assert homeless == [], "give these a place in LAYERS, or another home"


def test_run_time_imports_go_only_to_earlier_modules() -> None:
    broken = []
    for module in CODE:
        for found in imports_of(module):
            target = own_module(found.target)
            if target is not None and not is_allowed(module.name, target):
                broken.append(f"{module.at(found.line)} imports {found.target}")
    assert broken == []


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("events", "errors", True),
        ("errors", "events", False),
        ("errors", "records", False),
        ("_engine._dispatch", "context", True),
        ("context._context", "context.state_store", True),
        ("context.state_store", "context._context", False),
        ("_engine._runner", "workflow", False),
        ("workflow", "telemetry.tracing", False),
        ("telemetry.tracing", "workflow", True),
        ("telemetry.tracing", "telemetry.names", True),
        ("drawing", "telemetry.names", False),
        ("inspect.timing", "telemetry.names", True),
        ("inspect.timing", "telemetry.tracing", False),
        ("journal", "journal.sqlite", False),
        ("journal.sqlite", "journal", True),
        ("cli", "server.app", True),
        ("cli", "", True),
        ("workflow", "", False),
    ],
)
def test_the_rule_of_layers(importer: str, imported: str, allowed: bool) -> None:
    assert is_allowed(importer, imported) is allowed


def test_imports_inside_functions_count_and_those_for_type_checkers_do_not() -> None:
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from .workflow import Workflow
else:
    from . import events
def late():
    from ..limits import Limit
    import_module(".server", __package__)
"""
    found = runtime_imports(ast.parse(source), f"{PACKAGE}.context._context", is_package=False)
    assert [item.target for item in found[1:]] == ["tracedflow.context.events", "tracedflow.limits.Limit", "tracedflow.context.server"]


@pytest.mark.parametrize("library", sorted(HOMES))
def test_a_library_is_imported_in_its_own_edge_only(library: str) -> None:
    broken = []
    for module in MODULES.values():
        for found in imports_of(module):
            decisive = max((name for name in HOMES if is_within(found.target, name)), key=len, default=None)
            if decisive == library and not any(is_within(module.name, home) for home in HOMES[library]):
                broken.append(f"{module.at(found.line)} imports {found.target}")
    assert broken == []


# ------------------------------------------------------------------------------------------------- tasks and calls


def test_only_the_engine_and_the_edges_make_tasks_futures_timers_and_threads() -> None:
    broken = []
    for module in MODULES.values():
        if module.layer in {"engine", "edges"}:
            continue
        forbidden = TASK_MAKERS | (set() if module.entry in MAY_LOCK else _asyncio_names(module))
        broken += [f"{module.at(call.lineno)} calls {called_name(call)}" for call in calls(module) if called_name(call) in forbidden]
    assert broken == []


def _asyncio_names(module: Module) -> set[str]:
    """Return the primitives of asyncio that the module could mean: `Event` is also a class of ours, `Lock` of threading."""
    imported = {found.target for found in imports_of(module)}
    if "asyncio" not in imported:
        return {name for name in ASYNCIO_PRIMITIVES if f"asyncio.{name}" in imported}
    own = {found.target.rpartition(".")[2] for found in imports_of(module) if own_module(found.target) is not None}
    return ASYNCIO_PRIMITIVES - own - ({"Lock"} if "threading" in imported else set())


def test_what_is_declared_knows_neither_asyncio_nor_threads_nor_sockets() -> None:
    outside = ("asyncio", "threading", "concurrent", "socket", "subprocess", "sqlite3")
    broken = [
        f"{module.at(found.line)} imports {found.target}"
        for module in CODE
        if module.layer == "declare"
        for found in imports_of(module)
        if any(is_within(found.target, name) for name in outside)
    ]
    assert broken == []


def test_the_only_call_of_a_users_step_is_in_one_function_of_the_dispatcher() -> None:
    callers = {f"{module.name}.{name}" for module in MODULES.values() for name in step_callers(module.tree)}
    in_dispatch = {name for name in callers if is_within(name, "_engine._dispatch")}
    assert callers == in_dispatch
    assert len(in_dispatch) == (1 if "_engine._dispatch" in MODULES else 0)


def step_callers(tree: ast.Module) -> set[str]:
    """Return the functions that call a step: an attribute `fn`, a name bound from one, or either given to something that runs it."""
    found = set()
    for function in _outer_functions(tree):
        bound = _names_bound_to_steps(function)
        if any(_runs_step(node, bound) for node in ast.walk(function) if isinstance(node, ast.Call)):
            found.add(function.name)
    return found


def _outer_functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        else:
            yield from _outer_functions(child)


def _names_bound_to_steps(function: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=targets, value=ast.Attribute(attr="fn")):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Attribute(attr="fn")):
                names.add(name)
            case ast.NamedExpr(target=ast.Name(id=name), value=ast.Attribute(attr="fn")):
                names.add(name)
    return names


def _runs_step(call: ast.Call, bound: set[str]) -> bool:
    def is_step(node: ast.expr) -> bool:
        return (isinstance(node, ast.Attribute) and node.attr == "fn") or (isinstance(node, ast.Name) and node.id in bound)

    return is_step(call.func) or (called_name(call) in STEP_RUNNERS and any(is_step(argument) for argument in call.args))


def test_a_call_of_a_step_is_seen_in_each_of_its_guises() -> None:
    source = """
def direct(spec): return spec.fn(1)
def renamed(spec):
    work = spec.fn
    return work(1)
def handed_on(spec, context): return context.run(spec.fn, 1)
def only_read(spec): return signature(spec.fn)
def other(fn): return fn(1)
"""
    assert step_callers(ast.parse(source)) == {"direct", "renamed", "handed_on"}


def test_nothing_prints_but_the_console_and_the_command_line() -> None:
    broken = []
    for module in MODULES.values():
        if not any(is_within(module.name, home) for home in MAY_PRINT):
            broken += [module.at(call.lineno) for call in calls(module) if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert broken == []


# --------------------------------------------------------------------------------------------- what a reader meets


def test_no_module_has_a_name_that_says_nothing() -> None:
    vague = [module.name for module in CODE if VAGUE_NAMES & {part.strip("_") for part in module.name.split(".")}]
    assert vague == []


def test_no_module_is_so_long_that_it_holds_a_second_concept() -> None:
    long = {module.name: lines for module in MODULES.values() if (lines := module.text.count("\n")) > MAX_LINES}
    assert long == {}, f"more than {MAX_LINES} lines"


def test_every_module_and_every_public_name_in_it_has_a_docstring_that_starts_with_a_sentence() -> None:
    broken = []
    for module in MODULES.values():
        if not _starts_with_sentence(ast.get_docstring(module.tree)):
            broken.append(f"{module.at(1)} module")
        for node, name in _public_definitions(module.tree):
            if not _starts_with_sentence(ast.get_docstring(node)):
                broken.append(f"{module.at(node.lineno)} {name}")
    assert broken == []


Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _public_definitions(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[Definition, str]]:
    for child in node.body:
        if not isinstance(child, Definition) or child.name.startswith("_") or _needs_no_docstring(child):
            continue
        yield child, prefix + child.name
        if isinstance(child, ast.ClassDef):
            yield from _public_definitions(child, f"{child.name}.")


def _needs_no_docstring(node: Definition) -> bool:
    """Whether another definition of the same name carries it: an overload, a setter, what is overridden."""
    marks = {part.attr if isinstance(part, ast.Attribute) else getattr(part, "id", "") for part in node.decorator_list}
    return bool(marks & {"overload", "override", "setter", "deleter"})


def _starts_with_sentence(docstring: str | None) -> bool:
    first = (docstring or "").split("\n", 1)[0].strip()
    return first.endswith((".", "?", "!")) and (first.startswith(PACKAGE) or not first[0].islower())


@pytest.mark.parametrize("name", [name for name in PUBLIC_MODULES if name in MODULES])
def test_a_public_module_offers_public_names_that_exist(name: str) -> None:
    script = (
        "import importlib, json, sys; module = importlib.import_module(sys.argv[1]); "
        "print(json.dumps([[n for n in getattr(module, '__all__', ()) if not hasattr(module, n)], "
        "[n for n in getattr(module, '__all__', vars(module)) if not n.startswith('_')]]))"
    )
    missing, public = _run(script, f"{PACKAGE}.{name}")
    assert missing == []
    assert public


# ------------------------------------------------------------------------------------------------------- the import


def _run(script: str, *arguments: str) -> Any:
    """Run a script in a new Python that has only the package's source on its path, and return the JSON it prints."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("TRACEDFLOW_", "OTEL_", "COV_"))}
    environment["PYTHONPATH"] = str(SRC)
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_the_package_loads_no_edge_library() -> None:
    loaded = _run("import json, sys; from tracedflow import *; print(json.dumps(sorted(sys.modules)))")
    telemetry = ("opentelemetry.sdk", "opentelemetry.exporter", "prometheus_client", "grafana_foundation_sdk")
    heavy = (*telemetry, "rich", "sqlite3", "openai", "typer")
    assert [name for name in loaded if any(is_within(name, library) for library in heavy)] == []


def test_importing_the_package_alone_loads_nothing_of_the_api() -> None:
    loaded = _run("import json, sys, tracedflow; print(json.dumps(sorted(sys.modules)))")
    assert [name for name in loaded if is_within(name, PACKAGE)] == [PACKAGE, f"{PACKAGE}._factories"]
    assert "pydantic" not in loaded


_EVERY_NAME = """
import json, tracedflow
found = {name: getattr(tracedflow, name) for name in tracedflow.__all__}
print(json.dumps([name for name, value in found.items() if value is None or name not in dir(tracedflow)]))
"""


def test_every_name_of_the_package_is_there_when_it_is_asked_for() -> None:
    assert _run(_EVERY_NAME) == []


def test_a_module_of_the_package_is_there_when_it_is_asked_for_and_no_other_name_is() -> None:
    assert tracedflow.retry_policy.retry_any is not None
    assert tracedflow.__version__
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        _ = tracedflow.nope  # type: ignore[attr-defined]


_SIDE_EFFECTS = """
import asyncio, json, logging, signal, sys, threading, warnings
import prometheus_client
from opentelemetry import metrics, trace
def world():
    return {
        "threads": [thread.name for thread in threading.enumerate()],
        "tracer provider": id(trace.get_tracer_provider()),
        "meter provider": id(metrics.get_meter_provider()),
        "metrics": sorted(family.name for family in prometheus_client.REGISTRY.collect()),
        "root log": [logging.root.level, len(logging.root.handlers), len(logging.root.filters)],
        "log records": logging.getLogRecordFactory().__qualname__,
        "warnings": len(warnings.filters),
        "signals": str(signal.getsignal(signal.SIGINT)),
        "hooks": [sys.excepthook.__qualname__, threading.excepthook.__qualname__, sys.displayhook.__qualname__],
    }
before = world()
from tracedflow import *
after = world()
print(json.dumps({name: [before[name], after[name]] for name in before if before[name] != after[name]}))
"""


def test_importing_the_package_changes_nothing_outside_it() -> None:
    assert _run(_SIDE_EFFECTS) == {}


def test_importing_the_package_is_quick() -> None:
    script = "import json, time; start = time.process_time(); from tracedflow import *; print(json.dumps(time.process_time() - start))"
    assert statistics.median(_run(script) for _ in range(3)) <= IMPORT_LIMIT


def test_the_package_lists_what_it_has_before_anything_is_loaded() -> None:
    assert {"Workflow", "step", "draw_all_possible_flows"} <= set(dir(tracedflow))


def test_a_module_that_lacks_a_package_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("import no_such_package\n", encoding="utf-8")
    monkeypatch.setattr(tracedflow, "__path__", [*tracedflow.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        _ = tracedflow.needs_more  # type: ignore[attr-defined]
