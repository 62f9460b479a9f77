"""The one ordered table of what is changed in SGLang, and the one place that changes it.

The table names files: each says itself what it changes and what it needs (:mod:`sglang_patches.declarations`). Those of
machines without an accelerator are listed in ``cpu/patches.py``.

``apply()`` checks every upstream symbol first and makes all changes or none; ``is_applied()`` looks at the live
objects. ``python -m sglang_patches report`` prints the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sglang_patches.changes import (
    Assignment,
    Binding,
    Change,
    Entry,
    Extension,
    ForwardRegistration,
    Need,
    Patch,
    PatchError,
    Registration,
    Reliance,
    needs_of,
    upstream_symbol,
)
from sglang_patches.declarations import Declaration, declared_in
from sglang_patches.fingerprint import PINNED_SGLANG, installed_sglang


def changes_in(module: str) -> tuple[Change, ...]:
    """What one of our files declares."""
    return tuple(_MAKERS[declaration.kind](declaration) for declaration in declared_in(module))


def _binding(declared: Declaration) -> Binding:
    given = declared.arguments
    symbol = upstream_symbol(given["upstream"])
    overrides = tuple(_override(given["upstream"], member) for member in declared.members)
    return Binding(
        need=Need(symbol=symbol, action="bind", why=_reasons(overrides), ours=_ours(declared)),
        overrides=overrides,
        places=tuple(f"sglang.srt.{place}" for place in given.get("at", ())),
        module=declared.module,
        name=declared.qualname,
    )


def _override(upstream_class: str, member: Declaration) -> Need:
    given = member.arguments
    name = given.get("of") or f"{upstream_class}.{member.qualname.rpartition('.')[2]}"
    return _need(member, name, "override")


def _reasons(overrides: Sequence[Need]) -> str:
    return "; ".join(dict.fromkeys(need.why for need in overrides))


def _patch_of(declared: Declaration) -> Patch:
    need = _need(declared, declared.arguments["upstream"], "wrap")
    return Patch(need=need, module=declared.module, name=declared.qualname)


def _reliance(declared: Declaration) -> Reliance:
    return Reliance(need=_need(declared, declared.arguments["upstream"], "rely on"))


def _registration(declared: Declaration) -> Registration:
    given = declared.arguments
    module, _, registry = given["registry"].partition(":")
    need = _need(declared, f"{module}:{given['by']}", "register")
    return Registration(need=need, registry=registry, key=given["key"], module=declared.module, name=declared.qualname)


def _forward(declared: Declaration) -> ForwardRegistration:
    op = declared.arguments["op"]
    need = _need(declared, f"{op}.forward_native", "register")
    key = op.partition(":")[2]
    return ForwardRegistration(need=need, registry="", key=key, module=declared.module, name=declared.qualname)


def _extension(declared: Declaration) -> Extension:
    upstream_class = declared.arguments["upstream"]
    return Extension(overrides=tuple(_override(upstream_class, member) for member in declared.members))


def _need(declared: Declaration, upstream: str, action: str) -> Need:
    symbol = upstream_symbol(upstream, declared.arguments["fingerprint"])
    return Need(symbol=symbol, action=action, why=declared.arguments["why"], ours=_ours(declared))


def _ours(declared: Declaration) -> str:
    return f"{declared.module}:{declared.line}"


_MAKERS: dict[str, Callable[[Declaration], Change]] = {
    "binds": _binding,
    "wraps_upstream": _patch_of,
    "registers": _registration,
    "registers_forward": _forward,
    "subclasses": _extension,
    "RELIED_ON": _reliance,
}


_ENGINE_FILES = (
    "patches.server_args",
    "patches.request",
    "patches.forward_batch",
    "engine.lora_manager",
    "engine.template_manager",
    "engine.lora_adapter",
    "patches.token_logprobs",
    "engine.openai_responses",
    "engine.ollama",
    "engine.anthropic",
    "patches.http_server",
    "patches.time_stats",
    "patches.openai_serving",
    "engine.scheduler",
    "engine.tokenizer_manager",
    "engine.openai_chat",
    "engine.openai_completions",
    "engine.prefill_adder",
    "engine.radix_cache",
    "engine.sampling_batch",
    "engine.sampler",
    "patches.stop_search",
    "patches.tool_schemas",
    "engine.tool_parser",
    "patches.tool_arguments",
    "engine.xgrammar",
    "engine.batch_result_processor",
    "patches.grammar_memory",
    "engine.decode_queues",
    "engine.prefill_queue",
    "engine.nixl",
    "patches.prebuilt_batch",
    "patches.penalties",
    "patches.bootstrap_server",
)
"""Below ``sglang_patches``."""

ENGINE_PATCHES: tuple[Change, ...] = tuple(
    change for file in _ENGINE_FILES for change in changes_in(f"sglang_patches.{file}")
)
"""Shared prefill, in one engine (colocated) and across workers (disaggregated)."""


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
    if reasons:
        raise PatchError(_refusal(reasons))
    wanted = [change for change in changes if not isinstance(change, Reliance | Extension)]
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
