"""What is asked of `PUT /modules/NAME`, before a module is looked at."""

from pathlib import Path

import pytest

from prefillshare.errors import ConfigError
from prefillshare.modules.added import read_added


def test_the_kind_follows_from_the_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert read_added("late", {"path": str(tmp_path)}).kind == "full"
    (tmp_path / "adapter_config.json").touch()
    assert read_added("late", {"path": str(tmp_path), "name": "late"}).kind == "lora"


def test_a_directory_that_holds_no_module_is_refused_as_that(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no decode module \(neither adapter_config.json, .*, nor config.json"):
        read_added("late", {"path": str(tmp_path)})


@pytest.mark.parametrize("other", ["early", "", 7])
def test_two_names_are_one_too_many(tmp_path: Path, other: object) -> None:
    """Else a client that mixes them up would ask for a module which does not exist."""
    (tmp_path / "config.json").touch()
    with pytest.raises(ConfigError, match="and the address 'late': leave it out of the body"):
        read_added("late", {"path": str(tmp_path), "name": other})
