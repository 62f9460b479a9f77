"""`--set KEY=VALUE`: what it changes, in which words it refuses, and where each value of a deployment comes from."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prefillshare.config import Deployment, Limits, load_deployment, load_training, origins
from prefillshare.config.origins import find_lines, list_settings
from prefillshare.config.overrides import change_deployment, list_keys
from prefillshare.config.toml import parse_toml
from prefillshare.errors import ConfigError
from prefillshare.serving.machine.ports import free_port

TEXT = """\
name = "mine"   # a comment
topology = "disaggregated"

[prefill]
name = "base"
path = "base"

[[decode]]
name = "math.v1"
kind = "lora"
path = "math"
example = \"\"\"
[engine]
page_size = 4
\"\"\"

[[decode]]
name = "tool"
kind = "lora"
path = "tool"

[engine]
extra_args = [
    # page_size = 3
    "--log-level",
    "warning",
]
page_size = 8

[roles]
modules = { tool = { min = 1, max = 3 } }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for name in ("base", "math", "tool"):
        (tmp_path / name).mkdir()
    file = tmp_path / "mine.toml"
    file.write_text(TEXT)
    return file


@pytest.mark.parametrize(
    ("change", "read", "expected"),
    [
        ("engine.page_size=16", lambda config: config.engine.page_size, 16),
        ("engine.dtype=bfloat16", lambda config: config.engine.dtype, "bfloat16"),
        ('engine.dtype="bfloat16"', lambda config: config.engine.dtype, "bfloat16"),
        ("prefill.eager_answers = false", lambda config: config.prefill.eager_answers, False),
        ("transfer.timeout_s=7", lambda config: config.transfer.timeout_s, 7),
        ('decode."math.v1".replicas=2', lambda config: [module.replicas for module in config.decode], [2, 1]),
        ("decode.tool.replicas=2", lambda config: [module.replicas for module in config.decode], [1, 2]),
        ("decode.2.replicas=2", lambda config: [module.replicas for module in config.decode], [1, 2]),
        ("decode.tool={replicas=3}", lambda config: (config.decode[1].replicas, config.decode[1].kind), (3, "lora")),
        ("roles.modules.tool.max=5", lambda config: config.roles.modules["tool"], Limits(min=1, max=5)),
        ("engine.extra_args=[]", lambda config: config.engine.extra_args, ()),
        ("engine={page_size=2, threads=1}", lambda config: (config.engine.page_size, config.engine.threads), (2, 1)),
        ("name=a=b", lambda config: config.name, "a=b"),
        ("aliases.latest=tool", lambda config: config.aliases["latest"].targets, ("tool",)),
        ('aliases={latest="tool"}', lambda config: config.aliases["latest"].targets, ("tool",)),
        ("aliases.both.math.v1=3", lambda config: dict(config.aliases["both"].weights), {"math.v1": 3.0}),
        (
            'aliases.auto={default="tool",classifier="."}',
            lambda config: (config.aliases["auto"].default, Path(config.aliases["auto"].classifier).is_dir()),
            ("tool", True),
        ),
    ],
)  # fmt: skip
def test_a_key_is_changed(file: Path, change: str, read: object, expected: object) -> None:
    assert callable(read)
    assert read(load_deployment(file, [change])) == expected


