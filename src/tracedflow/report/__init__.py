"""One run as one HTML page: graph, waterfall, records, joins, critical path, logs, and the answer to why. Nothing is fetched.

It only composes: the drawings come from `drawing`, every number from `inspect`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..handler import WorkflowHandler
from ..inspect.recorded import recorded
from ..inspect.trace_file import RecordedRun
from ..representation import WorkflowGraph, get_workflow_representation
from ..workflow import Workflow
from ._page import page

MOST_BYTES = 200_000
"""A page is never larger; of a run with very many attempts the heaviest are shown, and the rest is counted."""

_ROWS = (400, 200, 100, 50, 25)


def render(run: RecordedRun | WorkflowHandler[Any], workflow: Workflow[Any] | type[Workflow[Any]] | None = None) -> str:
    """Return the page of a run, from a trace file or a handler; `workflow` adds what the code says of its steps and events."""
    if isinstance(run, WorkflowHandler):
        workflow = workflow or run._runner.workflow
        run = recorded(run)
    graph = get_workflow_representation(workflow) if workflow is not None else WorkflowGraph(name=run.workflow, nodes=[], edges=[])
    text = ""
    for rows in _ROWS:
        text = page(run, graph, rows, made_at=time.time())
        if len(text.encode()) <= MOST_BYTES:
            break
    return text


def write_report(
    run: RecordedRun | WorkflowHandler[Any], filename: str | Path, workflow: Workflow[Any] | type[Workflow[Any]] | None = None
) -> Path:
    """Write the page of a run to a file; return its path.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(filename)
    path.write_text(render(run, workflow), encoding="utf-8")
    return path


__all__ = ["MOST_BYTES", "render", "write_report"]
