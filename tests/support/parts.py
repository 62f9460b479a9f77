"""Parts of the suite that two lanes share out: each begins with its own, and then takes what the other has not begun.

A part is what stands together of a file's tests of one lane: those of a fixture for a whole folder that has several
values come value by value. A lane takes a part by making a file of its name, which succeeds once.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pytest

from tests.support.marks import BESIDE, ENGINE

LANES = ("first", "second")


def lane_of(item: pytest.Item) -> str:
    """The lane whose own a test is."""
    is_first = item.get_closest_marker(ENGINE) and not item.get_closest_marker(BESIDE)
    return LANES[0] if is_first else LANES[1]


def in_order_of(lane: str, items: Sequence[pytest.Item]) -> list[list[pytest.Item]]:
    """All parts in the order in which a lane takes them: its own, and the other's from their end."""
    own, others = ([item for item in items if (lane_of(item) == lane) is mine] for mine in (True, False))
    return [*_parts(own), *reversed(_parts(others))]


def _parts(items: Sequence[pytest.Item]) -> list[list[pytest.Item]]:
    return [list(group) for _, group in groupby(items, key=lambda item: (item.path, lane_of(item)))]


class Shared:
    """The parts that this lane takes; a plugin of pytest."""

    def __init__(self, lane: str, folder: Path) -> None:
        self._lane, self._folder = lane, folder

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run each part that the other lane has not taken, as pytest runs all items."""
        if session.config.option.collectonly or session.testsfailed:
            return None
        parts = in_order_of(self._lane, session.items)
        run_each(session, (item for part in parts if self._takes(first=part[0]) for item in part))
        return True

    def _takes(self, first: pytest.Item) -> bool:
        name = hashlib.sha256(first.nodeid.encode()).hexdigest()
        try:
            (self._folder / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def run_each(session: pytest.Session, items: Iterator[pytest.Item]) -> None:
    """Run tests; which one is next is asked for when one begins, since it tells what stays set up."""
    item = next(items, None)
    while item is not None:
        following = next(items, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following


def add_options(parser: pytest.Parser) -> None:
    """Declare what a lane is told."""
    group = parser.getgroup("lanes")
    group.addoption("--lane", choices=LANES, help="share the tests out with another lane")
    group.addoption("--taken", type=Path, help="folder in which both lanes note what they have taken")


def share_out(config: pytest.Config) -> None:
    """Let this session take parts if it is one of two lanes."""
    if config.option.lane:
        config.pluginmanager.register(Shared(config.option.lane, config.option.taken), "parts")
