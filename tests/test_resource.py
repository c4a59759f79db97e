from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Annotated, Any, cast

import pytest
from pydantic import BaseModel

from tracedflow import (
    Context,
    Event,
    Middleware,
    ResourceError,
    StartEvent,
    StepTimeoutError,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowConfigurationError,
    WorkflowTimeoutError,
    WorkflowValidationError,
    step,
)
from tracedflow.decorators import config_of
from tracedflow.middleware import RunCall, RunNext
from tracedflow.representation import get_workflow_representation
from tracedflow.resource import Resource, ResourceConfig, ResourceDefinition, ResourceManager
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_none
from tracedflow.testing import virtual_time

HERE = __file__


class Client:
    """What factories make here; it knows whether it is open."""

    def __init__(self, name: str = "client") -> None:
        self.name = name
        self.is_open = True


class Begin(StartEvent):
    user: str = "ann"


class Next(Event):
    n: int = 0


class Settings(BaseModel):
    port: int
    host: str = "localhost"


def using(resource: Resource | ResourceConfig, **options: Any) -> Workflow[Any]:
    """Return a workflow with one step, `use`, that gives its resource back as the result."""

    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, thing: Annotated[Any, resource]) -> StopEvent:
            return StopEvent(result=thing)

    return Flow(**options)


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


twice = retry_policy(wait=wait_none(), stop=stop_after_attempt(2))


# what a factory may be


def plain() -> Client:
    return Client("plain")


async def awaited() -> Client:
    await asyncio.sleep(0)
    return Client("awaited")


class Factory:
    def method(self) -> Client:
        return Client("method")

    def __call__(self) -> Client:
        return Client("called")


@pytest.mark.parametrize(
    ("factory", "name"),
    [
        (plain, "plain"),
        (awaited, "awaited"),
        (Factory().method, "method"),
        (Factory(), "called"),
        (functools.partial(Client, "partial"), "partial"),
        (functools.partial(functools.partial(awaited)), "awaited"),
        (Client, "client"),
        (lambda: Client("lambda"), "lambda"),
    ],
)
async def test_a_step_gets_what_the_factory_makes(factory: Callable[..., Any], name: str) -> None:
    assert (await using(Resource(factory)).run()).name == name


async def test_a_step_that_is_a_plain_function_gets_its_resources_too() -> None:
    class Flow(Workflow):
        @step
        def use(self, ctx: Context, client: Annotated[Client, Resource(awaited)], ev: StartEvent) -> StopEvent:
            return StopEvent(result=(client.name, threading.current_thread() is threading.main_thread()))

    assert await Flow().run() == ("awaited", False)


async def test_a_step_may_ask_for_several_and_be_called_directly_with_others() -> None:
    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, a: Annotated[Client, Resource(plain)], b: Annotated[Client, Resource(awaited)]) -> StopEvent:
            return StopEvent(result=(a.name, b.name))

    flow = Flow()
    assert await flow.run() == ("plain", "awaited")
    assert (await flow.use(StartEvent(), Client("x"), Client("y"))).result == ("x", "y")


async def test_a_builtin_may_be_a_factory() -> None:
    assert await using(Resource(dict)).run() == {}


async def test_other_marks_beside_the_resource_do_no_harm() -> None:
    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, client: Annotated[Client, "a note", Resource(plain)]) -> StopEvent:
            return StopEvent(result=client.name)

    assert await Flow().run() == "plain"


async def test_what_can_be_awaited_or_entered_by_nature_is_given_as_it_is() -> None:
    assert isinstance(await using(Resource(asyncio.Lock)).run(), asyncio.Lock)
    lock = await using(Resource(lambda: threading.Lock())).run()
    assert not lock.locked()
    future = asyncio.get_running_loop().create_future()
    assert await using(Resource(lambda: future)).run() is future
    numbers = await using(Resource(lambda: (n for n in range(3)))).run()
    assert list(numbers) == [0, 1, 2]


def test_the_configuration_of_a_step_names_its_resources() -> None:
    flow = using(Resource(plain))
    config = config_of(type(flow).use)  # type: ignore[attr-defined]
    assert config is not None
    wanted = config.resources["thing"]
    assert (wanted.name, wanted.resource.name, wanted.type_annotation) == ("thing", "plain", Any)


def test_the_graph_shows_resources_and_configurations(tmp_path: Path) -> None:
    class Flow(Workflow):
        @step
        async def use(
            self,
            ev: StartEvent,
            a: Annotated[Client, Resource(plain)],
            b: Annotated[Settings, ResourceConfig(tmp_path / "a.json", "db", label="db")],
        ) -> StopEvent:
            return StopEvent()

    graph = get_workflow_representation(Flow)
    shown = {node.id: node for node in graph.nodes}
    assert shown["resource_plain"].node_type == "resource"
    assert shown["resource_db"].node_type == "resource_config"
    assert {("resource_plain", "use", "a"), ("resource_db", "use", "b")} <= {(e.source, e.target, e.label) for e in graph.edges}


# how long it lives


def counting(**options: Any) -> tuple[list[Client], Resource]:
    made: list[Client] = []

    def make() -> Client:
        made.append(Client(str(len(made))))
        return made[-1]

    return made, Resource(make, **options)


def two_steps(resource: Resource, **options: Any) -> Workflow[Any]:
    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent, client: Annotated[Client, resource]) -> Next:
            await ctx.store.set("first", client.name)
            return Next()

        @step
        async def second(self, ctx: Context, ev: Next, client: Annotated[Client, resource]) -> StopEvent:
            return StopEvent(result=(await ctx.store.get("first"), client.name))

    return Flow(**options)


async def test_a_cached_resource_is_shared_by_steps_and_runs_of_one_instance() -> None:
    made, resource = counting()
    flow = two_steps(resource)
    assert [await flow.run(), await flow.run()] == [("0", "0"), ("0", "0")]
    assert await two_steps(resource).run() == ("1", "1")
    assert len(made) == 2


async def test_a_resource_of_a_run_is_shared_by_its_steps_only() -> None:
    _, resource = counting(scope="run")
    flow = two_steps(resource)
    assert [await flow.run(), await flow.run()] == [("0", "0"), ("1", "1")]


async def test_without_cache_each_attempt_has_its_own() -> None:
    _, resource = counting(cache=False)
    flow = two_steps(resource)
    assert [await flow.run(), await flow.run()] == [("0", "1"), ("2", "3")]


