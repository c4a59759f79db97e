from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import BaseModel

from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowConfigurationError,
    WorkflowValidationError,
    step,
)


class Draft(Event):
    pass


class Review(Event):
    pass


class LongDraft(Draft):
    pass


class OtherStart(StartEvent):
    pass


class OtherStop(StopEvent):
    pass


class Question(InputRequiredEvent):
    pass


class Answer(HumanResponseEvent):
    pass


PLACE = rf"\({re.escape(__file__)}:\d+\)"


def problems(flow: type[Workflow], kind: type[Exception] = WorkflowValidationError, **options: Any) -> list[str]:
    """Return what is wrong with a workflow, one line each."""
    with pytest.raises(kind) as caught:
        flow(**options)
    assert type(caught.value) is kind
    head, *lines = str(caught.value).splitlines()
    assert re.match(rf"Workflow {re.escape(flow.__qualname__)} {PLACE} has (a problem|{len(lines)} problems):", head)
    return lines


# each problem


def test_a_workflow_without_steps() -> None:
    class Empty(Workflow):
        pass

    (line,) = problems(Empty, WorkflowConfigurationError)
    assert "It has no steps" in line
    assert "@step(workflow=...)" in line


def test_a_workflow_that_cannot_start() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: HumanResponseEvent) -> StopEvent: ...  # type: ignore[empty-body]

    (line,) = problems(Flow, WorkflowConfigurationError)
    assert "No step accepts a StartEvent" in line


def test_a_workflow_with_two_ways_in() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

        @step
        async def two(self, ev: OtherStart) -> StopEvent: ...  # type: ignore[empty-body]

    (line,) = problems(Flow, WorkflowConfigurationError)
    assert re.search(rf"2 start events: StartEvent by `one` {PLACE}, OtherStart by `two` {PLACE}", line)


def test_a_workflow_that_cannot_end() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> None: ...

    (line,) = problems(Flow, WorkflowConfigurationError)
    assert "No step returns a StopEvent" in line


def test_a_workflow_with_two_kinds_of_result() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent | OtherStop: ...  # type: ignore[empty-body]

    (line,) = problems(Flow, WorkflowConfigurationError)
    assert re.search(rf"2 stop events: StopEvent by `only` {PLACE}, OtherStop by `only` {PLACE}", line)


def test_a_step_that_accepts_a_stop_event() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

        @step
        async def late(self, ev: StopEvent) -> None: ...

    assert any(re.search(rf"Step `late` {PLACE} accepts StopEvent. A StopEvent ends the run", line) for line in problems(Flow))


def test_a_step_that_returns_no_event() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent | str: ...  # type: ignore[empty-body]

    (line,) = problems(Flow)
    assert re.search(rf"Step `only` {PLACE} is annotated to return str", line)


def test_an_event_that_nobody_produces() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

        @step
        async def second(self, ev: Draft) -> StopEvent: ...  # type: ignore[empty-body]

    (line,) = problems(Flow)
    assert re.search(rf"Step `second` {PLACE} accepts Draft, which no step produces. Name Draft in the return annotation", line)


def test_an_event_that_nobody_accepts() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Draft | StopEvent: ...  # type: ignore[empty-body]

    (line,) = problems(Flow)
    assert re.search(rf"Step `first` {PLACE} produces Draft, which no step accepts. Add a step that takes Draft", line)


def test_the_base_class_of_all_events_is_no_wildcard() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Draft | StopEvent: ...  # type: ignore[empty-body]

        @step
        async def rest(self, ev: Event) -> None: ...

    lines = problems(Flow)
    assert any("accepts Event, which no step produces" in line for line in lines)
    assert any("produces Draft, which no step accepts" in line for line in lines)


def test_a_step_that_can_never_be_reached() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

        @step
        async def island(self, ev: Draft) -> Draft | StopEvent: ...  # type: ignore[empty-body]

    (line,) = problems(Flow)
    assert re.search(rf"Step `island` {PLACE} can never be reached", line)


def test_a_step_that_leads_nowhere() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Draft | StopEvent: ...  # type: ignore[empty-body]

        @step
        async def circle(self, ev: Draft) -> Draft: ...  # type: ignore[empty-body]

    (line,) = problems(Flow)
    assert re.search(rf"Step `circle` {PLACE} leads to no StopEvent", line)


def test_states_that_are_not_derived_from_each_other() -> None:
    class One(BaseModel):
        a: int = 0

    class Two(BaseModel):
        b: int = 0

    class Flow(Workflow):
        @step
        async def first(self, ctx: Context[One], ev: StartEvent) -> Draft: ...  # type: ignore[empty-body]

        @step
        async def second(self, ctx: Context[Two], ev: Draft) -> StopEvent: ...  # type: ignore[empty-body]

    (line,) = problems(Flow)
    assert re.search(rf"states that are not derived from each other: One by `first` {PLACE}, Two by `second` {PLACE}", line)


