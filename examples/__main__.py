"""`python -m examples`: what there is to run, and what each example shows."""

from __future__ import annotations

EXAMPLES = {
    "demo": "everything below on one page, with the metrics at the end (make demo)",
    "joke_flow": "the getting-started workflow as a class and as free functions; a real model if you name one",
    "folder_digest": "fan-out over bounded workers, joins, a retry, a step timeout with a fallback, progress",
}


def main() -> None:
    for name, shows in EXAMPLES.items():
        print(f"python -m examples.{name:<15}{shows}")


if __name__ == "__main__":
    main()
