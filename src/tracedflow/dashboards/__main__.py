"""`python -m tracedflow.dashboards [app:MyFlow]`: write the dashboards and rules of all workflows, or those of one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .._targets import TargetError, load
from ..errors import WorkflowValidationError
from ._of_workflow import Objective
from ._write import files, files_of, write

_EPILOG = "Name the rule file of a workflow in prometheus.yml; Grafana finds its dashboard beside the others."


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files that differ, say which, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tracedflow.dashboards", description=__doc__, epilog=_EPILOG)
    parser.add_argument("workflow", nargs="?", help="module:name of a workflow class or instance; without it, what all workflows share")
    parser.add_argument("--out", type=Path, default=Path("dashboards"), metavar="FOLDER", help="where to write; default: dashboards")
    parser.add_argument("--slo", type=float, default=0.99, metavar="SHARE", help="share of its runs that shall end well; default: 0.99")
    parser.add_argument("--latency", type=float, metavar="SECONDS", help="within which 95 %% of its runs shall end; default: not promised")
    given = parser.parse_args(arguments)
    try:
        texts = files() if given.workflow is None else files_of(load(given.workflow), Objective(success=given.slo, latency=given.latency))
    except (TargetError, WorkflowValidationError, ValueError) as error:
        parser.error(str(error))
    for path in write(texts, given.out):
        sys.stdout.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
