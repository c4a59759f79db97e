"""The picture of everything that can happen: a box for each step, event and resource of a workflow."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import CodeType
from typing import Any, assert_never

from ..decorators import config_of
from ..events import StartEvent, StopEvent
from ..representation import (
    WorkflowEventNode,
    WorkflowExternalNode,
    WorkflowGenericNode,
    WorkflowGraph,
    WorkflowGraphEdge,
    WorkflowGraphNode,
    WorkflowResourceConfigNode,
    WorkflowResourceNode,
    WorkflowStepNode,
    get_workflow_representation,
)
from ..workflow import Workflow
from ._picture import Arrow, ArrowStyle, Box, Kind, Picture


def flows(workflow: Workflow[Any] | type[Workflow[Any]], *, with_children: bool) -> Picture:
    """Return the picture of a workflow; with `with_children`, also of the workflows that its steps name in their code."""
    graph = get_workflow_representation(workflow)
    picture = picture_of(graph)
    if with_children:
        _add_children(picture, workflow)
    return picture


def picture_of(graph: WorkflowGraph) -> Picture:
    """Return the picture of a graph."""
    nodes = {node.id: node for node in graph.nodes}
    steps = sum(node.node_type == "step" for node in graph.nodes)
    events = sum(node.node_type == "event" for node in graph.nodes)
    return Picture(
        title=graph.name,
        text=graph.description,
        facts=(counted(steps, "step"), counted(events, "event")),
        boxes=[box_of(node) for node in graph.nodes],
        arrows=[
            Arrow(source=edge.source, target=edge.target, style=_style(edge, nodes), text=edge.label)
            for edge in graph.edges
            if edge.source in nodes and edge.target in nodes
        ],
    )


def counted(number: int, noun: str) -> str:
    """Write a number of things: `1 step`, `2 steps`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def kind_of(node: WorkflowGraphNode) -> Kind:
    """Return how a node is drawn."""
    match node:
        case WorkflowStepNode():
            return "handler" if node.role == "catch_error" else "step"
        case WorkflowEventNode():
            return "start" if node.is_a(StartEvent) else "stop" if node.is_a(StopEvent) else "event"
        case WorkflowExternalNode() | WorkflowGenericNode() | WorkflowResourceNode() | WorkflowResourceConfigNode():
            return node.node_type
        case _:
            assert_never(node)


def box_of(node: WorkflowGraphNode) -> Box:
    """Return the box of a node."""
    return Box(id=node.id, kind=kind_of(node), title=node.label, text=node.description, facts=_facts(node), notes=_notes(node))


def _facts(node: WorkflowGraphNode) -> list[tuple[str, str]]:
    match node:
        case WorkflowStepNode():
            return list(_step_facts(node))
        case WorkflowEventNode():
            bases = " ← ".join(node.event_types[1:])
            facts = [(name, kind) for name, kind in node.fields.items()] or [("fields", "none declared")]
            return [("derives from", bases), *facts] if bases else facts
        case WorkflowResourceNode():
            made = {"workflow": "once for the workflow", "run": "once for each run", "attempt": "for each attempt"}[node.lifetime]
            return [*([("type", node.type_name)] if node.type_name else []), ("made", made)]
        case WorkflowResourceConfigNode():
            found = (("type", node.type_name), ("file", node.config_file), ("path", node.path_selector))
            return [(name, value) for name, value in found if value]
        case WorkflowExternalNode() | WorkflowGenericNode():
            return []
        case _:
            assert_never(node)


def _step_facts(node: WorkflowStepNode) -> Iterator[tuple[str, str]]:
    yield "function", f"{node.code_name}, line {node.code_line}"
    yield "at once", f"{node.num_workers} in one run"
    if node.timeout is not None:
        yield "timeout", f"{node.timeout:g} s for one attempt"
    if node.retry_policy is not None:
        yield "retries", node.retry_policy
    if node.limit is not None:
        yield "limit", node.limit
    if not node.is_async:
        yield "runs in", "a thread of its own"
    if node.may_wait:
        yield "may wait", "for an event, in the middle"


def _notes(node: WorkflowGraphNode) -> tuple[str, ...]:
    if not isinstance(node, WorkflowStepNode):
        return ()
    marks = (
        "retries" if node.retry_policy else "",
        f"timeout {node.timeout:g} s" if node.timeout else "",
        "waits" if node.may_wait else "",
    )
    text = " · ".join(mark for mark in marks if mark)
    return (text,) if text else ()


def _style(edge: WorkflowGraphEdge, nodes: dict[str, WorkflowGraphNode]) -> ArrowStyle:
    ends = {nodes[edge.source].node_type, nodes[edge.target].node_type}
    if ends & {"resource", "resource_config"}:
        return "resource"
    if "external" in ends:
        return "outside"
    if edge.label == "fails":
        return "failure"
    return "many" if edge.label is not None and (edge.label == "list" or edge.label.startswith("first ")) else "plain"


# --- workflows within workflows ---


def _add_children(picture: Picture, workflow: Workflow[Any] | type[Workflow[Any]]) -> None:
    cls = workflow if isinstance(workflow, type) else type(workflow)
    taken = {box.id for box in picture.boxes}
    for name in [box.id for box in picture.boxes if box.kind in ("step", "handler")]:
        function = getattr(cls, name, None)
        config = config_of(getattr(function, "__func__", function))
        if config is None:
            continue
        for child in _named_workflows(config.fn):
            box = _child(child)
            if child is not cls and box is not None:
                if box.id not in taken:
                    taken.add(box.id)
                    picture.boxes.append(box)
                picture.arrows.append(Arrow(source=name, target=box.id, style="resource", text="may run"))


def _child(cls: type[Workflow[Any]]) -> Box | None:
    graph = get_workflow_representation(cls)
    steps = [node.label for node in graph.nodes if node.node_type == "step"]
    if not steps:
        return None
    facts = [("steps", ", ".join(steps))]
    return Box(
        id=f"workflow {cls.__qualname__}", kind="generic", title=cls.__name__, notes=("workflow",), text=graph.description, facts=facts
    )


def _named_workflows(function: Any) -> list[type[Workflow[Any]]]:
    """Return the workflow classes that a function names; a guess from its code, which is not run."""
    code = inspect.unwrap(function).__code__
    known = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
    named = [known.get(name) for name in _names_in(code)]
    classes = dict.fromkeys(found for found in named if isinstance(found, type))  # what else is named may have no hash
    return [found for found in classes if issubclass(found, Workflow)]


def _names_in(code: CodeType) -> list[str]:
    inner = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names_in(constant)]
    return [*code.co_names, *code.co_freevars, *inner]
