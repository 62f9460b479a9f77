"""Tests without the mark `engine` stay without one; two lanes run each test once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prefillshare.serving.plan.command import ENGINE_PROGRAM
from tests.support import lanes
from tests.support.parts import LANES


def test_a_test_that_is_not_marked_cannot_start_an_engine() -> None:
    with pytest.raises(pytest.fail.Exception, match="starts an engine and is not marked"):
        subprocess.run(ENGINE_PROGRAM, check=False)


@pytest.mark.parametrize(
    ("engines", "others", "together"), [(0, 0, 0), (0, 1, 1), (1, 0, 1), (0, 5, 0), (5, 0, 0), (5, 1, 1), (5, 5, 5)]
)
def test_both_lanes_must_pass_and_one_may_have_nothing_to_do(engines: int, others: int, together: int) -> None:
    assert lanes.worse(engines, others) == together


CONFTEST = """
import pytest
from tests.support.parts import add_options as pytest_addoption, share_out as pytest_configure

@pytest.fixture(scope="module", autouse=True)
def of_a_file():
    print("begun")
    yield
    print("ended")

@pytest.fixture(scope="package", params=["one", "two"])
def value(request):
    return request.param
"""
TESTS = """
import pytest

@pytest.mark.engine
@pytest.mark.parametrize("number", range(2))
def test_engine(number): pass

def test_other(): assert False

@pytest.mark.engine
def test_each(value): pass
"""
NUM_FILES = 6
NAMES = ("test_engine[0]", "test_engine[1]", "test_other", "test_each[one]", "test_each[two]")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A folder with tests of both lanes in each file."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  engine\n  beside\n")
    for number in range(NUM_FILES):
        (tmp_path / f"test_{number}.py").write_text(TESTS)
    (tmp_path / "taken").mkdir()
    return tmp_path


def start(suite: Path, lane: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "-s", "--taken=taken", f"--lane={lane}"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, cwd=suite, env=environment, stdout=subprocess.PIPE, text=True)


def results(report: str) -> list[tuple[str, str]]:
    """Tests and what came of them, in their order."""
    return re.findall(r"^(test_\d\.py::\S+).*?(PASSED|FAILED)", report, re.MULTILINE | re.DOTALL)


ALL_TESTS = sorted(
    (f"test_{number}.py::{name}", "FAILED" if name == "test_other" else "PASSED")
    for number in range(NUM_FILES)
    for name in NAMES
)


def test_two_lanes_run_each_test_once(suite: Path) -> None:
    processes = [start(suite, lane) for lane in LANES]
    reports = [process.communicate(timeout=300)[0] for process in processes]
    assert sorted(test for report in reports for test in results(report)) == ALL_TESTS
    assert all(report.count("begun") == report.count("ended") for report in reports)


def test_a_lane_that_is_through_takes_what_the_other_has_not_begun_from_its_end(suite: Path) -> None:
    report = start(suite, "second").communicate(timeout=300)[0]
    assert sorted(results(report)) == ALL_TESTS
    tests = [test for test, _ in results(report)]
    own = [f"test_{number}.py::test_other" for number in range(NUM_FILES)]
    assert tests[:NUM_FILES] == own
    engines = [test for test in tests[NUM_FILES:] if "engine[0]" in test]
    assert engines == [f"test_{number}.py::test_engine[0]" for number in reversed(range(NUM_FILES))]
    assert report.count("begun") == report.count("ended")
    assert results(start(suite, "first").communicate(timeout=300)[0]) == []
