"""Both rows of a request through the attention kernels of the backend ``triton``, in Triton's interpreter.

Slow, but the same arithmetic as on a GPU; ``flashinfer`` has no kernels that run without one.
"""

import subprocess
import sys
from pathlib import Path

import pytest

TOLERANCE = 1e-5  # attention over 37 keys in float32


@pytest.mark.slow
def test_second_rows_read_what_the_own_rows_wrote():
    probe = Path(__file__).with_name("paired_attention_probe.py")
    done = subprocess.run([sys.executable, "-W", "ignore", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    differences = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    assert len(differences) == 4
    assert max(differences) <= TOLERANCE
