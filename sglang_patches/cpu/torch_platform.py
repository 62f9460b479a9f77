"""The platform class; only SGLang's platform resolver imports this module."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from sglang.srt.platforms.cpu import CpuSRTPlatform
from sglang.srt.platforms.device_mixin import PlatformEnum

from prefillshare.contract import OVERLAP_VARIABLE

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs

logger = logging.getLogger(__name__)


class TorchCpuPlatform(CpuSRTPlatform):
    """PyTorch's own operators: no custom kernels, no CUDA graphs.

    ``_enum`` is OOT, not CPU: to SGLang, CPU means its unpublished AMX kernels.
    """

    _enum = PlatformEnum.OOT

    def apply_server_args_defaults(self, server_args: ServerArgs) -> None:
        server_args.disable_cuda_graph = True
        if server_args.disaggregation_mode != "null" and os.getenv(OVERLAP_VARIABLE) != "1":
            # Nothing computes beside the CPU: a token would come a step later, and an answer cost a step more.
            server_args.disable_overlap_schedule = True
        uses_lora = bool(server_args.enable_lora or server_args.lora_paths)
        if uses_lora and server_args.lora_backend != "torch_native":
            logger.warning(
                "lora_backend %s needs a GPU; using torch_native",
                server_args.lora_backend,
            )
            server_args.lora_backend = "torch_native"

    def get_dispatch_key_name(self) -> str:
        return "native"

    def get_default_attention_backend(self) -> str:
        return "torch_native"

    def get_mha_kv_pool_cls(self) -> type:
        from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

        return MHATokenToKVPool

    def get_paged_allocator_cls(self) -> type:
        from sglang_patches.cpu.paged_allocator import TorchPagedAllocator

        return TorchPagedAllocator
