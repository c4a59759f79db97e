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
