"""A prefill worker computes KV and samples nothing.

Target: ``sglang.srt.disaggregation.prefill.PrefillBootstrapQueue``, ``_process_req`` and ``finalize_bootstrap``
Why: upstream samples the first token here, with the weights of the prefill module; and it does not say how much it is
    about to send.
How: a request that asks for no token is prefill-only for the whole engine, which then skips the sampler. Its KV is
    base-made, so it is cached even if it is handed to nobody (log-probabilities, warm-up). When the
    decode worker has said what it holds, the size of the hand-off is noted on the request.
Upstream: sglang/srt/disaggregation/prefill.py:365 and :325 at 0.5.17.
Remove when: upstream can prefill without sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefillshare.contract import NO_BOOTSTRAP_HOST
from sglang_patches.disaggregation import hand_off


def wrap_process_req(original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    def _process_req(self: Any, req: Any) -> None:
        original(self, req)
        req.sampling_params.max_new_tokens = 0
        # Upstream keeps what it computed for nobody out of the cache, and loses its rows when it was done in chunks.
        req.skip_radix_cache_insert = False

    return _process_req


def wrap_finalize_bootstrap(original: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def finalize_bootstrap(self: Any, req: Any) -> bool:
        is_final = original(self, req)
        if is_final and req.bootstrap_host != NO_BOOTSTRAP_HOST:
            hand_off.report(req, req.start_send_idx, self.kv_manager)
        return is_final

    return finalize_bootstrap
