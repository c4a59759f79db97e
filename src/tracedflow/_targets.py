"""What `module:name` names on a command line: a workflow class or an instance, also from the current folder."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from difflib import get_close_matches
from types import ModuleType
from typing import Any, TypeAlias

from .errors import TracedflowError, WorkflowValidationError
from .workflow import Workflow

Target: TypeAlias = Workflow[Any] | type[Workflow[Any]]


class TargetError(Exception):
    """A target names no workflow. Its text, one line, says what it names, and what to give instead."""


def load(target: str) -> Target:
    """Return the workflow class or instance that `module:name` names.

    Raises:
        TargetError: there is no such module or name, importing it failed, or it is no workflow.
        WorkflowValidationError: the module makes a workflow that is declared wrongly.
    """
    module_name, _, name = target.partition(":")
    module = _imported(_module_name(module_name, target))
    if not name:
        known = _workflows(module)
        remedy = f"say {_choices(module_name, known)}" if known else f"`{module_name}` has no workflow in it"
        raise TargetError(f"`{target}` names a module and no workflow; {remedy}")
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise TargetError(_not_there(module, module_name, name))
        found = getattr(found, part)
    if isinstance(found, Workflow) or (inspect.isclass(found) and issubclass(found, Workflow)):
        return found  # pyright: ignore[reportUnknownVariableType] - its state and result are not known here
    raise TargetError(f"`{target}` is a {type(found).__name__}: name a workflow class, or an instance of one")


def instance(target: str) -> Workflow[Any]:
    """Return the workflow that `module:name` names; a class is made into one with the arguments it has by default.

    Raises:
        TargetError: as `load`, and a class that needs arguments, or whose constructor failed.
        WorkflowValidationError: it is declared wrongly.
    """
    found = load(target)
    if isinstance(found, Workflow):
        return found
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise TargetError(f"`{target}` cannot be made without arguments ({error}); name an instance in place of the class") from None
    try:
        return found()
    except WorkflowValidationError:
        raise
    except Exception as error:
        raise TargetError(f"`{target}()` failed {_told(error)}") from error


def _module_name(given: str, target: str) -> str:
    if given.endswith(".py") or "/" in given or os.sep in given:
        meant = given.removesuffix(".py").strip("./").replace(os.sep, ".").replace("/", ".")
        raise TargetError(f"`{target}` names a file; name its module, as seen from the folder it is imported from: {meant}:NAME")
    if not given or not all(part.isidentifier() for part in given.split(".")):
        raise TargetError(f"`{target}` is not of the form module:name, such as app:MyFlow")
    return given


def _imported(name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise TargetError(
                f"there is no module `{error.name}`, neither installed nor in {here}; go to its folder, or set PYTHONPATH"
            ) from None
        raise TargetError(f"importing `{name}` failed {_told(error)}") from error
    except WorkflowValidationError:
        raise
    except (Exception, SystemExit) as error:
        raise TargetError(f"importing `{name}` failed {_told(error)}") from error


def _told(error: BaseException) -> str:
    """Return where it was raised and what it says, in one line."""
    if isinstance(error, SyntaxError):
        return f"at {error.filename}:{error.lineno}: SyntaxError: {error.msg}"
    frames = [each for each in traceback.extract_tb(error.__traceback__) if "importlib" not in each.filename]
    place = f"at {frames[-1].filename}:{frames[-1].lineno}" if frames else "here"
    name = type(error).__name__
    return f"{place}: {name}: {error}" if isinstance(error, TracedflowError) else f"{place}: {name}: {' '.join(str(error).split())}"


def _not_there(module: ModuleType, module_name: str, name: str) -> str:
    known = _workflows(module)
    near = get_close_matches(name, known, n=1)
    if near:
        return f"module `{module_name}` has no `{name}`; did you mean {module_name}:{near[0]}?"
    remedy = f"its workflows are {_choices(module_name, known)}" if known else "nor any workflow"
    return f"module `{module_name}` ({module.__file__}) has no `{name}`; {remedy}"


def _choices(module_name: str, known: list[str]) -> str:
    return " or ".join(f"{module_name}:{name}" for name in known)


def _workflows(module: ModuleType) -> list[str]:
    """Return the names of the workflows that a module defines, and of the instances it holds."""
    found: list[str] = []
    for name, value in vars(module).items():
        is_own = inspect.isclass(value) and issubclass(value, Workflow) and value is not Workflow
        if not name.startswith("_") and (is_own or isinstance(value, Workflow)):
            found.append(name)
    return found