async def test_what_is_not_cached_is_shared_within_one_attempt() -> None:
    made, leaf = counting(cache=False)

    def wrap(client: Annotated[Client, leaf]) -> tuple[Client]:
        return (client,)

    class Flow(Workflow):
        @step
        async def use(
            self,
            ev: StartEvent,
            a: Annotated[Client, leaf],
            b: Annotated[Client, leaf],
            c: Annotated[tuple[Client], Resource(wrap, cache=False)],
        ) -> StopEvent:
            return StopEvent(result=a is b is c[0])

    assert await Flow().run() is True
    assert len(made) == 1


async def test_what_a_cached_resource_needs_for_itself_lives_as_long_as_it() -> None:
    def leaf() -> Generator[Client]:
        client = Client()
        yield client
        client.is_open = False

    def root(client: Annotated[Client, Resource(leaf, cache=False)]) -> list[Client]:
        return [client]

    flow = using(Resource(root))
    async with flow:
        first, second = await flow.run(), await flow.run()
        assert first[0].is_open
        assert first is second
    assert not first[0].is_open


async def test_factories_of_one_name_do_not_share_an_object() -> None:
    def named(value: str) -> Resource:
        return Resource(lambda: value)

    class Flow(Workflow):
        @step
        async def use(
            self, ev: StartEvent, a: Annotated[str, named("a")], b: Annotated[str, named("b")], c: Annotated[str, Resource(lambda: "c")]
        ) -> StopEvent:
            return StopEvent(result=a + b + c)

    assert await Flow().run() == "abc"


async def test_one_factory_marked_twice_makes_one_object_and_so_does_one_bound_method() -> None:
    class Maker:
        def make(self) -> Client:
            return Client()

    maker, other = Maker(), Maker()

    class Flow(Workflow):
        @step
        async def use(
            self,
            ev: StartEvent,
            a: Annotated[Client, Resource(plain)],
            b: Annotated[Client, Resource(plain)],
            c: Annotated[Client, Resource(maker.make)],
            d: Annotated[Client, Resource(maker.make)],
            e: Annotated[Client, Resource(other.make)],
        ) -> StopEvent:
            return StopEvent(result=(a is b, c is d, d is e))

    assert await Flow().run() == (True, True, False)


async def test_two_workflows_with_one_manager_share_what_is_cached_and_who_made_it_closes_it() -> None:
    closed: list[str] = []

    def opened() -> Generator[Client]:
        yield Client()
        closed.append("closed")

    async with ResourceManager() as manager:
        async with using(Resource(opened), resource_manager=manager) as flow:
            first = await flow.run()
        assert closed == []
        assert await using(Resource(opened), resource_manager=manager).run() is first
    assert closed == ["closed"]


# nesting, and what a factory may ask for


async def test_factories_may_ask_for_resources_in_turn() -> None:
    async def connection() -> str:
        return "connection"

    def session(conn: Annotated[str, Resource(connection)]) -> str:
        return f"session on {conn}"

    async def repository(s: Annotated[str, Resource(session)], *rest: Any, size: int = 3, **more: Any) -> str:
        return f"repository of {size} with {s}"

    assert await using(Resource(repository)).run() == "repository of 3 with session on connection"


async def test_a_class_may_be_a_factory_with_resources_of_its_own() -> None:
    class Repository:
        def __init__(self, client: Annotated[Client, Resource(plain)], *, size: int = 1) -> None:
            self.client = client

    assert (await using(Resource(Repository)).run()).client.name == "plain"


async def test_a_factory_may_ask_for_the_context_and_the_start_event() -> None:
    async def greeting(ctx: Context[Any], begin: Begin) -> str:
        return f"{await ctx.store.get('title')} {begin.user}"

    class Flow(Workflow):
        @step
        async def begin(self, ctx: Context, ev: Begin) -> Next:
            await ctx.store.set("title", "Dr")
            return Next()

        @step
        async def use(self, ev: Next, text: Annotated[str, Resource(greeting)]) -> StopEvent:
            return StopEvent(result=text)

    flow = Flow()
    assert await flow.run(user="bob") == "Dr bob"
    assert await flow.run(user="eve") == "Dr eve"  # it asks for something of the run, so it lives for one


async def test_the_context_of_a_resource_that_is_not_cached_is_that_of_its_step() -> None:
    def key(ctx: Context) -> str:
        return ctx.idempotency_key.split("/")[1]

    assert await using(Resource(key, cache=False)).run() == "use"


async def test_a_resource_that_needs_one_of_a_run_lives_for_a_run_itself() -> None:
    def user(ev: StartEvent) -> str:
        return str(ev.user)

    def greeting(name: Annotated[str, Resource(user, cache=False)]) -> list[str]:
        return [name]

    flow = using(Resource(greeting))
    first, second = await flow.run(user="ann"), await flow.run(user="bob")
    assert (first, second) == (["ann"], ["bob"])


async def test_a_retried_plain_function_gives_its_factories_an_async_context_again() -> None:
    async def count(ctx: Context) -> int:
        await ctx.store.set("count", await ctx.store.get("count", 0) + 1)
        return cast("int", await ctx.store.get("count"))

    class Flow(Workflow):
        @step(retry_policy=twice)
        def use(self, ev: StartEvent, n: Annotated[int, Resource(count, cache=False)]) -> StopEvent:
            if n == 1:
                raise ConnectionError
            return StopEvent(result=n)

    assert await Flow().run() == 2


# many at the same time


async def test_two_requests_at_once_for_one_async_factory_make_one_object() -> None:
    asked, go = asyncio.Barrier(3), asyncio.Event()
    made: list[Client] = []

    async def slow() -> Client:
        await go.wait()
        made.append(Client())
        return made[-1]

    class Announce(Middleware):
        async def attempt(self, call: Any, call_next: Any, /) -> Any:
            if call.step.step == "use":
                await asked.wait()
            return await call_next(call)

    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Next]:
            return [Next(n=n) for n in range(3)]

        @step
        async def use(self, ctx: Context, ev: Next, client: Annotated[Client, Resource(slow)]) -> StopEvent | None:
            done = ctx.collect_events(ev, [Next] * 3)
            return StopEvent(result=client) if done else None

    handler = Flow(middleware=[Announce()]).run()
    while asked.n_waiting == 0 and not go.is_set():
        await asyncio.sleep(0)
        if len(handler.why().running) == 3:
            go.set()
    assert await handler is made[0]
    assert len(made) == 1


