"""The settings file and the `[router]` table."""

import json
from pathlib import Path
from typing import Any

import pytest

from prefillshare.config.router import Router
from prefillshare.config.tables import build
from prefillshare.errors import ConfigError
from prefillshare.routing.settings import load_settings

PREFILL = {"id": "p0", "role": "prefill", "url": "http://h:1", "bootstrap_host": "h", "bootstrap_port": 8998}
DECODE = {"id": "d0", "role": "decode", "module": "math", "url": "http://h:2", "bootstrap_port": None}


def _file(tmp_path: Path, content: Any, mode: int = 0o600) -> Path:
    file = tmp_path / "router.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    file.chmod(mode)
    return file


def test_a_file_is_read(tmp_path: Path) -> None:
    content = {
        "base_model": "b",
        "port": 31000,
        "api_key": None,
        "workers": [PREFILL, DECODE],
        "router": {"policy": "session"},
    }
    settings = load_settings(_file(tmp_path, content))
    assert (settings.base_model, settings.port, settings.api_key, settings.router.policy) == (
        "b",
        31000,
        None,
        "session",
    )
    assert [worker.id for worker in settings.workers] == ["p0", "d0"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"portt": 1}, "did you mean 'port'"),
        ({"port": 0}, "port is 0"),
        ({"base_model": None}, "no 'base_model'"),
        ({"workers": {}}, "not a list"),
        ({"workers": [3]}, "must be a JSON object"),
        ({"workers": [PREFILL, PREFILL]}, "two workers"),
        ({"workers": [PREFILL | {"bootstrap_port": None}]}, "lacks bootstrap_host or bootstrap_port"),
        ({"workers": [PREFILL | {"module": "math"}]}, "has a module"),
        ({"workers": [DECODE | {"module": None}]}, "has no module"),
        ({"workers": [DECODE | {"url": "h:2"}]}, "not the address"),
        ({"workers": [DECODE | {"role": "both"}]}, "role"),
        ({"router": {"policy": "prefix"}}, "did you mean 'prefix_aware'"),
        ({"router": {"idle_timeout_s": 0}}, "idle_timeout_s is 0"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_settings(_file(tmp_path, {"base_model": "b", "workers": [PREFILL, DECODE]} | change))


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mode 640.*600"):
        load_settings(_file(tmp_path, {"base_model": "b"}, mode=0o640))


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigError, match="JSON"):
        load_settings(_file(tmp_path, content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json"):
        load_settings(tmp_path / "none.json")


@pytest.mark.parametrize(
    "table",
    [
        {"max_retries": -1},
        {"max_running_per_worker": 0},
        {"first_byte_timeout_s": -1.0},
        {"breaker_open_s": 5.0, "breaker_max_open_s": 1.0},
        {"initial_prefill_tokens_per_s": float("inf")},
    ],
)
def test_values_that_cannot_work_are_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(reversed(table))):
        build(Router, table, "[router]")
