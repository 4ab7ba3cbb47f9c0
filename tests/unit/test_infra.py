"""Files of infra/ against the code: metrics and labels of alerts and dashboard, settings and commands of the image."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from jsonschema import Draft7Validator
from prometheus_client import PROCESS_COLLECTOR
from prometheus_client.metrics import MetricWrapperBase
from typer.main import get_command

from pipeline.cli.main import app
from pipeline.kafka.embedded import COORDINATE
from pipeline.providers.integrations import INTEGRATIONS
from pipeline.runtime import metrics
from pipeline.security import signing_keys
from pipeline.security.pseudonyms import KeyRing
from pipeline.settings import Settings
from pipeline.stages.worker import AGENTS
from tests.markdown import ROOT, anchors, blocks, headings, section, slugify

INFRA = ROOT / "infra"
COMPOSE: dict[str, Any] = yaml.safe_load((INFRA / "compose/compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
PROMETHEUS: dict[str, Any] = yaml.safe_load((INFRA / "compose/prometheus.yml").read_text())
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((INFRA / "alerts/leadtime.yml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((INFRA / "dashboards/leadtime.json").read_text())
DOCKERFILE = (INFRA / "compose/Dockerfile").read_text().replace("\\\n", " ")
OF_TARGET = {"job", "instance"}
"""Labels that Prometheus adds to whatever it scrapes."""


def families(collectors: Iterator[MetricWrapperBase]) -> dict[str, set[str]]:
    """Labels of each sample that collectors export, by the sample's name."""
    samples: dict[str, set[str]] = {}
    for collector in collectors:
        (family,) = collector.collect()
        names, labels = collector._labelnames, set[str]()
        suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
        for suffix in suffixes[family.type]:
            labels = {"le"} if suffix == "_bucket" else set()
            samples[family.name + suffix] = {*names} | labels
    return samples


EXPORTED = {
    **families(value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)),
    **{family.name: set[str]() for family in PROCESS_COLLECTOR.collect()},
    "up": set[str](),  # of Prometheus itself
}
"""Labels of each sample that a stage exports, without those that Prometheus adds."""


def labels_of(expr: Any) -> set[str]:
    """Labels of what a PromQL expression returns.

    Raises:
        AssertionError: it names a metric or label that is not exported.
    """
    match expr:
        case promql_parser.VectorSelector():
            assert expr.name in EXPORTED, expr.name
            labels = EXPORTED[expr.name] | OF_TARGET
            named = {matcher.name: matcher.value for matcher in expr.matchers.matchers}
            assert set(named) <= labels, (expr.name, set(named) - labels)
            assert named.get("stage", "ingest") in metrics.STAGES
            return labels
        case promql_parser.MatrixSelector():
            return labels_of(expr.vector_selector)
        case promql_parser.AggregateExpr():
            inner = labels_of(expr.expr)
            if expr.modifier is None:
                return set()
            named = set(expr.modifier.labels)
            assert named <= inner, named - inner
            return named if expr.modifier.type == promql_parser.AggModifierType.By else inner - named
        case promql_parser.BinaryExpr():
            left, right = labels_of(expr.lhs), labels_of(expr.rhs)
            assert expr.modifier is None or expr.modifier.matching is None, "not read here"
            return left | right
        case promql_parser.Call() if expr.func.name == "absent":
            labels_of(expr.args[0])
            return {matcher.name for matcher in expr.args[0].matchers.matchers}
        case promql_parser.Call():
            return {label for arg in expr.args for label in labels_of(arg)}
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
            return labels_of(expr.expr)
        case promql_parser.NumberLiteral():
            return set()
        case _:
            raise AssertionError(f"not read here: {type(expr)}")


