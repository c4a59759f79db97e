"""The state of a run: read and written by paths, edited in transactions. Knows nothing of runs or steps."""

from __future__ import annotations

import threading
import warnings
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from pydantic import BaseModel

from ...errors import ContextSerdeError
from ...events import DictLikeModel
from ..serializers import BaseSerializer, JsonSerializer
from ..serializers._types import dynamic
from ._copies import isolated
from ._paths import MISSING, assign, child, not_found, put, split
from ._turns import Turns

__all__ = ["DictState", "InMemoryStateStore", "StateStore", "StateT", "UnserializableKeyWarning", "most_derived"]

StateT = TypeVar("StateT", bound=BaseModel)


class DictState(DictLikeModel):
    """The state of a workflow that declares none: any key, by attribute or by subscript."""

    if TYPE_CHECKING:  # what type checkers need to see to allow `state.key = value`

        def __setattr__(self, name: str, value: Any, /) -> None: ...


class UnserializableKeyWarning(UserWarning):
    """A key of the state was left out of a snapshot because it cannot be saved."""


class StateStore(Protocol[StateT]):
    """The state of a run, as steps use it. Paths are dotted: keys, attributes and list indices, as in `user.tags.0`."""

    async def get_state(self) -> StateT:
        """Return a copy of the whole state."""
        ...

    async def set_state(self, state: StateT) -> None:
        """Replace the state, or merge an instance of a parent class into it."""
        ...

    async def get(self, path: str, default: Any = ...) -> Any:
        """Return the value at `path`; else `default`, if given."""
        ...

    async def set(self, path: str, value: Any) -> None:
        """Set the value at `path`."""
        ...

    async def clear(self) -> None:
        """Set everything back to its default."""
        ...

    def edit_state(self) -> AbstractAsyncContextManager[StateT]:
        """Give a draft of the state, exclusively; committed at the end of the block."""
        ...

    def to_dict(self, serializer: BaseSerializer) -> dict[str, Any]:
        """Return the state as data for JSON."""
        ...

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], serializer: BaseSerializer) -> StateStore[Any]:
        """Return a store with what `to_dict` saved."""
        ...


class InMemoryStateStore(Generic[StateT]):
    """A `StateStore` in memory. It may be used from several event loops and threads.

    Readers never wait: they see what was committed last. Writers take turns with `edit_state` blocks, first come first
    served, over all event loops. `get` then `set` is not one step: use `edit_state` for that.
    """

    def __init__(self, initial_state: StateT) -> None:
        self._state = initial_state
        self._draft: StateT | None = None  # of the last edit, until it is committed: an error in it may quote what it was given
        self._turns = Turns()
        self._walking = threading.RLock()  # held while the state is changed or copied, never over an await

    @property
    def state_type(self) -> type[StateT]:
        """The class of the state."""
        return type(self._state)

    async def get_state(self) -> StateT:
        """Return a copy of the state; nested values are copies too, but for those that cannot be copied."""
        return self._copy()

    def _copy(self) -> StateT:
        with self._walking:
            return isolated(self._state)

    async def set_state(self, state: StateT) -> None:
        """Replace the state by one of the same class, or merge the fields of an instance of a parent class into it.

        Raises:
            ValueError: `state` is of another class.
            RuntimeError: called inside an `edit_state` block.
        """
        async with self._turn("set_state"):
            with self._walking:
                self._state = _replaced(self._state, state)

    async def get(self, path: str, default: Any = ...) -> Any:
        """Return the value at `path` itself, not a copy; with `""` a copy of the whole state.

        Args:
            path: keys, attributes and list indices, joined by dots.
            default: returned if there is nothing at `path`.

        Raises:
            ValueError: there is nothing at `path`, and no default.
        """
        segments = split(path)
        if not segments:
            return self._copy()
        value: Any = self._state
        for index, segment in enumerate(segments):
            value = child(value, segment)
            if value is MISSING:
                if default is not ...:
                    return default
                raise ValueError(not_found(self._state, segments, index))
        return value

    async def set(self, path: str, value: Any) -> None:
        """Set the value at `path`; dicts on the way there are made. Values are not validated.

        Raises:
            ValueError: the path is empty, a typed state has no such field, or a value on the way takes no children.
            RuntimeError: called inside an `edit_state` block.
        """
        segments = split(path)
        if not segments:
            raise ValueError("set() needs a path, but it is empty: use set_state() to replace the whole state")
        async with self._turn("set"):
            with self._walking:
                put(self._state, segments, value)

    async def clear(self) -> None:
        """Set everything back to its default.

        Raises:
            ValueError: the state has a field without a default.
            RuntimeError: called inside an `edit_state` block.
        """
        async with self._turn("clear"):
            self._state = type(self._state)()

    @asynccontextmanager
    async def edit_state(self) -> AsyncGenerator[StateT]:
        """Give a draft of the state to change in an `async with` block; nobody else writes meanwhile.

        The draft becomes the state when the block ends, and is thrown away when it raises. Values that cannot be copied
        (locks, clients, sockets) are the same objects in the draft.

        Raises:
            RuntimeError: called inside another `edit_state` block of the same task.
        """
        async with self._turn("edit_state"):
            draft = self._draft = self._copy()
            yield draft
            self._state, self._draft = draft, None

    @asynccontextmanager
    async def _turn(self, method: str) -> AsyncGenerator[None]:
        if self._turns.mine():
            raise RuntimeError(
                f"{method}() was called inside edit_state(), where it would wait for itself: change the state that the block was given"
            )
        turn = await self._turns.take()
        try:
            yield
        finally:
            self._turns.pass_on(turn)

    def to_dict(self, serializer: BaseSerializer) -> dict[str, Any]:
        """Return the state as data for JSON. What an open `edit_state` block has changed is not in it.

        Raises:
            ContextSerdeError: a value cannot be saved; the message names its path, which begins with `state`.
        """
        with self._walking:
            state = self._state
            data = _save_keys(state, serializer) if isinstance(state, DictLikeModel) else serializer.serialize_at(state, "state")
        kind = type(state)
        return {"store_type": "in_memory", "state_type": kind.__qualname__, "state_module": kind.__module__, "state_data": data}

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        serializer: BaseSerializer,
        state_type: type[StateT] = cast("type[StateT]", DictState),  # noqa: B008 - a constant
    ) -> InMemoryStateStore[StateT]:
        """Return a store with what `to_dict` saved. `state_type` decides the class; no class is looked up by its name in the data.

        Raises:
            ContextSerdeError: the data is malformed or of another class.
        """
        if not isinstance(cast("object", data), Mapping):
            raise ContextSerdeError(f"state cannot be loaded: it must be what to_dict() returned, not {data!r}")
        saved = data.get("state_data")
        if saved is None:
            return cls(state_type())
        if isinstance(saved, Mapping):
            return cls(_load_keys(cast("Mapping[str, Any]", saved), serializer, state_type))
        if not isinstance(saved, str):
            raise ContextSerdeError(f"state cannot be loaded: state_data must be text or keys with text, not {saved!r}")
        if isinstance(serializer, JsonSerializer):  # the state's own class needs no allowing
            serializer = serializer.with_types(_models(state_type))
        loaded = serializer.deserialize_at(saved, "state")
        try:
            return cls(_replaced(state_type(), loaded))
        except ValueError as error:
            raise ContextSerdeError(f"state cannot be loaded: {error}") from error


