"""`@step`: reads a function's signature and options into a `StepConfig`. Knows nothing of workflows at run time."""

from __future__ import annotations

import inspect
import sys
import types
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Protocol,
    TypeAlias,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from ._descriptors import Resource, ResourceConfig, ResourceDefinition, wanted_by
from .collect import Collect
from .errors import WorkflowValidationError
from .events import Event, StepFailedEvent

if TYPE_CHECKING:
    from .limits import Limiter
    from .retry_policy import RetryPolicy

StepFunction: TypeAlias = Callable[..., Any]
"""An `async def` or `def` that takes an event and returns an event, a list of events or None."""

Returned: TypeAlias = Event | Sequence[Event] | None
"""What a step may return, as type checkers see it; a `Sequence`, as `list[Draft]` is no `list[Event]` to them."""

FunctionT = TypeVar("FunctionT", bound=Callable[..., Returned | Awaitable[Returned]])

GRAPH_CHECKS = ("reachability", "terminal_event", "dead_end")
"""The checks of the graph that can be skipped, for a step or for a workflow."""

_UNION_ORIGINS = (Union, types.UnionType)
_FRAMES_SEARCHED = 5  # a class body in a function in a test, with room for one decorator of the user's own


class AcceptsSteps(Protocol):
    """A workflow class or instance, as far as `@step(workflow=...)` must know it."""

    def add_step(self, func: StepFunction, /) -> None:
        """Attach a free function as a step."""
        ...


@dataclass(slots=True, kw_only=True)
class StepConfig:
    """What `@step` found out about a function. `accepted_events` and `return_types` are event classes."""

    fn: StepFunction
    name: str
    num_workers: int = 4
    retry_policy: RetryPolicy | None = None
    timeout: float | None = None  # seconds for one attempt
    limit: Limiter | None = None
    own_task: bool = False
    accept_event_subclasses: bool = False
    skip_graph_checks: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()  # names of `ctx.measure` that metrics may use as a label
    accepted_events: list[type[Event]] = field(default_factory=list[type[Event]])
    event_name: str = ""
    return_types: list[type[Any]] = field(default_factory=list[type[Any]])
    is_fan_out: bool = False
    bare_return_types: list[type[Any]] = field(default_factory=list[type[Any]])  # those not inside a list
    list_return_types: list[type[Any]] = field(default_factory=list[type[Any]])  # those inside one
    event_parameters: dict[str, list[type[Event]]] = field(default_factory=dict[str, list[type[Event]]])
    collection_param: str | None = None
    collection_policy: Collect | None = None
    role: Literal["step", "catch_error"] = "step"
    catch_error_for_steps: tuple[str, ...] | None = None  # None: any step
    catch_error_max_recoveries: int = 1
    resources: dict[str, ResourceDefinition] = field(default_factory=dict[str, ResourceDefinition])  # by parameter
    context_parameter: str | None = None
    context_state_type: type[Any] | None = None
    is_async: bool = True
    code_name: str = ""
    code_file: str = ""
    code_line: int = 0
    may_wait: bool = False  # its code names `wait_for_event`
    unresolved: str | None = None  # why the annotations could not be read yet
    namespace: Mapping[str, Any] | None = None  # names around the function, kept until they are

    @property
    def is_multi_slot(self) -> bool:
        """Whether it waits for one event of each of several parameters."""
        return len(self.event_parameters) > 1

    @property
    def place(self) -> str:
        """Where the function stands, as file:line."""
        return f"{self.code_file}:{self.code_line}"

    def settle(self) -> None:
        """Read annotations that named something not yet defined when the function was decorated.

        Raises:
            WorkflowValidationError: they still do, or the signature is not one of a step.
        """
        if self.unresolved is None:
            return
        try:
            names = {**_names_around(2), **(self.namespace or {})}  # a class may stand below, in the function around it
            hints = get_type_hints(self.fn, localns=names, include_extras=True)
        except NameError as error:
            raise self.problem(
                f"has an annotation that cannot be resolved: {error}. Import it or define it where the step can see it"
            ) from None
        self.unresolved = self.namespace = None
        _read_signature(self, hints, names)

    def problem(self, text: str) -> WorkflowValidationError:
        """Return an error that names this step and its place."""
        return WorkflowValidationError(f"Step `{self.name}` ({self.place}) {text}.")


