"""For tests of workflows and layers: runs, one step alone, a virtual clock, faults, gates over records, and a proof for observers.

It may use everything, and nothing uses it.
"""

from __future__ import annotations

from ._conformance import check_observer
from ._faults import EventFilter, Fault, FaultOptions, Faults, InjectedError
from ._gates import Recorded, RunGates, assert_run
from ._isolation import Answer, StepOptions, StepOutcome, UnansweredWaitError, run_step
from ._recorder import Recorder, Seen
from ._schedules import Schedule, explore
from ._time import VirtualClock, VirtualLoop, real_time, run_virtual, virtual_time
from .runner import WorkflowTestResult, WorkflowTestRunner

__all__ = [
    "Answer",
    "EventFilter",
    "Fault",
    "FaultOptions",
    "Faults",
    "InjectedError",
    "Recorded",
    "Recorder",
    "RunGates",
    "Schedule",
    "Seen",
    "StepOptions",
    "StepOutcome",
    "UnansweredWaitError",
    "VirtualClock",
    "VirtualLoop",
    "WorkflowTestResult",
    "WorkflowTestRunner",
    "assert_run",
    "check_observer",
    "explore",
    "real_time",
    "run_step",
    "run_virtual",
    "virtual_time",
]
