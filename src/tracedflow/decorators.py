"""`@step`: reads a function's signature and options into a `StepConfig`. Knows nothing of workflows at run time."""

from __future__ import annotations

import inspect
import types
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, cast, get_type_hints, overload

from ._descriptors import ResourceDefinition
from ._signature import names_around, read_signature
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
    may_send: bool = False  # its code names `send_event`
    unresolved: str | None = None  # why the annotations could not be read yet
    namespace: Mapping[str, Any] | None = None  # names around the function, kept until they are

    @property
    def is_multi_slot(self) -> bool:
        """Whether it waits for one event of each of several parameters."""
        return len(self.event_parameters) > 1

    @property
    def collect_params(self) -> tuple[str, ...]:
        """The parameters of a join, each for one event; empty for a step that takes one event or a list."""
        return tuple(self.event_parameters) if self.is_multi_slot else ()

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
            names = {**names_around(2), **(self.namespace or {})}  # a class may stand below, in the function around it
            hints = get_type_hints(self.fn, localns=names, include_extras=True)
        except NameError as error:
            raise self.problem(
                f"has an annotation that cannot be resolved: {error}. Import it or define it where the step can see it"
            ) from None
        self.unresolved = self.namespace = None
        read_signature(self, hints, names)
        if self.role == "catch_error":
            _check_handler(self)

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
def step(
    func: FunctionT | None = None,
    /,
    *,
    workflow: AcceptsSteps | None = None,
    num_workers: int = 4,
    retry_policy: RetryPolicy | None = None,
    skip_graph_checks: Sequence[str] | None = None,
    accept_event_subclasses: bool = False,
    timeout: float | None = None,
    limit: Limiter | None = None,
    own_task: bool = False,
    measures: Sequence[str] = (),
    **old: Any,
) -> FunctionT | Callable[[FunctionT], FunctionT]:
    """Make a method, or a free function with `workflow=`, a step. Its event types come from its annotations.

    Args:
        func: the function, when used bare as `@step`.
        workflow: a workflow class or instance to attach a free function to.
        num_workers: how many executions may run at once within one run.
        retry_policy: what to do when an attempt raises.
        skip_graph_checks: any of `"reachability"`, `"terminal_event"`, `"dead_end"`.
        accept_event_subclasses: also take instances of subclasses.
        timeout: seconds for one attempt, not counting time parked in `wait_for_event`.
        limit: a `Limit` shared by every run of the process.
        own_task: always run in a task of its own.
        measures: the names of `ctx.measure` that the metrics may count.
        **old: `pass_context`, which has no effect.

    Raises:
        WorkflowValidationError: the signature is not one of a step, or an option has a wrong value.
        TypeError: there is no such option.
    """
    _drop_old_options(old)
    namespace = names_around(2)
    options: dict[str, Any] = {
        "num_workers": num_workers, "retry_policy": retry_policy, "timeout": timeout, "limit": limit, "own_task": own_task,
        "skip_graph_checks": skip_graph_checks, "accept_event_subclasses": accept_event_subclasses, "measures": measures,
    }  # fmt: skip

    def decorate(target: FunctionT) -> FunctionT:
        config = read_step(target, namespace, **options)
        target._step_config = config  # type: ignore[attr-defined]
        if workflow is not None:
            _attach(workflow, config)
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
    namespace = names_around(2)

    def decorate(target: FunctionT) -> FunctionT:
        config = read_step(target, namespace, num_workers=1)
        config.role = "catch_error"
        config.catch_error_for_steps = _checked_steps(config, for_steps)
        if isinstance(max_recoveries, bool) or not isinstance(cast("object", max_recoveries), int) or max_recoveries < 1:
            raise config.problem(f"has max_recoveries={max_recoveries!r}; it must be an integer greater than 0")
        config.catch_error_max_recoveries = max_recoveries
        if config.unresolved is None:
            _check_handler(config)
        target._step_config = config  # type: ignore[attr-defined]
        return target

    return decorate if func is None else decorate(func)


def _check_handler(config: StepConfig) -> None:
    if config.accepted_events != [StepFailedEvent]:
        raise config.problem("handles errors, so its event parameter must be `StepFailedEvent`")


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
    code = getattr(inspect.unwrap(fn), "__code__", None)
    if not isinstance(code, types.CodeType):
        raise WorkflowValidationError(f"A step must be a function, `def` or `async def`, and {fn!r} is none: decorate a function")
    config = StepConfig(
        fn=fn,
        name=fn.__name__,
        is_async=inspect.iscoroutinefunction(fn),
        code_name=f"{fn.__module__}.{fn.__qualname__}",
        code_file=code.co_filename,
        code_line=code.co_firstlineno,
        may_wait=_names(code, "wait_for_event"),
        may_send=_names(code, "send_event"),
    )
    _apply_options(config, options)
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise config.problem("is a generator. Return one event, or a list of events; use ctx.write_event_to_stream for progress")
    try:
        hints = get_type_hints(fn, localns=dict(namespace), include_extras=True)
    except NameError as error:
        config.unresolved, config.namespace = str(error), namespace
        return config
    read_signature(config, hints, namespace)
    return config


def _names(code: types.CodeType, name: str) -> bool:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return name in code.co_names or any(_names(each, name) for each in inner)


def config_of(fn: object) -> StepConfig | None:
    """Return the configuration that `@step` attached to a function, or None."""
    found = getattr(fn, "_step_config", None)
    return found if isinstance(found, StepConfig) else None


def _drop_old_options(old: dict[str, Any]) -> None:
    if old.pop("pass_context", None) is not None:
        text = "@step(pass_context=) has no effect: a parameter annotated with Context gets it, under any name; leave it out"
        warnings.warn(text, DeprecationWarning, stacklevel=3)
    if old:
        known = (name for name, each in inspect.signature(step).parameters.items() if each.kind is each.KEYWORD_ONLY)
        raise TypeError(f"@step has no option {min(old)!r}; it has {', '.join(sorted(known))}")


def _attach(workflow: AcceptsSteps, config: StepConfig) -> None:
    if not callable(getattr(workflow, "add_step", None)):
        raise config.problem(f"has workflow={workflow!r}; it must be a workflow class or an instance of one")
    workflow.add_step(config.fn)


def wrong_check(names: object) -> object:
    """Return what is wrong among the names of checks to skip; None: nothing is."""
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Iterable):
        return names
    return next((name for name in cast("Iterable[object]", names) if name not in GRAPH_CHECKS), None)


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
    limit = options.get("limit")
    if limit is not None and not callable(getattr(limit, "request", None)):
        raise config.problem(f"has limit={limit!r}; it must be a Limit, or have its methods")
    skipped: Any = options.get("skip_graph_checks")
    measures: object = options.get("measures", ())
    if (wrong := wrong_check(skipped)) is not None:
        raise config.problem(f"has skip_graph_checks={wrong!r}; it must be a list of {', '.join(GRAPH_CHECKS)}")
    if isinstance(measures, str) or not isinstance(measures, Iterable):
        raise config.problem(f"has measures={measures!r}; it must be a list of names")
    config.num_workers = int(workers)
    config.timeout = timeout
    config.retry_policy = policy
    config.limit = limit
    config.own_task = bool(options.get("own_task", False))
    config.skip_graph_checks = tuple(skipped or ())
    config.accept_event_subclasses = bool(options.get("accept_event_subclasses", False))
    config.measures = tuple(cast("Iterable[str]", measures))


def _refuse_stray(config: StepConfig) -> None:
    raise config.problem("is a free function. Say which workflow it belongs to: @step(workflow=MyWorkflow)")
