"""Both rows of a request through the attention kernels of the backend ``triton``, in Triton's interpreter.

Slow, but the same arithmetic as on a GPU; ``flashinfer`` has no kernels that run without one.
"""

import subprocess
import sys
from pathlib import Path

import pytest

TOLERANCE = 1e-5  # attention over 37 keys in float32


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["decode", "extend"])
@pytest.mark.parametrize("heads", [("4", "2"), ("2", "2")])
def test_second_rows_read_what_the_own_rows_wrote(kind, heads):
    probe = Path(__file__).with_name("paired_attention_probe.py")
    command = [sys.executable, "-W", "ignore", probe, kind, *heads]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    difference = float(done.stdout.split()[-1])
    print(f"{kind}: largest difference {difference:.1e}")
    assert difference <= TOLERANCE
