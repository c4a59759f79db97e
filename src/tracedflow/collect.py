"""How a step that takes a list of events collects it: `Annotated[list[E], Collect(Take(3))]`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias, cast


@dataclass(frozen=True, slots=True)
class All:
    """Wait until every event that can come has come: the default."""


@dataclass(frozen=True, slots=True)
class Take:
    """Go on with the first `n` events; with fewer if no more can come. The rest is ignored.

    Raises:
        ValueError: `n` is less than 1.
    """

    n: int

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(cast("object", self.n), int) or self.n < 1:
            raise ValueError(f"Take({self.n!r}): n must be an integer greater than 0")


Cardinality: TypeAlias = All | Take
"""How many events a collection needs."""


@dataclass(frozen=True, slots=True)
class Collect:
    """Marks a `list[E]` parameter and says how many events it needs.

    Raises:
        ValueError: `cardinality` is neither `All()` nor `Take(n)`.
    """

    cardinality: Cardinality = field(default_factory=All)

    def __post_init__(self) -> None:
        if not isinstance(cast("object", self.cardinality), All | Take):
            raise ValueError(f"Collect({self.cardinality!r}) takes All() or Take(n)")  # noqa: TRY004 - as Take does
