"""Section 8: representation and drawing; section 9.1: checkpoints by snapshot."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

import tracedflow
from tracedflow import Context, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step
from tracedflow.drawing import (
    draw_all_possible_flows,
    draw_all_possible_flows_mermaid,
    draw_most_recent_execution,
    draw_most_recent_execution_mermaid,
)
from tracedflow.events import Event
from tracedflow.representation import (
    WorkflowEventNode,
    WorkflowExternalNode,
    WorkflowGenericNode,
    WorkflowGraph,
    WorkflowGraphEdge,
    WorkflowNodeBase,
    WorkflowResourceConfigNode,
    WorkflowResourceNode,
    WorkflowStepNode,
    get_workflow_representation,
)
from tracedflow.resource import Resource, ResourceConfig
from tracedflow.retry_policy import retry_policy, wait_none


class Settings(BaseModel):
    url: str = ""


class Question(InputRequiredEvent):
    """What is asked."""

    text: str


class Urgent(Question):
    pass


class Answer(HumanResponseEvent):
    pass


def connect(settings: Annotated[Settings, ResourceConfig("app.json", "db", label="Database", description="Where it is")]) -> str:
    """Opens the line."""
    return settings.url


class Ask(Workflow):
    """Asks somebody."""

    @step
    async def ask(self, ev: StartEvent, line: Annotated[str, Resource(connect)]) -> Urgent:
        """Puts the question."""
        return Urgent(text=line)

    @step
    async def hear(self, ev: Answer) -> StopEvent:
        return StopEvent(result=ev.text)


def nodes(graph: WorkflowGraph) -> dict[str, Any]:
    return {node.id: node for node in graph.nodes}


def edges(graph: WorkflowGraph) -> set[tuple[str, str]]:
    return {(edge.source, edge.target) for edge in graph.edges}


# 8.1 get_workflow_representation


def test_a_class_and_an_instance_have_the_same_graph() -> None:
    graph = get_workflow_representation(Ask)
    assert isinstance(graph, WorkflowGraph)
    assert graph == get_workflow_representation(Ask(disable_validation=True))
    assert (graph.name, graph.description) == ("Ask", "Asks somebody.")


def test_steps_have_an_id_a_label_and_their_docstring() -> None:
    node = nodes(get_workflow_representation(Ask))["ask"]
    assert isinstance(node, WorkflowStepNode)
    assert (node.node_type, node.id, node.label, node.description) == ("step", "ask", "ask", "Puts the question.")


def test_events_have_their_type_their_bases_their_schema_and_who_makes_them() -> None:
    node = nodes(get_workflow_representation(Ask))["Urgent"]
    assert isinstance(node, WorkflowEventNode)
    assert (node.node_type, node.event_type, node.produced_by) == ("event", "Urgent", ["ask"])
    assert node.event_types == ["Urgent", "Question", "InputRequiredEvent", "Event"]
    assert node.event_schema is not None
    assert "text" in node.event_schema["properties"]


def test_questions_lead_outside_and_answers_come_from_there() -> None:
    graph = get_workflow_representation(Ask)
    node = nodes(graph)["external_step"]
    assert isinstance(node, WorkflowExternalNode)
    assert node.node_type == "external"
    assert {("ask", "Urgent"), ("Urgent", "external_step"), ("external_step", "Answer"), ("Answer", "hear")} <= edges(graph)


def test_resources_and_configurations_are_nodes_that_lead_to_who_asks_for_them() -> None:
    graph = get_workflow_representation(Ask)
    (resource,) = (node for node in graph.nodes if isinstance(node, WorkflowResourceNode))
    (config,) = (node for node in graph.nodes if isinstance(node, WorkflowResourceConfigNode))
    assert (resource.node_type, resource.label, resource.description) == ("resource", "connect", "Opens the line.")
    assert (config.node_type, config.label, config.description) == ("resource_config", "Database", "Where it is")
    assert {(config.id, resource.id), (resource.id, "ask")} <= edges(graph)


def test_the_graph_goes_through_json_and_nodes_are_told_apart_by_their_type() -> None:
    graph = get_workflow_representation(Ask)
    text = graph.model_dump_json()
    assert WorkflowGraph.model_validate(json.loads(text)) == graph
    assert {type(node) for node in WorkflowGraph.model_validate_json(text).nodes} == {
        WorkflowStepNode,
        WorkflowEventNode,
        WorkflowExternalNode,
        WorkflowResourceNode,
        WorkflowResourceConfigNode,
    }


def test_a_filter_connects_what_was_on_both_sides_of_a_removed_node() -> None:
    graph = get_workflow_representation(Ask).filter_by_node_type("event", "resource")
    assert {node.node_type for node in graph.nodes} == {"step", "external", "resource_config"}
    assert {("ask", "external_step"), ("external_step", "hear")} <= edges(graph)
    assert any(source.startswith("resource") and target == "ask" for source, target in edges(graph))


def test_a_graph_can_be_made_by_hand() -> None:
    graph = WorkflowGraph(
        name="by hand",
        nodes=[WorkflowStepNode(id="a", label="a"), WorkflowGenericNode(id="b", label="b", description="anything")],
        edges=[WorkflowGraphEdge(source="a", target="b", label="to")],
    )
    assert all(isinstance(node, WorkflowNodeBase) for node in graph.nodes)
    assert graph.filter_by_node_type("generic").edges == []


# 8.2 drawing

DRAWINGS = {
    "draw_all_possible_flows": "workflow_all_flows.html",
    "draw_all_possible_flows_mermaid": "workflow_all_flows.mermaid",
    "draw_most_recent_execution": "workflow_recent_execution.html",
    "draw_most_recent_execution_mermaid": "workflow_recent_execution.mermaid",
}


class Work(Event):
    pass


class Plain(Workflow):
    calls = 0

    @step
    async def first(self, ctx: Context, ev: StartEvent) -> Work | None:
        for n in range(3):
            ctx.send_event(Work(n=n))
        return None

    @step(retry_policy=retry_policy(wait=wait_none()))
    async def second(self, ctx: Context, ev: Work) -> StopEvent | None:
        self.calls += 1
        if self.calls == 1:
            raise ConnectionError("reset")
        return StopEvent() if ctx.collect_events(ev, [Work] * 3) else None


@pytest.mark.parametrize(("name", "filename"), DRAWINGS.items())
async def test_each_drawing_writes_its_file_and_replaces_it(name: str, filename: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / filename).write_text("old")
    handler = Plain().run()
    await handler
    draw = getattr(tracedflow.drawing, name)
    assert draw is getattr(tracedflow, name)
    drawn = draw(handler if "recent" in name else Plain)
    text = (tmp_path / filename).read_text()
    assert "second" in text
    assert drawn == (text if name.endswith("mermaid") else None)
    draw(handler if "recent" in name else Plain(), filename="other.txt", max_label_length=40)
    assert "second" in (tmp_path / "other.txt").read_text()


def test_a_mermaid_drawing_has_the_known_ids_shapes_and_a_class_for_each_style() -> None:
    text = draw_all_possible_flows_mermaid(Ask, filename=None)
    assert text.startswith("flowchart TD\n")
    for line in (
        'step_ask["ask"]:::stepStyle',
        'event_StartEvent(["StartEvent"]):::startEventStyle',
        'event_StopEvent(["StopEvent"]):::stopEventStyle',
        'resource_connect{{"connect"}}:::resourceStyle',
    ):
        assert f"    {line}\n" in text
    assert "    step_ask --> event_Urgent\n" in text
    assert set(re.findall(r":::(\w+)", text)) == set(re.findall(r"classDef (\w+)", text))


async def test_a_page_needs_no_network(tmp_path: Path) -> None:
    handler = Plain().run()
    await handler
    draw_all_possible_flows(Ask, filename=str(tmp_path / "flows.html"))
    draw_most_recent_execution(handler, filename=str(tmp_path / "run.html"))
    for name in ("flows.html", "run.html"):
        text = (tmp_path / name).read_text()
        assert re.findall(r"""(?:src|href)\s*=\s*["']?(?!data:|#)[^"'\s>]+|@import|url\((?!#|data:)""", text) == []


async def test_a_run_is_drawn_with_its_own_causes_counts_times_and_retries_and_no_outsider() -> None:
    handler = Plain().run()
    await handler
    text = draw_most_recent_execution_mermaid(handler, filename=None)
    assert "external" not in text  # the reference draws every event as coming from there
    assert len(re.findall(r'step_second\w*\["', text)) == 1  # and a step that collects as many
    (second,) = re.findall(r'step_second\w*\["(.*)"\]', text)
    assert re.search(r"[\d.]+ (µs|ms|s)\b.*after 2 to collect.*1 retried", second)
    assert '["Work ×3"]' in text


async def test_a_run_may_be_drawn_while_it_goes_on_and_by_its_workflow() -> None:
    flow = Ask(disable_validation=True)
    with pytest.raises(ValueError, match="has not run"):
        draw_most_recent_execution(flow, filename="nothing.html")

    class Waits(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            answer = await ctx.wait_for_event(Answer, waiter_event=Question(text="?"))
            return StopEvent(result=answer.text)

    waits = Waits()
    handler = waits.run()
    async for event in handler.stream_events():
        if isinstance(event, Question):
            assert "waits for Answer" in draw_most_recent_execution_mermaid(waits, filename=None)
            handler.ctx.send_event(Answer(text="yes"))
    assert await handler == "yes"
    assert "StopEvent" in draw_most_recent_execution_mermaid(waits, filename=None)


# 9.1 the substitute for checkpoints


async def test_a_snapshot_after_an_interesting_stream_event_starts_a_later_run_from_there() -> None:
    class Done(Event):
        pass

    class Flow(Workflow):
        calls: list[str]

        @step
        async def expensive(self, ctx: Context, ev: StartEvent) -> Work:
            self.calls.append("expensive")
            await ctx.store.set("found", 42)
            return Work()

        @step
        async def cheap(self, ctx: Context, ev: Work) -> StopEvent:
            self.calls.append("cheap")
            ctx.write_event_to_stream(Done())
            await ctx.wait_for_event(Answer)
            return StopEvent(result=await ctx.store.get("found"))

    flow = Flow()
    flow.calls = []
    handler = flow.run()
    async for event in handler.stream_events():
        if isinstance(event, Done):
            saved = json.dumps(handler.ctx.to_dict())
            break
    await handler.cancel_run()

    context = Context.from_dict(flow, json.loads(saved))
    assert context.is_running
    again = flow.run(ctx=context)
    again.ctx.send_event(Answer())
    assert await again == 42
    assert flow.calls.count("expensive") == 1
