"""Fails when a branch of the core is missed. Run after `pytest --cov`: `python -m tests.core_coverage`; `make coverage` does both.

The core are the layers declare, mechanism, engine and facade of the architecture test: all but the edges.
"""

from __future__ import annotations

import sys

from coverage.cmdline import main

from tests.test_architecture import LAYERS, PACKAGE, SRC


def edges() -> list[str]:
    """Return the files of the edges, as patterns."""
    places = [SRC / PACKAGE / entry.replace(".", "/") for entry in LAYERS["edges"]]
    return [pattern for place in places for pattern in (f"{place}.py", f"{place}/*")]


if __name__ == "__main__":
    sys.exit(main(["report", "--fail-under=100", f"--omit={','.join(edges())}"]))