@pytest.mark.parametrize(
    ("expr", "why"),
    [
        ("leadtime_lag_message > 0", "leadtime_lag_message"),
        ('leadtime_ready{stage="injest"} == 0', "injest"),
        ('rate(leadtime_taken_total{app="shop"}[5m])', "app"),
        ("sum by (offer) (leadtime_plan_feasible)", "offer"),
        ("leadtime_taken", "leadtime_taken"),
        ("1 + max by (le) (leadtime_snapshot_seconds_sum)", "le"),
    ],
)
def test_a_metric_or_label_that_is_not_exported_is_noticed(expr: str, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        labels_of(promql_parser.parse(expr))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_names_what_is_exported_and_the_section_that_says_what_to_do(rule: dict[str, Any]) -> None:
    labels = labels_of(promql_parser.parse(rule["expr"]))
    notes = rule["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(re.findall(r"\$labels\.(\w+)", notes["summary"] + notes["description"])) <= labels
    page, _, anchor = notes["runbook_url"].partition("#")
    assert anchor in anchors(ROOT / page)
    title = next(title for title in headings(ROOT / page) if slugify(title, "-") == anchor)
    assert f"`{rule['alert']}`" in section(ROOT / page, title)


def test_alerts_have_names_of_their_own_and_tests_for_promtool() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    silent, said = yaml.safe_load((INFRA / "alerts/leadtime.test.yml").read_text())["tests"]
    assert {case["alertname"] for case in silent["alert_rule_test"]} == set(names)
    firing = [sample["labels"] for sample in said["promql_expr_test"][0]["exp_samples"]]
    expected = [(rule["alert"], rule["labels"]["severity"]) for rule in RULES]
    assert sorted(re.findall(r'alertname="(\w+)", severity="(\w+)"', " ".join(firing))) == sorted(expected)


def variables() -> dict[str, str]:
    """Values of the dashboard's variables in expressions."""
    known = {"__rate_interval": "5m", "app": ".*"}
    for entry in DASHBOARD["templating"]["list"]:
        if entry["type"] == "custom":
            assert entry["current"]["value"] in entry["query"].split(",")
            known[entry["name"]] = entry["current"]["value"]
    return known


def test_the_dashboard_names_what_is_exported() -> None:
    known, seen = variables(), set[str]()
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            text = re.sub(r"\$(\w+)", lambda match: known[match[1]], target["expr"])
            labels = labels_of(promql_parser.parse(text))
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels, target
            seen |= set(re.findall(r"leadtime_\w+", text))
    lists = [entry["query"] for entry in DASHBOARD["templating"]["list"] if entry["type"] == "query"]
    for metric, label in re.findall(r"label_values\((\w+), (\w+)\)", " ".join(lists)):
        assert label in EXPORTED[metric]
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in seen}
    own = {re.sub(r"_(bucket|sum|count)$", "", name) for name in EXPORTED if name.startswith("leadtime_")}
    assert own - shown == {"leadtime_state_bytes"}


def test_the_dashboard_has_its_rows_and_no_panel_over_another() -> None:
    panels = DASHBOARD["panels"]
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows == [
        *("Plans and confidence", "Demand against prediction", "Cost", "Telemetry"),
        *("Stages: lag and latency", "Learner", "Providers"),
    ]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set[tuple[int, int]]()
    for place in (panel["gridPos"] for panel in panels):
        cells = {
            (place["x"] + column, place["y"] + line)
            for column in range(place["w"])
            for line in range(place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_the_compose_file_is_valid_by_the_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, str(INFRA / "compose/compose.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def image_environment() -> dict[str, str]:
    """The last ENV of the Dockerfile, that of the image which runs."""
    *_, last = re.findall(r"^ENV (.+)$", DOCKERFILE, re.MULTILINE)
    return dict(pair.split("=", 1) for pair in last.split())


def settings_of(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What a container's environment sets.

    Raises:
        AssertionError: a variable of it is no setting.
    """
    for name in [name for name in os.environ if name.startswith("LEADTIME_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        if name.startswith("LEADTIME_"):
            assert name.removeprefix("LEADTIME_").lower() in Settings.model_fields, name
            monkeypatch.setenv(name, str(value))
    return Settings()


def test_environment_and_secrets_of_the_stages_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = SERVICES["leadtime"]
    settings = settings_of(image_environment() | stages["environment"], monkeypatch)
    secrets = {f"/run/secrets/{name}" for name in stages["secrets"]}
    assert {str(settings.pseudonym_keys_file), str(settings.signing_key_file)} == secrets
    assert f"data:{settings.data_dir}" in stages["volumes"]
    assert f"VOLUME {settings.data_dir}" in DOCKERFILE
    kafka = SERVICES["kafka"]["environment"]
    advertised = dict(a.split("://") for a in kafka["KAFKA_ADVERTISED_LISTENERS"].split(","))
    assert advertised == {"STAGES": settings.bootstrap, "HOST": "127.0.0.1:9092"}
    (scraped,) = PROMETHEUS["scrape_configs"]
    assert settings.metrics_port is not None
    ports = [settings.metrics_port + at for at in range(len(metrics.STAGES))]
    assert scraped["static_configs"] == [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
    assert all(f'job="{scraped["job_name"]}"' in rule["expr"] for rule in RULES if "up{" in rule["expr"])


def test_the_collector_scrapes_what_prometheus_does_and_uses_what_it_configures() -> None:
    config: dict[str, Any] = yaml.safe_load((INFRA / "compose/collector.yml").read_text())
    (scraped,) = config["receivers"]["prometheus"]["config"]["scrape_configs"]
    (by_prometheus,) = PROMETHEUS["scrape_configs"]
    assert {name: scraped[name] for name in by_prometheus} == by_prometheus
    pipeline = config["service"]["pipelines"]["metrics"]
    assert all(set(pipeline[part]) == set(config[part]) for part in pipeline)
    variables = set(re.findall(r"\$\{env:(\w+)\}", str(config)))
    assert variables == set(SERVICES["collector"]["environment"])


def test_the_image_has_the_providers_of_the_chart_and_the_locked_client_of_gpus() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"--extra (\w+)", DOCKERFILE)) == {*INTEGRATIONS, "gpu", "keda"} <= set(extras)
    (locked,) = extras["gpu"]
    assert f"'{locked.replace('==', '[ctk]==')}'" in DOCKERFILE


def test_commands_of_image_and_compose_are_accepted_by_the_command_line() -> None:
    default = json.loads(re.findall(r"^CMD (.+)$", DOCKERFILE, re.MULTILINE)[0])
    assert re.findall(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.MULTILINE) == ['["leadtime"]']
    for name, *arguments in (default, SERVICES["leadtime"]["command"]):
        group: Any = get_command(app)
        command = group.get_command(None, name)
        assert command is not None, name
        command.make_context(name, arguments)  # parses, and runs nothing


def test_ports_are_on_the_loopback_and_mounts_and_secrets_are_there() -> None:
    home = INFRA / "compose"
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for name, service in SERVICES.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
        assert ("build" in service) or ":" in service["image"], f"{name}: a version"
        for source in (volume.split(":")[0] for volume in service["volumes"]):
            assert (home / source).exists() if source[0] == "." else source in COMPOSE["volumes"], source
    for secret in COMPOSE["secrets"].values():
        assert (home / secret["file"]).relative_to(home).parts[0] == "secrets"
    assert "infra/compose/secrets/" in ignored
    build = SERVICES["leadtime"]["build"]
    assert (home / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).samefile(home / "Dockerfile")
    assert SERVICES["kafka"]["image"].partition(":")[2] in COORDINATE
    for path in ("datasource", "dashboards"):
        assert yaml.safe_load((home / f"grafana/{path}.yml").read_text())["apiVersion"] == 1


def test_the_image_is_built_from_all_that_the_wheel_has_and_runs_without_root() -> None:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [
        *project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"],
        "pyproject.toml",
        "uv.lock",
    ]
    needed += [project["project"]["readme"], *project["project"]["license-files"]]
    lines = (INFRA / "compose/Dockerfile.dockerignore").read_text().splitlines()
    assert sorted(line[1:] for line in lines if line[0] == "!") == sorted(needed)
    assert [line for line in lines if line[0] not in "#!"] == ["**", "**/__pycache__"]
    *_, user = re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE)
    assert f"useradd --system --uid 10001 --create-home {user}" in DOCKERFILE
    stages = DOCKERFILE[DOCKERFILE.rindex("FROM ") :]
    assert stages.index(f"USER {user}") < stages.index("ENTRYPOINT")
    bases = set(re.findall(r"^FROM (python:\S+)", DOCKERFILE, re.MULTILINE))
    assert len(bases) == 1  # the environment's Python is that of its base
    low, high = re.findall(r"3\.(\d+)", project["project"]["requires-python"])
    assert int(low) <= int(bases.pop().split(".")[1].split("-")[0]) < int(high)


CHART = INFRA / "helm/leadtime"
TEMPLATES = {path.name: path.read_text() for path in (CHART / "templates").iterdir()}
CHART_VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())


def test_values_of_the_chart_and_of_its_examples_are_as_the_schema_says() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    validator = Draft7Validator(schema)
    Draft7Validator.check_schema(schema)
    examples = sorted((INFRA / "helm/examples").glob("*.yaml"))
    assert examples
    for path in examples:
        merged = merge(CHART_VALUES, yaml.safe_load(path.read_text()))
        assert [error.message for error in validator.iter_errors(merged)] == [], path
    wanted = {error.json_path for error in validator.iter_errors(CHART_VALUES)}
    assert wanted == {"$.image.repository", "$.kafka.bootstrap"}  # which nobody can know
    assert set(schema["properties"]) == {*CHART_VALUES, "global"}


def merge(values: Any, more: Any) -> Any:
    """Values with others put over them, as helm does."""
    if not (isinstance(values, dict) and isinstance(more, dict)):
        return more
    return values | {name: merge(values.get(name, {}), value) for name, value in more.items()}


def test_settings_of_the_chart_are_settings() -> None:
    allowed = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]["properties"]
    elsewhere = {"bootstrap", "kafka", "data_dir", "metrics_port", "metrics_host"}
    elsewhere |= {"pseudonym_keys_file", "signing_key_file"}
    replays = {"event_time", "demo_keys"}
    feeds = {"feeds_file", "feeds_every_s", "gcp_api_key"}  # the chart has no service that follows prices
    assert set(allowed) == set(Settings.model_fields) - elsewhere - replays - feeds
    named = set(re.findall(r"LEADTIME_([A-Z_]+)", " ".join(TEMPLATES.values()))) - {""}
    assert {name.lower() for name in named} == elsewhere


def test_stages_of_the_chart_listen_and_are_called_as_the_code_has_them() -> None:
    stages = TEMPLATES["stages.yaml"]
    ports = dict(re.findall(r'"stage" "(\w+)" "port" (\d+)', stages))
    first = int(re.findall(r'LEADTIME_METRICS_PORT, value: "(\d+)"', TEMPLATES["_helpers.tpl"])[0])
    assert ports == {stage: str(first + at) for at, stage in enumerate(metrics.STAGES)}
    assert set(re.findall(r"path: (/\w+z),", TEMPLATES["_helpers.tpl"])) == {"/healthz", "/readyz"}
    agents = re.findall(r'"([a-z]+(?:,[a-z]+)+)"', stages)
    assert {frozenset(names.split(",")) for names in agents} == {
        frozenset(AGENTS),
        frozenset(AGENTS) - {"learner"},
    }
    group: Any = get_command(app)
    for name, *arguments in (
        ["ingest"],
        ["worker", "--only", agents[0]],
        ["actuator", "--provider", "kubernetes", "--targets", "targets.toml", "--dry-run"],
        ["topics", "create"],
    ):
        group.get_command(None, name).make_context(name, arguments)
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["actuator"]["properties"]
    assert set(schema["providers"]["items"]["enum"]) == set(INTEGRATIONS)


def test_the_scaler_of_the_chart_is_off_and_has_options_and_port_of_the_command() -> None:
    group: Any = get_command(app)
    command = group.get_command(None, "scaler")
    named = set(re.findall(r'"(--[a-z-]+)"', TEMPLATES["scaler.yaml"]))
    assert named == {"--listen", "--tls-cert", "--tls-key", "--client-ca"}
    command.make_context("scaler", [word for option in sorted(named) for word in (option, "x")])
    of_command = {option.name: option.default for option in command.params}
    values = CHART_VALUES["scaler"]
    assert (values["enabled"], of_command["listen"]) == (False, f"127.0.0.1:{values['port']}")


def test_the_chart_has_alerts_dashboard_and_user_of_the_other_files() -> None:
    assert (CHART / "files/alerts.yml").samefile(INFRA / "alerts/leadtime.yml")
    assert (CHART / "files/dashboard.json").samefile(INFRA / "dashboards/leadtime.json")
    assert "runAsUser: 10001" in TEMPLATES["_helpers.tpl"]
    assert "--uid 10001" in DOCKERFILE
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert chart["appVersion"] == project["tool"]["hatch"]["version"]["fallback-version"]


def test_the_health_check_asks_all_stages() -> None:
    check = json.loads(re.findall(r"^HEALTHCHECK .*?CMD (\[.+\])$", DOCKERFILE, re.MULTILINE)[0])
    assert check[0] == "python"
    now = 0.0
    vitals = [metrics.Vitals(lambda: now) for _ in metrics.STAGES]
    port = 0
    for first in range(29_400, 30_400, 100):  # three ports that are free beside each other
        settings = Settings(metrics_port=first)
        taken = [metrics.serve(stage, v, settings) for stage, v in zip(metrics.STAGES, vitals, strict=True)]
        if taken == [first, first + 1, first + 2]:
            port = first
            break
    assert port

    def healthy() -> bool:
        environment = os.environ | {"LEADTIME_METRICS_PORT": str(port)}
        done = subprocess.run([sys.executable, *check[1:]], env=environment, capture_output=True, check=False)
        return done.returncode == 0

    assert healthy()
    now += metrics.STALLED_S
    for stage in vitals[:2]:
        stage.beat()
    assert not healthy()  # the third hangs
    vitals[2].beat()
    assert healthy()


def test_the_secrets_that_the_page_makes_are_what_the_stages_read(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("bash") if "infra/compose/secrets" in block.text]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    home = tmp_path / "infra/compose"
    files = {name: home / secret["file"] for name, secret in COMPOSE["secrets"].items()}
    assert {path.name for path in (home / "secrets").iterdir()} == {path.name for path in files.values()}
    settings = Settings(
        data_dir=tmp_path, pseudonym_keys_file=files["pseudonym_keys"], signing_key_file=files["signing_key"]
    )
    key = signing_keys.signing_key(settings)
    assert key.key_id in signing_keys.keyring(settings)
    (pseudonyms,) = KeyRing.of(settings).keys
    assert (pseudonyms.valid_from, len(pseudonyms.secret)) == (0, 64)
    assert (home / "secrets").stat().st_mode & 0o077 == 0