async def test_who_waits_makes_the_object_when_the_maker_is_cancelled_or_fails() -> None:
    started, calls = asyncio.Event(), []
    manager = ResourceManager()

    async def slow() -> str:
        calls.append(1)
        if len(calls) == 1:
            started.set()
            await forever()
        if len(calls) == 2:
            raise ConnectionError("refused")
        return "made"

    resource = Resource(slow)
    first = asyncio.create_task(manager.get(resource))
    await started.wait()
    second, third = asyncio.create_task(manager.get(resource)), asyncio.create_task(manager.get(resource))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(ConnectionError):
        await second
    assert await third == "made"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_different_factories_do_not_wait_for_each_other() -> None:
    both = asyncio.Barrier(2)

    async def one() -> str:
        await both.wait()
        return "one"

    async def two() -> str:
        await both.wait()
        return "two"

    manager = ResourceManager()
    assert await asyncio.gather(manager.get(Resource(one)), manager.get(Resource(two))) == ["one", "two"]


# entered once, and closed at the end


@pytest.fixture
def log() -> list[str]:
    return []


def entered(kind: str, log: list[str], name: str = "it") -> Callable[[], Any]:
    """Return a factory of that kind, which writes down when it is entered and left, and how."""

    @contextlib.contextmanager
    def block() -> Iterator[None]:
        log.append(f"open {name}")
        try:
            yield
        except BaseException as error:
            log.append(f"{type(error).__name__} in {name}")
            raise
        finally:
            log.append(f"close {name}")

    def generator() -> Generator[Client]:
        with block():
            yield Client(name)

    async def async_generator() -> AsyncGenerator[Client]:
        with block():
            await asyncio.sleep(0)
            yield Client(name)
            await asyncio.sleep(0)

    @contextlib.contextmanager
    def manager() -> Iterator[Client]:
        with block():
            yield Client(name)

    @contextlib.asynccontextmanager
    async def async_manager() -> AsyncIterator[Client]:
        with block():
            await asyncio.sleep(0)
            yield Client(name)

    def says_so() -> contextlib.AbstractContextManager[Client]:
        return manager()

    async def says_so_async() -> contextlib.AbstractAsyncContextManager[Client]:
        return async_manager()

    class Called:
        def __call__(self) -> Generator[Client]:
            with block():
                yield Client(name)

    return {
        "generator": generator,
        "async generator": async_generator,
        "context manager": manager,
        "async context manager": async_manager,
        "annotated": says_so,
        "annotated, async": says_so_async,
        "partial": functools.partial(generator),
        "called": Called(),
    }[kind]


KINDS = ["generator", "async generator", "context manager", "async context manager", "annotated", "annotated, async", "partial", "called"]


@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind_is_entered_once_and_closed_with_the_run(kind: str, log: list[str]) -> None:
    flow = two_steps(Resource(entered(kind, log), scope="run"))
    assert await flow.run() == ("it", "it")
    assert log == ["open it", "close it"]


@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind_is_closed_with_the_workflow(kind: str, log: list[str]) -> None:
    async with two_steps(Resource(entered(kind, log))) as flow:
        await asyncio.gather(flow.run(), flow.run())
        await flow.run()
        assert log == ["open it"]
    assert log == ["open it", "close it"]


@pytest.mark.parametrize("kind", KINDS)
async def test_without_cache_each_kind_is_closed_with_the_attempt(kind: str, log: list[str]) -> None:
    assert await two_steps(Resource(entered(kind, log), cache=False)).run() == ("it", "it")
    assert log == ["open it", "close it"] * 2


class Session:
    """A context manager of the classic kind."""

    def __init__(self) -> None:
        self.state = "made"

    async def __aenter__(self) -> Session:
        self.state = "entered"
        return self

    async def __aexit__(self, *exc: object) -> bool:
        self.state = "closed"
        return True


async def test_any_context_manager_is_entered_on_request() -> None:
    assert (await using(Resource(Session)).run()).state == "made"
    async with using(Resource(Session, enter=True)) as flow:
        session = await flow.run()
        assert session.state == "entered"
    assert session.state == "closed"


async def test_a_generator_is_given_as_it_is_on_request() -> None:
    def numbers() -> Generator[int]:
        yield 1

    assert list(await using(Resource(numbers, enter=False)).run()) == [1]


async def test_what_cannot_be_entered_is_a_clear_error() -> None:
    with pytest.raises(ResourceError, match=rf"`plain` \({HERE}:\d+\) made Client, which cannot be entered"):
        await using(Resource(plain, enter=True)).run()


async def test_resources_are_closed_in_the_reverse_order_of_their_making(log: list[str]) -> None:
    inner = Resource(entered("async generator", log, "inner"), scope="run")

    def outer(client: Annotated[Client, inner]) -> Generator[Client]:
        log.append("open outer")
        yield client
        log.append(f"close outer, inner is open: {client.is_open}")

    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, a: Annotated[Client, Resource(outer, scope="run")]) -> StopEvent:
            return StopEvent()

    await Flow().run()
    assert log == ["open inner", "open outer", "close outer, inner is open: True", "close inner"]


def ending(how: str, resource: Resource) -> Workflow[Any]:
    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, client: Annotated[Client, resource]) -> StopEvent:
            match how:
                case "failure":
                    raise KeyError("broken")
                case "exit":
                    raise SystemExit(3)
                case "cancel" | "timeout" | "hard":
                    await forever()
            return StopEvent()

    return Flow(timeout=0.05 if how == "timeout" else None)


@pytest.mark.parametrize("lifetime", ["run", "attempt"])
@pytest.mark.parametrize("kind", ["generator", "async generator", "async context manager"])
@pytest.mark.parametrize(
    ("how", "error", "seen_by_run"),
    [
        ("success", None, None),
        ("failure", KeyError, "KeyError"),
        ("exit", SystemExit, "SystemExit"),
        ("cancel", WorkflowCancelledByUser, "WorkflowCancelledByUser"),
        ("hard", asyncio.CancelledError, "WorkflowCancelledByUser"),
        ("timeout", WorkflowTimeoutError, "WorkflowTimeoutError"),
    ],
)
async def test_it_is_closed_on_every_way_out_and_told_why(
    lifetime: str, kind: str, how: str, error: type[BaseException] | None, seen_by_run: str | None, log: list[str]
) -> None:
    options: dict[str, Any] = {"scope": "run"} if lifetime == "run" else {"cache": False}
    handler = ending(how, Resource(entered(kind, log), **options)).run()
    while how in ("cancel", "hard") and not log:
        await asyncio.sleep(0)
    if how == "cancel":
        await handler.cancel_run()
    elif how == "hard":
        handler.cancel()
    with contextlib.nullcontext() if error is None else pytest.raises(error):
        await handler
    cancelled = how in ("cancel", "hard", "timeout")
    seen = "CancelledError" if lifetime == "attempt" and cancelled else seen_by_run
    assert log == ["open it", *([f"{seen} in it"] if seen else []), "close it"]


