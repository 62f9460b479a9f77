"""The fork server imports SGLang once; its engines are processes of their own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prefillshare.contract import PLUGINS
from prefillshare.errors import LaunchError
from prefillshare.serving.plan.command import ENGINE_PROGRAM, ProcessCommand
from prefillshare.serving.run.forks import UNKNOWN_EXIT_CODE, ForkServer
from prefillshare.serving.run.process import start_engine
from prefillshare.serving.run.readiness import wait_for_fork_server

ENVIRONMENT = {"SGLANG_PLUGINS": PLUGINS, "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}


@contextlib.contextmanager
def _fork_server(tmp_path: Path, **environment: str) -> Iterator[ForkServer]:
    forks = ForkServer({**ENVIRONMENT, **environment}, tmp_path / "forks.log")
    try:
        yield forks
    finally:
        forks.close()


@pytest.mark.engine
def test_an_engine_tells_its_own_log_and_exit_code(tmp_path: Path) -> None:
    """Also after the server's end: then the code is unknown, and the engine is known to have ended."""
    with _fork_server(tmp_path) as forks:
        wait_for_fork_server(forks, 300)
        argv = (*ENGINE_PROGRAM, "--model-path", "nowhere", "--device", "cpu", "--no-such-flag")
        command = ProcessCommand(argv=argv, environment={"MARK": "1"}, api_key="key")
        engine = start_engine(command, tmp_path / "engine.log", forks)
        assert engine.main.wait(timeout=300) == 2
        assert "unrecognized arguments: --no-such-flag" in (tmp_path / "engine.log").read_text()
        assert os.getpgid(forks.pid) != engine.pid
        engine.kill()
        assert not engine.scratch.exists()

        silent = start_engine(command, Path("/dev/full"), forks, is_restart=True)
        assert silent.main.wait(timeout=300) == 2
        assert "No space left on device" in str(silent.lost_log)
        silent.kill()

        second = start_engine(command, tmp_path / "second.log", forks)
        os.kill(forks.pid, signal.SIGKILL)
        assert second.main.wait(timeout=300) in (2, UNKNOWN_EXIT_CODE)
        second.kill()
        with pytest.raises(LaunchError, match="the fork server has ended"):
            start_engine(command, tmp_path / "third.log", forks)


@pytest.mark.engine
def test_patches_that_do_not_fit_are_said_by_the_fork_server(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sglang_patches.fingerprint as f\nf.installed_sglang = lambda: '0.0.1'\n"
    )
    with (
        _fork_server(tmp_path, PYTHONPATH=str(tmp_path)) as forks,
        pytest.raises(LaunchError, match=r"the engine did not start: sglang_patches: .*0\.5\.17"),
    ):
        wait_for_fork_server(forks, 300)


def test_an_engine_is_told_nothing_that_the_server_was_told_for_another(tmp_path: Path) -> None:
    """A fork server has the environment of its first engine, such as a prefill worker's."""
    log, mine, others = tmp_path / "engine.log", "PREFILLSHARE_MINE", "PREFILLSHARE_OTHERS"
    asked: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        process = SimpleNamespace(kill=lambda: None, wait=lambda: None)
        patch.setattr(subprocess, "Popen", lambda *args, **kwargs: process)
        forks = ForkServer({"SGLANG_PLUGINS": PLUGINS, mine: "0", others: "1"}, tmp_path / "forks.log")
        patch.setattr(forks, "_ask", lambda request: asked.append(dict(request)) or {"pid": 1})
        forks.start(["--model-path", "nowhere"], {mine: "1"}, log)
        forks.close()
    program = (
        "import json, os, sys; import sglang_patches.forkserver as f\n"
        "names = ('PREFILLSHARE_MINE', 'PREFILLSHARE_OTHERS', 'SGLANG_PLUGINS')\n"
        "f._run_engine = lambda argv: print([os.environ.get(name) for name in names]) or 0\n"
        "f._become_engine(json.loads(sys.argv[1]))"
    )
    environment = {**os.environ, "SGLANG_PLUGINS": PLUGINS, mine: "0", others: "1"}
    subprocess.run([sys.executable, "-c", program, json.dumps(asked[0])], env=environment, check=True)
    assert log.read_text().splitlines()[-1] == str(["1", None, PLUGINS])


def test_an_engine_computes_with_threads_of_its_own() -> None:
    """OpenMP has read its variable in the server: what a forked engine is told must still hold."""
    program = (
        "import os, torch; from sglang_patches.forkserver import _use_own_threads; before = torch.get_num_threads()\n"
        "if os.fork() == 0:\n"
        "    _use_own_threads({'OMP_NUM_THREADS': '3'})\n"
        "    print(before, torch.get_num_threads(), flush=True)\n"
        "    os._exit(0)\n"
        "os.wait(); _use_own_threads({}); print(torch.get_num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == ["1", "3", "1"]


NAMED = """
import os, socket, sys
from pathlib import Path
from sglang_patches import forkserver

def import_engine():
    os.environ["CHANGED_FIRST"] = "2"
    import setproctitle
    setproctitle.setproctitle("sglang::scheduler")

forkserver.import_engine = import_engine
ours, theirs = socket.socketpair()
ours.shutdown(socket.SHUT_WR)
sys.argv[1:] = [str(theirs.detach())]
forkserver.main()
print(Path("/proc/self/cmdline").read_text().rstrip("\\0"))
"""


def test_processes_get_their_names_whatever_changes_in_the_environment() -> None:
    """`prefillshare simulate --fit` and people who look at a machine know engines by them."""
    environment = {"CHANGED_FIRST": "1", **os.environ}
    done = subprocess.run([sys.executable, "-c", NAMED], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "sglang::scheduler\n"), done.stderr
