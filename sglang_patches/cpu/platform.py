"""Entry point of the platform for machines without an accelerator.

Group ``sglang.srt.platforms``, name ``prefillshare_cpu``. SGLang 0.5.17 has a CPU
engine, but its kernels are in no published wheel; this out-of-tree platform runs
the same scheduler and models on plain PyTorch. It steps aside whenever an
accelerator is present or SGLang's own CPU engine is asked for.
"""

from __future__ import annotations

import os

PLATFORM_CLASS = "sglang_patches.cpu.torch_platform:TorchCpuPlatform"


def has_accelerator() -> bool:
    import torch

    return torch.cuda.is_available() or torch.xpu.is_available()


def activate() -> str | None:
    """Qualified name of the platform class, or None when it must step aside.

    Effects: switches TorchDynamo off in this process and its children.
    Source: ``sglang/srt/platforms/__init__.py:_resolve_platform`` at 0.5.17.
    """
    if has_accelerator() or os.getenv("SGLANG_USE_CPU_ENGINE", "0") == "1":
        return None
    # SGLang compiles its samplers at the first request that needs them: minutes of
    # C++ compilation for nothing here, and a dead engine where there is no compiler.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    # oneDNN keeps a program for each number of rows that it multiplied: all those of decode steps, not all of prompts.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    return PLATFORM_CLASS
