"""One view of a batch serves every LoRA backend: base tokens get no adapter, the others and second rows get theirs.

The GPU backends' own Triton kernels run too, in Triton's interpreter: slow, but the same arithmetic as on a GPU.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.marks import takes_long

BACKENDS = ("torch_native", "triton", "csgmv")
TOLERANCE = 1e-3  # sums of 32 products of order 1 in float32, some by Triton's dot


@pytest.fixture(scope="module")
@takes_long
def differences() -> dict[str, float | str]:
    """Of each backend the largest, or what it failed with."""
    probe = Path(__file__).with_name("lora_backend_probe.py")
    command = [sys.executable, "-W", "ignore", probe, *BACKENDS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, float | str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_segments_through_the_backends_own_kernels(backend: str, differences: dict[str, float | str]) -> None:
    difference = differences[backend]
    assert isinstance(difference, float), difference
    print(f"{backend}: largest difference {difference:.1e}")
    assert difference <= TOLERANCE