def test_states_in_one_line_of_inheritance_are_fine() -> None:
    class One(BaseModel):
        a: int = 0

    class Two(One):
        b: int = 0

    class Flow(Workflow):
        @step
        async def first(self, ctx: Context[One], ev: StartEvent) -> Draft: ...  # type: ignore[empty-body]

        @step
        async def second(self, ctx: Context[Two], ev: Draft) -> StopEvent: ...  # type: ignore[empty-body]

    Flow()


# all at once, with what was meant


def test_all_problems_come_at_once() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Draft | int: ...  # type: ignore[empty-body]

        @step
        async def second(self, ev: Review) -> OtherStop: ...  # type: ignore[empty-body]

        @step
        async def third(self, ev: OtherStart) -> StopEvent: ...  # type: ignore[empty-body]

    lines = problems(Flow, WorkflowConfigurationError)
    assert [line.split(".")[0].strip() for line in lines] == ["1", "2", "3", "4", "5"]
    text = "\n".join(lines)
    for part in ("2 start events", "2 stop events", "return int", "accepts Review", "produces Draft"):
        assert part in text


def test_an_event_without_a_taker_is_said_once_and_not_again_for_each_step_it_cuts_off() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Draft | StopEvent: ...  # type: ignore[empty-body]

        @step
        async def second(self, ev: Review) -> StopEvent: ...  # type: ignore[empty-body]

    assert len(problems(Flow)) == 2


def test_every_annotation_that_cannot_be_read_is_named() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Nowhere: ...  # type: ignore[name-defined,empty-body]  # noqa: F821

        @step
        async def second(self, ev: Nothing) -> StopEvent: ...  # type: ignore[name-defined,empty-body]  # noqa: F821

    with pytest.raises(WorkflowValidationError) as caught:
        Flow()
    first, second = str(caught.value).splitlines()
    assert re.search(rf"`first` {PLACE}.*Nowhere", first)
    assert re.search(rf"`second` {PLACE}.*Nothing", second)


class Drafts(Event):
    pass


def test_a_similar_name_is_suggested() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Drafts: ...  # type: ignore[empty-body]

        @step
        async def second(self, ev: Draft) -> StopEvent: ...  # type: ignore[empty-body]

    text = "\n".join(problems(Flow))
    assert "accepts Draft, which no step produces. Did you mean Drafts?" in text
    assert "produces Drafts, which no step accepts. Did you mean Draft?" in text


def test_a_subclass_is_recognised_from_both_sides() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> LongDraft: ...  # type: ignore[empty-body]

        @step
        async def second(self, ev: Draft) -> StopEvent: ...  # type: ignore[empty-body]

    lines = problems(Flow)
    assert len(lines) == 2
    for line in lines:
        assert "A step takes Draft, but not its subclass LongDraft: use @step(accept_event_subclasses=True) there." in line


def test_another_class_of_the_same_name_is_recognised() -> None:
    theirs = Draft

    def flow() -> type[Workflow]:
        class Draft(Event):
            pass

        class Flow(Workflow):
            @step
            async def first(self, ev: StartEvent) -> theirs: ...  # type: ignore[valid-type]

            @step
            async def second(self, ev: Draft) -> StopEvent: ...  # type: ignore[empty-body]

        return Flow

    text = "\n".join(problems(flow()))
    assert f"Did you mean the other class of this name, {__name__}.Draft?" in text


# what is no problem


def test_subclasses_count_where_a_step_takes_them() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> LongDraft: ...  # type: ignore[empty-body]

        @step(accept_event_subclasses=True)
        async def second(self, ev: Draft) -> StopEvent: ...  # type: ignore[empty-body]

    Flow()


def test_a_question_needs_no_taker_and_an_answer_no_producer() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> Question: ...  # type: ignore[empty-body]

        @step
        async def use(self, ev: Answer) -> StopEvent: ...  # type: ignore[empty-body]

    assert Flow().validate() is True


def test_a_workflow_without_people_says_so() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

    assert Flow().validate() is False


def test_a_step_that_returns_nothing_is_a_side_branch() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Draft | StopEvent: ...  # type: ignore[empty-body]

        @step
        async def note(self, ev: Draft) -> None: ...

    Flow()


def test_a_loop_with_a_way_out_is_fine() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent | Review) -> Draft: ...  # type: ignore[empty-body]

        @step
        async def second(self, ev: Draft) -> Review | StopEvent: ...  # type: ignore[empty-body]

    Flow()


