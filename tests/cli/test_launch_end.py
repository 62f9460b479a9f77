"""What `launch`, `router` and `worker` are told of their end, and what `launch` says where it cannot be found."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from prefillshare.cli.app import app
from prefillshare.cli.launch_run import _record_start
from prefillshare.config import load_deployment
from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import resolve
from prefillshare.serving import stopping
from prefillshare.serving.join import router as joined_router
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from tests.support.engines import MODELS_DIR

TINY, TINY_PD = MODELS_DIR / "tiny-agents.toml", MODELS_DIR / "tiny-agents-pd.toml"


@pytest.mark.parametrize(("options", "seconds"), [((), 30), (("--drain", "50"), 50), (("--drain", "0"), 0)])
def test_a_router_gives_calls_the_time_that_it_was_told(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], seconds: float
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(joined_router, "launch_router", lambda *_: None)
    monkeypatch.setattr(stopping, "serve_until_stopped", lambda *given: told.append(given[1]))
    command = ["router", str(TINY_PD), "--admin-key", "key", "--port", str(free_port()), *options]
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, told) == (0, [seconds]), done.output


def test_on_a_cluster_it_is_said_at_the_stop() -> None:
    done = CliRunner().invoke(app, ["launch", str(TINY), "--cluster", "127.0.0.1:1", "--drain", "50"])
    assert isinstance(done.exception, ConfigError)
    assert "give it to `prefillshare stop --cluster`" in str(done.exception)


def test_a_launch_that_cannot_be_found_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It serves all the same, with --log-file."""
    (tmp_path / "file").touch()
    deployment, options = resolve(load_deployment(TINY)), LaunchOptions(port=free_port())
    for state, is_said in ((tmp_path / "file", True), (tmp_path, False)):
        monkeypatch.setenv("XDG_STATE_HOME", str(state))
        _record_start(deployment, options, None)
        assert ("so `ps`, `stop` and `ask` do not find this deployment" in capsys.readouterr().err) == is_said
