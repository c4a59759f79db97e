"""What a workflow has to do with saving: the class of its state, its store, and how values become text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ._snapshot import imported_event
from .context import BaseSerializer, JsonSerializer
from .context.serializers import check_serializer
from .context.state_store import DictState, InMemoryStateStore, StateStore, most_derived
from .events import BUILT_IN_EVENTS

if TYPE_CHECKING:
    from ._graph import Graph


class Persistent:
    """The part of a workflow that says how its runs are saved."""

    _own_serializer: BaseSerializer | None

    if TYPE_CHECKING:

        def _checked_graph(self) -> Graph: ...

    @property
    def serializer(self) -> BaseSerializer:
        """What `ctx.to_dict()` saves values with: the one given, else JSON, which knows the types in the annotations."""
        return self._own_serializer or self._serializer()

    def _state_type(self) -> type[BaseModel]:
        kinds = [c.context_state_type for c in self._checked_graph().steps.values() if c.context_state_type is not None]
        return most_derived(kinds) if kinds else DictState

    def _new_store(self) -> StateStore[Any]:
        return InMemoryStateStore(self._state_type()())

    def _loaded_store(self, data: Mapping[str, Any], serializer: BaseSerializer) -> StateStore[Any]:
        store: StateStore[Any] = InMemoryStateStore[Any].from_dict(data, serializer, self._state_type())
        return store

    def _serializer(self, given: BaseSerializer | None = None) -> BaseSerializer:
        """Return what saves the values of a run.

        JSON loads, of all classes, only those that the annotations name and event classes that are imported already.
        """
        if given is not None:
            check_serializer(given)
        chosen = given or self._own_serializer or JsonSerializer()
        if not isinstance(chosen, JsonSerializer):
            return chosen
        return chosen.with_types(BUILT_IN_EVENTS, self._checked_graph().events, self._state_type()).or_else(imported_event)
