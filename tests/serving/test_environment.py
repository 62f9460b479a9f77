"""Users whom nobody gave a home, a name, or a short temporary folder, and processes that know of proxies."""

import os
import pwd
import shutil
import tempfile
import urllib.request
from pathlib import Path

import pytest

from prefillshare import direct
from prefillshare.config import load_deployment
from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import resolve
from prefillshare.places import (
    MAX_FOLDER_BYTES,
    cache_directory,
    home_directory,
    missing_variables,
    new_private_folder,
    state_directory,
)
from prefillshare.serving.machine.environment import network_variables, process_variables
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.processes import plan_workers
from prefillshare.serving.run.forks import ForkServer
from tests.support.engines import MODELS_DIR

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
LONGEST_BELOW = "/pymp-01234567/listener-01234567"
SOCKET_BYTES = 107


@pytest.fixture(autouse=True)
def fresh_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user number that no file knows, as some clusters give to containers."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in (*NAMES, "HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.mark.usefixtures("nobody")
def test_without_home_and_name_a_private_folder_and_the_number_stand_in(tmp_path: Path) -> None:
    home = home_directory()
    assert home.parent == tmp_path
    assert home.stat().st_mode & 0o077 == 0
    assert home_directory() == home
    assert state_directory().is_relative_to(home)
    assert cache_directory().is_relative_to(home)
    assert missing_variables() == {"HOME": str(home), "USER": f"uid-{os.getuid()}"}


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize("home", ["/dev/null/home", "", "relative/home"])
def test_a_home_that_cannot_be_used_counts_as_none(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    monkeypatch.setenv("XDG_STATE_HOME", "relative/state")
    assert state_directory().is_relative_to(tmp_path)
    assert missing_variables()["HOME"] == str(home_directory())


@pytest.mark.usefixtures("nobody")
def test_somebody_elses_folder_is_not_taken_for_a_home(tmp_path: Path) -> None:
    home = home_directory()
    home.chmod(0o755)
    with pytest.raises(ConfigError, match="set HOME"):
        home_directory()
    home.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    home.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="set HOME"):
        state_directory()


def test_a_user_with_home_and_name_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "somebody")
    assert missing_variables() == {}


@pytest.mark.engine
@pytest.mark.usefixtures("nobody")
@pytest.mark.engine
def test_engines_and_the_fork_server_are_told_what_is_missing(tmp_path: Path) -> None:
    forks = ForkServer({"MARK": "1"}, tmp_path / "forks.log")
    try:
        # Empty for a moment in which a program takes the place of another one.
        while not (told := Path(f"/proc/{forks.pid}/environ").read_bytes()):
            assert forks.is_alive()
    finally:
        forks.close()
    for variables in (missing_variables(), {"MARK": "1"}):
        assert {f"{name}={value}".encode() for name, value in variables.items()} <= set(told.split(b"\0"))
    assert missing_variables().items() <= process_variables(tmp_path, ()).items()


@pytest.mark.parametrize("named", ["x" * 150, "no-such-folder", "ü" * 60])
def test_sockets_fit_into_their_folder_whatever_tmpdir_is(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if named != "no-such-folder":
        (tmp_path / named).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / named))
    folder = new_private_folder()
    shutil.rmtree(folder)
    assert len(os.fsencode(folder)) + len(LONGEST_BELOW) <= SOCKET_BYTES
    assert folder.parent == Path(process_variables(folder, ())["TMPDIR"]).parent


def test_sockets_of_kv_events_are_short_however_long_a_module_is_named(tmp_path: Path) -> None:
    text = (MODELS_DIR / "tiny-agents-pd.toml").read_text()
    file = tmp_path / "long.toml"
    name = "m" * 64
    file.write_text(
        text.replace('name = "math"', f'name = "{name}"').replace('"tiny/', f'"{MODELS_DIR}/tiny/')
        + "\n[router]\nkv_events = true\n"
    )
    directory = Path("/" + "x" * (MAX_FOLDER_BYTES + len("prefillshare-01234567") - 1))
    workers = plan_workers(resolve(load_deployment(file)), LaunchOptions(), directory=directory)
    addresses = {planned.place.kv_events for planned in workers}
    assert len(addresses) == len(workers)
    assert all(len(address.removeprefix("ipc://")) <= SOCKET_BYTES for address in addresses if address)


def test_downloads_keep_their_proxy_and_processes_reach_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "corp.example, 10.0.0.0/8")
    monkeypatch.setenv("NO_PROXY", "other.example")
    variables = process_variables(tmp_path, ())
    assert "http_proxy" not in variables
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, variables[name])
    assert all(
        urllib.request.proxy_bypass_environment(host)
        for host in ("127.0.0.1", "127.0.0.1:8000", "localhost", "a.corp.example", "other.example")
    )
    assert not urllib.request.proxy_bypass_environment("hub.example")


def test_who_wants_no_proxy_at_all_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    assert process_variables(tmp_path, ())["NO_PROXY"] == "*"


def test_a_server_joins_the_exceptions_only_where_there_is_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    direct.except_from_proxies("http://10.1.2.3:30000")
    assert "no_proxy" not in os.environ
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "here.example")
    monkeypatch.setenv("NO_PROXY", "")
    direct.except_from_proxies("http://[fd00::2]:30000/")
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "here.example,fd00::2"


def test_an_engine_spread_over_machines_is_not_kept_on_this_one(tmp_path: Path) -> None:
    assert network_variables(())["SGLANG_HOST_IP"] == "127.0.0.1"
    assert "SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE" in process_variables(tmp_path, ("--port", "1"))
    for spread in (("--nnodes", "2"), ("--dist-init-addr=10.0.0.1:5000",)):
        assert network_variables(spread) == {}
        assert "SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE" not in process_variables(tmp_path, spread)
    replicas = ("--dp-size", "2")
    assert network_variables(replicas)
    assert "SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE" not in process_variables(tmp_path, replicas)


def test_networks_that_the_user_names_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UCX_NET_DEVICES", "mlx5_0:1")
    assert "UCX_NET_DEVICES" not in network_variables(())
