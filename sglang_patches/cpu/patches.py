"""The table of machines without an accelerator, with or without shared prefill; the files say what they change."""

from __future__ import annotations

from sglang_patches.bindings import changes_in
from sglang_patches.changes import Change

_FILES = ("pinning", "grammar_mask", "nixl_memory", "start_method", "attention", "operators", "adapters")

CPU_PATCHES: tuple[Change, ...] = tuple(
    change for file in _FILES for change in changes_in(f"sglang_patches.cpu.{file}")
)
"""Needed on machines without an accelerator, with or without shared prefill."""
