"""Section 7: resources. Where the reference leaks, mixes up or deadlocks, our promise is tested."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from tracedflow import Context, StartEvent, StopEvent, Workflow, WorkflowValidationError, step
from tracedflow.decorators import catch_error
from tracedflow.errors import ResourceError
from tracedflow.events import Event, StepFailedEvent
from tracedflow.resource import Resource, ResourceConfig, ResourceDefinition, ResourceDescriptor, ResourceManager
from tracedflow.retry_policy import retry_policy, wait_none


class Thing:
    """Something that a factory makes; each is another one."""


class Mid(Event):
    pass


# Resource


async def test_a_parameter_gets_what_a_sync_or_async_factory_makes() -> None:
    def plain() -> str:
        return "plain"

    async def asynchronous() -> str:
        await asyncio.sleep(0)
        return "async"

    class Flow(Workflow):
        @step
        async def both(
            self, a: Annotated[str, Resource(plain)], ev: StartEvent, b: Annotated[str, Resource(asynchronous, cache=True)]
        ) -> StopEvent:
            return StopEvent(result=(a, b))

    assert await Flow().run() == ("plain", "async")


async def test_factories_ask_for_resources_and_configurations_in_turn(tmp_path: Path) -> None:
    file = tmp_path / "app.json"
    file.write_text(json.dumps({"db": {"url": "sqlite://"}}))

    class Settings(BaseModel):
        url: str

    def engine(settings: Annotated[Settings, ResourceConfig(str(file), "db")]) -> str:
        return f"engine of {settings.url}"

    async def session(engine: Annotated[str, Resource(engine)]) -> str:
        return f"session of {engine}"

    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, session: Annotated[str, Resource(session)]) -> StopEvent:
            return StopEvent(result=session)

    assert await Flow().run() == "session of engine of sqlite://"


def test_a_factory_parameter_that_asks_for_nothing_is_told_before_any_run_with_place_and_remedy() -> None:
    def factory(what) -> Thing:  # type: ignore[no-untyped-def]
        return Thing()

    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, thing: Annotated[Thing, Resource(factory)]) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowValidationError, match=r"(?s)test_s07_resources\.py:\d+.*`what` without annotation"):
        Flow()


# the scope of the cache


def uses(resource: Any) -> Workflow[Any]:
    """Two steps that ask for the same; the result is what they got."""

    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent, a: Annotated[Thing, resource], b: Annotated[Thing, resource]) -> Mid:
            return Mid(things=[a, b])

        @step
        async def second(self, ev: Mid, c: Annotated[Thing, resource]) -> StopEvent:
            return StopEvent(result=[*ev.things, c])

    return Flow()


async def test_a_cached_resource_is_one_object_for_all_steps_and_runs_of_an_instance() -> None:
    flow = uses(Resource(Thing))
    assert len({*await flow.run(), *await flow.run()}) == 1
    other = uses(Resource(Thing))
    assert {*await other.run()} != {*await flow.run()}


async def test_without_cache_each_execution_has_one_shared_within_its_own_dependencies() -> None:
    a, b, c = await uses(Resource(Thing, cache=False)).run()
    assert a is b
    assert b is not c

    fresh = Resource(Thing, cache=False)

    @dataclass
    class Holder:
        thing: Thing

    def hold(thing: Annotated[Thing, fresh]) -> Holder:
        return Holder(thing)

    class Flow(Workflow):
        @step
        async def use(
            self, ev: StartEvent, thing: Annotated[Thing, fresh], holder: Annotated[Holder, Resource(hold, cache=False)]
        ) -> StopEvent:
            return StopEvent(result=holder.thing is thing)

    assert await Flow().run() is True


async def test_factories_of_one_qualified_name_are_not_mixed_up() -> None:
    one, two = (lambda: "one"), (lambda: "two")

    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, a: Annotated[str, Resource(one)], b: Annotated[str, Resource(two)]) -> StopEvent:
            return StopEvent(result=(a, b))

    assert one.__qualname__ == two.__qualname__
    assert await Flow().run() == ("one", "two")


async def test_executions_at_once_that_ask_for_one_async_factory_see_no_circle_and_one_object() -> None:
    made: list[Thing] = []

    async def slow() -> Thing:
        await asyncio.sleep(0)
        made.append(Thing())
        return made[-1]

    class Flow(Workflow):
        @step
        async def start(self, ctx: Context, ev: StartEvent) -> Mid | None:
            await ctx.store.set("things", [])
            for n in range(4):
                ctx.send_event(Mid(n=n))
            return None

        @step(num_workers=4)
        async def use(self, ctx: Context, ev: Mid, thing: Annotated[Thing, Resource(slow)]) -> StopEvent | None:
            got = ctx.collect_events(Mid(thing=thing), [Mid] * 4)
            return StopEvent(result=[each.thing for each in got]) if got else None

    flow = Flow()
    assert set(await flow.run()) == set(made)
    assert len(made) == 1


def test_a_real_circle_is_a_value_error_that_shows_it_before_any_run() -> None:
    def egg(hen: Annotated[Any, Resource(lambda: None)]) -> Any: ...

    def hen(egg: Annotated[Any, Resource(egg)]) -> Any: ...

    egg.__annotations__["hen"] = Annotated[Any, Resource(hen)]

    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, egg: Annotated[Any, Resource(egg)]) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowValidationError, match=r"(?s)circle.*egg.*hen.*egg"):
        Flow()
    assert issubclass(ResourceError, ValueError)


# lifetimes: entered, closed, told about the run


async def test_generators_and_context_managers_are_entered_once_and_closed_with_their_scope() -> None:
    log: list[str] = []

    def file() -> Iterator[str]:
        log.append("open file")
        yield "file"
        log.append("close file")

    async def session() -> AsyncIterator[str]:
        log.append("open session")
        yield "session"
        log.append("close session")

    @asynccontextmanager
    async def client() -> AsyncIterator[str]:
        log.append("open client")
        yield "client"
        log.append("close client")

    class Flow(Workflow):
        @step
        async def use(
            self,
            ev: StartEvent,
            file: Annotated[str, Resource(file, scope="run")],
            session: Annotated[str, Resource(session, scope="run")],
            client: Annotated[str, Resource(client)],
        ) -> StopEvent:
            return StopEvent(result=[file, session, client])

    async with Flow() as flow:
        assert await flow.run() == await flow.run() == ["file", "session", "client"]
        assert sorted(log) == sorted([*["open file", "open session", "close session", "close file"] * 2, "open client"])
        del log[:]
    assert log == ["close client"]


async def test_a_factory_may_ask_for_the_context_and_the_start_event() -> None:
    class Ask(StartEvent):
        user: str

    async def greeting(ctx: Context, start: Ask) -> str:
        await ctx.store.set("seen", start.user)
        return f"hello {start.user}"

    class Flow(Workflow):
        @step
        async def use(self, ctx: Context, ev: Ask, text: Annotated[str, Resource(greeting)]) -> StopEvent:
            return StopEvent(result=(text, await ctx.store.get("seen")))

    flow = Flow()
    assert [await flow.run(user=name) for name in ("ann", "bob")] == [("hello ann", "ann"), ("hello bob", "bob")]


# failing factories


async def test_a_factory_that_raises_fails_the_attempt_and_the_retry_policy_applies() -> None:
    calls: list[int] = []

    def connect() -> str:
        calls.append(1)
        if len(calls) < 2:
            raise ConnectionError("no line")
        return "connected"

    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none()))
        async def use(self, ev: StartEvent, line: Annotated[str, Resource(connect)]) -> StopEvent:
            return StopEvent(result=line)

    assert await Flow().run() == "connected"


async def test_a_factory_that_raises_for_good_is_a_failure_that_catch_error_handles() -> None:
    def broken() -> str:
        raise ConnectionError("no line")

    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, line: Annotated[str, Resource(broken)]) -> StopEvent:
            return StopEvent(result=line)

        @catch_error
        async def instead(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result=f"{ev.step_name}: {ev.exception}")

    assert await Flow().run() == "use: no line"


# ResourceConfig


class Llm(BaseModel):
    model: str
    temperature: float = 0.0


def configured(config: ResourceConfig) -> Workflow[Any]:
    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, llm: Annotated[Llm, config]) -> StopEvent:
            return StopEvent(result=llm)

    return Flow()


async def test_a_json_file_or_a_dotted_part_of_it_becomes_the_model(tmp_path: Path) -> None:
    whole, part = tmp_path / "llm.json", tmp_path / "app.json"
    whole.write_text(json.dumps({"model": "small"}))
    part.write_text(json.dumps({"llms": {"fast": {"model": "tiny", "temperature": 0.5}}}))
    assert await configured(ResourceConfig(config_file=str(whole))).run() == Llm(model="small")
    config = ResourceConfig(str(part), path_selector="llms.fast", label="Fast", description="The quick one")
    assert await configured(config).run() == Llm(model="tiny", temperature=0.5)


def test_a_file_of_another_kind_is_refused_at_construction() -> None:
    with pytest.raises(ValueError, match=r"settings\.ini"):
        ResourceConfig("settings.ini")


@pytest.mark.parametrize("text", [None, "{", '{"temperature": 1}'], ids=["missing", "no JSON", "invalid"])
async def test_a_missing_or_invalid_file_fails_at_run_start_with_step_and_parameter(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "llm.json"
    if text is not None:
        file.write_text(text)
    flow = configured(ResourceConfig(str(file)))
    with pytest.raises(WorkflowValidationError, match=r"(?s)`use`.*`llm`.*llm\.json"):
        await flow.run()
    with pytest.raises(WorkflowValidationError, match=r"llm\.json"):
        flow.validate()
    assert flow.validate(validate_resource_configs=False) is False


async def test_later_runs_see_the_edits_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "llm.json"
    file.write_text('{"model": "old"}')
    flow = configured(ResourceConfig(str(file)))
    assert (await flow.run()).model == "old"
    file.write_text('{"model": "new"}')
    assert (await flow.run()).model == "new"


# ResourceManager


def line() -> str:
    raise ConnectionError("a test has no network")


class Connected(Workflow):
    @step
    async def use(self, ev: StartEvent, line: Annotated[str, Resource(line)]) -> StopEvent:
        return StopEvent(result=line)


async def test_a_manager_given_to_the_workflow_overrides_a_factory_by_its_name() -> None:
    manager = ResourceManager()
    await manager.set("line", "fake")
    assert await Connected(resource_manager=manager).run() == "fake"
    assert manager.get_all() == {"line": "fake"}


async def test_a_manager_gives_what_a_step_gets_and_lists_what_it_keeps() -> None:
    manager = ResourceManager()
    resource = Resource(Thing)
    thing = await manager.get(resource)
    assert await manager.get(resource) is thing
    assert manager.get_all() == {"Thing": thing}


def test_descriptors_and_definitions_can_be_told() -> None:
    assert isinstance(Resource(Thing), ResourceDescriptor)
    assert isinstance(ResourceConfig("a.json"), ResourceDescriptor)
    (wanted,) = Connected.use._step_config.resources.values()  # type: ignore[attr-defined]
    assert isinstance(wanted, ResourceDefinition)
    assert (wanted.name, wanted.type_annotation) == ("line", str)


async def test_validation_can_make_the_resources_also_inside_a_running_loop() -> None:
    with pytest.raises(WorkflowValidationError, match="a test has no network"):
        Connected().validate(validate_resources=True)
