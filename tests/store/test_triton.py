"""The GPU's kernels, run by Triton's interpreter: the same bytes as on a CPU, and back."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np, torch
from prefillshare.errors import StoreError
from prefillshare.store.codec.splitzip import SplitZip, best_low
from prefillshare.store.codec.triton_kernels import decode_tensor, encode_tensor
from tests.store.test_splitzip import SPECIAL, kv_like

chooser, num_escapes = np.random.default_rng(1), []
for num_values in (8, 16, 2048, 4104, 30_000):
    for share in (0.0, 0.001, 0.1, 1.0):
        values = kv_like(int(chooser.integers(1000)), num_values)
        places = chooser.random(num_values) < share
        values[places] = chooser.choice(np.array(SPECIAL, dtype=np.uint16), int(places.sum()))
        page = values.view(np.uint8)
        codec = SplitZip()
        on_cpu = codec.encode(page)
        low = best_low(page.view("<u4")) if on_cpu is None else codec._low
        on_gpu = encode_tensor(torch.from_numpy(page), low, codec.most_bytes(len(page)))
        assert (on_cpu is None) == (on_gpu is None), (num_values, share)
        if on_gpu is None:
            on_gpu = encode_tensor(torch.from_numpy(page), low, 10 * len(page))
        else:
            assert on_gpu.numpy().tobytes() == on_cpu.tobytes(), (num_values, share)
        num_escapes.append(int(on_gpu[4:8].view(torch.int32)))
        into = torch.full((len(page),), 0xEE, dtype=torch.uint8)
        decode_tensor(on_gpu, into)
        assert into.numpy().tobytes() == page.tobytes(), (num_values, share)
        try:
            decode_tensor(on_gpu[:-1], into)
            raise SystemExit("a cut page was decoded")
        except StoreError:
            pass
print(sum(1 for number in num_escapes if number))
"""


@pytest.mark.slow
def test_the_kernels_make_and_read_the_bytes_of_the_cpu() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5, "hardly a page had escapes"