async def test_a_resource_cannot_make_a_failure_disappear() -> None:
    class Swallows:
        def __enter__(self) -> None: ...
        def __exit__(self, *exc: object) -> bool:
            return True

    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, a: Annotated[Any, Resource(Swallows, cache=False, enter=True)]) -> StopEvent:
            raise KeyError("broken")

    with pytest.raises(KeyError):
        await Flow().run()


async def test_a_run_that_is_cancelled_before_it_began_closes_nothing_and_ends(log: list[str]) -> None:
    handler = two_steps(Resource(entered("generator", log), scope="run")).run()
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert log == []


async def test_what_was_entered_for_a_factory_that_then_fails_is_closed_at_once(log: list[str]) -> None:
    def root(client: Annotated[Client, Resource(entered("async generator", log), cache=False)]) -> Client:
        raise ConnectionError("refused")

    flow = using(Resource(root))
    with pytest.raises(ConnectionError):
        await flow.run()
    assert log == ["open it", "ConnectionError in it", "close it"]


# errors while closing


def breaking(*, asynchronous: bool = False) -> Callable[[], Any]:
    def make() -> Generator[Client]:
        try:
            yield Client()
        finally:
            raise OSError("disk full")

    async def make_async() -> AsyncGenerator[Client]:
        try:
            yield Client()
        finally:
            raise OSError("disk full")

    return make_async if asynchronous else make


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_error_while_a_run_closes_is_logged_and_the_result_stands(asynchronous: bool, caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(await using(Resource(breaking(asynchronous=asynchronous), scope="run")).run(), Client)
    [record] = caplog.records
    assert "closing resource `make" in record.message
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], OSError)


async def test_an_error_while_a_failed_run_closes_is_noted_on_its_error(log: list[str], caplog: pytest.LogCaptureFixture) -> None:
    class Flow(Workflow):
        @step
        async def use(
            self,
            ev: StartEvent,
            a: Annotated[Client, Resource(entered("generator", log), scope="run")],
            b: Annotated[Client, Resource(breaking(), scope="run")],
        ) -> StopEvent:
            raise KeyError("broken")

    with pytest.raises(KeyError) as caught:
        await Flow().run()
    assert any("closing resource `make`" in note and "OSError: disk full" in note for note in caught.value.__notes__)
    assert log[-1] == "close it"  # the others are closed all the same


async def test_an_error_while_an_attempt_closes_fails_the_attempt_which_may_be_retried(caplog: pytest.LogCaptureFixture) -> None:
    commits = []

    def transaction() -> Generator[Client]:
        yield Client()
        commits.append(1)
        if len(commits) == 1:
            raise OSError("commit failed")

    class Flow(Workflow):
        @step(retry_policy=twice)
        async def use(self, ev: StartEvent, tx: Annotated[Client, Resource(transaction, cache=False)]) -> StopEvent:
            return StopEvent(result="done")

    handler = Flow().run()
    assert await handler == "done"
    assert [record.outcome for record in handler.record] == ["error", "success"]


async def test_an_error_while_a_failed_attempt_closes_is_noted_on_its_error() -> None:
    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, tx: Annotated[Client, Resource(breaking(), cache=False)]) -> StopEvent:
            raise KeyError("broken")

    with pytest.raises(KeyError) as caught:
        await Flow().run()
    assert any("disk full" in note for note in caught.value.__notes__)


async def test_closing_a_workflow_raises_the_first_failure_after_all_are_closed(log: list[str], caplog: pytest.LogCaptureFixture) -> None:
    class Flow(Workflow):
        @step
        async def use(
            self, ev: StartEvent, a: Annotated[Client, Resource(entered("generator", log))], b: Annotated[Client, Resource(breaking())]
        ) -> StopEvent:
            return StopEvent()

    flow = Flow()
    await flow.run()
    with pytest.raises(OSError, match="disk full"):
        await flow.aclose()
    assert log == ["open it", "close it"]
    await flow.aclose()  # there is nothing left


async def test_leaving_a_workflow_block_with_an_error_keeps_that_error(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyError) as caught:
        async with using(Resource(breaking())) as flow:
            await flow.run()
            raise KeyError("mine")
    assert any("disk full" in note for note in caught.value.__notes__)


@virtual_time()
async def test_a_resource_that_does_not_close_cannot_keep_a_run_from_ending() -> None:
    log: list[str] = []

    async def stuck() -> AsyncGenerator[Client]:
        try:
            yield Client()
        finally:
            await forever()

    class Flow(Workflow):
        @step
        async def use(
            self,
            ev: StartEvent,
            a: Annotated[Client, Resource(entered("async generator", log), scope="run")],
            b: Annotated[Client, Resource(stuck, scope="run")],
        ) -> StopEvent:
            return StopEvent(result="done")

    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await Flow().run() == "done"
    assert loop.time() - began == pytest.approx(10, abs=0.1)
    assert log == ["open it", "close it"]


async def test_a_run_that_is_cancelled_while_it_closes_closes_the_rest(log: list[str], caplog: pytest.LogCaptureFixture) -> None:
    closing = asyncio.Event()

    async def slow() -> AsyncGenerator[Client]:
        yield Client()
        closing.set()
        await forever()

    class Flow(Workflow):
        @step
        async def use(
            self,
            ev: StartEvent,
            a: Annotated[Client, Resource(entered("async generator", log), scope="run")],
            b: Annotated[Client, Resource(slow, scope="run")],
        ) -> StopEvent:
            return StopEvent(result="done")

    handler = Flow().run()
    await closing.wait()
    handler._runner.task.cancel()
    assert await handler == "done"
    assert log == ["open it", "close it"]
    assert "was cut short" in caplog.text


# failures of factories


