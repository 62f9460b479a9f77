"""Fetch what compiled loops will need soon: a hint to the processor, which has no other effect."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

_READ, _TO_ALL_CACHES, _DATA = 0, 3, 1
LINE = 16
"""Floats of 4 bytes in a line of the processor's cache."""


def emit_prefetch(builder: Any, address: Any) -> None:
    """Code that fetches the line with this address."""
    address, number = builder.bitcast(address, ir.IntType(8).as_pointer()), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
    hint = builder.module.declare_intrinsic("llvm.prefetch", [address.type], kind)
    builder.call(hint, [address, number(_READ), number(_TO_ALL_CACHES), number(_DATA)])
