"""Files that have no end, that nobody writes, or that are no text: each reader of TOML says so at once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from prefillshare.config import load_deployment
from prefillshare.config.added import read_source
from prefillshare.config.load import load_grow_task, load_quantisation, load_router_training, load_training
from prefillshare.errors import ConfigError
from prefillshare.simulation.model import read_model

ENDLESS = Path("/dev/zero")


def read_added(file: Path) -> object:
    return read_source(file, None)


READERS = (
    load_deployment,
    load_training,
    load_grow_task,
    load_quantisation,
    load_router_training,
    read_added,
    read_model,
)


@pytest.mark.parametrize("read", READERS)
def test_a_file_without_end_is_refused(read: Callable[[Path], object], tmp_path: Path) -> None:
    linked = tmp_path / "endless.toml"
    linked.symlink_to(ENDLESS)
    with pytest.raises(ConfigError, match=r"more than 1 MiB|neither a directory nor a TOML file"):
        read(linked)


@pytest.mark.parametrize("read", READERS)
def test_a_long_file_is_refused_and_a_binary_one(read: Callable[[Path], object], tmp_path: Path) -> None:
    file = tmp_path / "file.toml"
    file.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ConfigError, match="more than 1 MiB"):
        read(file)
    file.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="not a text file"):
        read(file)


@pytest.mark.parametrize("read", [load_deployment, load_training])
def test_pipes_beside_a_file_with_another_name_are_let_alone(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "nobody-writes.toml")
    (tmp_path / "endless.toml").symlink_to(ENDLESS)
    with pytest.raises(ConfigError, match="there is no"):
        read(tmp_path / "nobody-write.toml")
