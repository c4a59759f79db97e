"""Commands about telemetry: metrics of a running process or their names, and what the settings of this shell lead to."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import typer

from .. import telemetry
from ..inspect.tables import table
from ..telemetry import names
from ._wrong import FAILED, Wrong

_TIMEOUT = 5.0  # seconds
_MOST_BYTES = 50_000_000
_SAMPLE = re.compile(r"(tracedflow_\w+?)(?:\{(.*?)\})? (\S+)(?: #.*| \d+)?")


def metrics(
    url: Annotated[str | None, typer.Argument(metavar="[URL]", help="Of a running process, such as localhost:8000/metrics.")] = None,
) -> None:
    """Print the metrics of a running process, or all names.

    Without a URL: the name, kind, labels and meaning of every metric.
    """
    if url is None:
        facts = [(each.name, each.kind, ", ".join(each.labels), each.help) for each in names.METRICS]
        typer.echo("\n".join(table(("metric", "kind", "labels", "meaning"), facts, left=4)))
        return
    rows = _samples(_fetched(_whole(url)))
    if not rows:
        raise Wrong(f"{url} answers, but with no metric of tracedflow; has a workflow run in that process?")
    typer.echo("\n".join(table(("metric", "labels", "value"), rows, left=3)))


def doctor(
    setup: Annotated[bool, typer.Option(help="First call telemetry.setup(), as an application would in this shell.")] = True,
    connect: Annotated[bool, typer.Option(help="Try to reach the endpoints, for two seconds each.")] = True,
) -> None:
    """Say what telemetry does here, and what to mend.

    What is set, reachable, sampled, dropped and captured. Exit code 1 if there is a problem.
    """
    if setup:
        telemetry.setup()
    found = telemetry.diagnose(connect=connect)
    for finding in found:
        typer.echo(str(finding))
    if any(finding.status == "problem" for finding in found):
        raise typer.Exit(FAILED)


def _whole(url: str) -> str:
    whole = url if "://" in url else f"http://{url}"
    parts = urlsplit(whole)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise Wrong(f"{url} is no address of metrics; give one such as http://localhost:8000/metrics")
    return whole if parts.path else f"{whole}/metrics"


def _fetched(url: str) -> str:
    try:
        with urlopen(url, timeout=_TIMEOUT) as answer:
            text: bytes = answer.read(_MOST_BYTES)
    except HTTPError as error:
        raise Wrong(f"{url} answers {error.code} {error.reason}; is this where the process shows its metrics?") from None
    except (OSError, ValueError) as error:
        raise Wrong(f"{url} cannot be read: {getattr(error, 'reason', error)}; does the process run, and listen there?") from None
    return text.decode("utf-8", "replace")


def _samples(text: str) -> list[tuple[str, str, str]]:
    """Return (metric, labels, value); of a histogram how many and their mean, not its buckets."""
    found: dict[tuple[str, str], float] = {}
    for line in text.splitlines():
        sample = _SAMPLE.fullmatch(line)
        if sample is not None and not sample[1].endswith(("_bucket", "_created")):
            found[sample[1], sample[2] or ""] = float(sample[3])
    rows: list[tuple[str, str, str]] = []
    for (name, labels), value in found.items():
        base = name.removesuffix("_count")
        total = found.get((f"{base}_sum", labels))
        if name.endswith("_sum") and (f"{name.removesuffix('_sum')}_count", labels) in found:
            continue
        mean = f", mean {total / value:.3g} s" if total is not None and value else ""
        rows.append((base if total is not None else name, labels.replace('"', ""), f"{value:g}{mean}"))
    return rows
