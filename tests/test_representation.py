from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from tracedflow import (
    Collect,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Take,
    Workflow,
    catch_error,
    step,
)
from tracedflow.events import StepFailedEvent
from tracedflow.representation import (
    ANY_STEP,
    EXTERNAL_STEP,
    WorkflowEventNode,
    WorkflowGenericNode,
    WorkflowGraph,
    WorkflowGraphEdge,
    WorkflowStepNode,
    get_workflow_representation,
)
from tracedflow.resource import Resource, ResourceConfig
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed


class Page(Event):
    """A page of a book."""

    number: int
    tags: list[str] = []


class LongPage(Page):
    pass


class PageRead(Event):
    words: int


class Book(Workflow):
    """Reads a book."""

    @step
    async def open(self, ev: StartEvent) -> list[Page]:
        """Open it.

        Page by page.
        """
        return []

    @step(num_workers=8, timeout=3, retry_policy=retry_policy(wait=wait_fixed(1), stop=stop_after_attempt(3)))
    async def read(self, ev: Page) -> PageRead:
        return PageRead(words=1)

    @step
    async def close(self, ev: Annotated[list[PageRead], Collect(Take(2))]) -> StopEvent:
        return StopEvent()


def edges(graph: WorkflowGraph) -> set[tuple[str, str, str | None]]:
    return {(edge.source, edge.target, edge.label) for edge in graph.edges}


def node(graph: WorkflowGraph, node_id: str) -> Any:
    return next(node for node in graph.nodes if node.id == node_id)


def test_the_graph_of_a_class_has_its_steps_and_events_and_the_ways_between_them() -> None:
    graph = get_workflow_representation(Book)
    assert (graph.name, graph.description) == ("Book", "Reads a book.")
    assert {each.id for each in graph.nodes if each.node_type == "step"} == {"open", "read", "close"}
    assert edges(graph) == {
        ("StartEvent", "open", None),
        ("open", "Page", "list"),
        ("Page", "read", None),
        ("read", "PageRead", None),
        ("PageRead", "close", "first 2"),
        ("close", "StopEvent", None),
    }


def test_a_class_is_not_instantiated() -> None:
    class Needy(Book):
        def __init__(self) -> None:
            raise AssertionError

    assert len(get_workflow_representation(Needy).nodes) == 7


def test_an_instance_has_its_name_and_the_steps_that_are_attached_to_it() -> None:
    flow = Workflow(workflow_name="attached")

    @step(workflow=flow)
    async def only(ev: StartEvent) -> StopEvent:
        return StopEvent()

    graph = get_workflow_representation(flow)
    assert (graph.name, graph.description) == ("attached", None)
    assert edges(graph) == {("StartEvent", "only", None), ("only", "StopEvent", None)}


def test_a_workflow_that_is_not_valid_has_a_graph_too() -> None:
    class Loose(Workflow):
        @step
        async def go(self, ev: StartEvent) -> Page | int:  # type: ignore[override]
            return Page(number=1)

    assert edges(get_workflow_representation(Loose)) == {("StartEvent", "go", None), ("go", "Page", None)}


def test_nodes_say_what_is_known_of_them() -> None:
    graph = get_workflow_representation(Book)
    read, page = node(graph, "read"), node(graph, "Page")
    assert isinstance(read, WorkflowStepNode)
    assert (read.num_workers, read.timeout, read.is_async) == (8, 3, True)
    assert read.code_name.endswith("Book.read")
    assert read.code_line > 0
    assert "stop_after_attempt" in str(read.retry_policy)
    assert "<class" not in str(read.retry_policy)
    assert node(graph, "open").description == "Open it.\n\nPage by page."
    assert isinstance(page, WorkflowEventNode)
    assert page.event_types == ["Page", "Event"]
    assert page.fields == {"number": "int", "tags": "list[str]"}
    assert page.event_schema is not None
    assert page.event_schema["required"] == ["number"]
    assert (page.description, page.produced_by) == ("A page of a book.", ["open"])
    assert node(graph, "PageRead").description is None


def test_it_goes_into_json_and_comes_back() -> None:
    graph = get_workflow_representation(Book)
    assert WorkflowGraph.model_validate_json(graph.model_dump_json()) == graph
    assert {each["node_type"] for each in json.loads(graph.model_dump_json())["nodes"]} == {"step", "event"}


def test_a_field_that_json_has_no_type_for_only_costs_the_schema() -> None:
    class Odd(Event):
        how: Any = Book
        lock: asyncio.Lock

    class Flow(Workflow):
        @step
        async def go(self, ev: StartEvent) -> Odd | StopEvent:
            return StopEvent()

        @step
        async def end(self, ev: Odd) -> None: ...

    odd = node(get_workflow_representation(Flow), "Odd")
    assert odd.event_schema is None
    assert list(odd.fields) == ["how", "lock"]


def test_a_default_that_json_cannot_hold_is_left_out_of_the_schema() -> None:
    class Odd(StartEvent):
        how: Any = Book

    class Flow(Workflow):
        @step
        async def go(self, ev: Odd) -> StopEvent:
            return StopEvent()

    assert node(get_workflow_representation(Flow), "Odd").event_schema["properties"] == {"how": {"title": "How"}}


