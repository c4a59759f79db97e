from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tracedflow.telemetry import names

PACKAGE = Path(names.__file__).parent


def test_no_other_module_spells_a_name() -> None:
    ours = re.compile(
        r"[\"'](tracedflow[._](?:step|run|event|link|wait|retry|trigger|tag|user)[a-z_.]*|gen_ai\.[a-z_.]+|exception\.[a-z]+)[\"']"
    )
    found = {
        f"{path.name}: {match}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "names.py"
        for match in ours.findall(path.read_text(encoding="utf-8"))
    }
    assert found - {"logs.py: tracedflow.runs"} == set()  # the name of a logger


def test_every_name_is_listed_once() -> None:
    listed = [*names.ATTRIBUTES, *names.CONVENTIONAL_ATTRIBUTES, *names.LINKS, *names.SPAN_EVENTS, *(spec.name for spec in names.METRICS)]
    assert len(listed) == len(set(listed))


def test_importing_the_package_of_the_layers_loads_none_of_their_libraries() -> None:
    script = "import json, sys, tracedflow.telemetry; print(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parents[1])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    heavy = ("opentelemetry.sdk", "prometheus_client", "rich")
    assert [name for name in loaded if name.startswith(heavy)] == []


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "telemetry.md").read_text(encoding="utf-8")


def test_the_page_lists_every_metric_with_its_type_and_labels_and_no_other() -> None:
    told = re.findall(r"^\| `(tracedflow_\w+)` \| (\w+) \| ([\w, ]+) \|$", PAGE, re.MULTILINE)
    assert told == [(spec.name, spec.kind, ", ".join(spec.labels)) for spec in names.METRICS]


def test_the_page_names_every_span_attribute_link_and_event_and_no_other() -> None:
    quoted = set(re.findall(r"`([^`\s]+(?: \{\w+\})?)`", PAGE))
    declared = {*names.SPANS, *names.ATTRIBUTES, *names.CONVENTIONAL_ATTRIBUTES, *names.LINKS, *names.SPAN_EVENTS}
    assert declared - quoted == set()
    ours = {name for name in quoted if name.startswith(("tracedflow.", "tracedflow_")) and not name.endswith(("*", ")"))}
    known = {*declared, *(spec.name for spec in names.METRICS), *(spec.otel for spec in names.METRICS), "tracedflow.runs"}
    assert ours - known == set()
