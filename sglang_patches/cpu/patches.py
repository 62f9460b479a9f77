"""The patches of machines without an accelerator, with or without shared prefill."""

from __future__ import annotations

from sglang_patches.changes import Change
from sglang_patches.changes import sglang_patch as _patch
from sglang_patches.cpu import adapters, attention, grammar_mask, nixl_memory, operators, pinning, start_method

_ATTENTION = "layers.attention.torch_native_backend"
_LORA = "lora.backend.torch_backend"
_RELIED_PRODUCT = "relied on: what the products per adapter do in its place"

CPU_PATCHES: tuple[Change, ...] = (
    _patch(
        "torch",
        "Tensor.pin_memory",
        None,
        "pinning raises without a driver",
        pinning.keep_in_place,
    ),
    *(
        _patch(
            module,
            "torch",
            "cf1070d3a16f24b2",
            "pinned factories raise without a driver",
            pinning.UnpinnedTorch,
        )
        for module in pinning.MODULES
    ),
    _patch(
        "constrained.xgrammar_backend",
        "XGrammarGrammar.apply_vocab_mask",
        "65b0b211a2609066",
        "a JSON schema would kill the scheduler",
        grammar_mask.wrap_apply_vocab_mask,
    ),
    _patch(
        "disaggregation.nixl.conn",
        "NixlKVManager.__init__",
        "36651bf696700175",
        "KV in host memory would be registered as device memory, and each scheduler spin",
        nixl_memory.wrap_manager_init,
    ),
    _patch(
        "entrypoints.engine",
        "_set_envs_and_config",
        "5a826b1c796f84c8",
        "each process of a forked engine would import it again",
        start_method.wrap_set_envs_and_config,
    ),
    _patch(
        _ATTENTION,
        "TorchNativeAttnBackend._run_sdpa_forward_extend",
        "5ce429c04fa0f38b",
        "a few new tokens would pay for the attention of the whole prefix",
        attention.wrap_extend,
    ),
    _patch(
        _ATTENTION,
        "TorchNativeAttnBackend._run_sdpa_forward_decode",
        "f54327e27c6bd3af",
        "gathering KV would take longer than attending to it",
        attention.wrap_decode,
    ),
    _patch(
        "layers.layernorm",
        "RMSNorm.forward_native",
        "3335b16d634b2fb5",
        "a small model would spend a seventh of a step on norms",
        operators.wrap_rms_norm,
    ),
    _patch(
        "layers.rotary_embedding.base",
        "RotaryEmbedding.forward_native",
        "d3fe1cdb973c311f",
        "queries and keys would be turned one after the other in 20 calls",
        operators.wrap_rotary,
    ),
    _patch(
        _LORA,
        "sgemm_lora_a_fwd",
        "d82f57787d0634b2",
        "every segment would pay for its own small operators",
        adapters.wrap_lora_a,
    ),
    _patch(
        _LORA,
        "sgemm_lora_b_fwd",
        "d82f57787d0634b2",
        "every segment would pay for its own small operators",
        adapters.wrap_lora_b,
    ),
    _patch("lora.torch_ops", "sgemm_lora_a_fwd", "52d135a936868b55", _RELIED_PRODUCT),
    _patch("lora.torch_ops", "sgemm_lora_b_fwd", "0ae2f27aa607e495", _RELIED_PRODUCT),
    _patch(
        "mem_cache.allocator.paged",
        "PagedTokenToKVPoolAllocator",
        "a1cd04faca6eb91e",
        "relied on: the page allocator without Triton extends it",
    ),
)
"""Needed on machines without an accelerator, with or without shared prefill."""
