"""Settings that shared prefill cannot serve yet.

Each setting below either lets decoder-made KV into the shared tree, or runs a scheduler path in which the hand-off
boundary is not looked at. ``patches/server_args`` refuses them before anything starts; entries go as features are
verified.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prefillshare.config.store import MIN_PAGE_TOKENS
from prefillshare.contract import (
    BACKEND_NAME,
    FINGERPRINT_VARIABLE,
    STORE_BACKEND_CLASS,
    UNSUPPORTED_ALGORITHMS,
    UNSUPPORTED_SWITCHES,
)
from sglang_patches.checks.adapters import EMBEDDING_TARGETS
from sglang_patches.icarus import engines
from sglang_patches.store.switch import read_write_back

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs

UNSUPPORTED_ENVIRONMENT = {
    "SGLANG_EXPERIMENTAL_CPP_RADIX_TREE": "the C++ radix tree",
    "SGLANG_ENABLE_UNIFIED_RADIX_TREE": "the unified radix tree",
}

GRAMMAR_BACKENDS = ("xgrammar", "none")
"""The one whose work is tried out before (:mod:`sglang_patches.answers.trials`), and none at all."""

_STORE_POLICIES = {"hicache_write_policy": "write_through", "hicache_storage_prefetch_policy": "timeout"}
"""With another one, KV is not in the store when others look for it, or a load that hangs is waited for."""

TRANSFER_BACKENDS = ("nixl", "mooncake")
"""Verified with the hand-off; SGLang spells them so."""


def refusals(args: ServerArgs) -> Iterator[str]:
    """One sentence with the fix for every setting that is not supported."""
    if args.radix_cache_backend != BACKEND_NAME:
        yield (
            f"the engine is patched but its radix cache is "
            f"{args.radix_cache_backend or 'the built-in one'}, which would share "
            f"decoder-made KV: start it with --radix-cache-backend {BACKEND_NAME}"
        )
    is_plain_decode = args.disaggregation_mode == "decode" and not args.disaggregation_decode_enable_radix_cache
    for name, what in UNSUPPORTED_SWITCHES.items():
        if name == "disable_radix_cache" and is_plain_decode:
            continue  # SGLang switched it off; the flag to add is named below
        if name == "enable_hierarchical_cache" and _has_store(args):
            continue
        if getattr(args, name, False):
            flag = "--" + name.replace("_", "-")
            yield f"shared prefill does not support {what} yet: remove {flag}"
    for name, what in UNSUPPORTED_ENVIRONMENT.items():
        if os.getenv(name, "").lower() in {"1", "true", "yes"}:
            yield f"shared prefill does not support {what} yet: unset {name}"
    if args.disaggregation_mode != "null":
        yield from _disaggregation(args)
    if args.enable_hierarchical_cache and _has_store(args):
        yield from _store(args)
    yield from _write_back(args)
    yield from _parallelism(args)
    yield from _grammars(args)
    yield from _algorithms(args)
    yield from _adapters(args)
    yield from engines.refusals(args)


def _has_store(args: ServerArgs) -> bool:
    """Whether the host tier is the one of the deployment's store, which keeps tenants and weights apart."""
    named = f'"class_name": "{STORE_BACKEND_CLASS}"'
    return args.hicache_storage_backend == "dynamic" and named in (args.hicache_storage_backend_extra_config or "")


def _store(args: ServerArgs) -> Iterator[str]:
    if args.disaggregation_mode == "decode":
        yield (
            "a decode worker holds KV of its own module, which no host tier and no store may get: remove "
            "--enable-hierarchical-cache"
        )
    if not os.getenv(FINGERPRINT_VARIABLE):
        yield (
            f"{FINGERPRINT_VARIABLE} is not set, and pages in the store are named by it: start the deployment with "
            "`prefillshare launch`, or set it to the fingerprint of the prefill module"
        )
    if args.page_size < MIN_PAGE_TOKENS:
        yield (
            f"with --page-size {args.page_size}, a store costs more than prefilling: set --page-size {MIN_PAGE_TOKENS} "
            "or more"
        )
    for name, only in _STORE_POLICIES.items():
        if (value := getattr(args, name)) != only:
            flag = "--" + name.replace("_", "-")
            yield f"{flag} {value} was not verified with the store: set {flag} {only}"


def _write_back(args: ServerArgs) -> Iterator[str]:
    told = read_write_back()
    if told is not None and args.page_size != told["page_size"]:
        yield (
            f"--page-size is {args.page_size} and pages in the deployment's store have {told['page_size']} tokens: "
            f"answers of this decode worker would not be found there, set --page-size {told['page_size']}"
        )


def _parallelism(args: ServerArgs) -> Iterator[str]:
    if args.pp_size > 1:
        yield (
            f"shared prefill does not support pipeline parallelism yet (pp_size "
            f"{args.pp_size}): set --pp-size 1 and use --tp-size"
        )
    if args.tokenizer_worker_num > 1:
        # SGLang starts them without its plugins, so their calls would be neither checked nor counted.
        yield (
            f"--tokenizer-worker-num {args.tokenizer_worker_num} would take calls in processes without the patches: "
            "remove it"
        )


def _grammars(args: ServerArgs) -> Iterator[str]:
    if args.grammar_backend not in GRAMMAR_BACKENDS:
        yield (
            f"the time and memory of grammars are bounded for {GRAMMAR_BACKENDS[0]} only, not for "
            f"{args.grammar_backend}: remove --grammar-backend, or set it to none"
        )


def _disaggregation(args: ServerArgs) -> Iterator[str]:
    if not os.getenv(FINGERPRINT_VARIABLE):
        yield (
            f"{FINGERPRINT_VARIABLE} is not set, so nobody could tell whether this {args.disaggregation_mode} worker "
            "belongs to the others: start the deployment with `prefillshare launch`, or set it to the fingerprint of "
            "the prefill module"
        )
    if args.disaggregation_mode == "decode" and not args.disaggregation_decode_enable_radix_cache:
        yield "a decode worker would fetch every prompt as a whole: add --disaggregation-decode-enable-radix-cache"
    if args.disaggregation_transfer_backend not in TRANSFER_BACKENDS:
        yield (
            f"shared prefill hands KV over with {' or '.join(TRANSFER_BACKENDS)}, not "
            f"{args.disaggregation_transfer_backend}: set --disaggregation-transfer-backend {TRANSFER_BACKENDS[0]}"
        )
    if args.dp_size > 1:
        yield f"disaggregated workers do not support --dp-size {args.dp_size} yet: start one more worker instead"


def _algorithms(args: ServerArgs) -> Iterator[str]:
    for name, what in UNSUPPORTED_ALGORITHMS.items():
        value = getattr(args, name, None)
        if value is not None:
            yield f"shared prefill does not support {what} yet: remove --{name.replace('_', '-')} {value}"


def _adapters(args: ServerArgs) -> Iterator[str]:
    if not args.enable_lora:
        return
    if args.max_loras_per_batch < 2:
        yield (
            f"--max-loras-per-batch {args.max_loras_per_batch} leaves no slot beside "
            "the prefill module's: set it to the number of decode modules + 1"
        )
    if getattr(args, "lora_drain_wait_threshold", 0.0) > 0.0:
        yield (
            "shared prefill does not support LoRA draining: remove "
            "--lora-drain-wait-threshold and raise --max-loras-per-batch"
        )
    found = EMBEDDING_TARGETS & set(args.lora_target_modules or ())
    if found:
        yield (
            f"--lora-target-modules names {', '.join(sorted(found))}: shared prefill "
            "supports adapters of attention and MLP projections only"
        )
