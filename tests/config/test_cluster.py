"""The `[cluster]` table, and what it says of mistakes."""

from pathlib import Path

import pytest

from prefillshare.config import load_deployment
from prefillshare.errors import ConfigError

FILE = """
name = "spread"
topology = "{topology}"
[prefill]
name = "base"
path = "."
[[decode]]
name = "math"
kind = "lora"
path = "."
[cluster]
{lines}
"""


def load(folder: Path, lines: str, topology: str = "disaggregated"):
    file = folder / "spread.toml"
    file.write_text(FILE.format(lines=lines, topology=topology))
    return load_deployment(file).cluster


def test_all_keys(tmp_path: Path) -> None:
    cluster = load(
        tmp_path,
        'address = "10.0.0.1:6379"\nnetwork = "10.0.0.0/24"\nports = "20000-20999"\ntoken_file = "token"\n'
        'router = { replicas = 2, labels = { ps = "router" } }\ndecode = { gpus = 2, spread = false }\n',
    )
    assert cluster.token_file == tmp_path / "token"
    assert (cluster.own_ports, cluster.transport_ports) == (range(20000, 20500), range(20500, 21000))
    assert (cluster.router.replicas, cluster.router.labels) == (2, {"ps": "router"})
    assert (cluster.decode.gpus, cluster.decode.spread, cluster.prefill.gpus) == (2, False, 0)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('address = "10.0.0.1"', "write HOST:PORT"),
        ('network = "10.0.0.5/24"', "host bits set"),
        ('network = "here"', r"10\.77\.0\.0/24"),
        ('ports = "20000"', "20000-20999"),
        ('ports = "20000-20010"', "at least 40"),
        ("decode = { gpus = -1 }", r"\[cluster.decode\]: gpus is -1: it must be at least 0"),
        ("router = { gpus = 1 }", "routers use none"),
        ("router = { replicas = 0 }", "at least 1"),
        ("decode = { labels = { ps = 3 } }", r"labels = \{ name = \"text\" \}"),
        ('decode = { label = { ps = "a" } }', r"\[cluster.decode\] has the unknown key 'label': did you mean 'labels'"),
    ],
)
def test_mistakes(tmp_path: Path, lines: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(tmp_path, lines)


def test_one_engine_has_no_use_for_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[cluster\] table"):
        load(tmp_path, 'address = "10.0.0.1:6379"', "colocated")


def test_the_address_of_the_file_wins_over_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFILLSHARE_CLUSTER", raising=False)
    assert load(tmp_path, "").known_address is None
    monkeypatch.setenv("PREFILLSHARE_CLUSTER", "other:6379")
    assert load(tmp_path, "").known_address == "other:6379"
    assert load(tmp_path, 'address = "own:6379"').known_address == "own:6379"
    monkeypatch.setenv("PREFILLSHARE_CLUSTER", "nonsense")
    assert load(tmp_path, 'address = "own:6379"').known_address == "own:6379"
    with pytest.raises(ConfigError, match="PREFILLSHARE_CLUSTER is 'nonsense'"):
        load(tmp_path, "").known_address  # noqa: B018
