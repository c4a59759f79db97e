"""Fails when the tests notice less than 85 % of the mutants: what `mutmut run` and `mutmut export-cicd-stats` left. See `make mutants`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

STATS = Path("mutants/mutmut-cicd-stats.json")
LEAST = 85.0  # percent


def main() -> int:
    """Print the share of the mutants that were noticed, of those that were tried; return 1 if it is too low."""
    stats: dict[str, int] = json.loads(STATS.read_text(encoding="utf-8"))
    noticed = sum(stats[fate] for fate in ("killed", "timeout", "suspicious", "segfault"))
    tried = noticed + stats["survived"] + stats["no_tests"]
    share = 100 * noticed / tried if tried else 0.0
    print(f"{noticed} of {tried} mutants were noticed: {share:.1f} % (at least {LEAST:g} %); `python -m mutmut results` lists the others")
    return 0 if share >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
