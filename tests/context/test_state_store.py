from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
from collections import deque
from functools import cached_property
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from tracedflow.context.serializers import BaseSerializer, JsonSerializer, PickleSerializer
from tracedflow.context.state_store import DictState, InMemoryStateStore, StateStore, UnserializableKeyWarning, most_derived
from tracedflow.context.state_store._copies import isolated
from tracedflow.errors import ContextSerdeError


class Profile(BaseModel):
    name: str = "ann"
    tags: list[str] = []


class Base(BaseModel):
    count: int = 0


class State(Base):
    profile: Profile = Profile()
    nickname: dict[str, str] | None = None

    @property
    def double(self) -> int:
        return self.count * 2

    @cached_property
    def triple(self) -> int:
        return self.count * 3


class Mixed(DictState):
    count: int = 0


class Plain:
    def __init__(self) -> None:
        self.inner = {"x": [1]}


class Closed:
    __slots__ = ()


def dict_store(**data: Any) -> InMemoryStateStore[DictState]:
    return InMemoryStateStore(DictState(**data))


def test_the_store_is_a_state_store() -> None:
    store: StateStore[State] = InMemoryStateStore(State())
    assert store is not None
    assert InMemoryStateStore(State()).state_type is State


# paths


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a", {"b": [10, {"c": 1}]}),
        ("a.b.0", 10),
        ("a.b.-2", 10),
        ("a.b.1.c", 1),
        ("model.profile.name", "ann"),
        ("model.double", 0),
        ("model.triple", 0),
        ("plain.inner.x.0", 1),
        ("pair.1", "y"),
        ("none", None),
        ("items", "a key, not the method"),
    ],
)
async def test_a_path_leads_through_keys_attributes_and_indices(path: str, expected: object) -> None:
    store = dict_store(a={"b": [10, {"c": 1}]}, model=State(), plain=Plain(), pair=("x", "y"), none=None, items="a key, not the method")
    assert await store.get(path) == expected


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("topik", "the state has nothing at 'topik': there is no 'topik'; did you mean 'topic'?"),
        ("a.bee.c", "the state has nothing at 'a.bee.c': there is no 'bee' in 'a'; did you mean 'bees'?"),
        ("model.profil", "there is no 'profil' in 'model'; did you mean 'profile'?"),
        ("plain.iner", "did you mean 'inner'?"),
        ("keys", "there is no 'keys'"),
        ("model.copy", "there is no 'copy' in 'model'"),
        ("a.bees.5", "there is no '5' in 'a.bees'"),
        ("a.bees.x", "there is no 'x' in 'a.bees'"),
        ("topic.x", "there is no 'x' in 'topic'"),
    ],
)
async def test_what_is_missing_is_named_with_the_near_miss(path: str, says: str) -> None:
    store = dict_store(topic="x", a={"bees": [1]}, model=State(), plain=Plain())
    with pytest.raises(ValueError, match="the state has nothing at") as caught:
        await store.get(path)
    assert says in str(caught.value)
    assert await store.get(path, default=None) is None


async def test_the_value_itself_is_given_not_a_copy() -> None:
    memory = ["first"]
    store = dict_store(memory=memory)
    assert await store.get("memory") is memory


async def test_the_empty_path_gives_a_copy_of_the_whole_state() -> None:
    store = dict_store(a=[1])
    whole = await store.get("")
    whole["a"].append(2)
    assert await store.get("a") == [1]


async def test_setting_makes_the_dicts_on_the_way() -> None:
    store = dict_store()
    await store.set("a.b.c", 1)
    await store.set("a.d", 2)
    assert (await store.get_state()).to_dict() == {"a": {"b": {"c": 1}, "d": 2}}


async def test_setting_reaches_into_lists_models_and_objects() -> None:
    store = dict_store(list=[1, 2], model=State(), plain=Plain())
    await store.set("list.1", "two")
    await store.set("model.profile.name", "bob")
    await store.set("model.nickname.short", "b")
    await store.set("plain.inner.x.0", 5)
    await store.set("plain.more", 6)
    assert await store.get("list") == [1, "two"]
    assert await store.get("model.profile.name") == "bob"
    assert await store.get("model.nickname") == {"short": "b"}
    assert (await store.get("plain")).inner == {"x": [5]}
    assert await store.get("plain.more") == 6


async def test_values_are_not_validated() -> None:
    store = InMemoryStateStore(State())
    await store.set("count", "zz")
    assert await store.get("count") == "zz"


