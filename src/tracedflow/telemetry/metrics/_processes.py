"""Several processes counted together, in the multiprocess mode of `prometheus_client`: what becomes of those that ended."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from prometheus_client import multiprocess
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

MULTIPROCESS = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
"""The variables that switch the mode on."""


def directory() -> str | None:
    """Return where the processes leave their metrics; None: each is on its own."""
    return next((found for name in MULTIPROCESS if (found := os.environ.get(name))), None)


class LiveProcesses(MultiProcessCollector):
    """Sums what all processes left. Gauges of one that was killed would count for ever: they go at the next scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Any]:
        """Return the metrics of all processes."""
        forget_dead()
        return cast("Iterable[Any]", super().collect())  # type: ignore[no-untyped-call]


def forget_dead() -> None:
    """Remove the gauges of live things that processes left which are no more; what they counted stays."""
    path = directory()
    if path is None or os.name != "posix":  # elsewhere a process cannot be asked for without harm
        return
    for file in Path(path).glob("gauge_live*_*.db"):
        number = file.stem.rpartition("_")[2]
        if number.isdecimal() and not _is_alive(int(number)):
            with suppress(FileNotFoundError):  # another scrape was first
                multiprocess.mark_process_dead(int(number), path)  # type: ignore[no-untyped-call]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True
