from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from examples.retry_steps import (
    Answer,
    Asking,
    AskingAsTold,
    AsToldByTheService,
    Question,
    Service,
    ServiceError,
    Stubborn,
    connect,
    main,
    patient,
)
from tracedflow import WorkflowHandler, catch_error
from tracedflow.events import StepFailedEvent
from tracedflow.retry_policy import RetryPolicy
from tracedflow.telemetry import Metrics
from tracedflow.testing import assert_run, virtual_time

TEXT = "two boats a day"
BUSY = 429


async def ask(flow: Asking, service: Service) -> tuple[WorkflowHandler[Any], Any]:
    """Run to the end; return the handler, and the result or the error."""
    with flow.resource_manager.override(connect, service):
        handler = flow.run(text=TEXT)
        try:
            return handler, await handler
        except Exception as error:
            return handler, error


@virtual_time()
async def test_two_refusals_are_retried_after_growing_pauses() -> None:
    began = asyncio.get_running_loop().time()
    service = Service([BUSY, BUSY])
    handler, result = await ask(Asking(), service)
    pauses = [0.05 + 0.1, 0.05 + 0.2]  # a fixed part, and one that doubles
    assert result == f"{len(TEXT)} letters, after {service.calls} attempts"
    assert service.calls == 3
    assert [record.outcome for record in handler.record if record.step == "ask"] == ["error", "error", "success"]
    assert [record.backoff for record in handler.record if record.step == "ask"] == pytest.approx([0, *pauses])
    assert asyncio.get_running_loop().time() - began == pytest.approx(sum(pauses))


@virtual_time()
async def test_another_error_is_not_retried() -> None:
    service = Service([500])
    handler, result = await ask(Asking(), service)
    assert service.calls == 1
    assert result.startswith(f"about {6 * len(TEXT.split())} letters")
    assert_run(handler).completed().attempts("ask", 1).ran("fall_back", 1)


@virtual_time()
async def test_after_the_last_attempt_the_handler_is_told_which_step_failed_with_what() -> None:
    told: list[StepFailedEvent] = []

    class Told(Asking):
        @catch_error(for_steps=["ask"], max_recoveries=1)
        async def fall_back(self, ev: StepFailedEvent) -> Answer:
            told.append(ev)
            return await Asking.fall_back(self, ev)

    service = Service([BUSY] * 100)
    _, result = await ask(Told(), service)
    (failed,) = told
    assert (failed.step_name, failed.attempts) == ("ask", service.calls) == ("ask", 4)
    assert isinstance(failed.exception, ServiceError)
    assert failed.exception.status == BUSY
    assert failed.input_event == Question(text=TEXT)
    assert result.startswith("about ")


@virtual_time()
async def test_the_budget_of_recoveries_ends_what_would_go_on_for_ever() -> None:
    service = Service([BUSY] * 1000)
    handler, error = await ask(Stubborn(), service)
    assert isinstance(error, ServiceError)
    assert service.calls == 4 * 3, "the attempts of the first try and of two recoveries"
    assert_run(handler).ran("ask", 3).ran("fall_back", 2).never_ran("finish")


@virtual_time()
async def test_a_recovery_may_be_all_that_is_needed() -> None:
    service = Service([BUSY] * 5)
    _, result = await ask(Stubborn(), service)
    assert service.calls == 6
    assert result == f"{len(TEXT)} letters, after 2 attempts"


@virtual_time()
async def test_a_policy_of_ones_own_waits_as_long_as_the_service_says() -> None:
    service = Service([BUSY, BUSY], retry_after=18)
    handler, result = await ask(AskingAsTold(), service)
    assert result == f"{len(TEXT)} letters, after 3 attempts"
    assert [record.backoff for record in handler.record if record.step == "ask"] == [0, 18, 18]
    service = Service([BUSY], retry_after=None)
    _, result = await ask(AskingAsTold(), service)
    assert service.calls == 1


def test_any_object_with_next_is_a_policy() -> None:
    own = AsToldByTheService(attempts=3)
    assert isinstance(own, RetryPolicy)
    assert own.next(0, 1, ServiceError(BUSY, 7.5)) == 7.5
    assert own.next(0, 3, ServiceError(BUSY, 7.5)) is None
    assert own.next(0, 1, KeyError("x")) is None


@pytest.mark.parametrize(
    ("error", "retried"),
    [(ServiceError(429), True), (ServiceError(503), True), (ServiceError(404), False), (ConnectionError(), True), (KeyError("x"), False)],
)
def test_which_errors_are_retried(error: Exception, retried: bool) -> None:
    assert (patient.next(0, 1, error) is not None) is retried


def test_it_gives_up_after_four_attempts_or_a_minute() -> None:
    assert patient.next(0, 3, ServiceError(BUSY)) is not None
    assert patient.next(0, 4, ServiceError(BUSY)) is None
    assert patient.next(61, 1, ServiceError(BUSY)) is None


@virtual_time()
async def test_a_mistake_of_ours_is_not_hidden_by_an_estimate() -> None:
    class Mistaken(Service):
        async def length_of(self, text: str) -> int:
            raise KeyError("a typo")

    _, error = await ask(Asking(), Mistaken())
    assert isinstance(error, KeyError)


@virtual_time()
async def test_retries_are_counted() -> None:
    registry = CollectorRegistry()
    await ask(Asking(middleware=[Metrics(registry=registry)], telemetry=False), Service([BUSY, BUSY]))
    value = registry.get_sample_value("tracedflow_step_retries_total", {"workflow": "Asking", "step": "ask"})
    assert value == 2


# The command.


def test_the_command_shows_the_attempts_and_their_pauses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([TEXT, "--statuses", str(BUSY)]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == f"{len(TEXT)} letters, after 2 attempts"
    assert [line.split(",")[0].strip() for line in printed.err.splitlines() if ", attempt " in line] == ["ask", "ask", "finish"]