async def test_a_failing_factory_fails_the_attempt_and_a_retry_calls_it_again() -> None:
    calls = []

    async def flaky() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("refused")
        return "made"

    class Flow(Workflow):
        @step(retry_policy=twice)
        async def use(self, ev: StartEvent, thing: Annotated[str, Resource(flaky)]) -> StopEvent:
            return StopEvent(result=thing)

    handler = Flow().run()
    assert await handler == "made"
    assert [(record.attempt, record.outcome) for record in handler.record] == [(1, "error"), (2, "success")]


async def test_a_factory_that_fails_for_good_fails_the_run_with_its_own_exception_and_the_name_of_the_step() -> None:
    failure = ConnectionError("refused")

    def broken() -> None:
        raise failure

    with pytest.raises(ConnectionError) as caught:
        await using(Resource(broken)).run()
    assert caught.value is failure
    assert any("in step `use`" in note for note in failure.__notes__)


async def test_a_step_timeout_bounds_its_factories_and_the_step_together() -> None:
    async def stuck() -> None:
        await forever()

    class Flow(Workflow):
        @step(timeout=0.01)
        async def use(self, ev: StartEvent, thing: Annotated[None, Resource(stuck)]) -> StopEvent:
            return StopEvent()

    with pytest.raises(StepTimeoutError, match="`use`"):
        await Flow().run()


@virtual_time()
async def test_an_attempt_has_one_time_limit_for_all_of_it() -> None:
    async def slow() -> None:
        await asyncio.sleep(6)

    class Flow(Workflow):
        @step(timeout=10)
        async def use(self, ev: StartEvent, thing: Annotated[None, Resource(slow)]) -> StopEvent:
            await asyncio.sleep(6)
            return StopEvent()

    with pytest.raises(StepTimeoutError):
        await Flow().run()


# circles


def chicken(egg: Annotated[Any, Resource(egg)]) -> Any: ...
def egg(shell: Annotated[Any, Resource(shell)]) -> Any: ...
def shell(chicken: Annotated[Any, Resource(chicken, cache=False)]) -> Any: ...
def itself(me: Annotated[Any, Resource(itself)]) -> Any: ...


CIRCLE = r"`egg` \(.*:\d+\) → `shell` \(.*:\d+\) → `chicken` \(.*:\d+\) → `egg`"


def test_a_circle_of_factories_is_found_at_validation_with_its_chain() -> None:
    with pytest.raises(WorkflowValidationError, match=CIRCLE) as caught:
        using(Resource(egg))
    assert "a problem" in str(caught.value)
    with pytest.raises(WorkflowValidationError, match=r"`itself` \(.*\) → `itself`"):
        using(Resource(itself))


async def test_a_circle_that_was_not_validated_fails_the_step() -> None:
    with pytest.raises(ResourceError, match=CIRCLE) as caught:
        await using(Resource(egg), disable_validation=True).run()
    assert isinstance(caught.value, ValueError)


async def test_a_circle_through_the_manager_itself_is_found_too() -> None:
    manager = ResourceManager()

    async def sly() -> Any:
        return await manager.get(Resource(sly))

    with pytest.raises(ResourceError, match=r"`sly` \(.*\) → `sly`"):
        await using(Resource(sly), resource_manager=manager).run()


async def test_a_nested_run_may_use_the_factory_that_started_it() -> None:
    depth = []

    async def recursive() -> int:
        depth.append(1)
        return len(depth) if len(depth) == 2 else await using(Resource(recursive)).run()

    assert await using(Resource(recursive)).run() == 2


# what is declared wrongly


def test_all_that_is_wrong_is_told_at_once_with_step_parameter_and_place() -> None:
    def unannotated(client) -> None: ...  # type: ignore[no-untyped-def]
    def no_resource(size: int, /, count: int) -> None: ...
    def of_a_run(ctx: Context) -> None: ...
    def too_long(x: Annotated[Any, Resource(of_a_run)]) -> None: ...
    def too_long_too(x: Annotated[Any, Resource(plain, scope="run")]) -> None: ...
    def other_start(ev: Begin) -> None: ...
    def unresolved(x: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    class Flow(Workflow):
        @step
        async def one(
            self,
            ev: StartEvent,
            a: Annotated[Any, Resource(unannotated)],
            b: Annotated[Any, Resource(no_resource)],
            c: Annotated[Any, Resource(too_long, scope="workflow")],
            d: Annotated[Any, Resource(too_long_too, scope="workflow")],
        ) -> Next:
            return Next()

        @step
        async def two(
            self,
            ev: Next,
            e: Annotated[Any, Resource(other_start)],
            f: Annotated[Any, Resource(unresolved)],
            g: Annotated[Any, Resource(unannotated)],
        ) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowValidationError) as caught:
        Flow()
    text = str(caught.value)
    assert "7 problems" in text
    for expected in (
        f"Step `one` ({HERE}:",
        "parameter `a`: factory `unannotated` (",
        "has a parameter `client` without annotation or default. Annotate it `Annotated[T, Resource(...)]`",
        "parameter `b`: factory `no_resource`",
        "has a parameter `size` that can only be given by position",
        "has a parameter `count` that asks for no resource and has no default",
        "`too_long` (",
        "has scope='workflow', but `of_a_run` (",
        "asks for the Context of a run. Give it scope='run'.",
        "has scope='workflow', but `plain` (",
        "lives for one run",
        "asks for Begin as `ev`, but the start event is StartEvent",
        "has an annotation that cannot be resolved: name 'Nowhere' is not defined",
    ):
        assert expected in text, expected


