"""The graph of a workflow as data: nodes and edges that go into JSON. Built from types alone; nothing is run or drawn here."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Field
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

from ._descriptors import Resource, ResourceConfig, ResourceDefinition
from ._graph import Graph, accepts
from .decorators import StepConfig
from .events import Event, HumanResponseEvent, InputRequiredEvent, StepFailedEvent

if TYPE_CHECKING:
    from .workflow import Workflow

EXTERNAL_STEP = "external_step"
"""The id of the node that stands for whoever answers an `InputRequiredEvent`."""

ANY_STEP = "any_step"
"""The id of the node that stands for every step whose failure a `@catch_error` step without `for_steps` handles."""


class WorkflowNodeBase(BaseModel):
    """What every node has: an id that is unique in its graph, a label to show, and the docstring it came with."""

    id: str
    label: str
    description: str | None = None


class WorkflowStepNode(WorkflowNodeBase):
    """A step. `code_name` is the dotted name of its function; `timeout` is seconds for one attempt."""

    node_type: Literal["step"] = "step"
    role: Literal["step", "catch_error"] = "step"
    code_name: str = ""
    code_line: int = 0
    num_workers: int = 4
    timeout: float | None = None
    retry_policy: str | None = None
    limit: str | None = None
    is_async: bool = True
    may_wait: bool = False


class WorkflowEventNode(WorkflowNodeBase):
    """An event class. `event_types` are the names of the class and its bases; `produced_by` the steps that return it."""

    node_type: Literal["event"] = "event"
    event_type: str
    event_types: list[str] = Field(default_factory=list)
    event_schema: dict[str, Any] | None = None
    fields: dict[str, str] = Field(default_factory=dict)  # the declared fields, each with its annotation
    produced_by: list[str] = Field(default_factory=list)

    def is_a(self, kind: type[Event]) -> bool:
        """Whether the class has the name of `kind`, or derives from one that has."""
        return kind.__name__ in self.event_types


class WorkflowExternalNode(WorkflowNodeBase):
    """Whoever is outside: takes the events that ask for input and sends those that answer."""

    node_type: Literal["external"] = "external"


class WorkflowResourceNode(WorkflowNodeBase):
    """A resource that steps ask for, made by a factory."""

    node_type: Literal["resource"] = "resource"
    type_name: str | None = None
    cache: bool = True
    lifetime: Literal["workflow", "run", "attempt"] = "workflow"


class WorkflowResourceConfigNode(WorkflowNodeBase):
    """A resource that is read from a configuration file."""

    node_type: Literal["resource_config"] = "resource_config"
    type_name: str | None = None
    config_file: str | None = None
    path_selector: str | None = None


class WorkflowGenericNode(WorkflowNodeBase):
    """Anything else that belongs into the picture."""

    node_type: Literal["generic"] = "generic"


WorkflowGraphNode: TypeAlias = Annotated[
    WorkflowStepNode
    | WorkflowEventNode
    | WorkflowExternalNode
    | WorkflowResourceNode
    | WorkflowResourceConfigNode
    | WorkflowGenericNode,
    Field(discriminator="node_type"),
]  # fmt: skip
"""A node of any kind; `node_type` tells which."""

NodeType: TypeAlias = Literal["step", "event", "external", "resource", "resource_config", "generic"]
"""The kinds of nodes."""


class WorkflowGraphEdge(BaseModel):
    """An arrow from one node to another, by their ids."""

    source: str
    target: str
    label: str | None = None


class WorkflowGraph(BaseModel):
    """The nodes and edges of one workflow, in the order of its declaration."""

    name: str
    nodes: list[WorkflowGraphNode]
    edges: list[WorkflowGraphEdge]
    description: str | None = None

    def filter_by_node_type(self, *node_types: str) -> WorkflowGraph:
        """Return the graph without the nodes of these types; what they connected is connected directly.

        An edge that stands for removed nodes has their labels as its label.
        """
        removed = {node.id: node.label for node in self.nodes if node.node_type in node_types}
        following: dict[str, list[WorkflowGraphEdge]] = {}
        for edge in self.edges:
            following.setdefault(edge.source, []).append(edge)
        kept = [node for node in self.nodes if node.id not in removed]
        edges = [edge for node in kept for edge in _relinked(node.id, following, removed)]
        return WorkflowGraph(name=self.name, nodes=kept, edges=edges, description=self.description)


def get_workflow_representation(workflow: Workflow[Any] | type[Workflow[Any]]) -> WorkflowGraph:
    """Return the graph of a workflow, or of a workflow class, which is not instantiated. It need not be valid.

    Raises:
        WorkflowValidationError: the annotations of a step cannot be read.
    """
    if isinstance(workflow, type):
        return _Builder(workflow._graph_of_class(), workflow.__qualname__, workflow).build()
    return _Builder(workflow._built_graph(), workflow.workflow_name, type(workflow)).build()


def _relinked(source: str, following: dict[str, list[WorkflowGraphEdge]], removed: dict[str, str]) -> list[WorkflowGraphEdge]:
    """Return the edges from `source` to the nodes that are left, past those removed."""
    found: dict[tuple[str, str | None], WorkflowGraphEdge] = {}
    passed: set[str] = set()
    todo: list[tuple[WorkflowGraphEdge, tuple[str, ...]]] = [(edge, ()) for edge in following.get(source, ())]
    while todo:
        edge, through = todo.pop(0)
        if edge.target not in removed:
            label = ", ".join(through) if through else edge.label
            found.setdefault((edge.target, label), WorkflowGraphEdge(source=source, target=edge.target, label=label))
        elif edge.target not in passed:
            passed.add(edge.target)
            todo += [(further, (*through, removed[edge.target])) for further in following.get(edge.target, ())]
    return list(found.values())


class _Builder:
    """Collects the nodes and edges of one graph."""

    def __init__(self, graph: Graph, name: str, cls: type[Any]) -> None:
        self._graph = graph
        self._name = name
        self._cls = cls
        self._nodes: dict[str, WorkflowGraphNode] = {}
        self._edges: dict[tuple[str, str, str | None], WorkflowGraphEdge] = {}
        self._ids: dict[object, str] = {}

    def build(self) -> WorkflowGraph:
        """Return the finished graph."""
        for step in self._graph.steps.values():
            self._step(step)
        annotated: list[Any] = [*self._graph.events]
        for event in annotated:
            if isinstance(event, type) and issubclass(event, Event):  # a wrong annotation is for `validate()` to tell
                self._event(event)
        for step in self._graph.steps.values():
            self._edges_of(step)
            for parameter, wanted in step.resources.items():
                self._link(self._resource(wanted), self._ids[step.name], parameter)
        self._people()
        description = self._cls.__dict__.get("__doc__") if self._cls.__module__ != "tracedflow.workflow" else None
        return WorkflowGraph(
            name=self._name,
            nodes=list(self._nodes.values()),
            edges=list(self._edges.values()),
            description=_cleaned(description),
        )

    def _add(self, key: object, wanted: str) -> str:
        """Return an id that no other node has."""
        number, found = 2, wanted
        while found in self._nodes:
            number, found = number + 1, f"{wanted}_{number}"
        self._ids[key] = found
        return found

    def _link(self, source: str, target: str, label: str | None = None) -> None:
        self._edges.setdefault((source, target, label), WorkflowGraphEdge(source=source, target=target, label=label))

    def _step(self, step: StepConfig) -> None:
        node_id = self._add(step.name, step.name)
        self._nodes[node_id] = WorkflowStepNode(
            id=node_id,
            label=step.name,
            description=_cleaned(step.fn.__doc__),
            role=step.role,
            code_name=step.code_name,
            code_line=step.code_line,
            num_workers=step.num_workers,
            timeout=step.timeout,
            retry_policy=None if step.retry_policy is None else _shown(step.retry_policy),
            limit=None if step.limit is None else str(getattr(step.limit, "name", None) or _shown(step.limit)),
            is_async=step.is_async,
            may_wait=step.may_wait,
        )

    def _event(self, event: type[Event]) -> None:
        node_id = self._add(event, event.__name__)
        self._nodes[node_id] = WorkflowEventNode(
            id=node_id,
            label=event.__name__,
            description=_cleaned(event.__dict__.get("__doc__")),
            event_type=event.__name__,
            event_types=[base.__name__ for base in event.__mro__ if issubclass(base, Event)],
            event_schema=_schema(event),
            fields={name: _annotation(field.annotation) for name, field in event.model_fields.items()},
            produced_by=[step.name for step in self._graph.steps.values() if event in step.return_types],
        )

    def _edges_of(self, step: StepConfig) -> None:
        own = self._ids[step.name]
        for event in self._graph.events:
            if event in self._ids and accepts(step, event):
                self._link(self._ids[event], own, _taken_as(step, event))
        for event in step.return_types:
            if event in self._ids:
                self._link(own, self._ids[event], "list" if event in step.list_return_types else None)
        if step.role == "catch_error" and StepFailedEvent in self._ids:
            self._failures(step)

    def _failures(self, handler: StepConfig) -> None:
        """Say whose failures a handler takes."""
        failed = self._ids[StepFailedEvent]
        for name in handler.catch_error_for_steps or ():
            if name in self._graph.steps:
                self._link(self._ids[name], failed, "fails")
        if handler.catch_error_for_steps is None:
            node = WorkflowGenericNode(id=ANY_STEP, label="any step", description="Any step that fails and that no other handler names.")
            self._nodes.setdefault(ANY_STEP, node)
            self._link(ANY_STEP, failed, "fails")

    def _people(self) -> None:
        """Connect what asks for input with what answers it, through whoever is outside."""
        events = [(node, found) for found, node in self._ids.items() if isinstance(found, type)]
        asked = [node for node, event in events if issubclass(event, InputRequiredEvent)]
        answers = [node for node, event in events if issubclass(event, HumanResponseEvent)]
        if not asked and not answers:
            return
        text = "Whoever reads the run's stream and answers."
        self._nodes[EXTERNAL_STEP] = WorkflowExternalNode(id=EXTERNAL_STEP, label="external", description=text)
        for node in asked:
            self._link(node, EXTERNAL_STEP)
        for node in answers:
            self._link(EXTERNAL_STEP, node)

    def _resource(self, wanted: ResourceDefinition) -> str:
        """Add a resource, and those that its factory asks for; return its id."""
        asked = wanted.resource
        key = ("resource", asked.key if isinstance(asked, Resource) else (asked.path, asked.path_selector))
        if key in self._ids:
            return self._ids[key]
        node_id = self._add(key, f"resource_{asked.name}")
        kind = _annotation(wanted.type_annotation)
        if isinstance(asked, ResourceConfig):
            self._nodes[node_id] = WorkflowResourceConfigNode(
                id=node_id,
                label=asked.name,
                description=_cleaned(asked.description),
                type_name=kind,
                config_file=asked.path,
                path_selector=asked.path_selector,
            )
            return node_id
        description = _cleaned(getattr(asked.factory, "__doc__", None))
        self._nodes[node_id] = WorkflowResourceNode(
            id=node_id, label=asked.name, description=description, type_name=kind, cache=asked.cache, lifetime=asked.lifetime
        )
        for parameter, needed in asked.needs().resources.items():
            self._link(self._resource(needed), node_id, parameter)
        return node_id


def _taken_as(step: StepConfig, event: type[Event]) -> str | None:
    if step.collection_param is not None:
        cardinality = step.collection_policy.cardinality if step.collection_policy is not None else None
        count = getattr(cardinality, "n", None)
        return "list" if count is None else f"first {count}"
    if step.role == "catch_error" and event is StepFailedEvent and step.catch_error_for_steps is not None:
        return f"of {', '.join(step.catch_error_for_steps)}"
    return None


class _QuietSchema(GenerateJsonSchema):
    """A default that JSON cannot hold is left out without a warning: nobody who draws can do anything about it."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as pydantic declares it


