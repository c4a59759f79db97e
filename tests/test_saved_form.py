"""The form that a saved run is held to says the same as the classes."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

import pytest

from tracedflow._engine import _state as st
from tracedflow._engine._form import FORM

IS_COMPILED = not hasattr(st.reduce, "__code__")


@pytest.mark.parametrize("kind", FORM, ids=lambda kind: kind.__name__)
def test_the_form_has_the_fields_of_the_class_and_their_types(kind: type[Any]) -> None:
    assert list(FORM[kind]) == [field.name for field in dataclasses.fields(kind)]
    if not IS_COMPILED:  # a compiled class does not know its types any more
        hints = get_type_hints(kind)
        assert dict(FORM[kind]) == {name: hints[name] for name in FORM[kind]}
