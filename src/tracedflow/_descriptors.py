"""What a parameter asks for with `Annotated[T, Resource(...)]`, and what a factory asks for in turn. Makes and reads no resource."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias, cast, get_args, get_origin, get_type_hints

from .events import StartEvent

Scope: TypeAlias = Literal["workflow", "run"]
"""How long a cached resource is shared: by all runs of a workflow instance, or by the steps of one run."""

Lifetime: TypeAlias = Literal["workflow", "run", "attempt"]
"""How long a resource lives; one that is not cached lives for one attempt of a step."""

CONFIG_SUFFIXES = (".json", ".toml", ".yaml", ".yml")
"""The kinds of files that a `ResourceConfig` reads."""

_ENTERED = (AbstractContextManager, AbstractAsyncContextManager)
_EXTRA = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(eq=False)
class Resource:
    """Asks for what a factory makes: `Annotated[Client, Resource(make_client)]`, on a step or on another factory.

    A factory is any callable, sync or async. Its own parameters may be resources, the `Context`, or the start event (a
    parameter annotated with `StartEvent` or a subclass). A generator, an async generator, or a function made by
    `contextlib.contextmanager` or `asynccontextmanager` is entered once, and closed at the end of its scope.

    Args:
        factory: makes the resource. What it makes is found again by this very object, never by its name.
        cache: False makes a new one for each attempt of a step, shared by what is made for that attempt and closed with it.
        scope: `"workflow"`: one for all runs of a workflow instance, closed by `workflow.aclose()`. `"run"`: one for each
            run, closed when the run ends. None: `"run"` if the factory, or what it is given, asks for something of the run;
            else `"workflow"`.
        enter: whether the context manager that the factory makes is entered. None: only what a generator, `@contextmanager`
            or a return annotation `AbstractContextManager[...]` makes; other objects are given to the step as they are.

    Raises:
        TypeError: `factory` cannot be called.
        ValueError: `scope` is unknown, or given although nothing is cached.
    """

    factory: Callable[..., Any]
    cache: bool = True
    scope: Scope | None = field(default=None, kw_only=True)
    enter: bool | None = field(default=None, kw_only=True)
    _needs: Needs | None = field(default=None, init=False, repr=False)
    _lifetime: Lifetime | None = field(default=None, init=False, repr=False)
    _names: Mapping[str, Any] | None = field(default=None, init=False, repr=False)  # around the asker, kept until they are needed no more

    def __post_init__(self) -> None:
        if not callable(cast("object", self.factory)):
            raise TypeError(f"Resource() takes a factory, not {self.factory!r}; give the function itself, without calling it")
        if self.scope not in (None, "workflow", "run"):
            raise ValueError(f"Resource(scope={self.scope!r}): a scope is 'workflow' or 'run'")
        if self.scope is not None and not self.cache:
            raise ValueError(
                f"Resource(cache=False, scope={self.scope!r}): what is not cached lives for one attempt; leave one of them out"
            )

    @property
    def name(self) -> str:
        """The name of the factory, for messages."""
        return str(getattr(_function_of(self.factory, of_class=False), "__name__", None) or type(self.factory).__name__)

    @property
    def place(self) -> str:
        """Where the factory stands, as file:line."""
        code = getattr(inspect.unwrap(_function_of(self.factory)), "__code__", None)
        return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else str(getattr(self.factory, "__module__", None))

    @property
    def key(self) -> Hashable:
        """What tells its factory from every other one."""
        if inspect.ismethod(self.factory):  # a new object each time it is asked for
            return (id(self.factory.__self__), id(self.factory.__func__))
        return id(self.factory)

    @property
    def lifetime(self) -> Lifetime:
        """How long what it makes lives."""
        if self._lifetime is None:
            self._lifetime = self._found_lifetime()
        return self._lifetime

    def _found_lifetime(self) -> Lifetime:
        if not self.cache:
            return "attempt"
        if self.scope is not None:
            return self.scope
        return "run" if next(asked_of_run(self), None) is not None else "workflow"

    def is_named(self, target: object) -> bool:
        """Whether `target` is it, its factory, or the name of its factory."""
        if isinstance(target, str):
            function = _function_of(self.factory, of_class=False)
            return target in (getattr(function, "__name__", None), getattr(function, "__qualname__", None))
        return target is self or target is self.factory or (inspect.ismethod(target) and target == self.factory)

    def needs(self) -> Needs:
        """Return what the factory asks for."""
        return self._needs or self.read(self._names or {})

    def read(self, names: Mapping[str, Any]) -> Needs:
        """Read what the factory asks for from its annotations, once; `names` are those around whoever asks for it."""
        if self._needs is not None:
            return self._needs
        function = _function_of(self.factory)
        try:
            hints = _hints(function, names)
        except NameError as error:
            self._names = names
            remedy = "Import it, or define it where the factory can see it."
            return Needs(problems=[(f"factory `{self.name}` ({self.place}) has an annotation that cannot be resolved: {error}.", remedy)])
        self._names = None
        needs = self._needs = Needs(is_entered=self._is_entered(hints.get("return")) if self.enter is None else self.enter)
        for parameter in _parameters(self.factory):
            self._read_parameter(needs, parameter, hints.get(parameter.name, parameter.annotation))
        for wanted in needs.resources.values():
            if isinstance(wanted.resource, Resource):  # not read yet: a circle of postponed annotations would never end
                wanted.resource._names = names
        return needs

    def _read_parameter(self, needs: Needs, parameter: inspect.Parameter, hint: Any) -> None:
        if parameter.kind in _EXTRA:
            return
        name = parameter.name
        wanted = wanted_by(name, hint)
        taken = parameter.kind is not inspect.Parameter.POSITIONAL_ONLY
        if wanted is not None and taken:
            needs.resources[name] = wanted
        elif getattr(get_origin(hint) or hint, "__tracedflow_context__", False) and taken:
            needs.contexts.append(name)
        elif isinstance(hint, type) and issubclass(hint, StartEvent) and taken:
            needs.start_events[name] = hint
        elif parameter.default is parameter.empty:
            text = f"factory `{self.name}` ({self.place}) has a parameter `{name}` {_why_not(parameter, hint)}."
            needs.problems.append((text, "Annotate it `Annotated[T, Resource(...)]`, `Context` or a StartEvent, or give it a default."))

    def _is_entered(self, returned: Any) -> bool:
        """Whether the factory says that what it makes is to be entered and closed."""
        candidates = (self.factory, _function_of(self.factory), inspect.unwrap(_function_of(self.factory)))
        if any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in candidates):
            return True
        return not isinstance(self.factory, type) and (get_origin(returned) or returned) in _ENTERED


@dataclass(eq=False)
class ResourceConfig:
    """Asks for a part of a configuration file, validated: `Annotated[Settings, ResourceConfig("app.toml", "llm")]`.

    The file is read when a run starts, so that later runs see its edits, and each run sees it as it was then.

    Args:
        config_file: a `.json`, `.toml`, `.yaml` or `.yml` file; a relative path is relative to the working directory.
        path_selector: the part that is meant, as a dotted path; list indices are numbers. None: the whole file.
        label: a name to show, and to override it by.
        description: a text to show.

    Raises:
        ValueError: the file is of another kind.
    """

    config_file: str | os.PathLike[str]
    path_selector: str | None = None
    label: str | None = None
    description: str | None = None

    def __post_init__(self) -> None:
        if os.path.splitext(self.path)[1].lower() not in CONFIG_SUFFIXES:
            raise ValueError(f"ResourceConfig({self.path!r}): a configuration file is one of {', '.join(CONFIG_SUFFIXES)}")

    @property
    def path(self) -> str:
        """The path of the file, as given."""
        return os.fspath(self.config_file)

    @property
    def name(self) -> str:
        """The label, or the file."""
        return self.label or self.path

    def is_named(self, target: object) -> bool:
        """Whether `target` is it, its label, or its file."""
        return target is self or (isinstance(target, str) and target in (self.label, self.path))


ResourceDescriptor: TypeAlias = Resource | ResourceConfig
"""What marks a parameter as a resource."""


@dataclass(slots=True)
class ResourceDefinition:
    """A parameter, of a step or of a factory, that asks for a resource."""

    name: str
    resource: ResourceDescriptor
    type_annotation: Any = Any


@dataclass(slots=True, kw_only=True)
class Needs:
    """What a factory asks for, by parameter. `problems` are pairs: what is wrong, and what to do."""

    resources: dict[str, ResourceDefinition] = field(default_factory=dict[str, ResourceDefinition])
    contexts: list[str] = field(default_factory=list[str])
    start_events: dict[str, type[StartEvent]] = field(default_factory=dict[str, type[StartEvent]])
    problems: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    is_entered: bool = False


def wanted_by(name: str, hint: Any) -> ResourceDefinition | None:
    """Return what the annotation of a parameter asks for, or None if it is no resource."""
    if get_origin(hint) is not Annotated:
        return None
    kind, *marks = get_args(hint)
    found = next((mark for mark in marks if isinstance(mark, Resource | ResourceConfig)), None)
    return None if found is None else ResourceDefinition(name, found, kind)


def asked_of_run(resource: Resource, above: tuple[Resource, ...] = ()) -> Iterator[tuple[Resource, str]]:
    """Yield what a factory, or what it is given, asks of the run: the factory, and `"Context"`, `"start event"` or `"scope"`."""
    if any(resource.key == each.key for each in above):
        return
    needs = resource.needs()
    if needs.contexts:
        yield resource, "Context"
    if needs.start_events:
        yield resource, "start event"
    if resource.scope == "run" and above:
        yield resource, "scope"
    for wanted in needs.resources.values():
        if isinstance(wanted.resource, Resource):
            yield from asked_of_run(wanted.resource, (*above, resource))


def own_problems(resource: Resource) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a resource itself: the problem, and what to do."""
    yield from resource.needs().problems
    asked = next(asked_of_run(resource), None) if resource.scope == "workflow" else None
    if asked is not None:
        asker, what = asked
        why = "lives for one run" if what == "scope" else f"asks for the {what} of a run"
        text = f"factory `{resource.name}` ({resource.place}) has scope='workflow', but `{asker.name}` ({asker.place}) {why}."
        yield text, "Give it scope='run'."