def _schema(event: type[Event]) -> dict[str, Any] | None:
    """Return the JSON schema of a class, or None if a field has a type that JSON does not know."""
    try:
        return event.model_json_schema(schema_generator=_QuietSchema)
    except (PydanticUserError, RecursionError):
        return None


def _annotation(hint: Any) -> str:
    if isinstance(hint, type) and not getattr(hint, "__args__", None):
        return hint.__name__
    return inspect.formatannotation(hint).replace("typing.", "").replace("NoneType", "None")


def _shown(thing: object) -> str:
    """Return how a policy or limit shows itself, without the address that a plain object has."""
    text = re.sub(r"<class '(?:builtins\.)?([^']+)'>", r"\1", repr(thing))
    return type(thing).__name__ if " object at 0x" in text else text


def _cleaned(text: Any) -> str | None:
    return inspect.cleandoc(text) if isinstance(text, str) and text.strip() else None


__all__ = [
    "NodeType",
    "WorkflowEventNode",
    "WorkflowExternalNode",
    "WorkflowGenericNode",
    "WorkflowGraph",
    "WorkflowGraphEdge",
    "WorkflowGraphNode",
    "WorkflowNodeBase",
    "WorkflowResourceConfigNode",
    "WorkflowResourceNode",
    "WorkflowStepNode",
    "get_workflow_representation",
]
