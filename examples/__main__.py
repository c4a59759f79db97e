"""`python -m examples`: what there is to run, and what each example shows."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from pathlib import Path


def examples() -> dict[str, str]:
    """Return every example and the first line of its docstring. Nothing is imported: some need more than others."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.stem] = doc.partition("\n")[0]
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples", description="List the examples, and what each shows.")
    parser.add_argument("--gallery", action="store_true", help="write docs/examples.md, with the graphs of all of them")
    listed = examples()
    if parser.parse_args(argv).gallery:
        from examples._kit import gallery

        print(gallery.write(listed))
        return
    widest = max(map(len, listed))
    for name, shows in listed.items():
        print(f"python -m examples.{name:<{widest}}  {shows}")


if __name__ == "__main__":
    main()
