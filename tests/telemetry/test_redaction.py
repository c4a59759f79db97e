from __future__ import annotations

import pickle
from dataclasses import dataclass
from enum import Enum

import pytest
from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError

from tracedflow import Event, StopEvent
from tracedflow.telemetry.redaction import MASK, describe, mask, place, remember, stack_trace


class Inner(BaseModel):
    text: str


@dataclass
class Plain:
    text: str


class Kind(str, Enum):
    LONG = "enum-value"


class Full(Event):
    declared: str = "declared-value"
    inner: Inner = Inner(text="inner-value")
    plain: Plain = Plain("plain-value")
    kind: Kind = Kind.LONG
    blob: bytes = b"bytes-value"
    pin: SecretStr = SecretStr("12")
    key: SecretBytes = SecretBytes(b"ab")


@pytest.mark.parametrize(
    "value", ["declared-value", "inner-value", "plain-value", "enum-value", "bytes-value", "dynamic-value", "key-value"]
)
def test_string_values_are_masked_wherever_an_event_holds_them(value: str) -> None:
    event = Full(extra={"key-value": ["dynamic-value"]})
    assert mask(f"before {value} after", [event]) == f"before {MASK} after"


def test_the_result_of_a_stop_event_is_masked() -> None:
    assert mask("got result-value", [StopEvent(result=["result-value"])]) == f"got {MASK}"


def test_secrets_are_masked_at_any_length_and_words_are_not() -> None:
    event = Full(answer="yes")
    assert mask("yes 12 ab", [event]) == f"yes {MASK} {MASK}"


def test_the_escaped_form_of_a_value_is_masked() -> None:
    event = Event(text="line one\nline two")
    assert mask(str(KeyError("line one\nline two")), [event]) == f"'{MASK}'"


def test_the_longest_value_wins() -> None:
    assert mask("alphabet-soup", [Event(a="alphabet", b="alphabet-soup")]) == MASK


def test_heads_and_tails_of_a_long_value_are_masked() -> None:
    class Strict(BaseModel):
        number: int

    secret = "start-of-the-secret-" + "x" * 100 + "-end-of-the-secret"
    with pytest.raises(ValidationError) as caught:
        Strict.model_validate({"number": secret})
    text = mask(str(caught.value), [Event(text=secret)])
    assert "start-of" not in text
    assert "secret" not in text


def test_a_value_that_holds_itself_is_no_trap() -> None:
    knot: list[object] = ["in-the-knot"]
    knot.append(knot)
    assert mask("in-the-knot", [Event(knot=knot)]) == MASK


def test_a_description_is_short() -> None:
    assert len(describe(ValueError("x" * 1000), [])) == 256


def test_an_error_that_cannot_be_shown_is_named() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe(MuteError(), []).endswith("MuteError")


def _raised() -> ValueError:
    try:
        raise ValueError("about payload-value")
    except ValueError as error:
        return error


def test_capture_none_leaves_type_and_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEDFLOW_CAPTURE", "none")
    error = _raised()
    assert describe(error, []) == f"ValueError at {place(error)}"
    assert stack_trace(error, []) == place(error)
    assert "test_redaction.py:" in place(error)


class SlottedError(Exception):
    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


def test_what_an_error_was_given_rides_on_it_and_is_neither_shown_nor_saved_with_it() -> None:
    error = _raised()
    remember(error, [Event(text="payload-value")])
    outer = KeyError("again payload-value")
    outer.__cause__ = error
    assert describe(error, []) == f"about {MASK}"
    assert describe(outer, []) == f"'again {MASK}'"
    assert "payload" not in repr(vars(error))
    assert describe(pickle.loads(pickle.dumps(error)), []) == "about payload-value"
    remember(SlottedError(), [Event(text="payload-value")])  # one that takes nothing is left alone


def test_an_error_that_was_never_raised_has_no_place() -> None:
    assert place(ValueError()) == "unknown"


def test_a_stack_trace_shows_frames_and_masks_values() -> None:
    text = stack_trace(_raised(), [Event(text="payload-value")])
    assert "in _raised" in text
    assert f"ValueError: about {MASK}" in text
