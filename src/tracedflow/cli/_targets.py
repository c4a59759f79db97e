"""What users name on the command line, turned into runs and workflows; or one sentence that says what is wrong and what to do."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from ..errors import TracedflowError
from ..inspect.trace_file import RecordedRun, read_runs
from ..workflow import Workflow

FILE_VARIABLE = "TRACEDFLOW_TRACE_FILE"

AnyWorkflow: TypeAlias = Workflow[Any] | type[Workflow[Any]]


class WrongInput(Exception):  # noqa: N818 - it is no failure of the program
    """What was asked for cannot be done. Its text is one line: the place, what is wrong, and what to do."""


# ---------------------------------------------------------------------------------------------------------- runs


def runs_in(target: str | None) -> tuple[Path, list[RecordedRun]]:
    """Return the file of a target and the runs that it names: all of a `FILE`, or the one of `FILE:RUN` or `RUN`.

    Raises:
        WrongInput: there is no such file, or no such run in it.
    """
    path, run = _split(target)
    found = _read(path)
    return path, found if run is None else [_named(run, found, path)]


def run_in(target: str | None) -> RecordedRun:
    """Return the run that a target names; of a file alone, the one that started last.

    Raises:
        WrongInput: there is no such file, or no such run in it.
    """
    return runs_in(target)[1][-1]


def _split(target: str | None) -> tuple[Path, str | None]:
    """Return the file and the run of `FILE`, `FILE:RUN` or `RUN`."""
    given = os.environ.get(FILE_VARIABLE)
    if target is None:
        if given is None:
            raise WrongInput(f"no trace file: name one, as in `tracedflow show trace.jsonl`, or set {FILE_VARIABLE}")
        return Path(given), None
    if Path(target).exists():
        return Path(target), None
    file, colon, run = target.rpartition(":")
    if colon and Path(file).exists():
        return Path(file), run
    if given is not None and not colon and os.sep not in target:
        return Path(given), target
    raise WrongInput(f"there is no trace file {file or target}; runs write one where {FILE_VARIABLE} or telemetry.setup(trace_file=...) says")


def _read(path: Path) -> list[RecordedRun]:
    try:
        found = read_runs(path)
    except OSError as error:
        raise WrongInput(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if not found:
        raise WrongInput(f"{path} holds no runs; it should be a file that {FILE_VARIABLE} or telemetry.setup(trace_file=...) wrote")
    return found


def _named(run: str, found: list[RecordedRun], path: Path) -> RecordedRun:
    """Return the run of an id, of the beginning of one, or `last`."""
    if run == "last":
        return found[-1]
    same = [each for each in found if each.run_id == run] or [each for each in found if each.run_id.startswith(run)]
    if len({each.run_id for each in same}) > 1:
        ids = ", ".join(each.run_id for each in same[:5])
        raise WrongInput(f"{path}: {len(same)} runs begin with {run} ({ids}); write more of the one you mean")
    if not same:
        ids = [each.run_id for each in found]
        near = get_close_matches(run, ids, 1)
        hint = f"did you mean {near[0]}?" if near else f"the last is {ids[-1]}; `tracedflow show {path}` lists them"
        raise WrongInput(f"{path} has no run {run}; {hint}")
    return same[-1]


def complete_run(incomplete: str) -> list[str]:
    """Return the targets that begin so, for shells: files here, the runs of a file that is named, or of the usual file."""
    file, colon, start = incomplete.rpartition(":")
    try:
        if colon and Path(file).is_file():
            return [f"{file}:{run.run_id}" for run in read_runs(file) if run.run_id.startswith(start)]
        usual = os.environ.get(FILE_VARIABLE)
        ids = [run.run_id for run in read_runs(usual) if run.run_id.startswith(incomplete)] if usual else []
        folder, _, name = incomplete.rpartition("/")
        files = sorted(str(path) + ("/" if path.is_dir() else "") for path in Path(folder or ".").glob(f"{name}*"))
    except (OSError, ValueError):
        return []
    return [*ids, *files]


# ----------------------------------------------------------------------------------------------------- workflows


def workflow_at(target: str) -> AnyWorkflow:
    """Return the workflow, or the workflow class, that `module:attribute` or `file.py:attribute` names.

    The attribute may be left out of a module that has one workflow only. Modules are looked for in the working directory first.

    Raises:
        WrongInput: there is no such module, or no such workflow in it, or its import fails.
    """
    name, _, attribute = target.partition(":") if not target.endswith(".py") else (target, "", "")
    module = module_at(name)
    own = _workflows_of(module)
    if not attribute:
        if len(own) == 1:
            return next(iter(own.values()))
        choice = f"name one of them, as in {name}:{next(iter(own))}; it has {', '.join(own)}" if own else "it has no workflow"
        raise WrongInput(f"{target} does not say which workflow: {choice}")
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = get_close_matches(attribute, own, 1)
            hint = f"did you mean {name}:{near[0]}?" if near else f"its workflows are {', '.join(own)}" if own else "it has no workflow"
            raise WrongInput(f"{name} has no {attribute}; {hint}")
        found = getattr(found, part)
    if isinstance(found, Workflow) or (isinstance(found, type) and issubclass(found, Workflow)):
        return found
    hint = f"; its workflows are {', '.join(own)}" if own else ""
    raise WrongInput(f"{target} is a {type(found).__name__}, not a Workflow or a class of one{hint}")


def made(workflow: AnyWorkflow, target: str) -> Workflow[Any]:
    """Return an instance. Errors of its declaration are raised as they are.

    Raises:
        WrongInput: its constructor needs arguments.
    """
    if isinstance(workflow, Workflow):
        return workflow
    try:
        return workflow()
    except TypeError as error:
        module = target.partition(":")[0]
        name = workflow.__name__
        raise WrongInput(f"{name}() cannot be made without arguments ({error}); make one in {module} and name that instance") from error


def module_at(name: str) -> ModuleType:
    """Import a module by its dotted name, or by the path of its file.

    Raises:
        WrongInput: there is none, or its import fails.
    """
    if not name:
        raise WrongInput("no module is named; write module:attribute, as in app:MyFlow")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return _from_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise WrongInput(f"there is no module {name}; write module:attribute, as in app:MyFlow, from the directory it is in") from error
        raise WrongInput(f"{name} cannot be imported: {error} (at {_place(error)})") from error
    except TracedflowError:
        raise
    except Exception as error:
        raise WrongInput(f"{name} cannot be imported: {type(error).__name__}: {_first_line(error)} (at {_place(error)})") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise WrongInput(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    sys.path.insert(0, str(path.resolve().parent))
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _workflows_of(module: ModuleType) -> dict[str, AnyWorkflow]:
    """Return what the module defines itself: instances, and classes that it did not import."""
    found: dict[str, AnyWorkflow] = {}
    for name, value in vars(module).items():
        own_class = isinstance(value, type) and issubclass(value, Workflow) and value.__module__ == module.__name__
        if not name.startswith("_") and (isinstance(value, Workflow) or own_class):
            found[name] = value
    return found


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "importlib" not in frame.filename and frame.filename != __file__]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else "its first line"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
