"""The command line as a user meets it: exit codes, what goes where, and one line for each mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prefillshare.serving.launch import RunningDeployment
from prefillshare.serving.machine.ports import free_port
from tests.support.random_models import make_family

COMMANDS = (
    (),
    ("launch",),
    ("router",),
    ("worker",),
    ("ask",),
    ("chat",),
    ("top",),
    ("doctor",),
    ("schema",),
    ("train",),
    ("eval",),
    ("models",),
    ("bench",),
    ("simulate",),
    ("store",),
    ("tenants",),
)


def _run(*arguments: str, stdin: str = "", **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFILLSHARE_")}
    return subprocess.run(
        [sys.executable, "-m", "prefillshare", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**environment, **variables},
    )


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family(tmp_path_factory.mktemp("cli"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "root")
def test_help_is_plain_when_piped(command: tuple[str, ...]) -> None:
    done = _run(*command, "--help")
    assert done.returncode == 0
    assert "Usage: " in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("option", "says"),
    [("--json", "leave one of them out"), ("--dry-run", "leave one of them out"), (None, "a terminal")],
)
def test_the_dashboard_of_launch_needs_a_screen_to_itself(family: Path, option: str | None, says: str) -> None:
    done = _run("launch", str(family), "--tui", *((option,) if option else ()))
    assert done.returncode == 2
    assert says in done.stderr


def test_version() -> None:
    done = _run("--version")
    assert done.stdout.startswith("prefillshare ")
    assert done.returncode == 0


def test_a_wrong_option_is_a_usage_error() -> None:
    assert _run("launch", "--prot", "1").returncode == 2
    assert _run("lunch").returncode == 2


def test_dry_run_prints_every_worker_of_a_disaggregated_deployment(family: Path) -> None:
    file = family.with_name("pd.toml")
    file.write_text(family.read_text().replace('topology = "colocated"', 'topology = "disaggregated"'))
    commands = json.loads(_run("launch", str(file), "--dry-run", "--json").stdout)["processes"]
    assert commands[0]["name"] == "prefill-0"
    assert all(command["name"].startswith("decode-") for command in commands[1:])
    ports = [command["argv"][command["argv"].index("--port") + 1] for command in commands]
    assert len(set(ports)) == len(ports)
    assert all("PREFILLSHARE_PREFILL_FINGERPRINT" in command["environment"] for command in commands)


def test_ps_says_that_nothing_runs(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(family.parent / "state"))
    assert "no deployment is running" in _run("ps").stderr
    assert json.loads(_run("ps", "--json").stdout) == []


def test_dry_run_prints_the_engines_command(family: Path) -> None:
    done = _run("launch", str(family), "--dry-run", "--port", "31999", "--api-key", "hidden")
    assert done.returncode == 0, done.stderr
    assert "sglang.launch_server" in done.stdout
    assert "--port 31999" in done.stdout
    assert "SGLANG_PLUGINS=prefillshare,prefillshare_cpu" in done.stdout
    assert "hidden" not in done.stdout
    (content,) = json.loads(_run("launch", str(family), "--dry-run", "--json").stdout)["processes"]
    assert "--radix-cache-backend" in content["argv"]
    assert "port 70000 does not exist" in _run("launch", str(family), "--dry-run", "--port", "70000").stderr


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (("dtype", "dtpye"), 2, "did you mean 'dtype'?"),
        (('path = "math"', 'path = "gone"'), 2, "does not exist"),
        (('path = "math"', 'path = "base"'), 3, "has no adapter_config.json"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_and_a_code(
    family: Path, change: tuple[str, str], code: int, said: str
) -> None:
    file = family.with_name("mistake.toml")
    file.write_text(family.read_text().replace(*change))
    done = _run("launch", str(file), "--dry-run")
    assert done.returncode == code
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "Traceback" in _run("--debug", "launch", str(file), "--dry-run").stderr


def test_a_bad_port_is_said_before_anything_starts(family: Path) -> None:
    done = _run("launch", str(family), "--port", "99999")
    assert done.returncode == 2
    assert "choose one from 1 to 65535" in done.stderr


def test_listening_for_everybody_without_a_key_warns(family: Path) -> None:
    done = _run("launch", str(family), "--host", "0.0.0.0", "--dry-run")
    assert "--api-key" in done.stderr


def test_without_a_server_ask_says_how_to_start_one() -> None:
    done = _run("ask", "math", "hi", PREFILLSHARE_URL=f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 5
    assert "prefillshare launch" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_ask_prints_the_answer_and_says_the_usage(random_server: RunningDeployment) -> None:
    done = _run("ask", "math", "apple train", "--max-tokens", "6", "--url", random_server.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "generated 6" in done.stderr
    content = json.loads(
        _run("ask", "tool", "--json", "--max-tokens", "6", "--url", random_server.url, stdin="apple train").stdout
    )
    assert content["model"] == "tool"
    assert content["usage"]["cached_tokens"] == content["usage"]["prompt_tokens"] - 1


def test_ask_refuses_an_empty_question_and_an_unknown_module(random_server: RunningDeployment) -> None:
    assert _run("ask", "math", "", "--url", random_server.url).returncode == 2
    done = _run("ask", "maths", "hi", "--url", random_server.url)
    assert done.returncode == 5
    assert "math, tool" in done.stderr


def test_chat_switches_modules_within_one_conversation(random_server: RunningDeployment) -> None:
    lines = "apple train price\n/model tool\nnumber total\n/models\n/reset\nshop\n/quit\nnever\n"
    done = _run("chat", "math", "--max-tokens", "6", "--url", random_server.url, stdin=lines)
    assert done.returncode == 0, done.stderr
    usage = [line for line in done.stderr.splitlines() if line.startswith("[")]
    assert [line.split("]")[0] for line in usage] == ["[math", "[tool", "[tool"]
    prompts = [int(line.split("prompt ")[1].split()[0]) for line in usage]
    assert prompts[1] > prompts[0]
    assert prompts[2] < prompts[1]
    assert "* tool" in done.stdout


def test_chat_names_the_nearest_module(random_server: RunningDeployment) -> None:
    done = _run("chat", "--url", random_server.url, stdin="/model mth\n")
    assert done.returncode == 2
    assert "did you mean 'math'?" in done.stderr
    assert _run("chat", "--url", random_server.url, stdin="/nonsense\n").returncode == 2


def test_a_log_file_makes_no_folders(family: Path, tmp_path: Path) -> None:
    for log in (tmp_path / "missing" / "engine.log", tmp_path):
        done = _run("launch", str(family), "--port", str(free_port()), "--log-file", str(log))
        assert done.returncode == 4
        assert f"--log-file {log}" in done.stderr
    assert not list(tmp_path.iterdir())


def test_help_and_readme_say_how_long_a_build_took() -> None:
    folder = Path(__file__).parents[2] / "models"
    steps = json.loads((folder / "tiny" / "build.json").read_text())["steps"]
    assert 50 < sum(step["seconds"] for step in steps.values()) / 60 < 70
    assert "About an hour on 2 cores" in " ".join(_run("models", "build", "tiny", "--help").stdout.split())
    assert "about an hour on 2 cores" in " ".join((folder / "README.md").read_text().split())


def test_doctor_names_every_check_and_fails_on_a_problem(family: Path, random_server: RunningDeployment) -> None:
    done = _run("doctor", str(family), "--port", str(free_port()), "--json")
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert {"Python", "SGLang", "plugins", "patches", "GPU", "memory", "port", "disk", "open files"} <= set(found)
    assert found["SGLang"]["state"] == "ok"
    assert found["patches"]["state"] == "ok", found["patches"]
    assert found["deployment"]["state"] == "ok"
    assert {"home", "sockets", "shared mem"} <= set(found)
    busy = _run("doctor", str(family), "--port", random_server.url.rpartition(":")[2])
    assert busy.returncode == 1
    assert "is in use" in busy.stdout