@overload
def step(func: FunctionT, /) -> FunctionT: ...
@overload
def step(
    *,
    workflow: AcceptsSteps | None = None,
    num_workers: int = 4,
    retry_policy: RetryPolicy | None = None,
    timeout: float | None = None,
    limit: Limiter | None = None,
    own_task: bool = False,
    skip_graph_checks: Sequence[str] | None = None,
    accept_event_subclasses: bool = False,
    measures: Sequence[str] = (),
) -> Callable[[FunctionT], FunctionT]: ...
def step(func: FunctionT | None = None, /, **options: Any) -> FunctionT | Callable[[FunctionT], FunctionT]:
    """Make a method, or a free function with `workflow=`, a step. Its event types come from its annotations.

    Args:
        func: the function, when used bare as `@step`.
        **options: `workflow`: a workflow class or instance to attach a free function to. `num_workers`: how many
            executions may run at once within one run (default 4). `retry_policy`: what to do when an attempt raises.
            `timeout`: seconds for one attempt, not counting time parked in `wait_for_event`. `limit`: a `Limit` shared by
            every run of the process. `own_task`: always run in a task of its own. `skip_graph_checks`: `"reachability"` or
            `"dead_end"`. `accept_event_subclasses`: also take instances of subclasses. `measures`: the names of `ctx.measure`
            that the metrics may count.

    Raises:
        WorkflowValidationError: the signature is not one of a step, or an option has a wrong value.
    """
    _drop_old_options(options)
    _check_option_names(options)
    namespace = _names_around(2)

    def decorate(target: FunctionT) -> FunctionT:
        workflow = options.get("workflow")
        config = read_step(target, namespace, **{name: value for name, value in options.items() if name != "workflow"})
        target._step_config = config  # type: ignore[attr-defined]
        if workflow is not None:
            workflow.add_step(target)
        elif target.__qualname__.rpartition(".")[0].rpartition(".")[2] in ("", "<locals>"):
            _refuse_stray(config)
        return target

    return decorate if func is None else decorate(func)


@overload
def catch_error(func: FunctionT, /) -> FunctionT: ...
@overload
def catch_error(*, for_steps: Sequence[str] | None = None, max_recoveries: int = 1) -> Callable[[FunctionT], FunctionT]: ...
def catch_error(
    func: FunctionT | None = None, /, *, for_steps: Sequence[str] | None = None, max_recoveries: int = 1
) -> FunctionT | Callable[[FunctionT], FunctionT]:
    """Make a method the handler of steps that failed for good: it takes a `StepFailedEvent` and returns what to go on with.

    Args:
        func: the function, when used bare as `@catch_error`.
        for_steps: the names of the steps it handles; None: all that no other handler names.
        max_recoveries: how often one line of events may be recovered by it; then the failure fails the run.

    Raises:
        WorkflowValidationError: the signature is not one of a handler, or an argument has a wrong value.
    """
    namespace = _names_around(2)

    def decorate(target: FunctionT) -> FunctionT:
        config = read_step(target, namespace, num_workers=1)
        config.role = "catch_error"
        config.catch_error_for_steps = _checked_steps(config, for_steps)
        if isinstance(max_recoveries, bool) or not isinstance(cast("object", max_recoveries), int) or max_recoveries < 1:
            raise config.problem(f"has max_recoveries={max_recoveries!r}; it must be an integer greater than 0")
        config.catch_error_max_recoveries = max_recoveries
        if config.unresolved is None and config.accepted_events != [StepFailedEvent]:
            raise config.problem("handles errors, so its event parameter must be `StepFailedEvent`")
        target._step_config = config  # type: ignore[attr-defined]
        return target

    return decorate if func is None else decorate(func)