# what is left out


class Island(Workflow):
    @step
    async def first(self, ev: StartEvent) -> StopEvent:
        return StopEvent("reached")

    @step
    async def island(self, ev: Draft) -> Draft: ...  # type: ignore[empty-body]


def test_a_check_can_be_skipped_for_a_workflow() -> None:
    assert len(problems(Island)) == 2
    assert len(problems(Island, skip_graph_checks=["reachability"])) == 1
    assert len(problems(Island, skip_graph_checks=["dead_end", "terminal_event"])) == 1
    Island(skip_graph_checks=["reachability", "dead_end"])


def test_a_check_can_be_skipped_for_a_step() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

        @step(skip_graph_checks=["reachability", "dead_end"])
        async def island(self, ev: Draft) -> Draft: ...  # type: ignore[empty-body]

    Flow()


def test_a_check_that_does_not_exist_is_refused() -> None:
    with pytest.raises(WorkflowValidationError, match=r"skip_graph_checks='dead_ends'.*'dead_end'"):
        Island(skip_graph_checks=["dead_ends"])


async def test_validation_can_be_left_to_validate() -> None:
    flow = Island(disable_validation=True)
    assert await flow.run() == "reached"
    with pytest.raises(WorkflowValidationError, match="2 problems"):
        flow.validate()


def test_a_class_is_never_checked_when_it_is_declared() -> None:
    class Wrong(Workflow):
        @step
        async def only(self, ev: Draft) -> Review: ...  # type: ignore[empty-body]

    assert Wrong.__name__ == "Wrong"


# the cache


def test_a_class_is_checked_once() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

    assert Flow()._checked_graph() is Flow(timeout=1)._checked_graph()


def test_what_one_instance_skips_another_one_checks() -> None:
    Island(skip_graph_checks=["reachability", "dead_end"])
    with pytest.raises(WorkflowValidationError):
        Island()
    Island(disable_validation=True)
    with pytest.raises(WorkflowValidationError):
        Island()


def test_a_step_attached_later_is_checked_with_the_next_instance() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

    class Child(Flow):
        pass

    Flow(), Child()

    @step(workflow=Flow)
    async def later(ev: Draft) -> StopEvent: ...  # type: ignore[empty-body]

    for kind in (Flow, Child):
        with pytest.raises(WorkflowValidationError, match=r"`later`.*accepts Draft, which no step produces"):
            kind()


async def test_a_step_attached_later_is_checked_at_the_next_run_of_an_instance_that_was_there() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent("ran")

    flow = Flow()
    assert await flow.run() == "ran"

    @step(workflow=Flow)
    async def later(ev: Draft) -> StopEvent: ...  # type: ignore[empty-body]

    with pytest.raises(WorkflowValidationError, match=r"`later`.*accepts Draft, which no step produces"):
        flow.run()


async def test_a_step_attached_later_runs_in_an_instance_that_was_there() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> Draft | StopEvent:
            return Draft() if ev.get("long") else StopEvent("short")

    flow = Flow(disable_validation=True)
    assert await flow.run() == "short"

    @step(workflow=Flow)
    async def later(ev: Draft) -> StopEvent:
        return StopEvent("long")

    assert await flow.run(long=True) == "long"


async def test_a_step_attached_to_an_instance_later_is_checked_at_its_next_run() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent("ran")

    flow, other = Flow(), Flow()
    assert await flow.run() == "ran"

    @step(workflow=flow)
    async def later(ev: Draft) -> StopEvent: ...  # type: ignore[empty-body]

    with pytest.raises(WorkflowValidationError, match="`later`"):
        flow.run()
    assert await other.run() == "ran"


async def test_a_bare_workflow_is_checked_when_it_runs() -> None:
    flow = Workflow()
    with pytest.raises(WorkflowConfigurationError, match="It has no steps"):
        flow.run()

    @step(workflow=flow)
    async def only(ev: StartEvent) -> Draft: ...  # type: ignore[empty-body]

    with pytest.raises(WorkflowConfigurationError, match=r"(?s)No step returns a StopEvent.*produces Draft"):
        flow.run()


# facts


def test_the_facts_of_a_graph() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: OtherStart) -> Draft: ...  # type: ignore[empty-body]

        @step
        async def second(self, ev: Draft) -> OtherStop: ...  # type: ignore[empty-body]

    flow = Flow()
    assert flow.start_event_class is OtherStart
    assert flow.stop_event_class is OtherStop
    assert set(flow.events) == {OtherStart, Draft, OtherStop}