def most_derived(types: Iterable[type[BaseModel]]) -> type[BaseModel]:
    """Return the class that is derived from all the others.

    Raises:
        ValueError: there is none, because the classes do not form one chain of inheritance.
    """
    given = list(dict.fromkeys(types))
    for kind in given:
        if all(issubclass(kind, other) for other in given):
            return kind
    names = ", ".join(f"{kind.__module__}.{kind.__qualname__}" for kind in given) or "none"
    raise ValueError(f"the state types of a workflow must form one chain of inheritance, but these do not: {names}")


def _replaced(current: StateT, state: BaseModel) -> StateT:
    kind = type(current)
    if type(state) is kind:
        return state.model_copy()  # else the caller's later changes would be changes of the state
    if not (isinstance(state, BaseModel) and isinstance(current, type(state))):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(  # noqa: TRY004 - the type is part of the public API
            f"the state is a {kind.__qualname__}, and a {type(state).__qualname__} is neither that nor a parent of it: {state!r}"
        )
    merged = current.model_copy()
    for name, value in {**vars(state), **dynamic(state)}.items():
        assign(merged, name, value, [name])
    return merged


def _models(kind: type[BaseModel]) -> Iterator[type]:
    return (base for base in kind.__mro__ if issubclass(base, BaseModel))


def _save_keys(state: DictLikeModel, serializer: BaseSerializer) -> dict[str, dict[str, str]]:
    saved: dict[str, str] = {}
    for name, value in {**vars(state), **dynamic(state)}.items():
        with _allowed_to_fail(name):
            saved[name] = serializer.serialize_at(value, f"state.{name}")
    return {"_data": saved}


@contextmanager
def _allowed_to_fail(name: str) -> Generator[None]:
    # Programs keep their chat memory under this name, rebuild it after loading, and have always been let off.
    try:
        yield
    except ContextSerdeError as error:
        if name != "memory":
            raise
        warnings.warn(f"the state is saved without 'memory': {error}", UnserializableKeyWarning, stacklevel=2)


def _load_keys(saved: Mapping[str, Any], serializer: BaseSerializer, state_type: type[StateT]) -> StateT:
    keys = saved.get("_data")
    if not isinstance(keys, Mapping):
        raise ContextSerdeError(f"state cannot be loaded: state_data needs the keys under '_data', but has {sorted(saved)}")
    values = {name: serializer.deserialize_at(text, f"state.{name}") for name, text in cast("Mapping[str, str]", keys).items()}
    state = state_type()
    try:
        for name, value in values.items():
            assign(state, name, value, [name])
    except ValueError as error:
        raise ContextSerdeError(f"state cannot be loaded: {error}") from error
    return state