def _checked_steps(config: StepConfig, names: object) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise config.problem(f"has for_steps={names!r}; it must be a list of step names")
    listed = cast("Sequence[object]", names)
    if not listed or not all(isinstance(name, str) for name in listed):
        raise config.problem(f"has for_steps={names!r}; it must be a list of step names")
    return tuple(str(name) for name in listed)


def read_step(fn: StepFunction, namespace: Mapping[str, Any], **options: Any) -> StepConfig:
    """Build the configuration of `fn`; annotations that cannot be resolved yet are left for `settle`."""
    code = inspect.unwrap(fn).__code__
    config = StepConfig(
        fn=fn,
        name=fn.__name__,
        is_async=inspect.iscoroutinefunction(fn),
        code_name=f"{fn.__module__}.{fn.__qualname__}",
        code_file=code.co_filename,
        code_line=code.co_firstlineno,
        may_wait=_names(code, "wait_for_event"),
    )
    _apply_options(config, options)
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise config.problem("is a generator. Return one event, or a list of events; use ctx.write_event_to_stream for progress")
    try:
        hints = get_type_hints(fn, localns=dict(namespace), include_extras=True)
    except NameError as error:
        config.unresolved, config.namespace = str(error), namespace
        return config
    _read_signature(config, hints, namespace)
    return config


def _names(code: types.CodeType, name: str) -> bool:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return name in code.co_names or any(_names(each, name) for each in inner)


def config_of(fn: object) -> StepConfig | None:
    """Return the configuration that `@step` attached to a function, or None."""
    found = getattr(fn, "_step_config", None)
    return found if isinstance(found, StepConfig) else None


def _drop_old_options(options: dict[str, Any]) -> None:
    if options.pop("pass_context", None) is not None:
        text = "@step(pass_context=) has no effect: a parameter annotated with Context gets it, under any name; leave it out"
        warnings.warn(text, DeprecationWarning, stacklevel=3)


def _check_option_names(options: Mapping[str, Any]) -> None:
    known = {"workflow", "num_workers", "retry_policy", "timeout", "limit", "own_task"}
    known |= {"skip_graph_checks", "accept_event_subclasses", "measures"}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise TypeError(f"@step has no option {unknown[0]!r}; it has {', '.join(sorted(known))}")


def _apply_options(config: StepConfig, options: Mapping[str, Any]) -> None:
    workers = options.get("num_workers", 4)
    if not isinstance(workers, int) or workers < 1:
        raise config.problem(f"has num_workers={workers!r}; it must be an integer greater than 0")
    timeout = options.get("timeout")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0):
        raise config.problem(f"has timeout={timeout!r}; it must be seconds greater than 0, or None")
    policy = options.get("retry_policy")
    if policy is not None and not callable(getattr(policy, "next", None)):
        raise config.problem(f"has retry_policy={policy!r}; it must have a `next` method, as `retry_policy(...)` gives")
    skipped = tuple(options.get("skip_graph_checks") or ())
    for name in skipped:
        if name not in GRAPH_CHECKS:
            raise config.problem(f"has skip_graph_checks={name!r}; known are {', '.join(GRAPH_CHECKS)}")
    config.num_workers = int(workers)
    config.timeout = timeout
    config.retry_policy = policy
    config.limit = options.get("limit")
    config.own_task = bool(options.get("own_task", False))
    config.skip_graph_checks = skipped
    config.accept_event_subclasses = bool(options.get("accept_event_subclasses", False))
    config.measures = tuple(options.get("measures", ()))


def _refuse_stray(config: StepConfig) -> None:
    raise config.problem("is a free function. Say which workflow it belongs to: @step(workflow=MyWorkflow)")


