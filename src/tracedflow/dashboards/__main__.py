"""`python -m tracedflow.dashboards [FOLDER]`: write the dashboards and rules."""

from __future__ import annotations

import sys
from pathlib import Path

from ._write import files


def main(folder: Path) -> None:
    """Write every file that differs, and say which."""
    for name, text in files().items():
        path = folder / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "dashboards"))
