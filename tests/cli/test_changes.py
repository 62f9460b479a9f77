"""`add`, `remove`, `reload` and `alias` before a deployment of a few lines: what they ask, what they say."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from prefillshare.cli.app import app
from prefillshare.config.added import read_source
from prefillshare.errors import ConfigError, ServerError
from prefillshare.serving.run.record import record_of, remove_record, write_admin_key, write_record

DONE = {"name": "late", "seconds": 1.25, "warnings": ["look out"], "aliases": {"m": {"a": 0.9, "b": 0.1}}}


class Deployment:
    """What a deployment was asked for, and what it answers."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[tuple[str, str, Any, str | None]] = []
        self.answer: tuple[int, dict[str, Any]] = (200, DONE)


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """One that runs here, as this user's launcher has noted it, with an admin key."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            key = self.headers.get("Authorization")
            running.asked.append((self.command, self.path, json.loads(body) if body else None, key))
            status, told = running.answer
            data = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    running = Deployment(f"http://127.0.0.1:{server.server_port}")
    write_record(record_of("here", "colocated", running.url, ["a"], []))
    write_admin_key(os.getpid(), "the-key")
    yield running
    remove_record(os.getpid())
    server.shutdown()
    server.server_close()


def run(*words: str) -> tuple[str, str]:
    """What a command prints, and says."""
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def test_a_directory_is_added_by_its_name_with_the_key_of_the_launch(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "late").mkdir()
    printed, said = run("add", str(tmp_path / "late"))
    assert printed == "late serves after 1.2 s\n"
    assert "look out" in said
    assert deployment.asked == [("PUT", "/modules/late", {"path": str(tmp_path / "late")}, "Bearer the-key")]


def test_a_file_adds_its_modules(deployment: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "more.toml"
    file.write_text('[[decode]]\nname = "x"\npath = "a"\nkind = "lora"\n[[decode]]\nname = "y"\nhub = "me/y"\n')
    run("add", str(file), "--admin-key", "other")
    assert [(path, body) for _, path, body, _ in deployment.asked] == [
        ("/modules/x", {"path": str(tmp_path / "a"), "kind": "lora"}),
        ("/modules/y", {"hub": "me/y"}),
    ]
    assert {key for *_, key in deployment.asked} == {"Bearer other"}


def test_an_ordinary_adapter_is_added_with_prompts_of_its_own(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "late").mkdir()
    run("add", str(tmp_path / "late"), "--no-share")
    assert [body for _, _, body, _ in deployment.asked] == [{"path": str(tmp_path / "late"), "share": False}]


def test_modules_and_aliases_are_reloaded_removed_and_meant(deployment: Deployment) -> None:
    assert run("reload", "late")[0] == "late serves its new version after 1.2 s\n"
    assert json.loads(run("remove", "late", "--json")[0])["name"] == "late"
    run("remove", "m")
    assert run("alias", "m", "a=0.9", "b=0.1")[0] == 'm = {"a": 0.9, "b": 0.1}\n'
    run("alias", "m", "a")
    assert [(method, path, body) for method, path, body, _ in deployment.asked if method != "GET"] == [
        ("POST", "/modules/late/reload", None),
        ("DELETE", "/modules/late", None),
        ("DELETE", "/aliases/m", None),
        ("PUT", "/aliases/m", {"weights": {"a": 0.9, "b": 0.1}}),
        ("PUT", "/aliases/m", {"module": "a"}),
    ]


def test_a_router_that_has_not_heard_is_named(deployment: Deployment) -> None:
    routers = {"http://10.0.0.1:1": None, "http://10.0.0.2:1": "it does not answer"}
    deployment.answer = (200, {"aliases": {"m": "a"}, "routers": routers})
    for words in (("alias", "m", "a"), ("remove", "m")):
        said = run(*words)[1]
        assert said.splitlines()[-1] == "warning: router http://10.0.0.2:1: it does not answer"
        assert "10.0.0.1" not in said


def test_a_refusal_is_said(deployment: Deployment) -> None:
    deployment.answer = (400, {"error": {"message": "it does not fit"}})
    with pytest.raises(ServerError, match="it does not fit"):
        run("reload", "late")
    deployment.answer = (401, {"error": {"message": "no"}})
    with pytest.raises(ServerError, match="give it with --admin-key"):
        run("reload", "late")
    with pytest.raises(ConfigError, match="'a=much' is no share"):
        run("alias", "m", "a=much")


def test_what_cannot_be_added(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a directory nor a TOML file"):
        read_source(tmp_path / "nothing", None)
    (tmp_path / "a.toml").write_text("name = 'x'")
    with pytest.raises(ConfigError, match="has no"):
        read_source(tmp_path / "a.toml", None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("decode = []", "has no"),
        ("[[decode]]\nname = 'math'\npath = 'old'\n[[decode]]\nname = 'math'\npath = 'new'", "the name 'math'"),
    ],
)
def test_no_table_of_a_file_is_left_out_without_a_word(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "modules.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        read_source(file, None)


def test_the_key_of_a_launch_is_for_its_user_alone(deployment: Deployment, tmp_path: Path) -> None:
    [file] = (tmp_path / "state").rglob("*.key")
    assert file.stat().st_mode & 0o777 == 0o600
    assert "the-key" not in run("ps", "--json")[0]


@pytest.mark.parametrize("name", ["Übung 1", "x" * 200])
def test_a_directory_whose_name_no_module_can_have_is_refused_with_the_option_that_helps(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=r"cannot be a model name.*, with --name") as refused:
        read_source(tmp_path / name, None)
    assert len(str(refused.value)) < 250
    assert read_source(tmp_path / name, "fine") == {"fine": {"path": str(tmp_path / name)}}
    with pytest.raises(ConfigError, match=r"digit$"):
        read_source(tmp_path, name)
    with pytest.raises(ConfigError, match=r"'' cannot be a model name"):
        read_source(tmp_path, "")