async def test_a_mixed_state_keeps_fields_and_keys_apart() -> None:
    store = InMemoryStateStore(Mixed())
    await store.set("count", 2)
    await store.set("other", 3)
    state = await store.get_state()
    assert (state.count, state.to_dict()) == (2, {"other": 3})


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "needs a path"),
        ("nobody", "cannot set 'nobody': a State does not take 'nobody' .its fields are count, profile, nickname."),
        ("nobody.x", "cannot set 'nobody': a State"),
        ("count.x", "cannot set 'count.x': a int does not take 'x'"),
        ("profile.tags.0", "cannot set 'profile.tags.0': '0' is not an index of a list of 0"),
        ("profile.tags.first", "'first' is not an index"),
    ],
)
async def test_what_cannot_be_set_is_refused_with_the_reason(path: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        await InMemoryStateStore(State()).set(path, 1)


async def test_a_model_that_validates_what_is_assigned_says_what_is_wrong_with_a_value() -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(validate_assignment=True)
        count: int = 0

    store = InMemoryStateStore(Strict())
    with pytest.raises(ValidationError, match="valid integer"):
        await store.set("count", "many")
    with pytest.raises(ValueError, match="does not take 'counts'"):
        await store.set("counts", 1)
    assert await store.get("count") == 0


async def test_an_object_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a Closed does not take 'x'$"):
        await dict_store(closed=Closed()).set("closed.x", 1)


async def test_a_path_has_at_most_a_thousand_segments() -> None:
    store = dict_store()
    await store.set(".".join("a" * 1000), 1)
    with pytest.raises(ValueError, match="1001 segments, and 1000 is the most"):
        await store.set(".".join("a" * 1001), 1)
    with pytest.raises(TypeError, match="path must be a str, not 5"):
        await store.get(5)  # type: ignore[arg-type]


KEYS = st.text(st.characters(exclude_characters="."), min_size=1).filter(lambda key: not key.startswith("_"))


@given(st.lists(KEYS, min_size=1, max_size=5), st.integers())
def test_what_was_set_is_found_under_its_path(segments: list[str], value: int) -> None:
    async def check() -> None:
        store = dict_store()
        await store.set(".".join(segments), value)
        assert await store.get(".".join(segments)) == value

    asyncio.run(check())


# whole states


async def test_a_copy_of_the_state_shares_nothing_that_can_change() -> None:
    store = InMemoryStateStore(State(profile=Profile(tags=["a"])))
    state = await store.get_state()
    state.profile.tags.append("b")
    state.count = 5
    assert await store.get("profile.tags") == ["a"]
    assert await store.get("count") == 0


async def test_a_state_of_the_same_class_replaces() -> None:
    store = InMemoryStateStore(State(count=1))
    new = State(count=2)
    await store.set_state(new)
    new.count = 3
    assert await store.get("count") == 2


async def test_a_state_of_a_parent_class_is_merged() -> None:
    store = InMemoryStateStore(State(nickname={"a": "b"}))
    await store.set_state(Base(count=7))  # type: ignore[arg-type]
    assert await store.get_state() == State(count=7, nickname={"a": "b"})
    mixed = InMemoryStateStore(Mixed(count=1, old=1))
    await mixed.set_state(DictState(new=2))  # type: ignore[arg-type]
    assert await mixed.get_state() == Mixed(count=1, old=1, new=2)


@pytest.mark.parametrize("state", [Profile(), {"count": 1}])
async def test_a_state_of_another_class_is_refused(state: Any) -> None:
    with pytest.raises(ValueError, match=r"the state is a State, and a (Profile|dict) is neither that nor a parent"):
        await InMemoryStateStore(State()).set_state(state)


async def test_clearing_brings_the_defaults_back() -> None:
    store = InMemoryStateStore(State(count=5))
    await store.clear()
    assert await store.get_state() == State()


# transactions


async def test_an_edit_is_seen_when_the_block_ends() -> None:
    store = dict_store(n=1, items=[1])
    async with store.edit_state() as state:
        state.n += 1
        state["items"].append(2)
        assert await store.get("n") == 1
        assert (await store.get_state())["items"] == [1]
    assert await store.get("n") == 2
    assert await store.get("items") == [1, 2]


async def test_an_edit_that_raises_leaves_no_trace() -> None:
    store = dict_store(items=[1])

    async def fail() -> None:
        async with store.edit_state() as state:
            state["items"].append(2)
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert await store.get("items") == [1]
    await store.set("items", [])


async def test_writing_inside_an_edit_of_the_same_task_is_refused_instead_of_hanging() -> None:
    store = dict_store(n=1)
    async with store.edit_state() as state:
        for write in (lambda: store.set("n", 5), lambda: store.set_state(DictState()), store.clear):
            with pytest.raises(RuntimeError, match=r"was called inside edit_state\(\).*change the state that the block was given"):
                await write()
        with pytest.raises(RuntimeError, match="edit_state"):
            async with store.edit_state():
                pytest.fail("entered")
        state.n = 2
    assert await store.get("n") == 2


async def test_writing_to_another_store_inside_an_edit_is_fine() -> None:
    one, other = dict_store(), dict_store()
    async with one.edit_state():
        await other.set("x", 1)
    assert await other.get("x") == 1


async def test_another_task_waits_for_the_end_of_the_block() -> None:
    store = dict_store(n=1)
    async with store.edit_state() as state:
        writer = asyncio.create_task(store.set("n", 10))
        await asyncio.sleep(0)
        assert not writer.done()
        state.n = 2
    await writer
    assert await store.get("n") == 10


async def test_no_increment_is_lost_and_turns_come_in_order() -> None:
    store, order = dict_store(n=0), list[int]()

    async def increment(index: int) -> None:
        async with store.edit_state() as state:
            seen = state.n
            await asyncio.sleep(0)
            state.n = seen + 1
            order.append(index)

    await asyncio.gather(*(increment(index) for index in range(50)))
    assert await store.get("n") == 50
    assert order == list(range(50))


async def test_a_cancelled_writer_gives_up_its_place() -> None:
    store = dict_store(n=1)
    async with store.edit_state():
        lost = asyncio.create_task(store.set("n", 2))
        kept = asyncio.create_task(store.set("m", 3))
        await asyncio.sleep(0)
        lost.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lost
    await kept
    assert (await store.get_state()).to_dict() == {"n": 1, "m": 3}


async def test_a_writer_cancelled_as_its_turn_comes_passes_it_on() -> None:
    store = dict_store(n=1)
    async with store.edit_state():
        lost = asyncio.create_task(store.set("n", 2))
        kept = asyncio.create_task(store.set("m", 3))
        await asyncio.sleep(0)
    lost.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lost
    await asyncio.wait_for(kept, 5)
    assert await store.get("m") == 3


def test_one_store_serves_loops_one_after_the_other() -> None:
    store = dict_store(n=0)

    async def contend() -> None:
        await asyncio.gather(*(store.set("n", index) for index in range(5)))

    asyncio.run(contend())
    asyncio.run(contend())
    assert asyncio.run(store.get("n")) == 4


def test_one_store_serves_several_loops_at_once() -> None:
    store, together = dict_store(n=0), threading.Barrier(4)

    async def increment() -> None:
        for _ in range(25):
            async with store.edit_state() as state:
                seen = state.n
                await asyncio.sleep(0)
                state.n = seen + 1

    async def several() -> None:
        await asyncio.gather(increment(), increment())

    def work() -> None:
        together.wait()
        asyncio.run(several())

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert asyncio.run(store.get("n")) == 200


def test_a_loop_that_was_closed_inside_a_block_does_not_keep_the_turn() -> None:
    store = dict_store(n=1)
    loop = asyncio.new_event_loop()
    edit = store.edit_state()
    abandoned = loop.run_until_complete(edit.__aenter__())
    loop.close()

    async def edit_again() -> None:
        async with store.edit_state() as state:
            abandoned.n = 99
            assert not await edit.__aexit__(KeyError, KeyError(), None)  # the old block ends at last, and takes nobody's turn
            writer = asyncio.create_task(store.set("m", 3))
            await asyncio.sleep(0)
            assert not writer.done()
            state.n = 2
        await writer

    asyncio.run(asyncio.wait_for(edit_again(), 5))
    assert asyncio.run(store.get_state()).to_dict() == {"n": 2, "m": 3}


def test_a_waiter_whose_loop_was_closed_is_passed_over() -> None:
    store = dict_store(n=1)
    dead = asyncio.new_event_loop()

    async def hold() -> None:
        async with store.edit_state():
            await asyncio.to_thread(leave_a_waiter)
            alive = asyncio.create_task(store.set("n", 2))
            await asyncio.sleep(0)
        await asyncio.wait_for(alive, 5)

    def leave_a_waiter() -> None:
        waiting.append(dead.create_task(store.set("n", 99)))
        dead.run_until_complete(asyncio.sleep(0))
        dead._ready.clear()  # type: ignore[attr-defined]
        dead.close()

    waiting: list[asyncio.Task[None]] = []
    asyncio.run(hold())
    assert asyncio.run(store.get("n")) == 2
    waiting[0]._log_destroy_pending = False  # type: ignore[attr-defined]
    waiting[0].get_coro().close()  # type: ignore[union-attr]


# copies


@dataclasses.dataclass(frozen=True)
class Data:
    values: list[int]
    lock: Any = None
    absent: int = dataclasses.field(init=False)


@dataclasses.dataclass
class OwnCopy:
    values: list[int]

    def __deepcopy__(self, memo: object) -> OwnCopy:
        return OwnCopy(["copied"])  # type: ignore[list-item]


class ModelWithOwnCopy(BaseModel):
    def __deepcopy__(self, memo: object) -> ModelWithOwnCopy:
        return self


@dataclasses.dataclass
class NoCopy:
    def __copy__(self) -> NoCopy:
        raise TypeError


class Hashed:
    """Mutable, and copied, though it can stand in a set."""


class Client:
    def __init__(self, shared: list[int]) -> None:
        self.shared = shared
        self.lock = threading.Lock()


class Private(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="allow", frozen=True)
    client: Client
    _cache: dict[str, int] = PrivateAttr(default_factory=dict)


def test_a_copy_keeps_what_cannot_be_copied_and_copies_what_is_around_it() -> None:
    shared = [1]
    client = Client(shared)
    for live in (client, threading.Lock(), asyncio.Lock(), asyncio.Queue(), lambda: None, Client, threading.Event()):
        copied = isolated({"x": [live, (live, [2])], "s": {live}})
        assert copied["x"][0] is live
        assert copied["x"][1][0] is live
        assert copied["s"] == {live}
    both = isolated([client, shared, client])
    assert both[0] is both[2] is client
    assert both[1] == [1]
    assert both[1] is not shared


def test_a_socket_in_the_state_survives_an_edit_as_the_same_object() -> None:
    async def check(live: socket.socket) -> None:
        store = dict_store(live=live, n=1)
        async with store.edit_state() as state:
            assert state.live is live
            state.n = 2
        assert await store.get("live") is live
        assert (await store.get_state()).live is live

    with socket.socket() as live:
        asyncio.run(check(live))


def test_models_and_dataclasses_are_copied_part_by_part() -> None:
    model = Private(client=Client([]), more=[1])
    model._cache["a"] = 1
    data = Data([1], threading.Lock())
    copied = isolated([model, data])
    assert copied[0] is not model
    assert copied[0].client is model.client
    assert copied[0]._cache == {"a": 1}
    assert copied[0]._cache is not model._cache
    assert copied[0].more is not model.more  # type: ignore[attr-defined]
    assert copied[1].values == [1]
    assert copied[1].values is not data.values
    assert copied[1].lock is data.lock


def test_classes_that_say_how_to_copy_them_are_obeyed() -> None:
    own, model, stubborn = OwnCopy([1]), ModelWithOwnCopy(), NoCopy()
    assert isolated(own).values == ["copied"]
    assert isolated(model) is model
    assert isolated(stubborn) is stubborn


def test_shared_values_stay_shared_and_rings_stay_rings() -> None:
    shared = [1]
    ring: list[Any] = [shared, {"again": shared}, deque([shared])]
    ring.append(ring)
    knot: tuple[Any, ...] = ([],)
    knot[0].append(knot)
    copied, untied = isolated(ring), isolated(knot)
    assert copied[0] is copied[1]["again"] is copied[2][0]
    assert copied[0] is not shared
    assert copied[3] is copied
    assert untied[0][0] is untied
    assert untied is not knot


def test_what_cannot_change_is_the_same_object() -> None:
    fixed = ("a", (1, None), frozenset({1}))
    assert isolated(fixed) is fixed
    held = frozenset({Hashed()})
    assert isolated(held) is not held


# saving


@pytest.mark.parametrize("serializer", [JsonSerializer([Profile]), PickleSerializer()])
async def test_a_dict_state_comes_back_key_by_key(serializer: BaseSerializer) -> None:
    store = dict_store(n=1, who=Profile(name="bob"), pair=(1, 2))
    data = store.to_dict(serializer)
    assert (data["state_type"], data["state_module"]) == ("DictState", "tracedflow.context.state_store")
    assert sorted(data["state_data"]["_data"]) == ["n", "pair", "who"]
    again = InMemoryStateStore.from_dict(data, JsonSerializer([Profile]))
    assert await again.get_state() == await store.get_state()


async def test_a_typed_state_comes_back_and_its_own_class_needs_no_allowing() -> None:
    store = InMemoryStateStore(State(count=3, profile=Profile(tags=["x"])))
    data = store.to_dict(JsonSerializer())
    assert isinstance(data["state_data"], str)
    again = InMemoryStateStore.from_dict(data, JsonSerializer(), State)
    assert await again.get_state() == await store.get_state()


async def test_a_mixed_state_comes_back() -> None:
    store = InMemoryStateStore(Mixed(count=3, more=[1]))
    again = InMemoryStateStore.from_dict(store.to_dict(JsonSerializer()), JsonSerializer(), Mixed)
    assert await again.get_state() == await store.get_state()


async def test_a_state_saved_as_a_parent_class_is_merged() -> None:
    data = InMemoryStateStore(Base(count=3)).to_dict(JsonSerializer())
    again = InMemoryStateStore.from_dict(data, JsonSerializer(), State)
    assert await again.get_state() == State(count=3)


class Bare(BaseSerializer):
    def serialize(self, value: Any) -> str:
        return value.model_dump_json()  # type: ignore[no-any-return]

    def deserialize(self, value: str) -> Any:
        return State.model_validate_json(value)


async def test_a_serializer_of_the_users_own_saves_a_typed_state() -> None:
    data = InMemoryStateStore(State(count=3)).to_dict(Bare())
    assert await InMemoryStateStore.from_dict(data, Bare(), State).get("count") == 3


async def test_data_without_a_state_gives_a_new_one() -> None:
    assert await InMemoryStateStore.from_dict({}, JsonSerializer(), State).get_state() == State()


def test_a_value_that_cannot_be_saved_is_named_by_its_path() -> None:
    with pytest.raises(ContextSerdeError, match=r"^state\.user\.socket \(a builtins|^state\.user\.socket \(a object"):
        dict_store(user={"socket": object()}).to_dict(JsonSerializer())
    with pytest.raises(ContextSerdeError, match=r"^state\.nickname\.a \(a object"):
        InMemoryStateStore(State.model_construct(nickname={"a": object()})).to_dict(JsonSerializer())


async def test_a_memory_that_cannot_be_saved_is_left_out_with_a_warning() -> None:
    store = dict_store(memory=object(), n=1)
    with pytest.warns(UnserializableKeyWarning, match=r"saved without 'memory': state\.memory \(a object"):
        data = store.to_dict(JsonSerializer())
    assert (await InMemoryStateStore.from_dict(data, JsonSerializer()).get_state()).to_dict() == {"n": 1}


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        ({"state_data": 5}, DictState, "state_data must be text or keys with text, not 5"),
        ({"state_data": {"x": "1"}}, DictState, r"needs the keys under '_data', but has \['x'\]"),
        ({"state_data": {"_data": {"x": "{"}}}, DictState, "^state.x cannot be loaded as JSON"),
        ({"state_data": {"_data": {"x": "1"}}}, State, "cannot set 'x': a State does not take 'x'"),
        ({"state_data": "5"}, State, "the state is a State, and a int is neither"),
    ],
)
def test_damaged_data_is_refused(data: dict[str, Any], kind: type[BaseModel], says: str) -> None:
    with pytest.raises(ContextSerdeError, match=says):
        InMemoryStateStore.from_dict(data, JsonSerializer(), kind)


# inheritance of states


class Derived(State):
    pass


class Other(Base):
    pass


def test_the_most_derived_class_of_a_chain_is_found() -> None:
    assert most_derived([Base, Derived, State, Base]) is Derived
    assert most_derived([Base]) is Base


@pytest.mark.parametrize(("types", "names"), [([], "none"), ([State, Base, Other], "State, .*Base, .*Other")])
def test_classes_that_form_no_chain_are_refused_by_name(types: list[type[BaseModel]], names: str) -> None:
    with pytest.raises(ValueError, match=f"one chain of inheritance, but these do not: .*{names}"):
        most_derived(types)
