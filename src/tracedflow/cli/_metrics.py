"""The command that shows metrics: of a running process, of a trace file, or which there are."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import typer

from ..inspect.durations import short
from ..inspect.summary import summarize
from ..telemetry import names
from ._documents import numbers
from ._files import runs_in
from ._output import AsJson, say, say_json, say_table
from ._wrong import Wrong

_TIMEOUT = 5.0  # seconds
_MOST_BYTES = 50_000_000
_SAMPLE = re.compile(r"(tracedflow_\w+?)(?:\{(.*)\})? ([^\s{}]+)(?: -?\d[\d.e+]*)?(?: # .*)?")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_PARTS = ("_bucket", "_count", "_sum")


def metrics(
    source: Annotated[
        str | None, typer.Argument(metavar="URL|FILE", help="Of a running process, such as localhost:8000/metrics, or a trace file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the metrics of a running process as a table.

    Of a trace file: how often each workflow and step ran and failed, and how long it took. Without either: the name,
    kind, labels and meaning of every metric.
    """
    if source is None:
        _list_names(as_json)
    elif Path(source).exists():
        summary = summarize(runs_in(Path(source)))
        say_json(numbers(summary)) if as_json else say(str(summary))
    else:
        _show_samples(source, as_json)


def _list_names(as_json: bool) -> None:
    if as_json:
        say_json({"metrics": [{"name": each.name, "kind": each.kind, "labels": each.labels, "help": each.help} for each in names.METRICS]})
    else:
        for each in names.METRICS:
            say(f"{each.name}  ({each.kind} by {', '.join(each.labels)})\n    {each.help}")


def _show_samples(source: str, as_json: bool) -> None:
    url = _whole(source)
    found = _samples(_fetched(url))
    if not found:
        raise Wrong(f"{url} answers, but with no metric of tracedflow; has a workflow run in that process?")
    if as_json:
        say_json({"url": url, "metrics": [each.document for each in found]})
    else:
        rows = [(each.name, ", ".join(f"{key}={value}" for key, value in each.labels.items()), each.told) for each in found]
        say_table(("metric", "labels", "value"), rows, whole=1)


@dataclass(slots=True)
class _Sample:
    """One metric with one set of labels. Of a histogram, `value` is the number of observations."""

    name: str
    labels: dict[str, str]
    value: float = 0.0
    total: float | None = None  # the sum of a histogram
    buckets: dict[float, float] = field(default_factory=dict[float, float])  # upper bound -> observations up to it

    @property
    def told(self) -> str:
        if self.total is None:
            is_seconds = self.name.endswith(("_seconds", "_seconds_total"))
            return short(self.value) if is_seconds else f"{self.value:g}"
        if not self.value:
            return "0"
        least = self._bound(0.95)
        tail = f", 95 % within {short(least)}" if least is not None else ""
        return f"{self.value:g}, mean {short(self.total / self.value)}{tail}"

    def _bound(self, share: float) -> float | None:
        """Return the least bucket that holds this share of the observations; None: the last one, which has no bound, or there are none."""
        inside = (bound for bound, count in sorted(self.buckets.items()) if count >= share * self.value)
        found = next(inside, float("inf"))
        return None if found == float("inf") else found

    @property
    def document(self) -> dict[str, Any]:
        if self.total is None:
            return {"name": self.name, "labels": self.labels, "value": self.value}
        buckets = [{"le": bound if bound != float("inf") else "+Inf", "count": count} for bound, count in sorted(self.buckets.items())]
        return {"name": self.name, "labels": self.labels, "count": self.value, "sum": self.total, "buckets": buckets}


def _whole(url: str) -> str:
    """Return a URL with what is usually left out; what is neither that nor a file is said."""
    has_port = re.search(r"^[\w.-]+:\d+(/|$)", url) is not None
    whole = url if "://" in url or not has_port else f"http://{url}"
    parts = urlsplit(whole)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise Wrong(f"{url} is neither a file nor an address of metrics; give one such as http://localhost:8000/metrics")
    return whole if parts.path else f"{whole}/metrics"


def _fetched(url: str) -> str:
    try:
        asking = Request(url, headers={"Accept": "text/plain;version=0.0.4"})
        with urlopen(asking, timeout=_TIMEOUT) as answer:
            text: bytes = answer.read(_MOST_BYTES)
    except HTTPError as error:
        error.close()
        raise Wrong(f"{url} answers {error.code} {error.reason}; is this where the process shows its metrics?") from None
    except (OSError, ValueError, HTTPException) as error:
        raise Wrong(f"{url} cannot be read: {getattr(error, 'reason', error)}; does the process run, and listen there?") from None
    return text.decode("utf-8", "replace")


def _samples(text: str) -> list[_Sample]:
    found: dict[tuple[str, tuple[tuple[str, str], ...]], _Sample] = {}
    histograms = set(re.findall(r"^# TYPE (\w+) (?:histogram|summary)$", text, re.MULTILINE))
    for line in text.splitlines():
        sample = _SAMPLE.fullmatch(line)
        if sample is None or sample[1].endswith("_created"):
            continue
        name, labels, value = sample[1], dict(_LABEL.findall(sample[2] or "")), _number(sample[3])
        part = next((each for each in _PARTS if name.endswith(each) and name.removesuffix(each) in histograms), "")
        bound = labels.pop("le", None) if part == "_bucket" else None
        base = name.removesuffix(part)
        _take(found.setdefault((base, tuple(sorted(labels.items()))), _Sample(base, labels)), part, bound, value)
    return list(found.values())


def _take(sample: _Sample, part: str, bound: str | None, value: float) -> None:
    match part:
        case "_bucket":
            sample.buckets[_number(bound or "")] = value
        case "_sum":
            sample.total = value
        case _:
            sample.value = value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
