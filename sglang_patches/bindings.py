"""The one ordered table of what is changed in SGLang, and the one place that changes it.

The table names files: each says itself what it changes and what it needs (:mod:`sglang_patches.declarations`). Those of
``cpu/`` are for machines without an accelerator, with or without shared prefill.

``apply()`` checks every upstream symbol first and makes all changes or none; ``is_applied()`` looks at the live
objects. ``python -m sglang_patches report`` prints the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sglang_patches.changes import Assignment, Change, CheckedOnly, Entry, PatchError, needs_of
from sglang_patches.fingerprint import PINNED_SGLANG, forget_parsed, installed_sglang
from sglang_patches.reading import changes_in

_ENGINE_FILES = (
    # What may start at all.
    "patches.server_args",
    # A call's way through the HTTP process,
    "patches.http_server",
    "patches.openai_serving",
    "engine.openai_chat",
    "engine.openai_completions",
    "engine.openai_responses",
    "engine.ollama",
    "engine.anthropic",
    "patches.anthropic_usage",
    "engine.template_manager",
    "engine.tool_parser",
    "patches.tool_arguments",
    "patches.tool_schemas",
    "engine.lora_registry",
    "modules.changes",
    "engine.tokenizer_manager",
    "patches.time_stats",
    # through the scheduler,
    "patches.request",
    "patches.prompt_length",
    "engine.scheduler",
    "engine.prefill_adder",
    "engine.radix_cache",
    "store.loads",
    "store.cache",
    "patches.node_hashes",
    "patches.extend_batch",
    "engine.batch_result_processor",
    "engine.output_streamer",
    "engine.xgrammar",
    "patches.grammar_memory",
    "patches.stop_search",
    # through the model,
    "choosing.states",
    "patches.forward_batch",
    "patches.model_runner",
    "patches.eager_runner",
    "codebook.quantization",
    "icarus.backends",
    "icarus.triton_attention",
    "icarus.flashinfer_attention",
    "engine.lora_manager",
    "engine.lora_adapter",
    "engine.sampling_batch",
    "engine.sampler",
    "patches.token_logprobs",
    # and from a prefill worker to a decode worker.
    "engine.prefill_queue",
    "engine.decode_queues",
    "patches.kv_buffers",
    "engine.nixl",
    "patches.prebuilt_batch",
    "patches.penalties",
    "patches.handoff_sockets",
    "patches.bootstrap_server",
    "patches.kv_event_socket",
)

_CPU_FILES = (
    "cpu.pinning",
    "cpu.grammar_mask",
    "cpu.nixl_memory",
    "cpu.start_method",
    "cpu.attention",
    "cpu.operators",
    "cpu.linear",
    "cpu.adapters",
    "cpu.host_pool",
)


def _changes(files: Iterable[str]) -> tuple[Change, ...]:
    return tuple(change for file in files for change in changes_in(f"sglang_patches.{file}"))


ENGINE_PATCHES = _changes(_ENGINE_FILES)
"""Shared prefill, in one engine (colocated) and across workers (disaggregated)."""
CPU_PATCHES = _changes(_CPU_FILES)
"""Needed on machines without an accelerator, with or without shared prefill."""


def problems(changes: Sequence[Change]) -> list[str]:
    """Every reason why ``changes`` cannot be made; empty when they can."""
    found = installed_sglang()
    if found != PINNED_SGLANG:
        return [f"SGLang {found or 'is missing'}, expected {PINNED_SGLANG}"]
    return [text for need in needs_of(changes) if (text := need.symbol.problem())]


def is_applied(changes: Sequence[Change] = ENGINE_PATCHES) -> bool:
    """True when every live object carries its change."""
    return all(change.is_applied() for change in changes)


def apply(changes: Sequence[Change] = ENGINE_PATCHES) -> None:
    """Make all of ``changes`` on the live engine, or none of them.

    Effects: imports the upstream modules; a second call does nothing.
    Raises: PatchError naming each symbol that is not as expected.
    """
    if is_applied(changes):
        return
    reasons = problems(changes)
    forget_parsed()
    if reasons:
        raise PatchError(_refusal(reasons))
    wanted = [change for change in changes if not isinstance(change, CheckedOnly)]
    half = [change.needs[0].symbol.name for change in wanted if change.is_applied()]
    if half:
        raise PatchError(f"already patched by someone else: {', '.join(half)}")
    # A subclass stands on its upstream class as it was, so all are made before the first is bound.
    for change in wanted:
        change.load()
    _make([step for change in wanted for step in change.steps()])


def _make(steps: list[Assignment | Entry]) -> None:
    made: list[Assignment | Entry] = []
    try:
        for step in steps:
            step.make()
            made.append(step)
    except BaseException:
        for step in reversed(made):
            step.undo()
        raise


def _refusal(reasons: list[str]) -> str:
    return (
        f"the patches are for SGLang {PINNED_SGLANG} as released and do not fit what "
        f"is installed: {'; '.join(reasons)}. Reinstall the locked set with "
        "`make clean run`, or `pip install sglang==" + PINNED_SGLANG + "`."
    )
