"""For tests of workflows and layers: a virtual clock, a recorder, faults, and a kit that proves an observer transparent.

It may use everything, and nothing uses it.
"""

from __future__ import annotations

from ._conformance import check_observer
from ._faults import Fault, Faults, InjectedError
from ._recorder import Recorder, Seen
from ._schedules import Schedule, explore
from ._time import VirtualClock, VirtualLoop, real_time, run_virtual, virtual_time

__all__ = [
    "Fault",
    "Faults",
    "InjectedError",
    "Recorder",
    "Schedule",
    "Seen",
    "VirtualClock",
    "VirtualLoop",
    "check_observer",
    "explore",
    "real_time",
    "run_virtual",
    "virtual_time",
]
