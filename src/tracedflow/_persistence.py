"""What a workflow has to do with saving: the class of its state, its store, how values become text, what a resumed run ignores."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ._checks import checked_start_event
from ._engine._snapshot import imported_event
from .context import BaseSerializer, JsonSerializer
from .context.serializers import check_serializer
from .context.state_store import DictState, InMemoryStateStore, StateStore, most_derived
from .events import BUILT_IN_EVENTS

if TYPE_CHECKING:
    from ._engine._snapshot import SavedRun
    from ._graph import Graph
    from .events import Event, StartEvent

_log = logging.getLogger("tracedflow")


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


def start_event_of(
    saved: SavedRun | None, given: StartEvent | None, kind: type[StartEvent], fields: Mapping[str, Any], workflow: str
) -> Event:
    """Return what a run starts with; one that goes on had it in the life before, and a new one is ignored and said to be."""
    if saved is None:
        return checked_start_event(given, kind, fields, workflow)
    ignored = [*([] if given is None else [type(given).__name__]), *(f"{name}=" for name in fields)]
    if ignored:
        _log.warning(
            "run(ctx=) of %s goes on with run %s, so the new start is ignored: %s. To start anew with the same state, give a fresh "
            "Context: fresh = Context(workflow); await fresh.store.set_state(await ctx.store.get_state())",
            workflow, saved.run_id, ", ".join(ignored),
        )  # fmt: skip
    return saved.start_event
