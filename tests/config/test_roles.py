"""The `[roles]` table, and what it says of mistakes."""

from pathlib import Path

import pytest

from prefillshare.config import Limits, Roles, load_deployment
from prefillshare.errors import ConfigError

FILE = """
name = "moving"
topology = "{topology}"
[prefill]
name = "base"
path = "."
{workers}
[[decode]]
name = "math"
kind = "lora"
path = "."
{replicas}
[roles]
{lines}
"""


def load(folder: Path, lines: str, *, topology: str = "disaggregated", workers: str = "", replicas: str = "") -> Roles:
    file = folder / "moving.toml"
    file.write_text(FILE.format(lines=lines, topology=topology, workers=workers, replicas=replicas))
    return load_deployment(file).roles


def test_all_keys(tmp_path: Path) -> None:
    roles = load(
        tmp_path,
        "follow_load = true\ndry_run = true\ninterval_s = 2\nwindow_s = 20\nprefill_wait_ms = 250\n"
        "decode_wait_ms = 300\nbusy_calls = 4\ncool_down_s = 60\nprefill = { max = 3 }\n"
        "modules = { math = { min = 2, max = 4 } }\n",
        replicas="replicas = 2",
    )
    assert (roles.follow_load, roles.dry_run, roles.interval_s, roles.window_s) == (True, True, 2.0, 20.0)
    assert roles.limits_of(None) == Limits(min=1, max=3)
    assert roles.limits_of("math") == Limits(min=2, max=4)
    assert roles.limits_of("tool") == Limits()


def test_nothing_moves_by_default(tmp_path: Path) -> None:
    assert not load(tmp_path, "").follow_load


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("dry_run = true", "write follow_load = true"),
        ("window_s = 1", "less than two looks of interval_s 1: raise window_s"),
        ("interval_s = 0", "more than 0"),
        ("cool_down_s = -1", "at least 0"),
        ("busy_calls = -1", "at least 1"),
        ("prefill = { min = 0 }", "or calls would have no worker"),
        ("prefill = { min = 3, max = 2 }", r"\[roles.prefill\]: max is 2, less than min 3: raise max, or lower min"),
        ("modules = { math = { mx = 2 } }", r"\[roles.modules.math\] has the unknown key 'mx': did you mean 'max'"),
        ("modules = { maths = {} }", "'maths': name one of math"),
        ("modules = { math = 3 }", r"make it a table, \[roles.modules.math\]"),
        ("modules = 3", r"modules = \{ name = \{ ... \} \}"),
        (
            "follow_load = true\nprefill = { min = 2 }",
            "workers under .prefill. is 1, and prefill under .roles. allows 2",
        ),
        ("follow_load = true\nmodules = { math = { min = 2 } }", "replicas of module 'math' is 1"),
        ("folow_load = true", "did you mean 'follow_load'"),
    ],
)
def test_mistakes(tmp_path: Path, lines: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(tmp_path, lines)


def test_one_engine_has_no_use_for_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is a \[roles\] table"):
        load(tmp_path, "", topology="colocated")
