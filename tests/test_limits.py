from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tracedflow import clock
from tracedflow.limits import Limit, Limiter, Permit
from tracedflow.testing import VirtualClock


def nobody() -> None:
    pytest.fail("woken without having waited")


def test_a_limit_is_a_limiter() -> None:
    limiter: Limiter = Limit("api", concurrency=1)
    assert limiter.name == "api"


# concurrency


def test_a_free_slot_is_granted_at_once_and_wakes_nobody() -> None:
    limit = Limit("api", concurrency=2)
    permit = limit.request(nobody, 5.0)
    assert (permit.granted, permit.not_before, limit.in_use, limit.waiting) == (True, 5.0, 1, 0)


def test_who_waits_is_woken_once_in_the_order_of_asking() -> None:
    limit = Limit("api", concurrency=1)
    woken: list[str] = []
    first = limit.request(nobody, 0.0)
    second = limit.request(lambda: woken.append("second"), 0.0)
    third = limit.request(lambda: woken.append("third"), 0.0)
    assert (second.granted, limit.in_use, limit.waiting) == (False, 1, 2)
    first.release(1.0)
    assert (woken, second.granted, second.not_before, third.granted) == (["second"], True, 1.0, False)
    second.release(2.0)
    third.release(3.0)
    assert (woken, limit.in_use, limit.waiting) == (["second", "third"], 0, 0)


def test_releasing_twice_frees_one_slot() -> None:
    limit = Limit("api", concurrency=2)
    permit, other = limit.request(nobody, 0.0), limit.request(nobody, 0.0)
    permit.release(1.0)
    permit.release(1.0)
    permit.cancel(1.0)
    assert limit.in_use == 1
    assert (permit.granted, other.granted) == (False, True)


def test_a_withdrawn_request_is_passed_over() -> None:
    limit = Limit("api", concurrency=1)
    woken: list[str] = []
    first = limit.request(nobody, 0.0)
    limit.request(nobody, 0.0).cancel(0.0)
    limit.request(lambda: woken.append("third"), 0.0)
    first.release(1.0)
    assert woken == ["third"]


def test_cancelling_a_grant_that_came_meanwhile_passes_it_on() -> None:
    limit = Limit("api", concurrency=1)
    woken: list[str] = []
    first = limit.request(nobody, 0.0)
    second = limit.request(lambda: woken.append("second"), 0.0)
    limit.request(lambda: woken.append("third"), 0.0)
    first.release(1.0)
    second.cancel(1.0)
    assert woken == ["second", "third"]
    assert limit.in_use == 1


def test_a_waiter_that_cannot_be_woken_loses_its_turn_to_the_next(caplog: pytest.LogCaptureFixture) -> None:
    limit = Limit("api", concurrency=1)
    woken: list[str] = []

    def closed_loop() -> None:
        raise RuntimeError("Event loop is closed")

    first = limit.request(nobody, 0.0)
    lost = limit.request(closed_loop, 0.0)
    limit.request(lambda: woken.append("third"), 0.0)
    first.release(1.0)
    assert (woken, lost.granted, limit.in_use) == (["third"], False, 1)
    assert "api could not wake a waiter" in caplog.text


def test_a_waiter_that_withdraws_while_it_is_woken_frees_its_slot_once() -> None:
    limit = Limit("api", concurrency=1)
    first = limit.request(nobody, 0.0)
    permits: list[Permit] = []

    def withdraw() -> None:
        permits[0].cancel(1.0)
        raise RuntimeError

    permits.append(limit.request(withdraw, 0.0))
    first.release(1.0)
    assert (limit.in_use, limit.waiting) == (0, 0)


def test_a_waiter_may_ask_and_release_while_it_is_woken() -> None:
    limit = Limit("api", concurrency=1)
    first = limit.request(nobody, 0.0)
    second: list[Permit] = []
    second.append(limit.request(lambda: second[0].release(2.0), 0.0))
    first.release(1.0)
    assert limit.in_use == 0


# rate


def starts(limit: Limit, *times: float) -> list[float]:
    return [limit.request(nobody, now).not_before for now in times]


def test_starts_are_spaced_evenly() -> None:
    assert starts(Limit("api", per_second=2), 0.0, 0.0, 0.0, 10.0, 10.1) == [0.0, 0.5, 1.0, 10.0, 10.5]


def test_a_burst_may_start_together_after_a_quiet_time() -> None:
    assert starts(Limit("api", per_second=1, burst=3), 0.0, 0.0, 0.0, 0.0, 100.0, 100.0, 100.0, 100.0) == [0, 0, 0, 1, 100, 100, 100, 101]


def test_without_a_limit_of_concurrency_everyone_is_granted_and_told_when_to_start() -> None:
    limit = Limit("api", per_second=1)
    permits = [limit.request(nobody, 0.0) for _ in range(3)]
    assert [permit.granted for permit in permits] == [True] * 3
    assert limit.in_use == 3


def test_a_start_is_booked_when_the_slot_is_granted_not_when_it_was_asked_for() -> None:
    limit = Limit("api", concurrency=1, per_second=1)
    first = limit.request(nobody, 0.0)
    second, third = limit.request(int, 0.0), limit.request(int, 0.0)
    first.release(100.0)
    assert second.not_before == 100.0
    second.release(100.1)
    assert third.not_before == 101.0


def test_the_start_times_of_a_cancelled_run_go_to_the_next_ones() -> None:
    limit = Limit("api", per_second=1)
    permits = [limit.request(nobody, 0.0) for _ in range(1000)]
    for permit in permits[1:]:
        permit.cancel(0.5)
    assert starts(limit, 0.5, 0.5) == [1.0, 2.0]
    assert starts(limit, 700.5) == [701.0]  # those of the past are not handed out


