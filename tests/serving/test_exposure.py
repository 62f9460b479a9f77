"""`prefillshare doctor` says who could reach a deployment, and who can read its secrets."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from prefillshare.config import load_deployment
from prefillshare.serving.checkup import _secret_files
from prefillshare.serving.machine import exposure
from prefillshare.serving.machine.exposure import check_encryption, check_logs, check_network, check_ray, check_secrets
from prefillshare.serving.machine.ray_probe import RayDoor
from tests.support.engines import MODELS_DIR

PRIVATE, PUBLIC = "10.1.2.3", "8.8.8.8"


def test_on_one_machine_all_is_well():
    finding = check_network("127.0.0.1", has_workers=True, environment={})
    assert finding.state == "ok"
    assert "all else at 127.0.0.1" in finding.value


@pytest.mark.parametrize(
    ("host", "has_workers", "state", "said"),
    [
        (PRIVATE, False, "ok", ""),
        (PRIVATE, True, "warning", "WireGuard"),
        (PUBLIC, False, "warning", "8.8.8.8 may be reached from the internet"),
        (PUBLIC, True, "warning", "8.8.8.8 may be reached from the internet"),
        ("0.0.0.0", True, "warning", "8.8.8.8 may be reached from the internet"),
    ],
)
def test_an_address_that_others_reach_is_told(monkeypatch, host, has_workers, state, said):
    monkeypatch.setattr(exposure, "_own_addresses", lambda: ["127.0.0.1", PRIVATE, PUBLIC, "::1"])
    finding = check_network(host, has_workers=has_workers, environment={})
    assert finding.state == state
    assert said in (finding.fix or "")


def test_the_machines_own_addresses_are_addresses():
    found = exposure._own_addresses()
    assert "127.0.0.1" in found
    assert all(ip_address(address) for address in found)  # and none of hardware


def test_variables_that_open_ports_are_told():
    environment = {"SGLANG_HOST_IP": PRIVATE, "UCX_NET_DEVICES": "lo"}
    finding = check_network("127.0.0.1", has_workers=True, environment=environment)
    assert finding.state == "warning"
    assert finding.value == f"SGLANG_HOST_IP={PRIVATE}"


def test_encryption_of_what_workers_say(monkeypatch):
    assert check_encryption().state == "ok"
    monkeypatch.setattr(exposure, "can_encrypt", lambda: False)
    assert check_encryption().state == "problem"


def test_secrets_that_others_can_read_are_a_problem(tmp_path: Path):
    file = tmp_path / "key"
    file.write_text("key")
    file.chmod(0o600)
    assert check_secrets([("secret_file", file)]).state == "ok"
    file.chmod(0o644)
    finding = check_secrets([("secret_file", file)])
    assert finding.state == "problem"
    assert "mode 644" in finding.value
    assert f"chmod 600 {file}" in (finding.fix or "")
    missing = check_secrets([("secret_file", tmp_path / "no file")])
    assert (missing.state, "chmod" in (missing.fix or "")) == ("problem", False)
    assert f"openssl rand -hex 24 > '{tmp_path}/no file'" in (missing.fix or "")
    assert check_secrets([]).state == "ok"


def test_without_a_ray_cluster_the_environment_is_looked_at():
    assert check_ray(None, {"RAY_AUTH_MODE": "token"}).state == "ok"
    for environment in ({}, {"RAY_AUTH_MODE": "disabled"}):
        assert "RAY_AUTH_MODE=token" in (check_ray(None, environment).fix or "")


@pytest.mark.parametrize(
    ("stranger", "own", "environment", "state", "said"),
    [
        ("taken", "taken", {"RAY_AUTH_MODE": "token"}, "warning", "takes callers who have no token"),
        ("refused", "taken", {"RAY_AUTH_MODE": "token"}, "ok", "takes this one"),
        ("refused", "refused", {"RAY_AUTH_MODE": "token"}, "problem", "wants another one than this"),
        ("refused", "refused", {}, "problem", "wants a token"),
        (None, None, {"RAY_AUTH_MODE": "token"}, "ok", "head:6379 does not answer now"),
        (None, None, {}, "warning", "head:6379 does not answer now"),
    ],
)
def test_a_ray_cluster_that_answers_is_asked_whom_it_takes(stranger, own, environment, state, said):
    finding = check_ray("head:6379", environment, lambda *_: RayDoor(stranger=stranger, own=own))
    assert (finding.state, said in finding.value) == (state, True), finding


def test_files_that_the_deployment_names_are_looked_at(tmp_path: Path, monkeypatch):
    file = tmp_path / "deployment.toml"
    text = (MODELS_DIR / "tiny-agents-pd.toml").read_text().replace('path = "tiny/', f'path = "{MODELS_DIR}/tiny/')
    file.write_text(f'{text}\n[cluster]\nnetwork = "10.0.0.0/24"\ntoken_file = "token"\napi_key_file = "api"\n')
    monkeypatch.setenv("PREFILLSHARE_ADMIN_KEY_FILE", "admin")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "ray")
    assert dict(_secret_files(load_deployment(file))) == {
        "RAY_AUTH_TOKEN_PATH": Path("ray"),
        "PREFILLSHARE_ADMIN_KEY_FILE": Path("admin"),
        "token_file": tmp_path / "token",
        "api_key_file": tmp_path / "api",
    }
    assert [name for name, _ in _secret_files(None)] == ["PREFILLSHARE_ADMIN_KEY_FILE"]


def test_a_folder_of_logs_that_others_can_write_is_told(tmp_path: Path):
    tmp_path.chmod(0o755)
    assert check_logs(tmp_path / "prefillshare").state == "ok"
    tmp_path.chmod(0o777)
    assert check_logs(tmp_path / "prefillshare").state == "warning"
