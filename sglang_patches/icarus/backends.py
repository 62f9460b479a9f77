"""Attention backends of GPUs that know second rows, where an engine has modules that need them.

Target: the attention backends ``triton`` and ``flashinfer``, registered again
Why: both rows of a request read the same KV; as two rows of a batch they would read it twice, and what upstream reads
    from fresh keys and values would be the second row's own.
How: an engine without such a module gets upstream's backend, made by upstream's function.
Upstream: sglang/srt/layers/attention/attention_registry.py:41 and :178 at 0.5.17.
Remove when: upstream can compute a token with several adapters.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sglang.srt.layers.attention import attention_registry as upstream

from sglang_patches.declarations import registers
from sglang_patches.icarus.modules import paired_modules

if TYPE_CHECKING:
    from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
    from sglang.srt.model_executor.model_runner import ModelRunner


@registers(
    "layers.attention.attention_registry:ATTENTION_BACKENDS",
    "triton",
    by="register_attention_backend",
    fingerprint="611d78b252f0e1e7",
    why="second rows would read their own keys and values",
)
def make_triton_backend(runner: ModelRunner) -> AttentionBackend:
    if not paired_modules:
        return upstream.create_triton_backend(runner)
    from sglang_patches.icarus.triton_attention import PairedTritonAttnBackend

    return PairedTritonAttnBackend(runner)


@registers(
    "layers.attention.attention_registry:ATTENTION_BACKENDS",
    "flashinfer",
    by="register_attention_backend",
    fingerprint="611d78b252f0e1e7",
    why="second rows would read their own keys and values",
)
def make_flashinfer_backend(runner: ModelRunner) -> AttentionBackend:
    if not paired_modules:
        return upstream.create_flashinfer_backend(runner)
    from sglang_patches.icarus.flashinfer_attention import PairedFlashInferAttnBackend

    # Its other decode kernel exists for few numbers of heads per KV head; twice as many may not be among them.
    os.environ.setdefault("SGLANG_FLASHINFER_USE_TENSOR_CORE", "true")
    return PairedFlashInferAttnBackend(runner, init_new_workspace=runner.init_new_workspace)


RELIED_ON = {
    "layers.attention.attention_registry:create_triton_backend": ("0d61370115bce01c", "how upstream makes its backend"),
    "layers.attention.attention_registry:create_flashinfer_backend": (
        "53f47cd7fa1f29e0",
        "how upstream makes its backend",
    ),
}
