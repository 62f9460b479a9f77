"""What shared prefill knows of one request: ``req.prefillshare``, all that it adds to SGLang's ``Req``.

Made at the end of ``Req.__init__`` (:mod:`sglang_patches.patches.request`), so every request of a scheduler has it
from its first moment. Only that scheduler's thread reads and writes it: it goes to no other process, and ends with the
request. Each rank of a tensor-parallel worker makes its own, from the same call, and so comes to the same values.

    prompt      x_1 ............ x_{n-1} | x_n   y_1 ... y_m
    row index    0  ............   n-2   | n-1    n
    weights      prefill module          | decode module
    in the tree  may be shared           | never
                                         ^ boundary = n-1
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang_patches.choosing.marks import origin_of

ALL_BASE_MADE = 1 << 62
"""Boundary of a base request of a colocated engine or a prefill worker, and of requests whose module reads base-made
KV only: every position is the prefill module's. Of requests that share nothing, too: every position is their module's,
in its own namespace."""

Start = tuple[str | None, int, bytes]
"""Where an uncached part of a prompt begins: namespace, identity of the tree node before it, its first tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Continued:
    """Rows behind a cached prefix that a request need not compute (:mod:`sglang_patches.prefill.open_pages`)."""

    num_tokens: int = 0
    origin: str | None = None
    """For whom they were computed."""


@dataclass(kw_only=True, slots=True)
class RequestState:
    """One request's hand-off boundary, whom it serves, and what it has to do with other requests."""

    boundary: int
    """First row that is not the prefill module's. Fixed once: neither chunks, nor a retraction, nor an abort, which
    replaces the prompt by one token, may move it, or decoder-made rows would be shared (I2, I5)."""
    decode_module: str | None
    """Whom it is prefilled for, for the statistics only and no part of the namespace: an adapter's id, on a prefill
    worker the name that the router hands along, None for the prefill module itself."""
    is_paired: bool = False
    """Whether its module reads base-made KV only, and so computes each token that it samples from in a second row
    (:mod:`sglang_patches.icarus.rows`)."""
    pin_s: float = 0.0
    """For how many seconds its caller wants its prompt to be kept (:mod:`sglang_patches.prefill.leases`)."""
    choice: str | None = None
    """Id of the choice that it is (:mod:`sglang_patches.choosing`)."""
    chosen_by: str | None = None
    """Id of the choice by which its module was found, just before."""
    is_unshared: bool = False
    """Whether its module computes the prompt, too (:mod:`sglang_patches.prefill.unshared`): all of its rows may be in
    the tree, in the module's own namespace."""
    match_limit: int = ALL_BASE_MADE
    """Positions that it may read from the tree, where these are fewer: on a decode worker never x_n's,
    whose KV is made there in the first step."""
    slice_tokens: int = 0
    """How many tokens it may compute where nobody asked for it: part of a prompt that is computed ahead
    (:mod:`sglang_patches.eager`). Of a call, 0."""
    are_hits_counted: bool = False
    """Whether what its first match brought was counted; a retracted request matches again."""
    continued: Continued = Continued()
    """What its last batch found computed of the page behind its cached prefix."""
    start_underway: Start | None = None
    """What it alone computes while others wait for it; None before its prefill and once the tree has the rows."""
    awaited_start: Start | None = None
    """What it waited for last."""
    num_rounds_waited: int = 0
    """Scheduling rounds in which it waited for ``awaited_start``."""

    @property
    def is_eager(self) -> bool:
        """Whether nobody asked for it."""
        return self.slice_tokens > 0

    @property
    def origin(self) -> str | None:
        """Whose rows in the tree its own are: its module's; of a choice nobody knows yet."""
        return self.decode_module if self.choice is None else origin_of(self.choice)

    @property
    def adapter_start(self) -> int:
        """First row that is computed with its adapter."""
        return 0 if self.is_unshared else self.boundary

    @property
    def is_all_base_made(self) -> bool:
        """True for a request whose whole KV, generated tokens included, is made by one module, as the namespace says:
        the prefill module, or that of a request that shares nothing."""
        return self.boundary == ALL_BASE_MADE