async def test_what_is_declared_wrongly_and_not_validated_fails_the_step() -> None:
    def unannotated(client) -> None: ...  # type: ignore[no-untyped-def]
    def of_a_run(ctx: Context) -> None: ...
    def other_start(ev: Begin) -> None: ...

    for resource, text in (
        (Resource(unannotated), "without annotation"),
        (Resource(of_a_run, scope="workflow"), "has scope='workflow'"),
        (Resource(other_start), "asks for Begin, but the run started with StartEvent"),
    ):
        with pytest.raises(ResourceError, match=text):
            await using(resource, disable_validation=True).run()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Resource(Client()), TypeError, r"Resource\(\) takes a factory, not <.*Client object.*give the function itself"),
        (lambda: Resource(plain, scope="forever"), ValueError, "'workflow' or 'run'"),
        (lambda: Resource(plain, cache=False, scope="run"), ValueError, "leave one of them out"),
        (lambda: ResourceConfig("settings.ini"), ValueError, r"'settings\.ini'.*\.json, \.toml, \.yaml, \.yml"),
        (lambda: using(Resource(plain), resource_manager=cast("Any", "x")), WorkflowConfigurationError, "resource_manager='x'"),
    ],
)
def test_wrong_arguments_are_refused(make: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def test_a_resource_as_a_default_value_is_refused() -> None:
    with pytest.raises(
        WorkflowValidationError, match=r"`use`.*default of `client`; annotate it `client: Annotated\[T, Resource\(\.\.\.\)\]`"
    ):

        class Flow(Workflow):
            @step
            async def use(self, ev: StartEvent, client: Any = Resource(plain)) -> StopEvent:  # noqa: B008
                return StopEvent()


def test_names_of_the_place_around_are_found() -> None:
    class Local:
        pass

    def make_local() -> Local:
        return Local()

    def wrap(local: Annotated[Local, Resource(make_local)]) -> list[Local]:
        return [local]

    assert len(using(Resource(wrap)).run_sync()) == 1


# configuration files


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def settings_of(config: ResourceConfig, kind: Any = Settings) -> Workflow[Any]:
    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, settings: Annotated[kind, config]) -> StopEvent:  # type: ignore[valid-type]
            return StopEvent(result=settings)

    return Flow()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"servers": [{"db": {"port": 1}}, {"db": {"port": 5432}}]}'),
        ("a.toml", "[[servers]]\ndb.port = 1\n[[servers]]\ndb.port = 5432\n"),
        ("a.YAML", "servers:\n- db: {port: 1}\n- db: {port: 5432}\n"),
    ],
)
async def test_a_part_of_a_file_becomes_a_model(name: str, text: str, tmp_path: Path) -> None:
    if name.endswith("YAML"):
        pytest.importorskip("yaml")
    path = written(tmp_path / name, text)
    assert await settings_of(ResourceConfig(path, "servers.1.db")).run() == Settings(port=5432)


async def test_a_whole_file_becomes_a_model_or_any_type_that_pydantic_knows(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", '{"port": 1}')
    assert await settings_of(ResourceConfig(str(path))).run() == Settings(port=1)
    assert await settings_of(ResourceConfig(path), dict[str, int]).run() == {"port": 1}


async def test_later_runs_see_the_edits_of_a_file_and_a_run_sees_it_as_it_was_at_its_start(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", '{"port": 1}')
    config = ResourceConfig(path)

    def url(settings: Annotated[Settings, config]) -> str:
        return f"port {settings.port}"

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent, settings: Annotated[Settings, config]) -> Next:
            written(path, '{"port": 2}')
            return Next(n=settings.port)

        @step
        async def second(self, ev: Next, s: Annotated[Settings, config], u: Annotated[str, Resource(url, scope="run")]) -> StopEvent:
            return StopEvent(result=(ev.n, s.port, u))

    flow = Flow()
    assert await flow.run() == (1, 1, "port 1")
    assert await flow.run() == (2, 2, "port 2")


async def test_each_parameter_has_a_model_of_its_own(tmp_path: Path) -> None:
    config = ResourceConfig(written(tmp_path / "a.json", '{"port": 1}'))

    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, a: Annotated[Settings, config], b: Annotated[Settings, config]) -> StopEvent:
            return StopEvent(result=(a == b, a is b))

    assert await Flow().run() == (True, False)


WRONG_FILES = [
    ("a.json", None, None, r"a\.json does not exist \(looked for /"),
    ("a.json", "{", None, r"a\.json is no JSON: .*line 1 column 2"),
    ("a.toml", "x = ", None, r"a\.toml is no TOML: Invalid value"),
    ("a.json", "{}", None, r"a\.json is no valid Settings: `port`: Field required"),
    (
        "a.json",
        '{"db": {"port": "secret"}}',
        "db",
        r"`db` of .*a\.json is no valid Settings: `port`: Input should be a valid integer(?!.*secret)",
    ),
    ("a.json", '{"db": {}, "web": {}}', "dbb.port", r"a\.json has no `dbb\.port`: no `dbb` in db, web"),
    ("a.json", "[1]", "7", "no `7` in a list"),
    ("a.json", '{"db": {}}', "db.x", "no `x` in an empty table"),
    ("a.json", json.dumps(dict.fromkeys("abcdefghij")), "z", r"no `z` in a, b, c, d, e, f, g, h, \.\.\."),
]


@pytest.mark.parametrize(("name", "text", "selector", "told"), WRONG_FILES)
async def test_a_wrong_file_is_told_with_step_parameter_and_place_before_the_run_starts(
    name: str, text: str | None, selector: str | None, told: str, tmp_path: Path
) -> None:
    if text is not None:
        written(tmp_path / name, text)
    flow = settings_of(ResourceConfig(tmp_path / name, selector))
    where = rf"Step `use` \({HERE}:\d+\), parameter `settings`: .*"
    with pytest.raises(WorkflowValidationError, match=where + told):
        flow.run()
    with pytest.raises(WorkflowValidationError, match=where + told):
        flow.validate()
    assert flow.validate(validate_resource_configs=False) is False


async def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(WorkflowValidationError, match=r"a\.json cannot be read: .*[Dd]irectory"):
        settings_of(ResourceConfig(tmp_path / "a.json")).run()
    (tmp_path / "b.json").write_bytes(b"\xff")
    with pytest.raises(WorkflowValidationError, match=r"b\.json cannot be read: .*utf-8"):
        settings_of(ResourceConfig(tmp_path / "b.json")).run()


async def test_a_type_that_cannot_be_validated_into_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", "{}")
    with pytest.raises(WorkflowValidationError, match="cannot be validated into Client; use a pydantic model"):
        settings_of(ResourceConfig(path), Client).run()


async def test_yaml_without_pyyaml_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    path = written(tmp_path / "a.yml", "port: 1")
    with pytest.raises(WorkflowValidationError, match=r"pip install 'tracedflow\[yaml\]'"):
        settings_of(ResourceConfig(path)).run()


async def test_wrong_yaml_is_told(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    path = written(tmp_path / "a.yml", "a: [1")
    with pytest.raises(WorkflowValidationError, match=r"a\.yml is no YAML: .*line 1"):
        settings_of(ResourceConfig(path)).run()


def test_wrong_files_and_wrong_wiring_are_told_together(tmp_path: Path) -> None:
    config = ResourceConfig(tmp_path / "none.json")

    def nested(settings: Annotated[Settings, config]) -> None: ...

    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent, a: Annotated[Settings, config]) -> Next:
            return Next()

        @step
        async def two(self, ev: StartEvent, b: Annotated[None, Resource(nested)]) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowValidationError, match="3 problems") as caught:
        Flow(disable_validation=True).validate()
    text = str(caught.value)
    assert "produces Next, which no step accepts" in text
    assert "parameter `a`: " in text
    assert "parameter `b`: " in text


