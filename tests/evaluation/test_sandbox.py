"""The limits of the sandbox bite."""

from dataclasses import replace

import pytest

from prefillshare.evaluation.sandbox import Limits, run_function
from prefillshare.evaluation.suites import humaneval, humaneval_plus

SHORT = Limits(cpu_s=1, wall_s=120.0, memory_bytes=128 * 2**20, reply_bytes=4096)


def run(source, cases=(1,), limits=SHORT):
    return run_function(source, "f", list(cases), limits)


def test_returns_values_for_all_cases():
    assert run("def f(x):\n    return [x, x * 2]", [1, 5]).values == ([1, 2], [5, 10])


def test_common_modules_can_be_imported():
    assert run("import math\nimport itertools\ndef f(x):\n    return math.sqrt(x)", [4]).values == (2.0,)


def test_endless_loop_is_stopped():
    error = run("def f(x):\n    while True:\n        pass").error
    assert "limit" in error or "longer" in error


@pytest.mark.parametrize("limits", [Limits(), humaneval.LIMITS, humaneval_plus.LIMITS])
def test_an_answer_may_compute_as_long_on_a_busy_machine(limits):
    """A dozen processes to a core: what is right in its CPU time is not wrong for want of a core."""
    assert limits.wall_s >= 12 * limits.cpu_s


def test_sleeping_is_stopped():
    source = "import threading\ndef f(x):\n    lock = threading.Lock()\n    lock.acquire()\n    lock.acquire()"
    assert run(source, limits=replace(SHORT, wall_s=3.0)).error is not None


def test_memory_is_limited():
    assert "MemoryError" in run("def f(x):\n    return len('a' * 10**9)").error


@pytest.mark.parametrize("path", ["here.txt", "/tmp/prefillshare-must-not-exist"])
def test_no_file_is_written(path, tmp_path):
    outcome = run(f"def f(x):\n    with open({path!r}, 'w') as file:\n        file.write('x' * 9999)\n    return 1")
    assert outcome.error is not None


def test_no_process_is_started():
    assert "BlockingIOError" in run("import os\ndef f(x):\n    return os.fork()").error


def test_no_network():
    outcome = run("import _socket\ndef f(x):\n    _socket.socket().connect(('127.0.0.1', x))\n    return 1", [9])
    assert outcome.error is not None


def test_environment_is_empty(monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_PARENT", "1")
    source = "import os\ndef f(x):\n    return [key for key in os.environ if 'SECRET' in key]"
    assert run(source).values == ([],)


def test_reply_is_limited():
    assert "more than 4096 bytes" in run("def f(x):\n    return list(range(5000))").error


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("def g(x):\n    return 1", "KeyError"),
        ("def f(x:\n", "SyntaxError"),
        ("def f(x):\n    return 1 / 0", "ZeroDivisionError"),
        ("def f(x):\n    raise SystemExit(0)", "SystemExit"),
        ("import os\nos._exit(0)", "limit"),
    ],
)
def test_broken_answers_give_a_reason(source, error):
    assert error in run(source).error


def test_printing_does_not_disturb_the_reply():
    assert run("def f(x):\n    print('{}')\n    return x", [3]).values == (3,)
