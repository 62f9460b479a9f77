"""Grammar masks on CPU logits.

Target: ``sglang.srt.constrained.xgrammar_backend.XGrammarGrammar.apply_vocab_mask``
Why: it knows CUDA-like devices and NPUs and raises for any other, which kills the
    scheduler at the first request with a JSON schema.
How: logits on the CPU go to xgrammar's own in-place operator, all others upstream.
Upstream: sglang/srt/constrained/xgrammar_backend.py:125 at 0.5.17.
Remove when: that function has a branch for CPU tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def wrap_apply_vocab_mask(original: Callable[..., None]) -> Callable[..., None]:
    def apply_vocab_mask(self: Any, logits: Any, vocab_mask: Any) -> None:
        if logits.device.type != "cpu":
            original(self, logits, vocab_mask)
        else:
            import xgrammar

            xgrammar.apply_token_bitmask_inplace(logits, vocab_mask)

    return apply_vocab_mask
