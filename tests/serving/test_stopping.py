"""The first signal lets requests finish, the second one does not wait for them, and an engine's own end is an error."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A deployment whose engine is a sleeping program and whose requests never finish.
PROGRAM = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
from prefillshare.serving.plan.command import ProcessCommand
from prefillshare.serving.run.engine import RunningEngine
from prefillshare.serving.run.process import start_engine
from prefillshare.serving.run.store_hold import StoreHold
from prefillshare.serving.run.supervisor import Supervised, Supervisor
from prefillshare.serving.stopping import serve_until_stopped, stop_signals

seconds, requests = float(sys.argv[2]), int(sys.argv[3])
argv = (sys.executable, "-c", f"import time; time.sleep({seconds}); raise SystemExit('sglang_patches: broken')")
command, log = ProcessCommand(argv=argv, environment={}, api_key=None), Path(sys.argv[1]) / "engine.log"
os.environ["XDG_STATE_HOME"] = sys.argv[1]
RunningEngine.num_running = lambda self: requests
config = SimpleNamespace(name="sleeping", topology="colocated", overrides=())
ground = SimpleNamespace(deployment=SimpleNamespace(config=config), model_names=("one",), end=lambda: None)
say = lambda *words: print(*words, flush=True)
member = Supervised(
    name="engine", role="engine", url="http://127.0.0.1:1", start=lambda: start_engine(command, log),
    is_ready=lambda: True, log_path=log, max_restarts=0,
)
supervisor = Supervisor([member], say)
supervisor.begin()
process = member.process
running = RunningEngine(
    ground=ground, member=member, supervisor=supervisor, forks=None, api_key=None, admin_key=None, start_s=0.0,
    log_path=log, store=StoreHold(()), watched=None,
)
with stop_signals():
    serve_until_stopped(running, 200, say, lambda: say("ready", process.pid))
print("ended", process.exit_code(), flush=True)
"""


# Before it, one with its number was asked to stop, and killed before it had heard that.
KILLED_BEFORE = """
import os, sys
from prefillshare.serving.run.record import _wish_of
os.environ["XDG_STATE_HOME"] = sys.argv[1]
wish = _wish_of(os.getpid())
wish.parent.mkdir(parents=True)
wish.write_text("0")
"""


def _start(tmp_path: Path, engine_s: float, num_requests: int, before: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", before + PROGRAM, str(tmp_path), str(engine_s), str(num_requests)]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline().startswith("ready")
    return owner


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_idle_server_ends_at_the_first_signal(tmp_path: Path, number: signal.Signals) -> None:
    owner = _start(tmp_path, 100, 0)
    owner.send_signal(number)
    said, _ = owner.communicate(timeout=100)
    assert said.startswith("ended -")
    assert owner.returncode == 0


def test_a_second_signal_does_not_wait_for_requests(tmp_path: Path) -> None:
    owner = _start(tmp_path, 100, 3)
    assert owner.stdout is not None
    owner.send_signal(signal.SIGINT)
    assert "3 running requests get up to 200 s" in owner.stdout.readline()
    start = time.monotonic()
    owner.send_signal(signal.SIGINT)
    said, _ = owner.communicate(timeout=100)
    assert said.startswith("ended -")
    assert time.monotonic() - start < 100


def test_what_an_earlier_launcher_of_that_number_was_asked_is_forgotten(tmp_path: Path) -> None:
    owner = _start(tmp_path, 100, 3, KILLED_BEFORE)
    assert owner.stdout is not None
    owner.send_signal(signal.SIGTERM)
    assert "3 running requests get up to 200 s" in owner.stdout.readline()
    owner.send_signal(signal.SIGTERM)
    owner.communicate(timeout=100)


def test_how_things_stand_is_written_down_when_there_is_room_again(tmp_path: Path) -> None:
    """Nothing has changed by then: what could not be written is tried again all the same."""
    folder = tmp_path / "prefillshare" / "run"
    folder.parent.mkdir()
    folder.write_text("no folder")
    owner = _start(tmp_path, 100, 0)
    try:
        folder.unlink()
        deadline = time.monotonic() + 60
        while not list(folder.glob("*.json")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        owner.send_signal(signal.SIGTERM)
        owner.communicate(timeout=60)
    assert owner.returncode == 0


def test_an_engine_that_ends_by_itself_is_an_error_with_its_reason(tmp_path: Path) -> None:
    owner = _start(tmp_path, 1, 0)
    said, _ = owner.communicate(timeout=100)
    assert owner.returncode == 1
    assert "the engine ended by itself: sglang_patches: broken" in said
