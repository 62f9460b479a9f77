"""The files under deploy/ against what they speak of: metrics, commands and their options, files, deployment files."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml

from prefillshare.cli.app import app
from prefillshare.config.load import load_deployment
from tests.support.monitoring import METRIC, documented_metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PORT = 30000
KINDS = ("ConfigMap", "Deployment", "Service")
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def rules() -> list[dict[str, Any]]:
    read = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    return [rule for group in read["groups"] for rule in group["rules"]]


def test_alerts_speak_of_metrics_that_there_are_and_the_docs_of_all_alerts() -> None:
    known = documented_metrics(with_store=True) | documented_metrics(with_store=False) | {"up"}
    for rule in rules():
        named = {re.sub("_(bucket|sum|count)$", "", name) for name in METRIC.findall(rule["expr"])}
        assert named <= known, rule["alert"]
    page = (ROOT / "docs" / "monitoring.md").read_text()
    assert re.findall(r"^\| `(PrefillShare\w+)` \|", page, re.MULTILINE) == [rule["alert"] for rule in rules()]


def test_every_alert_is_tried() -> None:
    tried = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tried for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in rules()}


def test_prometheus_in_compose_scrapes_as_it_does_alone() -> None:
    alone, composed = (
        yaml.safe_load((DEPLOY / "prometheus" / name).read_text()) for name in ("prometheus.yml", "compose.yml")
    )
    targets = [read["scrape_configs"][0].pop("static_configs")[0]["targets"] for read in (alone, composed)]
    assert targets == [["127.0.0.1:30000"], ["prefillshare:30000"]]
    assert alone == composed


def test_compose_mounts_what_there_is() -> None:
    for service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values():
        for volume in service["volumes"]:
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).exists(), volume


def test_the_image_is_made_of_what_there_is() -> None:
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    let_in = set(re.findall(r"^!(.*)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE))
    sources = {source for line in copied for source in line.split()}
    assert sources == let_in
    assert all((ROOT / source).exists() for source in sources)


@pytest.mark.parametrize("file", KUBERNETES, ids=lambda file: file.stem)
def test_the_deployment_files_of_manifests_are_taken(file: Path, tmp_path: Path) -> None:
    maps = [found for found in yaml.safe_load_all(file.read_text()) if found["kind"] == "ConfigMap"]
    for text in maps[0]["data"].values():
        local = tmp_path / "agents.toml"
        local.write_text(text.replace("/models/", f"{tmp_path}/"))
        for entry in [tomllib.loads(text)["prefill"], *tomllib.loads(text)["decode"]]:
            (tmp_path / Path(entry["path"]).name).mkdir()
        assert load_deployment(local).name == "agents"


@pytest.mark.parametrize("file", KUBERNETES, ids=lambda file: file.stem)
def test_manifests_give_commands_what_they_take(file: Path) -> None:
    pods = list(pods_of(file))
    assert pods
    for pod in pods:
        [container] = pod["containers"]
        command, taken = take(container["args"])
        variables = {entry["name"] for entry in container["env"]}
        assert variables - {"POD_IP", "POD_NAME"} <= variables_of(command), variables
        assert set(re.findall(r"\$\((\w+)\)", " ".join(container["args"]))) <= variables
        # Kubernetes kills after its time: what is written at the end wants some of it.
        grace_s = pod["terminationGracePeriodSeconds"]
        assert grace_s > taken["drain_s"] > 30, grace_s
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}
        for kind in ("startupProbe", "readinessProbe"):
            assert container.get(kind, {}).get("httpGet", {}).get("path", "/health") == "/health"
        if ports := container.get("ports"):
            assert [port["containerPort"] for port in ports] == [taken["port"]] == [PORT]


@pytest.mark.parametrize("file", KUBERNETES, ids=lambda file: file.stem)
def test_parts_of_manifests_find_each_other(file: Path) -> None:
    read = list(yaml.safe_load_all(file.read_text()))
    names = {kind: {found["metadata"]["name"] for found in read if found["kind"] == kind} for kind in KINDS}
    labels = [found["spec"]["template"]["metadata"]["labels"] for found in read if found["kind"] == "Deployment"]
    for service in (found for found in read if found["kind"] == "Service"):
        wanted = service["spec"]["selector"].items()
        assert sum(wanted <= one.items() for one in labels) == 1
        assert [port["port"] for port in service["spec"]["ports"]] == [PORT]
    for pod in pods_of(file):
        maps = {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume}
        assert maps <= names["ConfigMap"]
        _, taken = take(pod["containers"][0]["args"])
        assert {urlsplit(url).hostname for url in taken.get("join", ())} <= names["Service"]
        assert {urlsplit(url).port for url in taken.get("join", ())} <= {PORT}


def test_the_image_is_what_compose_and_manifests_take_it_for() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    _, taken = take(json.loads(found(r"^CMD (\[.*\])$", text)))
    assert (taken["host"], taken["port"], PORT) == ("0.0.0.0", int(found(r"^EXPOSE (\d+)$", text)), taken["port"])
    assert f"http://127.0.0.1:{PORT}/health" in text
    assert "STOPSIGNAL SIGTERM" in text
    user, home = found(r"--uid (\d+) ", text), found(r"install -d -o prefillshare .* (\S+)$", text)
    for pod in (pod for file in KUBERNETES for pod in pods_of(file)):
        [container] = pod["containers"]
        assert container["securityContext"]["runAsUser"] == int(user)
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.get("cache", home) == home
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["prefillshare"]
    assert f"cache:{home}" in compose["volumes"]


def test_services_of_compose_find_each_other() -> None:
    read = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    served = read["services"]["prefillshare"]
    command, taken = take(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", served["command"]).split())
    assert set(served["environment"]) - {"HF_TOKEN"} <= variables_of(command)
    assert served["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]
    assert int(served["stop_grace_period"].removesuffix("s")) > taken["drain_s"] > 30
    used = {volume.split(":")[0] for service in read["services"].values() for volume in service["volumes"]}
    assert {name for name in used if re.fullmatch(r"\w+", name)} == set(read["volumes"])
    [source] = yaml.safe_load((DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    assert urlsplit(source["url"]).hostname in read["services"]
    [scraped] = yaml.safe_load((DEPLOY / "prometheus" / "compose.yml").read_text())["scrape_configs"][0][
        "static_configs"
    ]
    assert scraped["targets"] == [f"prefillshare:{PORT}"]
    gpu = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text())
    assert set(gpu["services"]) <= set(read["services"])
    [provider] = yaml.safe_load((DEPLOY / "grafana" / "provisioning" / "dashboards" / "prefillshare.yaml").read_text())[
        "providers"
    ]
    home = read["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert str(Path(home).parent) == provider["options"]["path"]
    assert any(volume.split(":")[1] == home for volume in read["services"]["grafana"]["volumes"])


def take(words: list[str]) -> tuple[Any, dict[str, Any]]:
    """The command that the words begin with, and what it makes of the others.

    Raises: what the command says of an option that it does not have.
    """
    command = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    return command, command.make_context(words[0], words[1:]).params


def variables_of(command: Any) -> set[str]:
    """The environment that a command looks at."""
    return {parameter.envvar for parameter in command.params if isinstance(parameter.envvar, str)}


def found(pattern: str, text: str) -> str:
    """What the group of a pattern fits in a text."""
    match = re.search(pattern, text, re.MULTILINE)
    assert match, pattern
    return match[1]


def pods_of(file: Path) -> Iterator[dict[str, Any]]:
    for read in yaml.safe_load_all(file.read_text()):
        if read["kind"] == "Deployment":
            yield read["spec"]["template"]["spec"]
