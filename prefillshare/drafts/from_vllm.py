"""What options of `vllm serve` mean here; their names are those of vLLM 0.8 and later."""

import re

from prefillshare.drafts.command_line import Use
from prefillshare.drafts.convert import Dialect, Noted, choice_of, read_dtype

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kKmMgG]?)")
_UNITS = {"": 1, "k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20, "g": 10**9, "G": 2**30}
_FULL_MEMORY = 0.9
"""vLLM's default, which leaves to CUDA graphs and computing what they need."""
_FROM_ADAPTERS = "it follows from the adapters"
_NOT_YET = "not served over shared prefill yet"

_TOOL_PARSERS = {
    "llama3_json": "llama3",
    "llama4_json": "llama3",
    "llama4_pythonic": "pythonic",
    "deepseek_v3": "deepseekv3",
    "deepseek_v31": "deepseekv31",
    "qwen3_xml": "qwen3_coder",
    "minimax_m2": "minimax-m2",
    "openai": "gpt-oss",
}
_REASONING_PARSERS = {
    "deepseek_r1": "deepseek-r1",
    "deepseek_v3": "deepseek-v3",
    "openai_gptoss": "gpt-oss",
    "minimax_m2": "minimax",
}


def _read_size(text: str) -> int:
    if (match := _SIZE.fullmatch(text)) is None:
        raise ValueError("it is no number; what is not said is chosen for the machine")
    return int(float(match[1]) * _UNITS[match[2]])


def _read_share(text: str) -> Noted:
    share = float(text)
    if share >= _FULL_MEMORY:
        note = (
            f"vLLM's --gpu-memory-utilization {text} is of all that it uses; mem_fraction_static is of weights and KV "
            "alone,\nand without it as much is taken as CUDA graphs and computing leave."
        )
        return Noted(None, note)
    note = f"vLLM's {text} is of all that it uses, this of weights and KV alone: a little less is the same."
    return Noted(share, note)


VLLM = Dialect(
    server="vLLM",
    model=("--model",),
    adapters="--lora-modules",
    engine={
        "--tensor-parallel-size": ("tensor_parallel_size", int),
        "-tp": ("tensor_parallel_size", int),
        "--max-model-len": ("context_length", _read_size),
        "--gpu-memory-utilization": ("mem_fraction_static", _read_share),
        "--max-num-seqs": ("max_running_requests", int),
        "--max-num-batched-tokens": ("chunked_prefill_size", _read_size),
        "--block-size": ("page_size", int),
        "--dtype": ("dtype", read_dtype),
        "--seed": ("random_seed", int),
        "--tool-call-parser": ("tool_call_parser", choice_of("tool_call_parser", _TOOL_PARSERS)),
        "--reasoning-parser": ("reasoning_parser", choice_of("reasoning_parser", _REASONING_PARSERS)),
    },
    switches={
        "--enforce-eager": ("extra_args", "--disable-cuda-graph"),
        "--trust-remote-code": ("extra_args", "--trust-remote-code"),
    },
    implied={
        "--enable-lora": _FROM_ADAPTERS,
        "--max-lora-rank": _FROM_ADAPTERS,
        "--max-loras": _FROM_ADAPTERS,
        "--max-cpu-loras": _FROM_ADAPTERS,
        "--fully-sharded-loras": _FROM_ADAPTERS,
        "--enable-prefix-caching": "the prefix cache is always on",
        "--enable-chunked-prefill": "prompts are always computed in chunks",
        "--enable-auto-tool-choice": "tool_call_parser alone switches it on",
        "--enable-reasoning": "reasoning_parser alone switches it on",
        "--disable-log-requests": "calls are not logged",
        "--no-enable-log-requests": "calls are not logged",
    },
    missing={
        "--pipeline-parallel-size": _NOT_YET,
        "-pp": _NOT_YET,
        "--data-parallel-size": 'start several deployments, or write topology = "disaggregated" with replicas',
        "-dp": 'start several deployments, or write topology = "disaggregated" with replicas',
        "--speculative-config": _NOT_YET,
        "--no-enable-prefix-caching": "the shared prefix cache is always on",
        "--chat-template": "put it into tokenizer_config.json or chat_template.jinja of the base, for all modules",
        "--tokenizer": "the base's own is used, for all modules",
        "--cpu-offload-gb": "no part of the weights stays in the host's memory",
        "--swap-space": "a [store] table keeps KV in the host's memory and on disk (docs/store.md)",
        "--kv-cache-dtype": "see extra_args under [engine], --kv-cache-dtype of SGLang; not tested over shared prefill",
        "--quantization": "see extra_args under [engine], --quantization of SGLang; not tested over shared prefill",
        "-q": "see extra_args under [engine], --quantization of SGLang; not tested over shared prefill",
        "--config": "its file is not here: convert the command where it lies, or give its options on the command line",
    },
    passes=lambda use: _leave(use),
)


def _leave(use: Use) -> tuple[list[str], str | None]:
    return [], "no counterpart is known"