def test_the_last_of_two_wins_and_all_are_kept(file: Path) -> None:
    changes = ("engine.page_size=16", "engine.page_size=32")
    config = load_deployment(file, changes)
    assert (config.engine.page_size, config.overrides) == (32, changes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("engine.pagesize=16", "--set engine.pagesize=16: there is no key 'pagesize' here: did you mean 'page_size'?"),
        ("page_size=16", "--set page_size=16: there is no key 'page_size' here: did you mean engine.page_size?"),
        ("replicas=16", "did you mean decode.NAME.replicas?"),
        ("engin.page_size=16", "did you mean 'engine'?"),
        ("source=x", "there is no key 'source' here"),
        ("overrides=x", "there is no key 'overrides' here"),
        ("decode.tol.replicas=2", "--set decode.tol.replicas=2: decode has no 'tol': did you mean 'tool'?"),
        ("decode.3.replicas=2", "decode has no '3': it must be one of math.v1, tool"),
        ("decode.tool=2", "decode.tool is a table: say which key of it"),
        ("decode=2", "decode is 2, not a list"),
        ("engine=3", "engine is a table: say which key of it, such as engine.KEY=3"),
        ("engine.page_size.x=3", "page_size is a value and has no key 'x'"),
        ("engine.page_size=many", "--set engine.page_size=many: page_size is 'many': it must be a whole number"),
        ("engine.page_size=[1", "page_size is '[1': it must be a whole number"),
        ("name=5", "name is 5: it must be text in quotes"),
        ("engine.device=gpu", "device is 'gpu': did you mean 'cpu'?"),
        ("engine.page_size=-1", "mine.toml with --set engine.page_size=-1: [engine]: page_size is -1"),
        ("aliases.latest=nobody", "alias 'latest' means 'nobody', which is no decode module"),
        ("aliases.latest.tool=x", "--set aliases.latest.tool=x: alias 'latest' gives 'tool' the weight 'x'"),
        ("aliases.auto.rules=[]", "--set aliases.auto.rules=[]: alias 'auto' chooses by rules"),
        ("aliases=3", "aliases is a table: say which key of it"),
        ("engine.mem_fraction_static=nan", "mem_fraction_static is nan: write a number with an end"),
        ("engine.page_size=2\nx=3", "it must be a whole number"),
        ("page_size", "--set page_size: write KEY=VALUE"),
        ("=1", "--set =1: write KEY=VALUE"),
        ("a b=1", "--set a b=1: 'a b' is no key"),
    ],
)
def test_what_is_wrong_is_said_with_the_fix(file: Path, change: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_deployment(file, [change])
    assert said in str(caught.value)


def test_the_lines_are_those_of_the_values() -> None:
    lines = find_lines(TEXT)
    wanted = {
        "name": "name = ",
        "prefill.path": "path = ",
        "decode.math.v1.example": "example = ",
        "decode.tool.path": "path = ",
        "engine.extra_args": "extra_args = ",
        "engine.page_size": "page_size = 8",
        "roles.modules.tool.max": "modules = ",
    }
    shown = TEXT.splitlines()
    assert {key: shown[lines[key] - 1].startswith(start) for key, start in wanted.items()} == dict.fromkeys(
        wanted, True
    )


def test_lines_of_nested_tables_lists_and_values_of_several_lines() -> None:
    text = '''
[[decode]] # a comment
kind = "lora"
name = "one"
  [decode.engine]
  page_size = 16
[[decode]]
path = """
[[decode]]
name = "no name"
"""
[[decode.rules]]
match = "x"
[[decode.rules]]
match = [
  "y",

  "z", # [end]
]
[prefill]
inner = { a = 1, "b.c" = [ { name = "n", d = 2 } ] }
e.f = 3
'''
    assert find_lines(text) == {
        "decode.one.kind": 3,
        "decode.one.name": 4,
        "decode.one.engine.page_size": 6,
        "decode.2.path": 8,
        "decode.2.rules.1.match": 13,
        "decode.2.rules.2.match": 15,
        "prefill.inner.a": 21,
        "prefill.inner.b.c.n.name": 21,
        "prefill.inner.b.c.n.d": 21,
        "prefill.e.f": 22,
    }


def test_lines_are_found_by_reading_each_statement_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file of thousands of modules costs is what it has of lines, not their square."""
    lengths: list[int] = []

    def parse(text: str) -> dict[str, Any]:
        lengths.append(len(text))
        return parse_toml(text)

    monkeypatch.setattr(origins, "parse_toml", parse)
    text = "".join(f'[[decode]]\nname = "m{number}"\nkind = "lora"\n' for number in range(300))
    assert find_lines(text)["decode.m299.kind"] == 900
    assert sum(lengths) < 4 * len(text)


def test_each_setting_tells_who_says_so(file: Path) -> None:
    config = load_deployment(file, ["engine.page_size=16", "decode.tool.replicas=2"])
    found = {setting.key: (setting.value, setting.origin) for setting in list_settings(config)}
    assert found["engine.page_size"] == (16, "--set engine.page_size=16")
    assert found["decode.tool.replicas"] == (2, "--set decode.tool.replicas=2")
    assert found["topology"] == ("disaggregated", "mine.toml line 2")
    assert found["roles.modules.tool.max"] == (3, "mine.toml line 31")
    assert "engine.device" not in found
    assert not {"source", "overrides"} & found.keys()


def test_with_defaults_every_value_tells_where_it_comes_from(file: Path) -> None:
    file.write_text(TEXT.replace("page_size = 8", "page_size = 8\nthreads = 1\nmemory_wait_s = 0"))
    config = load_deployment(file, ["engine.threads=2"])
    settings = list_settings(config, with_defaults=True)
    found = {setting.key: (setting.value, setting.origin) for setting in settings}
    assert len(found) == len(settings)
    assert found["engine.threads"] == (2, "--set engine.threads=2")
    assert found["engine.device"] == ("auto", "default")
    assert found["decode.tool.replicas"] == (1, "default")
    stated = {key: value for key, value in found.items() if value[1] != "default"}
    assert stated.keys() >= {setting.key for setting in list_settings(config)}
    assert not [origin for _, origin in stated.values() if origin == "the command line"]


def test_an_alias_is_told_with_the_line_of_the_file(file: Path) -> None:
    file.write_text(
        TEXT + '[aliases]\nlatest = "tool"\nboth = { "math.v1" = 1, tool = 3 }\n'
        '[aliases.auto]\ndefault = "tool"\nrules = [{ module = "latest", text = "x" }]\n'
    )
    found = {setting.key: (setting.value, setting.origin) for setting in list_settings(load_deployment(file))}
    first = TEXT.count("\n") + 1
    assert found["aliases.latest"] == ("tool", f"mine.toml line {first + 1}")
    assert found["aliases.both.tool"] == (3.0, f"mine.toml line {first + 2}")
    assert found["aliases.auto.default"] == ("tool", f"mine.toml line {first + 4}")
    assert found["aliases.auto.rules.1.module"] == ("latest", f"mine.toml line {first + 5}")


def test_a_deployment_without_a_file_is_changed_too(file: Path) -> None:
    config = load_deployment(file)
    changed = change_deployment(config, ["engine.page_size=16", "router.policy=round_robin", "store.memory=1 GiB"])
    assert (changed.engine.page_size, changed.engine.extra_args) == (16, config.engine.extra_args)
    assert changed.router.policy == "round_robin"
    assert changed.store is not None
    assert changed.store.memory == "1 GiB"
    assert config.engine.page_size == 8
    with pytest.raises(ConfigError, match="did you mean 'page_size'"):
        change_deployment(config, ["engine.pagesize=16"])


def test_files_of_runs_take_changes_too(tmp_path: Path) -> None:
    recipe = Path(__file__).parents[2] / "models" / "recipes" / "tiny-calls.toml"
    assert load_training(recipe, ["seed=77"]).seed == 77
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        load_training(recipe, ["sead=77"])


def test_a_dry_run_shows_them(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prefillshare", "launch", "--dry-run", "--set", "engine.page_size=16"]
    done = subprocess.run(
        [*command, "--port", str(free_port())], capture_output=True, text=True, timeout=120, check=False
    )
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("# engine.page_size")]
    assert [row[1:3] for row in rows] == [["engine.page_size", "16"]], done.stderr
    assert "--page-size 16" in done.stdout
    done = subprocess.run(
        [*command, "--port", str(free_port()), "--json"], capture_output=True, text=True, timeout=120, check=False
    )
    told = json.loads(done.stdout)
    settings = {setting["key"]: setting for setting in told["settings"]}
    assert settings["engine.page_size"] == {
        "key": "engine.page_size",
        "value": 16,
        "from": "--set engine.page_size=16",
    }
    assert settings["engine.device"]["from"] == "default"
    assert settings["prefill.name"]["from"].startswith("tiny-agents.toml line ")
    assert [process["name"] for process in told["processes"]] == ["engine"]


def test_every_key_of_the_schema_can_be_named() -> None:
    """What completes `--set` and what it takes are one list."""
    from prefillshare.config.json_schema import deployment_schema

    keys = set(list_keys(Deployment))
    assert {"engine.page_size", "decode.NAME.replicas", "router.policy"} <= keys
    assert {key.split(".")[0] for key in keys} == set(deployment_schema()["properties"])
    assert json.dumps(sorted(keys))


@pytest.mark.parametrize("value", ["1", "x", "[]", "{}", '{a = "b"}', "[{}]", "nan"])
def test_whatever_a_key_is_set_to_is_taken_or_refused(file: Path, value: str) -> None:
    keys = [key.replace("NAME", "tool") for key in list_keys(Deployment)]
    assert len(keys) > 60
    for key in (*keys, *(f"{key}.deeper.still" for key in keys)):
        with contextlib.suppress(ConfigError):
            load_deployment(file, [f"{key}={value}"])