def _names_around(depth: int) -> dict[str, Any]:
    """Return the local names of the callers, so that classes defined in a function can be annotated with."""
    names: dict[str, Any] = {}
    frame = sys._getframe(depth) if hasattr(sys, "_getframe") else None
    for _ in range(_FRAMES_SEARCHED):
        if frame is None:
            break
        if frame.f_locals is not frame.f_globals:
            names = {**frame.f_locals, **names}
        frame = frame.f_back
    return names


def _read_signature(config: StepConfig, hints: Mapping[str, Any], names: Mapping[str, Any]) -> None:
    for name, parameter in inspect.signature(config.fn).parameters.items():
        if isinstance(parameter.default, Resource | ResourceConfig):
            kind = type(parameter.default).__name__
            raise config.problem(f"has a {kind} as the default of `{name}`; annotate it `{name}: Annotated[T, {kind}(...)]`")
        if name in hints:
            _read_parameter(config, name, hints[name])
    for wanted in config.resources.values():
        if isinstance(wanted.resource, Resource):
            wanted.resource.read(names)
    _check_parameters(config)
    if "return" not in hints:
        raise config.problem("needs a return annotation, such as `-> StopEvent` or `-> None`")
    config.return_types = _read_return(config, hints["return"])


def _read_parameter(config: StepConfig, name: str, hint: Any) -> None:
    wanted = wanted_by(name, hint)
    if wanted is not None:
        config.resources[name] = wanted
        return
    if get_origin(hint) is Annotated:
        base, *marks = get_args(hint)
        policy = next((mark for mark in marks if isinstance(mark, Collect)), None)
        if policy is None:
            return
        if get_origin(base) is not list:
            raise config.problem(
                f"marks `{name}` with Collect, which is for a list of events; annotate it `Annotated[list[...], Collect(...)]`"
            )
        config.collection_policy = policy
        hint = base
    _read_event_parameter(config, name, hint)


def _read_event_parameter(config: StepConfig, name: str, hint: Any) -> None:
    origin = get_origin(hint) or hint
    if getattr(origin, "__tracedflow_context__", False):
        config.context_parameter = name
        state = get_args(hint)
        config.context_state_type = state[0] if state and isinstance(state[0], type) else None
        return
    if origin is list and get_args(hint) and any(_is_event(member) for member in _members(get_args(hint)[0])):
        config.collection_param = name
        config.collection_policy = config.collection_policy or Collect()
        hint = get_args(hint)[0]
    accepted = [member for member in _members(hint) if _is_event(member)]
    if accepted:
        config.event_parameters[name] = accepted
        config.event_name = config.event_name or name
        config.accepted_events = [*config.accepted_events, *accepted]


def _check_parameters(config: StepConfig) -> None:
    """Several event parameters are a join with one slot each: then each is one class, and none is a list."""
    if not config.event_parameters:
        raise config.problem("needs a parameter annotated with an event class, such as `ev: StartEvent`")
    if not config.is_multi_slot:
        return
    if config.collection_param is not None:
        raise config.problem(
            f"takes the list `{config.collection_param}` and also other events; take the list alone, and the rest from the store"
        )
    for name, kinds in config.event_parameters.items():
        if len(kinds) > 1:
            raise config.problem(
                f"joins {len(config.event_parameters)} event parameters, and `{name}` is a union; give each parameter one class"
            )
    if len(set(config.accepted_events)) < len(config.accepted_events):
        raise config.problem("joins two parameters of the same event class; use `list[...]` or ctx.collect_events for several of one class")


def _read_return(config: StepConfig, hint: Any) -> list[type[Any]]:
    returned: list[type[Any]] = []
    for member in _members(hint):
        if get_origin(member) is list:
            config.is_fan_out = True
            config.list_return_types.extend(_members(get_args(member)[0]))
            returned.extend(_members(get_args(member)[0]))
        elif member is not type(None):
            returned.append(member)
            config.bare_return_types.append(member)
    return returned


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in _UNION_ORIGINS else (hint,)


def _is_event(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Event)
