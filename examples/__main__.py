"""`python -m examples`: what there is to run, and what each example shows."""

from __future__ import annotations

EXAMPLES = {
    "demo": "everything below on one page, with the metrics at the end (make demo)",
    "joke_flow": "the getting-started workflow as a class and as free functions; a real model if you name one",
    "folder_digest": "fan-out over bounded workers, joins, a retry, a step timeout with a fallback, progress",
    "customizing_entry_exit_points": "typed entry and exit: a start event that is checked, a stop event that is the result",
    "managing_events": "joins of two kinds, events sent by hand, progress, a question to a person, the engine's own events",
    "managing_state": "state with free keys and with a model, edits at the same time, a second run, saving as JSON",
    "resources": "a database from a configuration file, shared by all runs, and a transaction for each attempt",
    "retry_steps": "which errors are retried, after which pauses, how often; a policy of one's own; who takes over at the end",
    "stepwise": "a run step by step: see what each step returned, and decide what goes on",
    "drawing": "every way through a workflow, and the way of one run, as HTML, SVG and Mermaid text",
    "deployment": "workflows in a web application: server-sent events, answers over HTTP, metrics, the trace of the client",
}


def main() -> None:
    for name, shows in EXAMPLES.items():
        print(f"python -m examples.{name:<31}{shows}")


if __name__ == "__main__":
    main()
