"""A pass of which only KV is wanted computes KV and nothing else, and it is the same KV."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from sglang.srt.model_executor.forward_batch_info import ForwardMode

from sglang_patches.prefill.kv_only import is_kv_only
from tests.support.pd import TINY

PROMPT_TOKENS = 10


def request(*, wanted, num_generated=0):
    params = SimpleNamespace(max_new_tokens=wanted)
    return SimpleNamespace(sampling_params=params, origin_input_ids=[1] * PROMPT_TOKENS, output_ids=[2] * num_generated)


def batch(*requests, ends, **fields):
    plain = {"return_logprob": False, "return_hidden_states": False, "has_grammar": False}
    lens = {"prefix_lens": [4] * len(ends), "extend_lens": [end - 4 for end in ends]}
    return SimpleNamespace(**{"forward_mode": ForwardMode.EXTEND, "reqs": requests, **plain, **lens, **fields})


NONE, SOME, RETRACTED = request(wanted=0), request(wanted=3), request(wanted=3, num_generated=2)


@pytest.mark.parametrize(
    ("requests", "ends"),
    [((NONE,), (10,)), ((NONE,), (7,)), ((SOME,), (7,)), ((NONE, SOME), (10, 9)), ((RETRACTED,), (10,))],
    ids=["no-token", "no-token-chunk", "chunk", "both", "retracted-chunk"],
)
def test_nothing_but_kv_is_wanted(requests, ends):
    assert is_kv_only(batch(*requests, ends=ends))


@pytest.mark.parametrize(
    ("requests", "ends"),
    [((SOME,), (10,)), ((NONE, SOME), (10, 10)), ((SOME, SOME), (7, 10)), ((RETRACTED,), (12,))],
    ids=["last-chunk", "beside-one", "two", "retracted"],
)
def test_a_token_is_wanted(requests, ends):
    assert not is_kv_only(batch(*requests, ends=ends))


@pytest.mark.parametrize(
    "fields",
    [
        {"return_logprob": True},
        {"return_hidden_states": True},
        {"has_grammar": True},
        {"forward_mode": ForwardMode.MIXED},
        {"forward_mode": ForwardMode.DECODE},
        {"forward_mode": ForwardMode.TARGET_VERIFY},
        {"forward_mode": ForwardMode.IDLE},
    ],
    ids=lambda fields: "-".join(map(str, fields.values())),
)
def test_more_than_kv_is_wanted(fields):
    assert not is_kv_only(batch(NONE, ends=(10,), **fields))


@pytest.mark.slow
def test_the_kv_is_the_same_and_the_rest_is_left_out():
    probe = Path(__file__).with_name("kv_only_probe.py")
    command = [sys.executable, "-W", "ignore", probe, str(TINY / "base")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    nothing, everything = {"mlp": 0, "logits": 0}, {"mlp": 60, "logits": 60}
    for name, num_passes in (("whole", 1), ("chunks", 2)):
        assert found[name]["is_same"]
        assert found[name]["only"] == {"rows": nothing, "has_logits": [False] * num_passes}
        assert found[name]["scored"] == {"rows": everything, "has_logits": [True] * num_passes}
    assert found["whole"]["asked"] == {"rows": everything, "has_logits": [True]}
    # Nothing is sampled from the first of the two.
    assert found["chunks"]["asked"] == {"rows": {"mlp": 35, "logits": 35}, "has_logits": [False, True]}
