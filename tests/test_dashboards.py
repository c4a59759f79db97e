"""The committed dashboards and rules are what the code makes, keep the rules of their kind, and name what is emitted and nothing else."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, WorkflowHandler, step
from tracedflow.dashboards import Objective, Thresholds, alerts, files, files_of, recordings, slo_alerts, write
from tracedflow.telemetry import names

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "dashboards"
BOARDS: dict[str, dict[str, Any]] = {path: json.loads(text) for path, text in files().items() if path.endswith(".json")}
MINE = "grafana/paper.json"  # of one workflow, see below
CACHE = Path(os.environ.get("TRACEDFLOW_BACKENDS", Path.home() / ".cache" / "tracedflow-backends"))
ALERTS = alerts()
PARTS = ("_bucket", "_count", "_sum")  # of a histogram


class Piece(Event):
    pass


class Paper(Workflow):
    @step
    async def cut(self, ev: StartEvent) -> Piece:
        return Piece()

    @step
    async def glue(self, ctx: Context, ev: Piece) -> StopEvent:
        return StopEvent()


MADE = {**BOARDS, MINE: json.loads(files_of(Paper)[MINE])}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def variables(board: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in board["templating"]["list"]}


def expressions() -> list[str]:
    """Return every expression of PromQL in dashboards and rules."""
    shown = [target["expr"] for board in BOARDS.values() for panel in panels(board) for target in panel["targets"] if "expr" in target]
    asked = [each["query"] for board in BOARDS.values() for each in variables(board).values() if each["type"] == "query"]
    ruled = [rule["expr"] for rule in recordings()] + [alert.expr for alert in ALERTS]
    made = [alert.expr for alert in slo_alerts(Paper, Objective(latency=2))]
    return [each for each in shown + asked + ruled + made if "run_id" not in each]  # the one of Loki


def every_text() -> str:
    """Return all that a backend reads."""
    provisioned = [path.read_text() for path in (*FOLDER.glob("provisioning/*.yml"), ROOT / "otel-collector.yaml")]
    return "\n".join([*(text for path, text in files().items() if path != "rules/tests.yml"), *provisioned])


# ------------------------------------------------------------------------------------------------------------------- files


def test_the_committed_files_are_what_the_code_makes() -> None:
    differing = [path for path, text in files().items() if not (FOLDER / path).exists() or (FOLDER / path).read_text() != text]
    assert differing == [], "python -m tracedflow.dashboards writes them anew"
    assert {str(path.relative_to(FOLDER)) for path in (*FOLDER.glob("grafana/*"), *FOLDER.glob("rules/*"))} == set(files())


def test_writing_says_what_it_wrote_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    assert len(write(files(), tmp_path)) == len(files())
    (tmp_path / "rules/alerts.yml").write_text("mine")
    assert write(files(), tmp_path) == [tmp_path / "rules/alerts.yml"]
    assert said_by("--out", str(tmp_path / "again"))[1].count("wrote ") == len(files())


def said_by(*arguments: str, folder: Path = ROOT) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "tracedflow.dashboards", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


APP = """
from tracedflow import StartEvent, StopEvent, Workflow, step
class MyFlow(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent()
other = 3
"""


def test_the_command_writes_the_files_of_one_workflow(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    code, said, _ = said_by("app:MyFlow", "--slo", "0.999", "--latency", "30", "--out", "out", folder=tmp_path)
    assert code == 0
    assert said.splitlines() == [f"wrote out/{path}" for path in ("grafana/myflow.json", "rules/myflow.yml", "rules/myflow_tests.yml")]
    assert "> 0.0144 and" in (tmp_path / "out/rules/myflow.yml").read_text()


@pytest.mark.parametrize(
    ("target", "remedy"),
    [("app", "say app:MyFlow"), ("none:MyFlow", "no module `none`"), ("app:Yours", "no `Yours`"), ("app:other", "name a workflow class")],
)
def test_the_command_says_what_is_wrong_with_a_target(tmp_path: Path, target: str, remedy: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    code, _, said = said_by(target, folder=tmp_path)
    assert (code, remedy in said) == (2, True)


# -------------------------------------------------------------------------------------------------------------- dashboards


@pytest.mark.parametrize("path", MADE)
def test_a_dashboard_keeps_the_rules_of_dashboards(path: str) -> None:
    board = MADE[path]
    assert board["id"] is None
    assert board["uid"] == f"tracedflow-{Path(path).stem}", "links and bookmarks hold on to it"
    assert board["tags"] == ["tracedflow"]
    assert board["editable"] is False
    assert board["schemaVersion"] >= 36
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    titles = [panel["title"] for panel in panels(board)]
    assert len(set(titles)) == len(titles)
    for variable in variables(board).values():
        if variable["type"] == "query":
            assert variable["refresh"] == 2, "asked again when the time range changes"
            assert variable["datasource"]["uid"] == "${metrics}"


@pytest.mark.parametrize(("path", "title"), [(path, panel["title"]) for path, board in MADE.items() for panel in panels(board)])
def test_a_panel_keeps_the_rules_of_panels(path: str, title: str) -> None:
    board = MADE[path]
    panel = next(each for each in panels(board) if each["title"] == title)
    sources = {f"${{{each['name']}}}": each["query"] for each in variables(board).values() if each["type"] == "datasource"}
    assert panel["title"]
    assert panel["description"].endswith((".", ")"))
    assert panel["targets"]
    assert len({target["refId"] for target in panel["targets"]} - {""}) == len(panel["targets"])
    for used in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
        assert sources[used["uid"]] == used["type"]
    if panel["datasource"]["type"] == "prometheus":
        assert panel.get("fieldConfig", {}).get("defaults", {}).get("unit") or panel["options"]["yAxis"]["unit"]
        assert all('job=~"$job"' in target["expr"] for target in panel["targets"])
    assert panel["gridPos"]["w"] <= 24
    assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


@pytest.mark.parametrize("path", MADE)
def test_variables_are_declared_and_used(path: str) -> None:
    board = MADE[path]
    text = json.dumps({"panels": board["panels"], "templating": board["templating"]})
    named = set(re.findall(r"\$(?!__)(\w+)", text)) | set(re.findall(r"\$\{(?!__)(\w+)(?::\w+)?\}", text))
    assert named == set(variables(board))


@pytest.mark.parametrize("path", BOARDS)
def test_links_lead_to_dashboards_that_exist_and_to_variables_that_they_have(path: str) -> None:
    by_uid = {board["uid"]: board for board in BOARDS.values()}
    for target, parameters in re.findall(r'"/d/([^?"]+)\?([^"]*)"', json.dumps(BOARDS[path])):
        assert set(re.findall(r"var-(\w+)", parameters)) <= set(variables(by_uid[target]))


def test_the_way_from_all_workflows_to_one_to_its_traces_is_there() -> None:
    assert "/d/tracedflow-workflow?" in json.dumps(BOARDS["grafana/overview.json"])
    for path in ("grafana/overview.json", "grafana/workflow.json"):
        assert any(target.get("exemplar") for panel in panels(BOARDS[path]) for target in panel["targets"])


def test_counters_are_shown_as_rates_only_and_gauges_never() -> None:
    counters = {spec.name for spec in names.METRICS if spec.kind == "counter"}
    counters |= {spec.name + part for spec in names.METRICS if spec.kind == "histogram" for part in PARTS}
    gauges = {spec.name for spec in names.METRICS if spec.kind == "gauge"}
    for expression in expressions():
        if expression.startswith("label_values("):
            continue
        # A counter that is new within the window is the one use without a rate: see `grew`.
        rest = re.sub(r"\(\((\w+(?:\{[^}]*\})?) unless \1 offset \w+\) > 0\)", "", expression)
        rated = re.findall(r"(?:rate|increase)\((\w+)", rest)
        assert set(rated) <= counters, expression
        bare = re.sub(r"(?:rate|increase)\(\w+", "", rest)
        assert not counters & set(re.findall(r"\w+", bare)), expression
        assert not gauges & set(rated), expression


# ------------------------------------------------------------------------------------------------------------------- names


def _not_shown() -> set[str]:
    """Return the names that the documentation gives a reason for."""
    section = (ROOT / "docs/production.md").read_text().partition("## What is not shown")[2]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    assert all(len(row[2].strip()) > 10 for row in rows), "a reason each"
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row[1])}


def _is_named(name: str, text: str) -> bool:
    return re.search(rf"(?:(?<![\w.])|(?<=span\.)){re.escape(name)}(?![\w.]*\w)", text) is not None


def test_every_metric_and_every_label_is_in_a_panel_or_a_rule() -> None:
    text = "\n".join(expressions())
    suffix = {"histogram": "_(bucket|count|sum)", "counter": "", "gauge": ""}
    assert [spec.name for spec in names.METRICS if not re.search(rf"\b{spec.name}{suffix[spec.kind]}\b", text)] == []
    assert sorted({label for spec in names.METRICS for label in spec.labels if not _is_named(label, text)}) == []


def test_every_span_name_and_attribute_is_used_or_documented_as_not() -> None:
    text = every_text()
    attributes = {*names.ATTRIBUTES, *names.CONVENTIONAL_ATTRIBUTES, *names.OPENINFERENCE_ATTRIBUTES}
    used = {name for name in attributes if _is_named(name, text)} | {span for span in names.SPANS if f"{span.split()[0]} .*" in text}
    excused = _not_shown()
    assert (attributes | set(names.SPANS)) - used == excused, "docs/production.md has a table of those that are not"
    assert used & excused == set()


def test_every_name_of_ours_in_the_files_is_emitted() -> None:
    text = every_text()
    metrics = {spec.name for spec in names.METRICS}
    metrics |= {spec.name + part for spec in names.METRICS if spec.kind == "histogram" for part in PARTS}
    recorded = {part for rule in recordings() for part in re.findall(r"tracedflow_\w+", rule["record"])}
    assert set(re.findall(r"\btracedflow_\w+", text)) - {"tracedflow_"} <= metrics | recorded
    dotted = set(re.findall(r"\btracedflow(?:\.\w+)+", text))
    loggers_and_functions = {
        "tracedflow.loop",
        "tracedflow.metrics",
        "tracedflow.middleware",
        "tracedflow.runs",
        "tracedflow.testing.check_observer",
    }
    assert dotted - loggers_and_functions - {"tracedflow.dashboards"} <= set(names.ATTRIBUTES)
    spans = {span.split()[0] for span in names.SPANS}
    assert set(re.findall(r'name =~ \\?"(\w+) ', text)) <= spans


def test_labels_in_the_files_are_those_of_the_metric() -> None:
    by_name = {spec.name + part: {*spec.labels, "job", "instance", "le"} for spec in names.METRICS for part in ("", *PARTS)}
    selected = 0
    for expression in expressions():
        for metric, selector in re.findall(r"\b(tracedflow_\w+)\{([^}]*)\}", expression):
            selected += 1
            assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) <= by_name[metric], expression
    assert selected > 50


def test_every_name_of_ours_in_the_collectors_file_is_an_attribute() -> None:
    ours = {each for each in _strings(yaml.safe_load((ROOT / "otel-collector.yaml").read_text())) if each.startswith("tracedflow.")}
    assert ours
    assert ours <= set(names.ATTRIBUTES)


def _strings(value: object) -> Iterator[str]:
    match value:
        case dict():
            for key, item in value.items():
                yield str(key)
                yield from _strings(item)
        case list():
            for item in value:
                yield from _strings(item)
        case _:
            yield str(value)


# ------------------------------------------------------------------------------------------------------------------ alerts


@pytest.mark.parametrize("alert", [*ALERTS, *slo_alerts(Paper, Objective(latency=2))], ids=lambda alert: alert.name)
def test_an_alert_says_how_bad_it_is_what_it_means_and_what_to_do(alert: Any) -> None:
    assert alert.severity in ("critical", "warning", "info")
    assert alert.summary
    assert alert.fires.series
    assert alert.silent.series
    labels = set(re.findall(r"\$labels\.(\w+)", alert.summary))
    assert labels <= set(alert.labels) | {"instance"}
    assert any(_exists(*named) for named in _things_to_do(alert.runbook)), "a runbook names a command, a panel, a method or a logger"


def _things_to_do(runbook: str) -> list[tuple[str, str]]:
    """Return (kind, name) of everything that a runbook points to."""
    commands = [("command", name) for name in re.findall(r"`tracedflow (\w+)", runbook)]
    functions = [("function", name) for name in re.findall(r"`tracedflow\.([\w.]+)", runbook)]
    methods = [("method", name) for name in re.findall(r"`handler\.(\w+)\(\)`", runbook)]
    marked = [("panel", name) for name in re.findall(r"`([A-Z][^`]+)`", runbook) if name != "Limit"]
    loggers = [("logger", name) for name in re.findall(r"log of (tracedflow\.\w+)", runbook)]
    return commands + functions + methods + marked + loggers


def _exists(kind: str, name: str) -> bool:
    match kind:
        case "command":
            return name in _commands()
        case "function":
            module, _, attribute = f"tracedflow.{name}".rpartition(".")
            return hasattr(importlib.import_module(module), attribute)
        case "method":
            return callable(getattr(WorkflowHandler, name, None))
        case "logger":
            return any(f'getLogger("{name}")' in path.read_text() for path in (ROOT / "src").rglob("*.py"))
        case _:
            return any(panel["title"] == name for board in BOARDS.values() for panel in panels(board))


@cache
def _commands() -> set[str]:
    """Return the commands that the command line shows."""
    done = subprocess.run([sys.executable, "-m", "tracedflow", "--help"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"the command line does not start: {done.stderr.strip().splitlines()[-1]}")
    return set(re.findall(r"^\W*([a-z]+)  +[A-Z]", done.stdout, re.MULTILINE))


def test_whatever_a_runbook_points_to_exists() -> None:
    missing = [(a.name, *named) for a in ALERTS for named in _things_to_do(a.runbook) if not _exists(*named)]
    assert missing == []
    said = " ".join(panel["description"] for board in BOARDS.values() for panel in panels(board))
    assert set(re.findall(r"`tracedflow (\w+)", said)) <= _commands()


def test_there_are_alerts_enough_and_none_twice() -> None:
    found = [alert.name for alert in ALERTS]
    assert len(set(found)) == len(found) >= 12
    assert {alert.severity for alert in ALERTS} == {"critical", "warning", "info"}


def test_thresholds_change_what_the_alerts_ask() -> None:
    before, after = ({alert.name: alert.expr for alert in alerts(at)} for at in (None, Thresholds(stuck_after=5, objective=0.9)))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"TracedflowRunStuck", "TracedflowRunErrorBudgetBurnsFast", "TracedflowRunErrorBudgetBurnsSlowly"}


# ---------------------------------------------------------------------------------------------------------------- promtool


def promtool(*arguments: str, folder: Path) -> str:
    found = shutil.which("promtool") or (str(CACHE / "bin/promtool") if (CACHE / "bin/promtool").exists() else None)
    if found is None:
        pytest.skip("promtool is neither on the path nor in the cache of `make backends`")
    done = subprocess.run([found, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_tries_every_alert_firing_and_silent() -> None:
    cases = [test["name"] for test in yaml.safe_load((FOLDER / "rules/tests.yml").read_text())["tests"]]
    assert cases == [f"{alert.name} {what}" for alert in ALERTS for what in ("fires", "is silent")]
    promtool("test", "rules", "rules/tests.yml", folder=FOLDER)


def test_promtool_takes_the_configuration_of_prometheus() -> None:
    assert "valid prometheus config" in promtool("check", "config", "prometheus.yml", folder=FOLDER)


def test_promtool_finds_no_fault_with_the_rules_of_one_workflow(tmp_path: Path) -> None:
    write(files_of(Paper, Objective(success=0.995, latency=2)), tmp_path)
    promtool("test", "rules", "rules/paper_tests.yml", folder=tmp_path)


# ------------------------------------------------------------------------------------------------------------ one workflow


def test_a_workflow_gets_a_row_for_each_of_its_steps() -> None:
    made = files_of(Paper)
    board = json.loads(made["grafana/paper.json"])
    assert board["uid"] == "tracedflow-paper"
    assert [panel["title"] for panel in board["panels"] if panel["type"] == "row"] == ["Runs", "cut", "glue"]
    assert all('workflow="Paper"' in target["expr"] for panel in panels(board) for target in panel["targets"])


def test_an_instance_with_a_name_of_its_own_is_shown_under_it() -> None:
    made = files_of(Paper(workflow_name="Night shift"))
    assert 'workflow=\\"Night shift\\"' in made["grafana/night-shift.json"]
    assert 'workflow="Night shift"' in made["rules/night-shift.yml"]


def test_a_latency_counts_as_the_bucket_above_it_and_the_alert_says_so() -> None:
    found = {alert.name: alert for alert in slo_alerts(Paper, Objective(latency=2))}
    assert list(found) == ["PaperErrorsBurnFast", "PaperErrorsBurnSlow", "PaperLatencyBurnFast", "PaperLatencyBurnSlow"]
    assert "(5 s)" in found["PaperLatencyBurnFast"].summary
    assert 'le=~"5([.]0)?"' in found["PaperLatencyBurnFast"].expr


@pytest.mark.parametrize("wrong", [{"success": 1.0}, {"success": 99}, {"latency": 0}, {"latency": 1e9}, {"latency_share": 0}])
def test_an_objective_that_cannot_be_met_or_measured_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}"):
        Objective(**wrong)


# ------------------------------------------------------------------------------------------------------------ provisioning


def loaded(path: str) -> Any:
    return yaml.safe_load((FOLDER / path).read_text())


def test_datasources_lead_from_metrics_to_traces_to_logs_and_back() -> None:
    by_uid = {each["uid"]: each for each in loaded("provisioning/datasources.yml")["datasources"]}
    assert {uid: each["type"] for uid, each in by_uid.items()} == {uid: uid for uid in ("prometheus", "tempo", "jaeger", "loki")}
    exemplars = by_uid["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert {each["datasourceUid"] for each in exemplars} == {"tempo", "jaeger"}
    assert {each["name"] for each in exemplars} == {"trace_id"}
    for uid in ("tempo", "jaeger"):
        data = by_uid[uid]["jsonData"]
        assert data["tracesToLogsV2"]["datasourceUid"] == "loki"
        assert data["tracesToMetrics"]["datasourceUid"] == "prometheus"
        assert {tag["key"] for tag in data["tracesToMetrics"]["tags"]} <= set(names.ATTRIBUTES)
        assert {tag["value"] for tag in data["tracesToMetrics"]["tags"]} <= {label for spec in names.METRICS for label in spec.labels}
    assert by_uid["loki"]["jsonData"]["derivedFields"][0]["datasourceUid"] == "tempo"
    kinds = {each["query"] for board in BOARDS.values() for each in variables(board).values() if each["type"] == "datasource"}
    assert kinds <= {each["type"] for each in by_uid.values()}


def test_everything_that_the_compose_file_mounts_exists_and_its_images_are_pinned() -> None:
    compose = loaded("compose.yaml")
    services = compose["services"]
    assert set(services) == {"collector", "prometheus", "tempo", "jaeger", "loki", "grafana"}
    for name, service in services.items():
        image, _, tag = service["image"].rpartition(":")
        assert re.fullmatch(r"[a-z0-9-]+/[a-z0-9-]+", image), f"{name}: no registry host"
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), f"{name}: a release"
        assert set(service.get("depends_on", ())) <= set(services)
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), f"{name}: on this machine only"
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (FOLDER / source).exists() if source.startswith(".") else source in compose["volumes"], f"{name}: {source}"
    board_path = loaded("provisioning/dashboards.yml")["providers"][0]["options"]["path"]
    assert f"./grafana:{board_path}:ro" in services["grafana"]["volumes"]
    assert "--enable-feature=exemplar-storage" in services["prometheus"]["command"]


def test_services_find_each_other_at_the_ports_that_they_listen_on() -> None:
    services = loaded("compose.yaml")["services"]
    environment = services["collector"]["environment"]
    text = (ROOT / "otel-collector.yaml").read_text()
    assert set(environment) <= set(re.findall(r"\$\{env:(\w+)", text))
    listening = {
        "collector": {environment["SELF_METRICS_PORT"], *(port(environment[name]) for name in ("OTLP_GRPC", "OTLP_HTTP", "SPAN_METRICS"))},
        "tempo": {"3200", port(loaded("tempo.yml")["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"])},
        "jaeger": {"4317", "16686"},
        "loki": {"3100"},
        "prometheus": {"9090"},
        "grafana": {"3000"},
    }
    scraped = [target for job in loaded("prometheus.yml")["scrape_configs"] for each in job["static_configs"] for target in each["targets"]]
    asked = [each["url"] for each in loaded("provisioning/datasources.yml")["datasources"]]
    sent = [environment[name] for name in ("TEMPO_OTLP", "JAEGER_OTLP", "LOKI_OTLP")]
    for address in (*scraped, *asked, *sent):
        found = re.fullmatch(r"(?:http://)?([\w.]+):(\d+)(?:/\w+)?", address)
        assert found
        assert found[1] == "host.docker.internal" or found[2] in listening[found[1]], address
    for name, service in services.items():
        assert {port(published) for published in service.get("ports", ())} <= listening[name]


def port(address: str) -> str:
    return address.rpartition(":")[2]


def test_without_the_extra_the_remedy_is_said() -> None:
    script = "import sys; sys.modules['grafana_foundation_sdk'] = None; import tracedflow.dashboards"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "pip install 'tracedflow[dashboards]'" in done.stderr