def test_a_used_start_time_is_not_given_back() -> None:
    limit = Limit("api", per_second=1)
    limit.request(nobody, 0.0).release(0.1)
    assert starts(limit, 0.2) == [1.0]


def test_a_release_without_a_time_asks_the_active_clock() -> None:
    class Clock(clock.SystemClock):
        def monotonic(self) -> float:  # type: ignore[override]
            return 42.0

    limit = Limit("api", concurrency=1, per_second=1)
    token = clock.active.set(Clock())
    try:
        first, second = limit.request(nobody, 0.0), limit.request(int, 0.0)
        first.release()
    finally:
        clock.active.reset(token)
    assert second.not_before == 42.0


@given(
    rate=st.floats(0.1, 100),
    burst=st.integers(1, 5),
    steps=st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=60),
)
def test_no_window_of_time_sees_more_starts_than_the_rate_and_the_burst(rate: float, burst: int, steps: list[tuple[float, bool]]) -> None:
    limit, now, kept = Limit("api", per_second=rate, burst=burst), 0.0, list[float]()
    for passed, cancelled in steps:
        now += passed
        permit = limit.request(nobody, now)
        assert permit.not_before >= now
        if cancelled:
            permit.cancel(now)
        else:
            kept.append(permit.not_before)
    kept.sort()
    for first in range(len(kept) - burst):
        assert kept[first + burst] - kept[first] >= 1 / rate - 1e-6


# all together


class AnyOrder(RuleBasedStateMachine):
    """Any order of requests, releases and cancellations: never too many, first come first served, nobody forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = Limit("api", concurrency=3)
        self.queue: list[Permit] = []
        self.held: list[Permit] = []
        self.wakes: dict[int, int] = {}

    @rule()
    def request(self) -> None:
        index = len(self.wakes)
        self.wakes[index] = 0

        def wake() -> None:
            self.wakes[index] += 1
            self.held.append(self.queue.pop(0))
            assert self.held[-1].granted
            assert self.wakes[index] == 1

        permit = self.limit.request(wake, 0.0)
        (self.held if permit.granted else self.queue).append(permit)

    @rule(data=st.data(), how=st.sampled_from(["release", "cancel"]))
    def give_back(self, data: Any, how: str) -> None:
        if self.held:
            permit = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
            getattr(permit, how)(0.0)

    @rule(data=st.data())
    def withdraw(self, data: Any) -> None:
        if self.queue:
            self.queue.pop(data.draw(st.integers(0, len(self.queue) - 1))).cancel(0.0)

    @invariant()
    def nobody_is_forgotten(self) -> None:
        assert self.limit.in_use == len(self.held) <= 3
        assert self.limit.waiting == len(self.queue)
        assert not self.queue or len(self.held) == 3
        assert all(permit.granted for permit in self.held)
        assert not any(permit.granted for permit in self.queue)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=50, deadline=None)


def test_threads_share_a_limit() -> None:
    limit, running, most = Limit("api", concurrency=2), 0, 0
    guard, gate = threading.Lock(), threading.Barrier(8)

    def work() -> None:
        nonlocal running, most
        gate.wait()
        for _ in range(100):
            woken = threading.Event()
            permit = limit.request(woken.set, 0.0)
            assert permit.granted or woken.wait(10)
            with guard:
                running += 1
                most = max(most, running)
            with guard:
                running -= 1
            permit.release(0.0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most <= 2
    assert (limit.in_use, limit.waiting) == (0, 0)


# arguments


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Limit("api"), ValueError, "Limit 'api' limits nothing: give concurrency, per_second or both"),
        (lambda: Limit("api", concurrency=0), ValueError, "concurrency must be at least 1, not 0"),
        (lambda: Limit("api", concurrency=True), TypeError, "concurrency must be an int, not True"),
        (lambda: Limit("api", concurrency=1.5), TypeError, "not 1.5"),  # type: ignore[arg-type]
        (lambda: Limit("api", per_second=0), ValueError, "per_second must be positive and finite, not 0"),
        (lambda: Limit("api", per_second=float("inf")), ValueError, "not inf"),
        (lambda: Limit("api", per_second=float("nan")), ValueError, "not nan"),
        (lambda: Limit("api", per_second=True), TypeError, "per_second must be a number, not True"),
        (lambda: Limit("api", per_second="9"), TypeError, "not '9'"),  # type: ignore[arg-type]
        (lambda: Limit("api", per_second=1, burst=0), ValueError, "burst must be at least 1, not 0"),
        (lambda: Limit("api", concurrency=1, burst=2), ValueError, "burst=2 of Limit 'api' needs per_second"),
        (lambda: Limit(8, concurrency=1), TypeError, "name must be a str, not 8"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_argument_is_named_with_its_value(make: Callable[[], object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make()


def test_a_limit_shows_itself() -> None:
    assert repr(Limit("api", concurrency=8, per_second=9)) == "Limit('api', concurrency=8, per_second=9.0, burst=1)"


def test_start_times_of_another_clock_mean_nothing() -> None:
    limit = Limit("api", per_second=1)
    for _ in range(2):  # as two tests in virtual time do: each clock begins at 0
        token = clock.active.set(VirtualClock())
        try:
            assert [limit.request(nobody, 0.0).not_before for _ in range(3)] == [0.0, 1.0, 2.0]
        finally:
            clock.active.reset(token)
