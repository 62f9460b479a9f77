"""Runs passes of the tiny base with the engine's own model runner; prints what they computed, as JSON.

The same prompt is asked for one token, for none, and for scores, in one piece and in chunks.
"""

import json
import os
import sys

os.environ |= {"SGLANG_PLUGINS": "prefillshare,prefillshare_cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

import torch

from benchmarks.kv_only.passes import make_request, make_runner, plan_pass, run_pass

PROMPT = [10 + (7 * i) % 900 for i in range(60)]
PIECES = {"whole": [60], "chunks": [25, 60]}


class Probe:
    """Counts what the last layer and the LM head get to see."""

    def __init__(self, runner):
        self.runner = runner
        self.num_rows = {}
        model = runner.model
        model.model.layers[-1].mlp.register_forward_pre_hook(lambda _, given: self.count("mlp", given[0]))
        model.logits_processor.register_forward_pre_hook(lambda _, given: self.count("logits", given[1]))

    def count(self, name, states):
        self.num_rows[name] += len(states)

    def prefill(self, ends, num_wanted, **fields):
        """What a prompt's passes computed behind the KV, whether each had logits, and the KV of all layers."""
        self.num_rows = {"mlp": 0, "logits": 0}
        req = make_request(self.runner, PROMPT, num_wanted, **fields)
        passes = [run_pass(self.runner, req, plan_pass(self.runner, req, end)).logits_output for end in ends]
        pool = self.runner.token_to_kv_pool_allocator.get_kvcache()
        kv = torch.stack([buffer[req.prefix_indices] for buffer in (*pool.k_buffer, *pool.v_buffer)])
        return {"rows": self.num_rows, "has_logits": [found.next_token_logits is not None for found in passes]}, kv


def main(model_path):
    probe = Probe(make_runner(model_path))
    found = {}
    for name, ends in PIECES.items():
        asked, kv = probe.prefill(ends, 1)
        only, again = probe.prefill(ends, 0)
        scored, _ = probe.prefill(ends, 0, return_logprob=True)
        assert bool(kv.any())
        found[name] = {"asked": asked, "only": only, "scored": scored, "is_same": torch.equal(kv, again)}
    print(json.dumps(found))


main(*sys.argv[1:])
