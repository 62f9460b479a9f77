"""The files under deploy/ against what they speak of: metrics, commands and their options, files, deployment files."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefillshare.config.load import load_deployment
from tests.support.monitoring import METRIC, documented_metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
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
def test_manifests_give_commands_options_that_they_have(file: Path) -> None:
    commands = list(containers(file))
    assert commands
    for container in commands:
        command, *rest = container["args"]
        shown = subprocess.run(
            [sys.executable, "-m", "prefillshare", command, "--help"], capture_output=True, text=True, check=True
        )
        options = [argument for argument in rest if argument.startswith("--")]
        assert options
        assert set(options) <= set(re.findall(r"--[\w-]+", shown.stdout)), options


def containers(file: Path) -> Iterator[dict[str, Any]]:
    for found in yaml.safe_load_all(file.read_text()):
        if found["kind"] == "Deployment":
            yield from found["spec"]["template"]["spec"]["containers"]