async def test_without_validation_a_missing_file_fails_the_step(tmp_path: Path) -> None:
    flow = using(ResourceConfig(tmp_path / "none.json"), disable_validation=True)
    with pytest.raises(ResourceError, match="does not exist") as caught:
        await flow.run()
    assert any("in step `use`" in note for note in caught.value.__notes__)


# resources on trial


async def test_validation_may_make_the_resources_on_trial_also_while_a_loop_runs(log: list[str]) -> None:
    async def refused() -> None:
        raise ConnectionError("refused")

    def of_a_run(ctx: Context) -> None:
        raise AssertionError

    class Flow(Workflow):
        @step
        async def use(
            self,
            ev: StartEvent,
            a: Annotated[Any, Resource(refused)],
            b: Annotated[Any, Resource(entered("async generator", log))],
            c: Annotated[Any, Resource(of_a_run)],
            d: Annotated[Any, Resource(entered("generator", log, "of the run"), scope="run")],
        ) -> StopEvent:
            return StopEvent()

    flow = Flow()
    with pytest.raises(WorkflowValidationError, match=r"Step `use` \(.*\), parameter `a`: ConnectionError: refused\.") as caught:
        flow.validate(validate_resources=True)
    assert "a problem" in str(caught.value)
    assert sorted(log) == ["close it", "close of the run", "open it", "open of the run"]
    with flow.resource_manager.override(refused, 1):
        assert flow.validate(validate_resources=True) is False


# others in their place


@pytest.mark.parametrize("cache", [True, False])
async def test_a_test_puts_its_own_object_in_the_place_of_what_a_factory_makes(cache: bool) -> None:
    flow = using(Resource(plain, cache=cache))
    with flow.resource_manager.override(plain, "fake"):
        assert await flow.run() == "fake"
    assert (await flow.run()).name == "plain"


async def test_an_override_reaches_what_needs_it_and_leaves_nothing_behind(log: list[str]) -> None:
    def service(client: Annotated[Client, Resource(plain)]) -> Generator[str]:
        name = client.name
        log.append(f"open {name}")
        yield f"service of {name}"
        log.append(f"close {name}")

    async with using(Resource(service)) as flow:
        assert await flow.run() == "service of plain"
        with flow.resource_manager.override(plain, Client("fake")):
            assert await flow.run() == "service of fake"
            assert await flow.run() == "service of fake"
            with flow.resource_manager.override(plain, Client("inner")):
                assert await flow.run() == "service of inner"
        assert await flow.run() == "service of plain"
        assert log == ["open plain", "open fake", "open inner"]
    assert log[3:] == ["close inner", "close fake", "close plain"]


@pytest.mark.parametrize("target", [plain, "plain"])
async def test_an_override_may_be_set_for_good_by_factory_or_name(target: Any) -> None:
    manager = ResourceManager()
    await manager.set(target, None)
    assert await using(Resource(plain), resource_manager=manager).run() is None
    await manager.set(target, "later")
    assert await using(Resource(plain), resource_manager=manager).run() == "later"


async def test_an_override_may_name_a_descriptor_or_a_bound_method_or_a_qualified_name() -> None:
    def inner() -> None: ...

    factory = Factory()
    resource = Resource(lambda: None)
    manager = ResourceManager()
    await manager.set(factory.method, 1)
    await manager.set(resource, 2)
    await manager.set(inner.__qualname__, 3)
    assert [await manager.get(Resource(f)) for f in (factory.method, inner)] == [1, 3]
    assert await manager.get(resource) == 2
    assert (await manager.get(Resource(Factory().method))).name == "method"


async def test_a_configuration_is_overridden_by_its_label_or_file_and_then_need_not_exist(tmp_path: Path) -> None:
    path = str(tmp_path / "none.json")
    flow = using(ResourceConfig(path, label="db"))
    for target in ("db", path):
        with flow.resource_manager.override(target, Settings(port=1)):
            assert flow.validate() is False
            assert await flow.run() == Settings(port=1)


# the manager by itself


async def test_the_manager_gives_resources_outside_of_runs_and_lists_them(log: list[str], tmp_path: Path) -> None:
    async with ResourceManager() as manager:
        client = await manager.get(Resource(plain))
        assert await manager.get(Resource(plain)) is client
        await manager.get(Resource(entered("generator", log), cache=False))
        await manager.set("other", 1)
        await manager.set(awaited, 2)
        resource = Resource(lambda: None)
        await manager.set(resource, 3)
        assert manager.get_all() == {"plain": client, "other": 1, "awaited": 2, "<lambda>": 3}
        config = ResourceConfig(written(tmp_path / "a.json", '{"port": 1}'))
        assert await manager.get(config, Settings) == Settings(port=1)
        assert await manager.get(config) == {"port": 1}
        assert log == ["open it"]
    assert log == ["open it", "close it"]
    assert await manager.get(Resource(plain)) is not client


in_vain_log: list[str] = []


def in_vain(client: Annotated[Client, Resource(entered("generator", in_vain_log), cache=False)]) -> Client:
    raise ConnectionError("refused")


async def test_the_manager_closes_what_it_entered_in_vain() -> None:
    with pytest.raises(ConnectionError):
        await ResourceManager().get(Resource(in_vain, cache=False))
    assert in_vain_log == ["open it", "ConnectionError in it", "close it"]


async def test_the_manager_refuses_what_needs_a_run() -> None:
    def with_context(ctx: Context) -> None: ...
    def with_start(ev: StartEvent) -> None: ...

    for resource, text in (
        (Resource(plain, scope="run"), "lives for one run; only a step can ask for it"),
        (Resource(with_context, cache=False), "asks for the Context of a run"),
        (Resource(with_start, cache=False), "asks for the start event of a run"),
    ):
        with pytest.raises(ResourceError, match=text):
            await ResourceManager().get(resource)


def test_a_definition_says_who_asks_for_what() -> None:
    definition = ResourceDefinition("client", Resource(plain), Client)
    assert (definition.name, definition.resource.name, definition.type_annotation) == ("client", "plain", Client)


# closing a workflow


