"""Runs LoRA backends on a batch of segments; prints the largest difference from a token-by-token product, as JSON.

    python lora_backend_probe.py torch_native triton csgmv

What a backend fails with stands in the place of its difference.

The Triton kernels of the GPU backends run in Triton's interpreter, on the CPU.
"""

import json
import os
import sys
import traceback
from types import SimpleNamespace

os.environ["TRITON_INTERPRET"] = "1"

import torch
from sglang.kernels.ops.gemm import lora_tuning_config
from sglang.srt.lora.backend import chunked_backend, torch_backend, triton_backend
from sglang.srt.model_executor.forward_batch_info import ForwardMode

from sglang_patches.cpu.pinning import UnpinnedTorch, keep_in_place
from sglang_patches.engine.lora_manager import LoRAManager
from sglang_patches.prefill.request_state import ALL_BASE_MADE
from sglang_patches.prefill.segments import SEGMENTS

INPUT, OUTPUT, RANK, SCALING = 32, 48, 16, 0.5
SLOTS = {"math": 0, None: 1, "tool": 2}  # the base slot is not slot 0 here: nothing may rely on that

# adapter, prefix, extend, boundary
BATCH = [
    ("math", 0, 40, 39),  # a whole prompt
    ("tool", 10, 7, 16),  # all but x_n
    (None, 0, 20, ALL_BASE_MADE),  # the base itself
    ("math", 64, 1, 30),  # a decode step in a mixed batch
    ("tool", 0, 64, 200),  # one chunk of a long prompt: no adapter token at all
    ("tool", 28, 6, 30),  # a retracted request
    ("math", 0, 1, 0),  # a prompt of one token
    ("tool", 5, 9, ALL_BASE_MADE),  # the module reads base-made KV only: its own row comes behind all others
    ("math", 0, 33, ALL_BASE_MADE),  # such a one's chunk that ends before the last token: no second row
    ("math", 60, 1, ALL_BASE_MADE),  # such a one's decode step in a mixed batch
]
PAIRED = [7, 9]


def make_backend(name):
    for module in (torch_backend, triton_backend, chunked_backend):
        module.torch = UnpinnedTorch(torch)
    torch.Tensor.pin_memory = keep_in_place(None)
    lora_tuning_config.get_device_name = lambda: "interpreter"  # has no tuned block sizes: the defaults are taken
    classes = {
        "torch_native": torch_backend.TorchNativeLoRABackend,
        "triton": triton_backend.TritonLoRABackend,
        "csgmv": chunked_backend.ChunkedSgmvLoRABackend,
    }
    return classes[name](len(SLOTS), torch.device("cpu"), server_args=SimpleNamespace(max_lora_chunk_size=128))


def make_manager(backend):
    manager = LoRAManager.__new__(LoRAManager)
    adapter = SimpleNamespace(config=SimpleNamespace(r=RANK), scaling=SCALING)
    manager.lora_backend, manager.enable_dp_attention = backend, False
    manager.max_loras_per_batch = len(SLOTS)
    manager.loras = {"math": adapter, "tool": adapter}
    manager.memory_pool = SimpleNamespace(uid_to_buffer_id=SLOTS, get_buffer_id=SLOTS.__getitem__)
    manager.prefill_boundaries = [boundary for *_, boundary in BATCH]
    manager.paired_requests = PAIRED
    return manager


def make_decode_batch():
    return SimpleNamespace(
        batch_size=len(BATCH), forward_mode=ForwardMode.DECODE, lora_ids=[lora_id for lora_id, *_ in BATCH]
    )


def make_batch():
    ids, prefixes, extends, _ = map(list, zip(*BATCH, strict=True))
    return SimpleNamespace(
        batch_size=len(BATCH),
        forward_mode=ForwardMode.EXTEND,
        lora_ids=ids,
        extend_prefix_lens_cpu=prefixes,
        extend_seq_lens_cpu=extends,
        extend_seq_lens=torch.tensor(extends, dtype=torch.int32),
        extend_num_tokens=sum(extends),
        return_logprob=True,
        extend_logprob_start_lens_cpu=[0] * len(BATCH),
    )


def weights_of_tokens():
    """The adapter of each token of the batch, None where the prefill module's weights alone count."""
    own = [
        lora_id if position >= boundary else None
        for lora_id, prefix, extend, boundary in BATCH
        for position in range(prefix, prefix + extend)
    ]
    return own + [BATCH[number][0] for number in PAIRED]


def weights_of_rows():
    """The same of a decode step."""
    own = [None if number in PAIRED else lora_id for number, (lora_id, *_) in enumerate(BATCH)]
    return own + [BATCH[number][0] for number in PAIRED]


def difference(backend, manager, batch, lora_ids):
    """How far the backend's products are from x A^T B^T, token by token."""
    manager.prepare_lora_batch(batch)
    x = torch.randn(len(lora_ids), INPUT)
    a, b = torch.randn(len(SLOTS), RANK, INPUT), torch.randn(len(SLOTS), OUTPUT, RANK)
    offsets = torch.tensor([0, OUTPUT], dtype=torch.int32)
    hidden = backend.run_lora_a_sgemm(x, a)
    output = backend.run_lora_b_sgemm(
        hidden, b, base_output=torch.zeros(len(x), OUTPUT), output_offset=offsets, output_offset_cpu=offsets
    )
    slots = [SLOTS[lora_id] for lora_id in lora_ids]
    wanted = [SCALING * token @ a[slot].T @ b[slot].T for token, slot in zip(x, slots, strict=True)]
    is_base = torch.tensor([lora_id is None for lora_id in lora_ids])
    return float((output - torch.stack(wanted).masked_fill(is_base[:, None], 0)).abs().max())


def largest_difference(name):
    torch.manual_seed(0)
    backend, batch = make_backend(name), make_batch()
    manager = make_manager(backend)
    in_decode = difference(backend, manager, make_decode_batch(), weights_of_rows())
    in_extend = difference(backend, manager, batch, weights_of_tokens())

    backend.prefill_cuda_graph_max_bs = getattr(batch, SEGMENTS).batch_size
    backend.prefill_cuda_graph_max_tokens = getattr(batch, SEGMENTS).extend_num_tokens
    assert manager.can_use_prefill_cuda_graph(batch)
    backend.prefill_cuda_graph_max_bs -= 1
    assert not manager.can_use_prefill_cuda_graph(batch), "the prefill graph's limit must count segments"
    return max(in_decode, in_extend)


def difference_or_failure(name):
    try:
        return largest_difference(name)
    except Exception:
        return traceback.format_exc()


def main(names):
    print(json.dumps({name: difference_or_failure(name) for name in names}))


if __name__ == "__main__":
    main(sys.argv[1:])
