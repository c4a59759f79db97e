"""What holds for every finished run, whatever it did: read from its records and from its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import groupby, pairwise
from typing import Any

import tracedflow
from tracedflow import AttemptRecord, Limit, WorkflowHandler

Handler = WorkflowHandler[Any]
_ENDS = ("success", "skipped", "collecting")


def check(handler: Handler, *, workers: Mapping[str, int] | None = None, limits: Iterable[Limit] = (), resumed: bool = False) -> None:
    """Assert it all. `workers`: num_workers of steps where it is not 4. `resumed`: what backed off starts when its time has come."""
    assert handler.done()
    records = handler.record
    _every_event_has_its_fate(handler)
    _nothing_is_taken_twice(records)
    for _, found in groupby(sorted(records, key=lambda r: (r.execution, r.attempt)), key=lambda r: r.execution):
        _attempts_are_whole(list(found), resumed=resumed)
    for step, found in groupby(sorted(records, key=lambda r: (r.step, r.execution)), key=lambda r: r.step):
        attempts = list(found)
        if not resumed:
            _starts_keep_the_order_sent(attempts)
        _slots_are_kept(attempts, (workers or {}).get(step, 4))
    for limit in limits:
        assert (limit.in_use, limit.waiting) == (0, 0)
    assert handler.run_id not in {run.run_id for run in tracedflow.runs()}


def _every_event_has_its_fate(handler: Handler) -> None:
    report = handler.why()
    for kind, counts in report.events.items():
        assert counts.pending == 0 or report.state == "timed out", (kind, counts)  # that report is of the moment before
        assert counts.sent == counts.consumed + counts.streamed + counts.dropped + counts.pending, (kind, counts)
        assert counts.collected <= counts.consumed, (kind, counts)


def _nothing_is_taken_twice(records: Iterable[AttemptRecord]) -> None:
    last = {record.execution: record for record in records}
    taken = Counter((record.step, number) for record in last.values() for number, _ in record.events_in)
    assert all(count == 1 for count in taken.values()), taken.most_common(3)
    sent = Counter(number for record in records for number, _ in record.events_out)
    assert all(count == 1 for count in sent.values()), sent.most_common(3)


def _attempts_are_whole(attempts: list[AttemptRecord], *, resumed: bool) -> None:
    first = attempts[0].attempt  # 0: it was cancelled before the step was called; more than 1: there were others before a resume
    assert [record.attempt for record in attempts] == list(range(first, first + len(attempts)))
    assert first > 0 or len(attempts) == 1
    assert first <= 1 or resumed
    assert all(record.outcome in ("error", "timeout") for record in attempts[:-1])
    last = attempts[-1]
    parts = sum(record.queued + record.running + record.backoff + record.waiting for record in attempts)
    assert abs(last.ended_at - last.enqueued_at - parts) < 1e-3, attempts
    assert all(part >= -1e-6 for r in attempts for part in (r.queued, r.running, r.backoff, r.waiting)), attempts
    assert all(one.ended_at <= two.started_at for one, two in pairwise(attempts))


def _starts_keep_the_order_sent(attempts: list[AttemptRecord]) -> None:
    starts = [record.started_at for record in attempts if record.attempt == 1]  # by execution: those are numbered as they were sent
    assert starts == sorted(starts), starts


def _slots_are_kept(attempts: list[AttemptRecord], workers: int) -> None:
    if any(record.ended_at - record.started_at > record.running + 1e-6 for record in attempts):
        return  # it was parked for a part of the time, and had no slot then
    edges = sorted(edge for record in attempts for edge in ((record.started_at, 1), (record.ended_at, -1)))
    most = running = 0
    for _, change in edges:
        running += change
        most = max(most, running)
    assert most <= workers, (attempts[0].step, most)


def count(handler: Handler, *, outcome: str | None = None) -> dict[str, int]:
    """Return how many attempts each step had: all, or those that ended so."""
    return dict(Counter(record.step for record in handler.record if outcome in (None, record.outcome)))