async def test_closing_a_workflow_cancels_its_live_runs_first_and_leaves_those_of_others_alone(log: list[str]) -> None:
    resource = Resource(entered("async generator", log))
    flow, other = ending("cancel", resource), ending("cancel", Resource(plain))
    handler, untouched = flow.run(), other.run()
    while not log:
        await asyncio.sleep(0)
    await flow.aclose()
    with pytest.raises(WorkflowCancelledByUser, match="its workflow was closed"):
        await handler
    assert log == ["open it", "close it"]
    assert not untouched.is_done()
    await untouched.cancel_run()


async def test_a_closed_workflow_may_run_again_with_new_resources(log: list[str]) -> None:
    flow = using(Resource(entered("async generator", log)))
    for _ in range(2):
        async with flow:
            await flow.run()
    assert log == ["open it", "close it"] * 2


async def test_a_layer_that_answers_a_run_makes_no_resources(log: list[str]) -> None:
    class Answer(Middleware):
        async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent:
            return StopEvent(result="answered")

    assert await using(Resource(entered("generator", log), scope="run"), middleware=[Answer()]).run() == "answered"
    assert log == []


# several event loops


@pytest.mark.parametrize("kind", ["async generator", "async context manager"])
def test_run_sync_closes_what_only_its_own_loop_can_use(kind: str, log: list[str]) -> None:
    flow = using(Resource(entered(kind, log)))
    flow.run_sync()
    flow.run_sync()
    assert log == ["open it", "close it"] * 2


def test_what_any_loop_can_use_is_shared_by_them(log: list[str]) -> None:
    flow = using(Resource(entered("generator", log)))
    assert flow.run_sync() is flow.run_sync()
    asyncio.run(flow.aclose())
    assert log == ["open it", "close it"]


def test_each_loop_has_its_own_of_what_is_entered_asynchronously_and_of_what_needs_it(
    log: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def root(client: Annotated[Client, Resource(Session, enter=True)]) -> Generator[list[Any]]:
        yield [client]
        log.append("close root")

    flow = using(Resource(root))

    async def two_runs() -> bool:
        return await flow.run() is await flow.run()

    assert asyncio.run(two_runs())
    assert caplog.records == []
    assert asyncio.run(two_runs())
    assert "`Session`" in caplog.text
    assert "was not closed before its event loop was" in caplog.text


def test_closing_in_one_loop_leaves_what_belongs_to_another(log: list[str]) -> None:
    flow = using(Resource(entered("async generator", log)))
    made, go_on = threading.Event(), threading.Event()

    async def elsewhere() -> None:
        await flow.run()
        made.set()
        await asyncio.get_running_loop().run_in_executor(None, go_on.wait)
        assert log == ["open it"]
        await flow.aclose()

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    made.wait()
    asyncio.run(flow.aclose())
    go_on.set()
    thread.join()
    assert log == ["open it", "close it"]


# corners


async def test_a_callable_that_tells_nothing_of_itself_may_be_a_factory() -> None:
    class Odd:
        __call__ = Factory()

    assert (await using(Resource(Odd())).run()).name == "called"


async def test_what_reads_a_configuration_still_lives_as_long_as_the_workflow(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", '{"port": 1}')

    def client(settings: Annotated[Settings, ResourceConfig(path)]) -> list[int]:
        return [settings.port]

    def service(parts: Annotated[list[int], Resource(client)]) -> list[list[int]]:
        return [parts]

    flow = using(Resource(service))
    first = await flow.run()
    with flow.resource_manager.override("something else", 1):
        assert await flow.run() is first
    written(path, '{"port": 2}')
    assert await flow.run() is first
    written(path, "{")
    with pytest.raises(WorkflowValidationError, match="parameter `thing`: .* is no JSON"):
        flow.run()
    with flow.resource_manager.override(client, [3]):
        assert await flow.run() == [[3]]


async def test_a_circle_does_not_keep_overrides_and_files_from_being_looked_for() -> None:
    flow = using(Resource(egg), disable_validation=True)
    with flow.resource_manager.override("something else", 1):
        with pytest.raises(ResourceError, match=CIRCLE):
            await flow.run()
        with pytest.raises(WorkflowValidationError, match=CIRCLE):
            flow.validate()


async def test_a_context_manager_that_raises_what_it_was_given_has_not_failed(caplog: pytest.LogCaptureFixture) -> None:
    class Raises:
        def __enter__(self) -> None: ...
        def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
            if error is not None:
                raise error

    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, a: Annotated[Any, Resource(Raises, cache=False, enter=True)]) -> StopEvent:
            raise KeyError("broken")

    with pytest.raises(KeyError) as caught:
        await Flow().run()
    assert not any("closing" in note for note in caught.value.__notes__)
    assert caplog.records == []


def test_closing_a_workflow_ends_its_runs_in_other_loops_too() -> None:
    flow = ending("cancel", Resource(plain))
    begun = threading.Event()
    ended: list[BaseException] = []

    async def elsewhere() -> None:
        handler = flow.run()
        while not handler.why().running:
            await asyncio.sleep(0)
        begun.set()
        try:
            await handler
        except WorkflowCancelledByUser as error:
            ended.append(error)

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    begun.wait()
    asyncio.run(flow.aclose())
    thread.join()
    assert len(ended) == 1


async def test_the_traceback_of_an_error_is_that_of_the_users_code() -> None:
    def broken() -> None:
        raise KeyError("broken")

    class Flow(Workflow):
        @step(timeout=10)
        async def use(self, ev: StartEvent, a: Annotated[None, Resource(plain)]) -> StopEvent:
            raise KeyError("broken")

    for flow, name in ((Flow(), "use"), (using(Resource(broken)), "broken")):
        with pytest.raises(KeyError) as caught:
            await flow.run()
        frames = [frame.name for frame in caught.traceback]
        assert frames[-1] == name
        assert not any("tracedflow/resource" in str(frame.path) or frame.name in ("_supplied", "_in_time") for frame in caught.traceback)


async def test_a_factory_that_blocks_the_loop_is_named_with_its_line(caplog: pytest.LogCaptureFixture) -> None:
    def slow() -> None:
        deadline = time.monotonic() + 0.4
        while time.monotonic() < deadline:
            pass

    handler = using(Resource(slow)).run()
    await handler
    assert f"step `use` of {handler._runner.call.workflow} has blocked the event loop" in caplog.text
    assert f"at {HERE}:" in caplog.text
