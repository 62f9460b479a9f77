"""What options of `sglang serve` mean here. What no key of a deployment file says goes into its extra_args as it is."""

from prefillshare.config.schema import OWNED_ARGUMENTS
from prefillshare.contract import UNSUPPORTED_ALGORITHMS, UNSUPPORTED_SWITCHES
from prefillshare.drafts.command_line import Use
from prefillshare.drafts.convert import Dialect, choice_of, read_dtype
from prefillshare.serving.plan.known_options import Option, known_options

_FROM_ADAPTERS = "it follows from the adapters"
_UNSUPPORTED = UNSUPPORTED_SWITCHES | UNSUPPORTED_ALGORITHMS


def _pass_on(use: Use) -> tuple[list[str], str | None]:
    option = _find_option(use.flag)
    if option is None:
        return [], "SGLang 0.5.17 does not know it"
    if option.field in _UNSUPPORTED:
        return [], f"shared prefill does not support {_UNSUPPORTED[option.field]} yet"
    if (reason := OWNED_ARGUMENTS.get(use.flag)) is not None:
        return [], reason
    return [use.flag if use.flag in option.names else option.names[0], *use.values], None


def _find_option(flag: str) -> Option | None:
    """The option of that name, or the only one that begins so, as argparse has it (`--dp` is `--dp-size`)."""
    if flag in known_options():
        return known_options()[flag]
    longer = {option.field: option for name, option in known_options().items() if name.startswith(flag)}
    return next(iter(longer.values())) if len(longer) == 1 and flag.startswith("--") else None


def _read_positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError("what is not said is chosen for the machine")
    return int(text)


SGLANG = Dialect(
    server="SGLang",
    model=("--model-path", "--model"),
    adapters="--lora-paths",
    engine={
        "--tensor-parallel-size": ("tensor_parallel_size", int),
        "--tp-size": ("tensor_parallel_size", int),
        "--tp": ("tensor_parallel_size", int),
        "--context-length": ("context_length", int),
        "--mem-fraction-static": ("mem_fraction_static", float),
        "--max-running-requests": ("max_running_requests", int),
        "--max-total-tokens": ("max_total_tokens", int),
        "--chunked-prefill-size": ("chunked_prefill_size", _read_positive),
        "--page-size": ("page_size", int),
        "--dtype": ("dtype", read_dtype),
        "--device": ("device", str),
        "--attention-backend": ("attention_backend", str),
        "--lora-backend": ("lora_backend", str),
        "--random-seed": ("random_seed", int),
        "--tool-call-parser": ("tool_call_parser", choice_of("tool_call_parser", {})),
        "--reasoning-parser": ("reasoning_parser", choice_of("reasoning_parser", {})),
    },
    switches={"--disable-overlap-schedule": ("overlap_schedule", False)},
    implied={
        "--enable-lora": _FROM_ADAPTERS,
        "--max-lora-rank": _FROM_ADAPTERS,
        "--max-loras-per-batch": _FROM_ADAPTERS,
        "--max-loaded-loras": _FROM_ADAPTERS,
        "--lora-target-modules": _FROM_ADAPTERS,
        "--enable-metrics": "metrics are always on",
        "--enable-cache-report": "cached tokens are always reported",
    },
    missing={
        "--chat-template": "put it into tokenizer_config.json or chat_template.jinja of the base, for all modules",
        "--tokenizer-path": "the base's own is used, for all modules",
        "--admin-api-key": "use `prefillshare launch --admin-key`",
    },
    passes=_pass_on,
)
