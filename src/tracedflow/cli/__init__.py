"""The command `tracedflow`. Needs the extra `cli`; imported by nothing else in the package.

Commands read trace files and workflows, and print. What they print comes from `inspect`, `drawing` and `report`.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> None:
    """Run the command line; the entry point of the script `tracedflow`."""
    if find_spec("typer") is None:
        sys.stderr.write("tracedflow: the command line needs typer, which is not installed: pip install 'tracedflow[cli]'\n")
        sys.exit(2)
    from ._app import app

    app(prog_name="tracedflow")
