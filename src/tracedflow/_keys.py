"""Where CPython keeps the attributes of an instance: in an array, or in a dict that takes three times as much."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

ClassT = TypeVar("ClassT", bound="type[object]")


def with_keys(*names: str) -> Callable[[ClassT], ClassT]:
    """Let instances keep these attributes in their array, too, though the first few that are made may not set them.

    A class learns the names from about the first thirty of its instances. One that sets another name later gets a dict.
    """

    def taught(cls: ClassT) -> ClassT:
        first: object = object.__new__(cls)
        for name in names:
            setattr(first, name, None)
        return cls

    return taught
