"""`python -m tracedflow.dashboards [FOLDER]`: write the dashboards and rules of all workflows."""

from __future__ import annotations

import sys
from pathlib import Path

from ._write import files, write

for path in write(files(), Path(sys.argv[1] if len(sys.argv) > 1 else "dashboards")):
    sys.stdout.write(f"wrote {path}\n")
