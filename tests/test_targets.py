"""What `module:name` on a command line names, and what is said when it names no workflow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracedflow import StartEvent, StopEvent, Workflow, WorkflowValidationError, step
from tracedflow._targets import TargetError, instance, load

MODULE = """
from tracedflow import StartEvent, StopEvent, Workflow, step

class Greet(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="hello")

class Named(Greet):
    def __init__(self, name):
        super().__init__()

class Breaks(Greet):
    def __init__(self):
        raise OSError("no\\n  network")

class Dead(Workflow):
    @step
    async def only(self, ev: StartEvent) -> None: ...

class Holder:
    inner = Greet

_hidden = Greet()
ready = Greet(timeout=7)
number = 3
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand in a folder with some modules, and forget them afterwards."""
    files = {
        "greetings": MODULE,
        "empty": "",
        "needs": "import not_installed_anywhere",
        "wrong": "def broken(:",
        "raises": "raise ValueError('not\\n today')",
        "exits": "raise SystemExit(3)",
        "refuses": "from tracedflow import TracedflowError\nraise TracedflowError('two\\nlines')",
        "invalid": MODULE + "\nDead()",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {*files, "package"}:
            del sys.modules[name]


def test_a_class_and_an_instance_are_found_from_the_current_folder_also_inside_another_object() -> None:
    found = load("greetings:Greet")
    assert isinstance(found, type)
    assert found.__name__ == "Greet"
    assert load("greetings:Holder.inner") is found
    assert isinstance(load("greetings:ready"), found)
    assert sys.path.count(str(Path.cwd())) == 1


def test_an_instance_is_taken_as_it_is_and_a_class_is_made_into_one() -> None:
    ready = instance("greetings:ready")
    assert ready is load("greetings:ready")
    made = instance("greetings:Greet")
    assert made is not ready
    assert made.run_sync() == "hello"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("greetings", "names a module and no workflow; say greetings:Greet or greetings:Named or .*greetings:ready$"),
        ("empty", "names a module and no workflow; `empty` has no workflow in it"),
        ("greetings:Great", "module `greetings` has no `Great`; did you mean greetings:Greet"),
        ("greetings:Xylophone", r"module `greetings` \(.*greetings\.py\) has no `Xylophone`; its workflows are greetings:Greet or "),
        ("empty:Greet", r"module `empty` \(.*empty\.py\) has no `Greet`; nor any workflow"),
        ("greetings:number", "`greetings:number` is of type int: name a workflow class, or an instance of one"),
        ("greetings:Holder", "is of type type: name a workflow class"),
        ("greetings.py:Greet", "names a file; name its module, as seen from the folder it is imported from: greetings:NAME"),
        ("./package/greetings.py:Greet", "names a file; .*: package.greetings:NAME"),
        (":Greet", "is not of the form module:name, such as app:MyFlow"),
        ("not a module:Greet", "is not of the form module:name"),
        ("nowhere:Greet", "there is no module `nowhere`, neither installed nor in .*; go to its folder, or set PYTHONPATH"),
        ("package.nowhere:Greet", "there is no module `package.nowhere`"),
        ("nowhere.at.all:Greet", "there is no module `nowhere`"),
        ("needs:Greet", r"importing `needs` failed at .*needs\.py:1: ModuleNotFoundError: No module named 'not_installed_anywhere'"),
        ("wrong:Greet", r"importing `wrong` failed at .*wrong\.py:1: SyntaxError: "),
        ("raises:Greet", r"importing `raises` failed at .*raises\.py:1: ValueError: not today$"),
        ("exits:Greet", r"importing `exits` failed at .*exits\.py:1: SystemExit: 3"),
        ("refuses:Greet", r"importing `refuses` failed at .*refuses\.py:2: TracedflowError: two\nlines$"),
    ],
)
def test_what_names_no_workflow_is_told_with_what_to_say_instead(target: str, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        load(target)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "greetings:Named",
            r"cannot be made without arguments \(missing a required argument: 'name'\); name an instance",
        ),
        ("greetings:Breaks", r"`greetings:Breaks\(\)` failed at .*greetings\.py:15: OSError: no network$"),
    ],
)
def test_a_class_of_which_no_instance_can_be_made_says_why(target: str, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        instance(target)


def test_a_workflow_that_is_declared_wrongly_says_so_itself() -> None:
    with pytest.raises(WorkflowValidationError):
        instance("greetings:Dead")
    with pytest.raises(WorkflowValidationError):
        load("invalid:Greet")


def test_a_name_is_found_in_a_folder_that_is_known_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    load("greetings:Greet")
    assert sys.path.count(str(Path.cwd())) == 1


class OfThisModule(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent()


def test_a_module_that_is_imported_already_is_not_imported_again() -> None:
    assert load(f"{__name__}:OfThisModule") is OfThisModule
