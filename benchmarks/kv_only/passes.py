"""Single passes of a model by the engine's own runner, in this process, without a server.

The environment says which plugins SGLang loads (``SGLANG_PLUGINS``).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from sglang.srt.model_executor.model_runner import ModelRunner, ModelRunnerOutput

MAX_TOKENS = 8192


def make_runner(model_path: str) -> ModelRunner:
    """A runner of the model in float32 on the CPU, as a prefill worker has it.

    Effects: SGLang's plugins are loaded, and its globals are set.
    """
    from sglang.srt.plugins import load_plugins

    load_plugins()
    from sglang.benchmark.one_batch import load_model
    from sglang.srt.server_args import PortArgs, ServerArgs, set_global_server_args_for_scheduler

    args = ServerArgs(
        model_path=model_path,
        device="cpu",
        dtype="float32",
        attention_backend="torch_native",
        sampling_backend="pytorch",
        radix_cache_backend="prefillshare",
        max_total_tokens=MAX_TOKENS,
        max_running_requests=4,
        disable_overlap_schedule=True,
        random_seed=0,
    )
    set_global_server_args_for_scheduler(args)
    runner: ModelRunner = load_model(args, PortArgs.init_new(args), 0, 0)[0].torch_runner
    return runner


def make_request(runner: ModelRunner, prompt: Sequence[int], num_wanted: int, **fields: object) -> Req:
    """A request for so many tokens, the only one of the runner: all of its memory is free again."""
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    runner.req_to_token_pool.clear()
    runner.token_to_kv_pool_allocator.clear()
    params = SamplingParams(max_new_tokens=num_wanted, temperature=0)
    params.normalize(None)
    req = Req("1", "", array("q", prompt), params, **fields)
    req.full_untruncated_fill_ids, req.logprob_start_len = req.origin_input_ids, len(prompt)
    return req


def plan_pass(runner: ModelRunner, req: Req, end: int) -> ForwardBatch:
    """The pass that computes the prompt from where it is computed up to ``end``."""
    from sglang.benchmark.one_batch import TreeCacheNamespace
    from sglang.srt.managers.schedule_batch import ScheduleBatch
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    req.set_extend_range(len(req.prefix_indices), end)
    pools = (runner.req_to_token_pool, runner.token_to_kv_pool_allocator)
    tree = TreeCacheNamespace(page_size=1, device="cpu", token_to_kv_pool_allocator=pools[1])
    batch = ScheduleBatch.init_new([req], *pools, tree, runner.model_config, False, SpeculativeAlgorithm.NONE)
    batch.prepare_for_extend()
    if batch.input_ids is None:
        batch.input_ids = batch.prefill_input_ids_cpu
    return ForwardBatch.init_new(batch, runner, return_hidden_states_before_norm=False)


@torch.no_grad
def run_pass(runner: ModelRunner, req: Req, planned: ForwardBatch) -> ModelRunnerOutput:
    """Compute the pass; the prompt is then computed up to its end."""
    output: ModelRunnerOutput = runner.forward(planned)
    rows = runner.req_to_token_pool.req_to_token[req.req_pool_idx, : planned.seq_lens[0]]
    req.prefix_indices = rows.to(torch.int64, copy=True)
    return output
