"""One view of a batch serves every LoRA backend: base tokens get no adapter, the others and second rows get theirs.

The GPU backends' own Triton kernels run too, in Triton's interpreter: slow, but the same arithmetic as on a GPU.
"""

import subprocess
import sys
from pathlib import Path

import pytest

TOLERANCE = 1e-3  # sums of 32 products of order 1 in float32, some by Triton's dot


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch_native", "triton", "csgmv"])
def test_segments_through_the_backends_own_kernels(backend):
    probe = Path(__file__).with_name("lora_backend_probe.py")
    done = subprocess.run([sys.executable, "-W", "ignore", probe, backend], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    difference = float(done.stdout.split()[-1])
    print(f"{backend}: largest difference {difference:.1e}")
    assert difference <= TOLERANCE
