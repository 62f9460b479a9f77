"""Load figures of killed engines go with the next launch; those of engines that run, of others, and new ones stay."""

import mmap
import os
import time
from pathlib import Path

from prefillshare.serving.machine.leftovers import sweep_leftovers


def _make(path: Path, *, is_old: bool = True) -> Path:
    path.write_bytes(bytes(16396))
    if is_old:
        os.utime(path, (time.time() - 3600,) * 2)
    return path


def test_only_what_nobody_has_mapped_is_removed(tmp_path: Path) -> None:
    left, used = _make(tmp_path / "sglang_loads_a_1.shm"), _make(tmp_path / "sglang_loads_b_2.shm")
    young = _make(tmp_path / "sglang_loads_c_3.shm", is_old=False)
    foreign = _make(tmp_path / "sglang_loads.txt")
    with used.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        os.utime(used, (time.time() - 3600,) * 2)
        assert sweep_leftovers(tmp_path) == [left]
    assert sorted(tmp_path.iterdir()) == sorted([used, young, foreign])
    assert sweep_leftovers(tmp_path) == [used]
    assert sweep_leftovers(tmp_path / "nowhere") == []
