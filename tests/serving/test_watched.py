"""The watched folder: what is asked for, when, and once."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prefillshare.serving.run.watched import WatchedFolder

WEIGHTS = "adapter_model.safetensors"


class Door:
    """What is asked of the deployment, and its answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.refusals: dict[str, str] = {}

    def ask(self, method: str, path: str, body: object) -> str | None:
        """One change."""
        self.asked.append((method, path))
        return self.refusals.get(path)

    def take(self) -> list[tuple[str, str]]:
        """What was asked since the last time."""
        asked, self.asked = self.asked, []
        return asked


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def pass_time(tmp_path: Path, door: Door, said: list[str]) -> Callable[[float], None]:
    """Let seconds pass, in which the folder is looked at as a launcher does it."""
    clock = Clock()
    watched = WatchedFolder(folder=tmp_path, ask=door.ask, say=said.append, now=clock)

    def go_on(seconds: float) -> None:
        until = clock.seconds + seconds
        while clock.seconds < until:
            clock.seconds += 0.5
            watched.step()
            deadline = time.monotonic() + 10
            while watched._asked is not None and time.monotonic() < deadline:
                watched.step()

    return go_on


def write(folder: Path, text: str = "weights") -> None:
    """A module, or a new version of it."""
    folder.mkdir(exist_ok=True)
    (folder / WEIGHTS).write_text(text)


def test_a_folder_comes_changes_and_goes(tmp_path: Path, door: Door, pass_time: Callable[[float], None]) -> None:
    write(tmp_path / "math")
    pass_time(5)
    assert door.take() == [("PUT", "/modules/math")]
    write(tmp_path / "math", "other weights")
    pass_time(5)
    assert door.take() == [("POST", "/modules/math/reload")]
    (tmp_path / "math" / WEIGHTS).unlink()
    (tmp_path / "math").rmdir()
    pass_time(5)
    assert door.take() == [("DELETE", "/modules/math")]
    write(tmp_path / "math")
    pass_time(5)
    assert door.take() == [("PUT", "/modules/math")]


def test_a_folder_that_is_being_copied_is_not_taken(
    tmp_path: Path, door: Door, pass_time: Callable[[float], None]
) -> None:
    (tmp_path / "math").mkdir()
    (tmp_path / "math" / "adapter_config.json").write_text("{}")
    pass_time(5)
    for size in range(1, 6):
        write(tmp_path / "math", "x" * size)
        pass_time(1.5)
    write(tmp_path / ".math")
    assert door.take() == []
    pass_time(3)
    assert door.take() == [("PUT", "/modules/math")]


def test_a_bad_one_is_said_once_and_leaves_the_rest_alone(
    tmp_path: Path, door: Door, said: list[str], pass_time: Callable[[float], None]
) -> None:
    door.refusals["/modules/bad"] = "it does not fit"
    write(tmp_path / "bad")
    write(tmp_path / "good")
    pass_time(10)
    assert sorted(door.take()) == [("PUT", "/modules/bad"), ("PUT", "/modules/good")]
    assert said == [f"{tmp_path / 'bad'} is left as it is: it does not fit"]
    del door.refusals["/modules/bad"]
    write(tmp_path / "bad", "mended")
    pass_time(5)
    assert door.take() == [("PUT", "/modules/bad")]
    assert len(said) == 1