def test_a_step_that_takes_subclasses_is_reached_by_them() -> None:
    class Flow(Workflow):
        @step
        async def go(self, ev: StartEvent) -> LongPage:
            return LongPage(number=1)

        @step(accept_event_subclasses=True)
        async def end(self, ev: Page) -> StopEvent:
            return StopEvent()

    assert ("LongPage", "end", None) in edges(get_workflow_representation(Flow))


def test_two_classes_of_one_name_are_two_nodes() -> None:
    def other() -> type[Event]:
        return type("Page", (Event,), {})

    Other = other()  # noqa: N806

    class Flow(Workflow):
        @step
        async def go(self, ev: StartEvent) -> Page | Other:  # type: ignore[valid-type]
            return Page(number=1)

        @step
        async def Page(self, ev: Page | Other) -> StopEvent:  # type: ignore[valid-type]  # noqa: N802
            return StopEvent()

    ids = [each.id for each in get_workflow_representation(Flow).nodes]
    assert len(set(ids)) == len(ids) == 6
    assert {"Page", "Page_2", "Page_3"} < set(ids)


def test_questions_and_answers_are_connected_through_whoever_is_outside() -> None:
    class Ask(InputRequiredEvent):
        pass

    class Human(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> Ask:
            return Ask()

        @step
        async def hear(self, ev: HumanResponseEvent) -> StopEvent:
            return StopEvent()

    graph = get_workflow_representation(Human)
    assert {("Ask", EXTERNAL_STEP, None), (EXTERNAL_STEP, "HumanResponseEvent", None)} < edges(graph)
    assert node(graph, EXTERNAL_STEP).node_type == "external"


def test_handlers_of_errors_say_whose_failures_they_take() -> None:
    class Careful(Book):
        @catch_error(for_steps=["read"])
        async def unreadable(self, ev: StepFailedEvent) -> PageRead:
            return PageRead(words=0)

        @catch_error
        async def anything(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent()

    graph = get_workflow_representation(Careful)
    assert {
        ("read", "StepFailedEvent", "fails"),
        ("StepFailedEvent", "unreadable", "of read"),
        (ANY_STEP, "StepFailedEvent", "fails"),
        ("StepFailedEvent", "anything", None),
    } < edges(graph)
    assert node(graph, "unreadable").role == "catch_error"
    assert isinstance(node(graph, ANY_STEP), WorkflowGenericNode)


def settings() -> dict[str, str]:
    """What the client needs."""
    return {}


def client(given: Annotated[dict[str, str], Resource(settings)]) -> object:
    return object()


def test_resources_are_nodes_and_so_is_what_they_need() -> None:
    class Tools(Workflow):
        @step
        async def go(
            self,
            ev: StartEvent,
            llm: Annotated[object, Resource(client)],
            part: Annotated[dict[str, str], ResourceConfig("app.toml", "llm")],
        ) -> Page:
            return Page(number=1)

        @step
        async def end(self, ev: Page, llm: Annotated[object, Resource(client)]) -> StopEvent:
            return StopEvent()

    graph = get_workflow_representation(Tools)
    assert {
        ("resource_settings", "resource_client", "given"),
        ("resource_client", "go", "llm"),
        ("resource_client", "end", "llm"),
        ("resource_app.toml", "go", "part"),
    } < edges(graph)
    made, read = node(graph, "resource_settings"), node(graph, "resource_app.toml")
    assert (made.description, made.type_name, made.lifetime) == ("What the client needs.", "dict[str, str]", "workflow")
    assert (read.node_type, read.config_file, read.path_selector) == ("resource_config", "app.toml", "llm")
    assert not edges(graph.filter_by_node_type("resource", "resource_config")) & {("resource_client", "go", "llm")}


def test_what_is_filtered_out_leaves_its_connections() -> None:
    graph = get_workflow_representation(Book).filter_by_node_type("event")
    assert edges(graph) == {("open", "read", "Page"), ("read", "close", "PageRead")}
    assert [each.node_type for each in graph.nodes] == ["step"] * 3
    events = get_workflow_representation(Book).filter_by_node_type("step")
    assert edges(events) == {("StartEvent", "Page", "open"), ("Page", "PageRead", "read"), ("PageRead", "StopEvent", "close")}


def test_a_filter_goes_past_chains_and_circles_of_removed_nodes() -> None:
    nodes = [
        WorkflowGenericNode(id="a", label="a"),
        WorkflowEventNode(id="b", label="b", event_type="b"),
        WorkflowEventNode(id="c", label="c", event_type="c"),
        WorkflowGenericNode(id="d", label="d"),
    ]
    ways = [("a", "b"), ("b", "c"), ("c", "b"), ("c", "d"), ("a", "d")]
    graph = WorkflowGraph(name="g", nodes=nodes, edges=[WorkflowGraphEdge(source=one, target=other) for one, other in ways])
    assert edges(graph.filter_by_node_type("event")) == {("a", "d", "b, c"), ("a", "d", None)}
    assert edges(graph.filter_by_node_type()) == edges(graph)
