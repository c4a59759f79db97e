"""Drawings of workflows and of their runs: HTML pages that need no network, SVG, Mermaid text, and what notebooks show."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._engine._live import runs
from ..handler import WorkflowHandler
from ..records import AttemptRecord
from ..representation import WorkflowGraph, get_workflow_representation
from ..workflow import Workflow
from ._execution import execution
from ._flows import flows
from ._mermaid import mermaid
from ._page import frame, page
from ._picture import Picture
from ._style import style_sheet as style_sheet
from ._svg import svg

FILE_OF_FLOWS = "workflow_all_flows"
FILE_OF_EXECUTION = "workflow_recent_execution"

_FLOWS_HTML = f"{FILE_OF_FLOWS}.html"
_EXECUTION_HTML = f"{FILE_OF_EXECUTION}.html"


def draw_all_possible_flows(
    workflow: Workflow[Any] | type[Workflow[Any]],
    filename: str = _FLOWS_HTML,
    notebook: bool = False,
    max_label_length: int | None = None,
    include_child_workflows: bool = True,
) -> None:
    """Write a page that shows every step, every event and every way between them. The page needs no network.

    Args:
        workflow: a workflow or a workflow class; a class is not instantiated, and nothing is run.
        filename: the page; replaced if it exists.
        notebook: also show it below the cell.
        max_label_length: letters after which a name is cut; the whole is shown on hover.
        include_child_workflows: also show the workflows that a step names in its code.
    """
    picture = flows(workflow, with_children=include_child_workflows).cut(max_label_length)
    _write(page(picture), filename, picture if notebook else None)


def draw_all_possible_flows_mermaid(
    workflow: Workflow[Any] | type[Workflow[Any]],
    filename: str | None = f"{FILE_OF_FLOWS}.mermaid",
    max_label_length: int | None = None,
    include_child_workflows: bool = True,
) -> str:
    """Return the drawing of all flows as Mermaid text, and write it to `filename` unless that is None."""
    return _write(mermaid(flows(workflow, with_children=include_child_workflows).cut(max_label_length)), filename)


def draw_all_possible_flows_svg(
    workflow: Workflow[Any] | type[Workflow[Any]],
    filename: str | None = f"{FILE_OF_FLOWS}.svg",
    max_label_length: int | None = None,
    include_child_workflows: bool = True,
) -> str:
    """Return the drawing of all flows as SVG, and write it to `filename` unless that is None."""
    return _write(svg(flows(workflow, with_children=include_child_workflows).cut(max_label_length)), filename)


def draw_most_recent_execution(
    workflow: Workflow[Any] | WorkflowHandler[Any],
    filename: str = _EXECUTION_HTML,
    notebook: bool = False,
    max_label_length: int | None = None,
) -> None:
    """Write a page that shows what a run did: who caused whom, how long each step took, retries and failures.

    Args:
        workflow: a handler, or a workflow for the run that it started last; the run may still be live.
        filename: the page; replaced if it exists.
        notebook: also show it below the cell.
        max_label_length: letters after which a name is cut; the whole is shown on hover.

    Raises:
        ValueError: the workflow has not run.
    """
    picture = _execution_of(workflow).cut(max_label_length)
    _write(page(picture), filename, picture if notebook else None)


def draw_most_recent_execution_mermaid(
    workflow: Workflow[Any] | WorkflowHandler[Any],
    filename: str | None = f"{FILE_OF_EXECUTION}.mermaid",
    max_label_length: int | None = None,
) -> str:
    """Return the drawing of a run as Mermaid text, and write it to `filename` unless that is None; see `draw_most_recent_execution`."""
    return _write(mermaid(_execution_of(workflow).cut(max_label_length)), filename)


def draw_most_recent_execution_svg(
    workflow: Workflow[Any] | WorkflowHandler[Any],
    filename: str | None = f"{FILE_OF_EXECUTION}.svg",
    max_label_length: int | None = None,
) -> str:
    """Return the drawing of a run as SVG, and write it to `filename` unless that is None; see `draw_most_recent_execution`."""
    return _write(svg(_execution_of(workflow).cut(max_label_length)), filename)


def execution_svg(records: Sequence[AttemptRecord], graph: WorkflowGraph) -> str:
    """Return the drawing of what was recorded of a run as SVG; `graph` says what its steps and events are, as far as it knows them."""
    return svg(execution(records, None, graph))


def notebook_bundle(shown: Workflow[Any] | WorkflowHandler[Any]) -> dict[str, str]:
    """Return what a notebook shows of a workflow (its flows) or of a handler (what its run did). Never raises.

    A drawing that fails is left out: the text stays, and the cell's own result is not lost to it.
    """
    try:
        picture = _execution_of(shown) if isinstance(shown, WorkflowHandler) else flows(shown, with_children=True)
        return {"text/plain": repr(shown), "text/html": frame(picture), "image/svg+xml": svg(picture)}
    except Exception:  # noqa: BLE001 - a display hook that raises hides the value from its user
        return {"text/plain": object.__repr__(shown)}


def _execution_of(shown: Workflow[Any] | WorkflowHandler[Any]) -> Picture:
    if isinstance(shown, WorkflowHandler):
        return execution(shown.record, shown.why(), get_workflow_representation(shown._runner.workflow))
    records = shown._last_records
    if records is None:
        raise ValueError(f"{shown.workflow_name} has not run yet; await its run() first, or give draw_most_recent_execution a handler")
    live = next((handler for handler in runs() if handler.run_id == records.run_id), None)
    return execution(tuple(records), live.why() if live is not None else records.report, get_workflow_representation(shown))


def _write(text: str, filename: str | None, shown: Picture | None = None) -> str:
    if filename is not None:
        Path(filename).write_text(text, encoding="utf-8")
    ipython = sys.modules.get("IPython.display")  # whoever asks for a notebook's display is in one
    if shown is not None and ipython is not None:
        ipython.display({"text/html": frame(shown)}, raw=True)
    return text


__all__ = [
    "draw_all_possible_flows",
    "draw_all_possible_flows_mermaid",
    "draw_all_possible_flows_svg",
    "draw_most_recent_execution",
    "draw_most_recent_execution_mermaid",
    "draw_most_recent_execution_svg",
]
