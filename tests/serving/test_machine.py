"""What the machine has is asked of the kernel and the driver."""

import pytest

from prefillshare import accelerators
from prefillshare.serving.machine import host as machine


def test_memory_cores_and_threads_are_plausible() -> None:
    memory = machine.available_memory_bytes()
    assert memory is not None
    assert memory > 1 << 26
    assert machine.num_cores() >= 1
    assert 1 <= machine.default_threads() <= 8


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (4, 1), (8, 4), (64, 8)])
def test_threads_leave_cores_for_the_other_processes(monkeypatch: pytest.MonkeyPatch, cores: int, threads: int) -> None:
    monkeypatch.setattr(machine, "num_cores", lambda: cores)
    assert machine.default_threads() == threads


def test_no_visible_device_means_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    accelerators.gpus.cache_clear()
    monkeypatch.setattr(accelerators.ctypes, "CDLL", missing)
    assert accelerators.gpus() == ()
    accelerators.gpus.cache_clear()