def problems_of(
    wanted: ResourceDefinition, start_event: type[StartEvent], seen: set[Hashable], above: tuple[Resource, ...] = ()
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with what a parameter asks for, and with all that it needs; each factory once for one `seen`."""
    resource = wanted.resource
    if isinstance(resource, ResourceConfig):
        return
    keys = [each.key for each in above]
    if resource.key in keys:
        yield f"{chain(above[keys.index(resource.key) :], resource)}.", "Let one of them do without the other."
        return
    known = (resource.key, resource.cache, resource.scope)
    if known in seen:
        return
    seen.add(known)
    yield from own_problems(resource)
    needs = resource.needs()
    for name, kind in needs.start_events.items():
        if not issubclass(start_event, kind):
            text = f"factory `{resource.name}` ({resource.place}) asks for {kind.__name__} as `{name}`, but the start event is "
            yield f"{text}{start_event.__name__}.", f"Annotate it `{start_event.__name__}`."
    for nested in needs.resources.values():
        yield from problems_of(nested, start_event, seen, (*above, resource))


def chain(above: tuple[Resource, ...], again: Resource) -> str:
    """Say how a resource comes to need itself."""
    links = [f"`{each.name}` ({each.place})" for each in above]
    return f"resources need each other in a circle: {' → '.join([*links, f'`{again.name}`'])}"


def _function_of(factory: Any, *, of_class: bool = True) -> Any:
    """Return the function whose annotations say what a factory takes."""
    if isinstance(factory, functools.partial):
        return _function_of(factory.func, of_class=of_class)
    if isinstance(factory, type):
        return cast("Any", factory).__init__ if of_class else cast("Any", factory)
    return factory if inspect.isroutine(factory) else type(factory).__call__ if of_class else factory


def _hints(function: Any, names: Mapping[str, Any]) -> dict[str, Any]:
    # A name around the asker must not hide one of the factory's own module, unless the factory stands in a function too.
    around = dict(names) if "<locals>" in getattr(function, "__qualname__", "") else None
    try:
        return get_type_hints(function, localns=around, include_extras=True)
    except TypeError:  # a builtin
        return {}


def _parameters(factory: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(factory).parameters.values())
    except ValueError:  # some builtins tell nothing
        return []


def _why_not(parameter: inspect.Parameter, hint: Any) -> str:
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        return "that can only be given by position"
    return "without annotation or default" if hint is parameter.empty else "that asks for no resource and has no default"
