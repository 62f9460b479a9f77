"""Grammar masks on CPU logits.

Target: ``sglang.srt.constrained.xgrammar_backend.XGrammarGrammar.apply_vocab_mask``
Why: it knows CUDA-like devices and NPUs and raises for any other, which kills the
    scheduler at the first request with a JSON schema.
How: logits on the CPU go to xgrammar's own in-place operator, all others upstream.
    A method patch: ``engine/xgrammar`` binds the class, and this mends it without shared prefill, too.
Upstream: sglang/srt/constrained/xgrammar_backend.py:125 at 0.5.17.
Remove when: that function has a branch for CPU tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sglang_patches.declarations import wraps_upstream

if TYPE_CHECKING:
    from torch import Tensor


@wraps_upstream(
    "constrained.xgrammar_backend:XGrammarGrammar.apply_vocab_mask",
    "65b0b211a2609066",
    "a JSON schema would kill the scheduler",
)
def wrap_apply_vocab_mask(original: Callable[..., None]) -> Callable[..., None]:
    def apply_vocab_mask(self: Any, logits: Tensor, vocab_mask: Tensor) -> None:
        if logits.device.type != "cpu":
            original(self, logits, vocab_mask)
        else:
            import xgrammar

            xgrammar.apply_token_bitmask_inplace(logits, vocab_mask)

    return apply_vocab_mask
