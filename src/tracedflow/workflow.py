"""`Workflow`: the class that users subclass. Collects steps, validates the graph, starts runs."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, cast

from ._checks import (
    check_all,
    check_argument,
    check_callable,
    check_count,
    check_grace,
    check_name,
    check_one_of,
    check_seconds,
    check_skipped,
    checked_step,
)
from ._config import check_layer, layers_for
from ._engine import _state as st
from ._engine._checkpoint import CheckpointCallback, forked
from ._engine._dispatch import Dispatcher
from ._engine._runner import Runner
from ._engine._scope import BoundStep, StepScope, bind
from ._engine._settings import FROM_STEP, RunOptions, RunSettings
from ._engine._stream import DEFAULT_KEPT
from ._engine._threads import run_in_own_loop
from ._graph import Graph
from ._naming import name_of
from ._notebook import Drawn
from ._owner import ResourceOwner
from ._persistence import Persistent, start_event_of
from ._record_log import RecordLog
from ._result_type import result_problems
from .clock import active as active_clock
from .context import BaseSerializer, Context, current_scope
from .decorators import StepConfig, StepFunction, config_of
from .errors import ContextStateError, WorkflowConfigurationError, WorkflowRuntimeError, WorkflowStartError, WorkflowValidationError
from .events import Event, StartEvent, StopEvent
from .handler import WorkflowHandler, launch
from .limits import Limit
from .middleware import Middleware, RunCall
from .resource import ResourceManager
from .types import RunResultT

if TYPE_CHECKING:
    from .checkpointer import Checkpoint

DEFAULT_TIMEOUT = 45.0  # seconds
DEFAULT_CANCEL_GRACE = 0.5  # seconds


class _AddStep:
    """`add_step` of a class or of an instance: the free function becomes a step of what it was called on."""

    def __get__(self, instance: Workflow[Any] | None, owner: type[Workflow[Any]]) -> Callable[[StepFunction], None]:
        return owner._add_step_to_class if instance is None else instance._add_step_to_instance


class Workflow(Drawn, ResourceOwner, Persistent, Generic[RunResultT]):
    """A program of steps that are wired by the events they take and return. Subclass it and decorate methods with `@step`.

    `class F(Workflow[MyStop])` types the awaited result. An instance may run many times, also at once and from several
    event loops; its attributes are shared by its runs.

    Args:
        timeout: seconds for a run; None: no limit.
        disable_validation: leave the checks of the graph to `validate()`.
        verbose: print what happens, and a waterfall at the end, to stderr.
        resource_manager: what keeps the resources; None: the instance makes its own, and `aclose` closes it.
        num_concurrent_runs: how many runs of this instance may be live at once; others wait.
        runtime: None: there is one engine. The argument keeps the place of those after it.
        workflow_name: the name in traces and metrics; the class's qualified name otherwise.
        skip_graph_checks: any of `"reachability"`, `"terminal_event"`, `"dead_end"`.
        serializer: how `ctx.to_dict()` saves values; by default JSON, which knows the types in the annotations.
        middleware: layers of this workflow, outermost first.
        telemetry: whether to trace, measure and log; None: as `tracedflow.configure` or the environment says.
        on_stall: `"fail"`: a run that can never finish fails at once. `"wait"`: it waits for events from outside.
        max_queued: how many events may wait for a slot in one run; more raise `QueueFullError`. None: no bound.
        keep_events: how many events of the stream a run keeps for readers. None: all.
        keep_records: how many attempt records a run keeps for `handler.record`. None: all.
        cancel_grace: seconds that a cancelled step has to end, before it is abandoned.

    Raises:
        WorkflowConfigurationError: there is no step, or no single start or stop event, or an argument is wrong.
        WorkflowValidationError: the steps and events do not fit together. Every problem is listed.
    """

    if TYPE_CHECKING:  # pyright finds no descriptor in a protocol

        @classmethod
        def add_step(cls, func: StepFunction) -> None:
            """Attach a free function that is decorated with `@step`, to the class or to one instance."""
    else:
        add_step = _AddStep()

    _own_steps: ClassVar[dict[str, StepFunction]] = {}  # free functions attached to this very class
    _checked: ClassVar[dict[tuple[str, ...], Graph]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._own_steps = {}
        cls._checked = {}

    def __init__(
        self,
        timeout: float | None = DEFAULT_TIMEOUT,
        disable_validation: bool = False,
        verbose: bool = False,
        resource_manager: ResourceManager | None = None,
        num_concurrent_runs: int | None = None,
        runtime: None = None,
        workflow_name: str | None = None,
        skip_graph_checks: Sequence[str] | None = None,
        serializer: BaseSerializer | None = None,
        *,
        middleware: Sequence[Middleware] = (),
        telemetry: bool | None = None,
        on_stall: Literal["fail", "wait"] = "fail",
        max_queued: int | None = None,
        keep_events: int | None = DEFAULT_KEPT,
        keep_records: int | None = DEFAULT_KEPT,
        cancel_grace: float = DEFAULT_CANCEL_GRACE,
    ) -> None:
        if cast("object", runtime) is not None:
            raise WorkflowConfigurationError(f"runtime={runtime!r}: there is one engine; leave it out, and see middleware= for layers")
        self._disable_validation = disable_validation
        self._verbose = verbose
        self._name = check_name("workflow_name", workflow_name)
        self._skipped = check_skipped(skip_graph_checks)
        self._own_serializer = check_argument("serializer", serializer, BaseSerializer)
        self._middleware = check_all("middleware", middleware)
        self._telemetry = telemetry
        runs = check_count("num_concurrent_runs", num_concurrent_runs)
        self._run_settings: RunSettings = RunSettings(
            timeout=check_seconds("timeout", timeout),
            on_stall=check_one_of("on_stall", on_stall, ("fail", "wait")),
            max_queued=check_count("max_queued", max_queued),
            keep_events=check_count("keep_events", keep_events),
            keep_records=check_count("keep_records", keep_records),
            cancel_grace=check_grace("cancel_grace", cancel_grace),
            gate=None if runs is None else Limit(f"runs of {self.workflow_name}", concurrency=runs),
        )
        self._own(resource_manager)
        self._instance_steps: dict[str, StepFunction] = {}
        self._graph: Graph | None = None
        self._version: dict[tuple[str, ...], Graph] = {}  # the class's `_checked` when it was built: another one, other steps
        self._bound: dict[str, BoundStep] | None = None
        self._dispatcher: Dispatcher | None = None
        self._last_records: RecordLog | None = None  # of the run started last, for drawing: no payload in them
        self._fold_lock = threading.Lock()
        for layer in self._middleware:
            check_layer(layer)
        if not disable_validation and not self._is_bare:
            self._checked_graph()

    # --- declaration ---

    @classmethod
    def _add_step_to_class(cls, func: StepFunction) -> None:
        cls._own_steps[checked_step(func, cls._class_steps(), cls.__qualname__)] = func
        for owner in (cls, *_subclasses(cls)):
            owner._checked = {}

    def _add_step_to_instance(self, func: StepFunction) -> None:
        self._ready()
        name = checked_step(func, {**self._class_steps(), **self._instance_steps}, self.workflow_name)
        self._instance_steps[name] = func
        self._graph = self._bound = None

    @classmethod
    def _class_steps(cls) -> dict[str, StepFunction]:
        """Return the steps by name: methods and attached functions, with those of the bases. Runs no user code."""
        found: dict[str, StepFunction] = {}
        hidden: set[str] = set()
        for owner in cls.__mro__:
            own = {**vars(owner).get("_own_steps", {}), **vars(owner)}
            for name, attribute in own.items():
                if name in hidden:
                    continue
                hidden.add(name)
                function = getattr(attribute, "__func__", attribute)
                if config_of(function) is not None:
                    found[name] = function
        return found

    @property
    def _is_bare(self) -> bool:
        """Whether it is `Workflow()` itself, whose steps are attached later and checked at the first run."""
        return type(self) is Workflow

    def _checked_graph(self) -> Graph:
        """Return the validated graph; the check is made once for a class, its skipped checks and its attached steps."""
        self._ready()
        cls = type(self)
        if self._graph is not None and self._version is cls._checked:
            return self._graph
        cached = None if self._instance_steps else cls._checked.get(self._skipped)
        graph = cached or self._built_graph()
        if cached is None and not self._disable_validation:
            graph.validate(self._skipped, result_problems(cls, Workflow, graph))
            if not self._instance_steps:
                cls._checked[self._skipped] = graph
        self._graph, self._version, self._bound = graph, cls._checked, None
        return graph

    def _built_graph(self) -> Graph:
        return self._graph_of_class(self._instance_steps, self._name)

    @classmethod
    def _graph_of_class(cls, attached: Mapping[str, StepFunction] = MappingProxyType({}), name: str | None = None) -> Graph:
        """Return the graph of the class, with what is attached to one instance of it; not validated."""
        functions = {**cls._class_steps(), **attached}
        configs: dict[str, StepConfig] = {}
        unreadable: list[str] = []
        for step_name, function in functions.items():
            config = configs[step_name] = cast("StepConfig", config_of(function))
            try:
                config.settle()
            except WorkflowValidationError as error:
                unreadable.append(str(error))
        if unreadable:
            raise WorkflowValidationError("\n".join(unreadable))
        return Graph(cls.__qualname__ if name is None else name, partial(_place_of, cls), configs)

    def _bound_steps(self, graph: Graph) -> dict[str, BoundStep]:
        if self._bound is None:
            free = {**{n: f for c in type(self).__mro__ for n, f in vars(c).get("_own_steps", {}).items()}, **self._instance_steps}
            self._bound = {name: bind(config, free.get(name) or getattr(self, name)) for name, config in graph.steps.items()}
        return self._bound

    def _folded(self) -> Dispatcher:
        with self._fold_lock:
            if self._dispatcher is None:
                self._dispatcher = Dispatcher(layers_for(self._middleware, self._telemetry, self._verbose))
            return self._dispatcher

    def _ready(self) -> None:
        if "_fold_lock" not in vars(self):
            raise WorkflowRuntimeError(
                f"{type(self).__qualname__}.__init__ does not call super().__init__(); add super().__init__(*args, **kwargs)"
            )

    def validate(self, validate_resource_configs: bool = True, validate_resources: bool = False) -> bool:
        """Check the graph now, whatever `disable_validation` says; return whether it takes human input.

        Args:
            validate_resource_configs: also read the configuration files that steps and factories ask for.
            validate_resources: also make, and close again, each resource that needs nothing of a run.

        Raises:
            WorkflowConfigurationError, WorkflowValidationError: as the constructor does.
        """
        self._ready()
        graph = self._built_graph()
        configs = self._config_problems(graph) if validate_resource_configs else ()
        graph.validate(self._skipped, [*result_problems(type(self), Workflow, graph), *configs])
        if validate_resources:  # only now: what is declared wrongly cannot be made
            graph.refuse(self._trial_problems(graph))
        return graph.takes_human_input

    # --- facts ---

    @property
    def workflow_name(self) -> str:
        """The name in traces, metrics and messages."""
        if self._name is not None:
            return self._name
        if self._is_bare and getattr(self, "_instance_steps", None):
            return next(iter(self._instance_steps.values())).__module__
        return name_of(type(self))

    @property
    def start_event_class(self) -> type[StartEvent]:
        """The class that starts a run."""
        return self._checked_graph().start_event

    @property
    def stop_event_class(self) -> type[StopEvent]:
        """The class that ends a run."""
        return self._checked_graph().stop_event

    @property
    def runtime(self) -> None:
        """None: there is one engine, and it cannot be exchanged."""

    @property
    def events(self) -> list[type[Event]]:
        """Every event class that a step takes or returns."""
        return self._checked_graph().events

    # --- runs ---

    def run(
        self,
        ctx: Context[Any] | None = None,
        start_event: StartEvent | None = None,
        *,
        run_id: str | None = None,
        stepwise: bool = False,
        checkpoint_callback: CheckpointCallback | None = None,
        options: RunOptions | None = None,
        **kwargs: Any,
    ) -> WorkflowHandler[RunResultT]:
        """Start a run; await the handler for its result. Needs a running event loop; see `run_sync` for scripts.

        Args:
            ctx: a Context to go on with; its store is shared. A run that was live in it goes on, and ignores a new start.
            start_event: what to start with; else one is made of the keywords.
            run_id: the id of the run; no live run may have it.
            stepwise: run one step at a time, with `await handler.run_step()`.
            checkpoint_callback: awaited when a step has completed, before the run goes on; see `CheckpointCallback`.
            options: timeout, tags and the like, for this run.
            **kwargs: fields of the start event.

        Raises:
            WorkflowStartError: no event loop runs, or a live run has this id.
            WorkflowRuntimeError: the start event could not be made of the keywords.
            ValueError: `start_event` is none.
            ContextStateError: the Context belongs to a live run.
            WorkflowValidationError: a configuration file that a step asks for is missing or wrong, or an argument is.
        """
        graph = self._checked_graph()
        loop = _running_loop(type(self).__qualname__)
        options = check_argument("options", options, RunOptions) or RunOptions()
        check_name("run_id", run_id)
        check_callable("checkpoint_callback", checkpoint_callback)
        context = self._context_for(ctx)
        dispatcher = self._folded()  # before the run's clock starts: the first one loads the layers
        saved = context._saved
        event = start_event_of(saved, start_event, graph.start_event, kwargs, self.workflow_name)
        outer = current_scope.get()
        parent = outer if outer is not None and options.parent is FROM_STEP and _is_live_on(outer, loop) else None
        clock = active_clock.get()
        settings = self._run_settings.of_run(options, checkpoint_callback, stepwise=stepwise)
        call = RunCall(
            workflow=self.workflow_name,
            run_id=run_id or (saved.run_id if saved is not None else clock.new_id()),
            start_event=event,
            segment=1 if saved is None else saved.segment + 1,
            resumed=saved is not None,
            started_at=clock.now(),
            timeout=settings.timeout,
            can_wait=graph.can_wait,
            parent_run_id=parent.runner.run_id if parent else None,
            spawned_by=outer.call.span_context if outer is not None and parent is None else None,
            tags=options.tags,
            conversation_id=options.conversation_id,
            headers=options.headers,
            carrier={} if saved is None else saved.carrier,
            left_at=None if saved is None else saved.saved_at,
        )
        slots = {name: config.num_workers for name, config in graph.steps.items()}
        state = saved.state if saved is not None else st.new_state(call.run_id, slots)
        resources = self._resources_of_run(graph, event, context, check=not self._disable_validation)
        runner = Runner(self, graph, dispatcher, call, state, settings, parent, saved)
        if resources is not None:
            runner.resources = resources
        handler = launch(runner, context)
        self._last_records = runner.records
        context._saved = None  # only now: a run that could not start leaves it to the next
        return handler

    def run_from(
        self,
        checkpoint: Checkpoint,
        ctx_serializer: BaseSerializer | None = None,
        checkpoint_callback: CheckpointCallback | None = None,
        **kwargs: Any,
    ) -> WorkflowHandler[RunResultT]:
        """Start a run, with an id of its own, that goes on after the step that a checkpoint was made of.

        `ctx_serializer` is the one that the checkpoint was saved with; the keywords are those of `run`.

        Raises:
            ContextSerdeError: the checkpoint is malformed, does not fit the workflow, or has no live run in it.
        """
        return self.run(forked(self, checkpoint, ctx_serializer), checkpoint_callback=checkpoint_callback, **kwargs)

    def run_sync(self, ctx: Context[Any] | None = None, start_event: StartEvent | None = None, **kwargs: Any) -> RunResultT:
        """Run to the end and return the result, without an event loop of one's own.

        In a thread whose event loop is running (a notebook), the run gets a thread and a loop of its own.
        """
        self._ready()

        async def main() -> RunResultT:
            try:
                return await self.run(ctx, start_event, **kwargs)
            finally:
                await self._resources.leave_loop()

        return run_in_own_loop(main)

    def _context_for(self, given: Context[Any] | None) -> Context[Any]:
        if given is None:
            return Context(self)
        if not isinstance(cast("object", given), Context):
            remedy = "make one with Context(workflow) or Context.from_dict; fields of the start event go by name, as run(topic=...)"
            raise ContextStateError(f"run(ctx=) takes a Context, not {given!r}; {remedy}")
        if given._scope is not None:
            raise ContextStateError("run(ctx=) got the Context of a step; give a new one, or none: the nested run has its own state")
        if given._runner is not None and not given._runner.is_over:
            raise ContextStateError("run(ctx=) got the Context of a live run; await that run first, or give each run its own Context")
        if given._saved is not None and given._workflow._checked_graph().steps.keys() != self._checked_graph().steps.keys():
            other, name = given._workflow.workflow_name, self.workflow_name
            raise ContextStateError(f"run(ctx=) of {name} got a saved run of {other}; load it for the workflow that shall go on with it")
        return given


def _is_live_on(scope: StepScope, loop: asyncio.AbstractEventLoop) -> bool:
    return not scope.ended and not scope.runner.is_over and scope.runner.loop is loop


def _running_loop(name: str) -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        text = f"{name}.run() needs a running event loop: call it in an `async def`, or use {name}(...).run_sync(...)"
        raise WorkflowStartError(text) from None


def _place_of(cls: type) -> str:
    try:
        return f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):  # defined in a console
        return getattr(sys.modules.get(cls.__module__), "__file__", None) or cls.__module__


def _subclasses(cls: type[Workflow[Any]]) -> list[type[Workflow[Any]]]:
    return [found for direct in cls.__subclasses__() for found in (direct, *_subclasses(direct))]
