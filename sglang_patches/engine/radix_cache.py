"""The radix-cache backend ``prefillshare``: base-made KV only.

Extends ``sglang.srt.mem_cache.radix_cache.RadixCache``, and is registered beside it.

A request of a decode module may read at most ``boundary`` positions from the tree and add at most as many to it. Its
other rows, x_n and what it generated, stay its own and are freed with it, by the mechanism that upstream has for an
unfinished page: ``prefix_indices`` covers every computed row, ``cache_protected_len`` only those that the tree owns.

    row index   0 ..... protected ..... known ..... key_len ..... boundary ..... computed
    before      |- tree -|------------------- request -------------------------------|
    of the rows |- kept -|- second copies -|- given -|----------- private ------------|
    after       |-------------- tree -----------------|----------- request -----------|

    protected = cache_protected_len: what the tree owned when the request last asked it
    known     = what the tree has of the key by now: another request may have given it in the meantime, and then the
                rows from protected to known are second copies, which are freed
    key_len   = boundary or computed, whichever is less, rounded down to whole pages

An unfinished request's row is rewritten to the tree's own rows up to key_len, and goes on. A finished one's private
rows are freed together with the second copies; but where its last page is begun by base-made rows, the tree keeps that
page (:mod:`sglang_patches.prefill.open_pages`).

Of base requests, and those of modules that read base-made KV only, all KV is base-made: their boundary is where
their rows end. Where pages have one token, they take the upstream path. A decode worker has no base requests.

Each node also remembers its origin, the decode module whose request put it there, so that a hit on what another module
had prefilled is told apart from a module's hit on its own, and whether it was computed ahead and no call has hit it
since. A node that is evicted forgets both.
"""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.mem_cache.base_prefix_cache import (
    EvictParams,
    EvictResult,
    InsertParams,
    InsertResult,
    MatchPrefixParams,
    MatchResult,
)
from sglang.srt.mem_cache.memory_pool import move_kv_cache_native
from sglang.srt.mem_cache.radix_cache import RadixCache, RadixKey

from sglang_patches.declarations import registers
from sglang_patches.disaggregation.hand_off import report_end
from sglang_patches.disaggregation.role import is_behind_router, is_decode_worker, is_prefill_worker
from sglang_patches.observed.call_report import note
from sglang_patches.prefill.hits import Hits
from sglang_patches.prefill.holdings import Holdings, tenant_of
from sglang_patches.prefill.leases import Leases, drop_leases, lease_prompt
from sglang_patches.prefill.open_pages import OpenPages
from sglang_patches.prefill.underway import PrefillsUnderway
from sglang_patches.prefill.unshared import callers_key
from sglang_patches.store.switch import read_write_back

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.mem_cache.registry import TreeCacheBuildContext

    from sglang_patches.store.write_back import WriteBack


class SharedPrefillRadixCache(RadixCache):
    """RadixCache that no decoder-made KV enters or is matched by (I2, I5)."""

    num_flushes = -1
    """How often everything was dropped; the constructor does so once."""
    eager_hit_tokens = 0
    """Tokens that were computed ahead, and that a call has hit since."""
    _writer: str | None = None
    """Decode module whose request is being inserted."""
    _num_eager = 0
    """Tokens at the end of what is being inserted that were computed now, and that nobody asked for."""
    underway: PrefillsUnderway
    """What running prefills will bring."""
    open_pages: OpenPages | None = None
    """Pages that were begun and are not full; None where a page has one token."""
    leases: Leases | None = None
    """Prompts that their callers want to have kept; None until somebody does."""
    holdings: Holdings
    """How much of it is whose, where tenants call."""
    write_back: WriteBack | None = None
    """A decode worker's way to the store, where its module's answers are base-made."""

    def reset(self) -> None:
        """Drop everything."""
        self.num_flushes += 1
        if self.write_back is not None:
            self.write_back.flush()
        self.underway = PrefillsUnderway()
        self.open_pages = OpenPages(self) if self.page_size > 1 else None
        drop_leases(self)
        self.holdings = Holdings(self)
        super().reset()

    def insert(self, params: InsertParams) -> InsertResult:
        """Add rows for a key, and count whose they are."""
        if (tenant := tenant_of(params.key.extra_key)) is None:
            return super().insert(params)
        with self.holdings.changing(tenant):
            return super().insert(params)

    def match_prefix(self, params: MatchPrefixParams) -> MatchResult:
        """Longest cached prefix, never past what the request may read.

        A retracted request asks with prompt *and* output; a later turn of the same
        conversation may have cached exactly those tokens, base-made. They are not
        this request's: from x_n on its KV is the decode module's.
        """
        # Without a request it is asked for a key that ends before the boundary already (``_share``).
        if params.req is not None:
            key = params.key
            state = params.req.prefillshare
            limit = min(state.boundary, state.match_limit)
            if limit < len(key):
                params.key = RadixKey(key.token_ids, key.extra_key, limit=limit)
        return super().match_prefix(params)

    def cache_unfinished_req(self, req: Req, chunked: bool = False) -> None:
        """Share what is base-made so far; keep the other computed rows private."""
        self._begin(req)
        if self.disable or req.prefillshare.is_all_base_made:
            super().cache_unfinished_req(req, chunked=chunked)
            return

        rows = self._computed_rows(req, req.extend_range.end)
        key = self._shareable_key(req, len(rows))
        shared_rows, last_node = self._share(req, key, rows, chunked=chunked)
        # Its second copies were freed, so from now on it must read the tree's.
        self.req_to_token_pool.write(
            (req.req_pool_idx, slice(req.cache_protected_len, len(shared_rows))),
            shared_rows[req.cache_protected_len :],
        )
        # No eviction comes between: the tree belongs to the scheduler's thread.
        self.dec_lock_ref(req.last_node)
        self.inc_lock_ref(last_node)
        req.last_node = last_node
        req.cache_protected_len = len(shared_rows)
        # The next chunk or decode step continues after all of its rows, the private ones among them.
        req.prefix_indices = torch.cat([shared_rows, rows[len(shared_rows) :]])

    def cache_finished_req(self, req: Req, is_insert: bool = True, *, kv_len_to_handle: int) -> None:
        """Give the base-made rows to the tree and free all the others."""
        self._begin(req)
        if is_prefill_worker():
            report_end(req)  # its rows are given back when the hand-off is over
        if self.disable or (req.prefillshare.is_all_base_made and self.open_pages is None):
            super().cache_finished_req(req, is_insert=is_insert, kv_len_to_handle=kv_len_to_handle)
        else:
            self._share_finished(req, is_insert=is_insert, kv_len_to_handle=kv_len_to_handle)
        if req.prefillshare.pin_s > 0 and is_insert and not self.disable:
            lease_prompt(self, req)

    def _share_finished(self, req: Req, *, is_insert: bool, kv_len_to_handle: int) -> None:
        rows = self._computed_rows(req, kv_len_to_handle)
        tokens = self._shareable_tokens(req, len(rows))
        key = RadixKey(tokens, req.extra_key).page_aligned(self.page_size)
        if self.write_back is not None and is_insert and req.prefillshare.is_paired:
            # Before any of the rows changes hands.
            self.write_back.add(key, rows[: len(key)])
        # Without an insertion nothing of the key changes hands, and all that the tree does not own is freed.
        copies_end = given_end = len(key)
        if is_insert and not self.disable_finished_insert:
            copies_end = self._insert(req, key, rows)
            given_end = self._keep_open_page(key, tokens, rows)
        start = req.cache_protected_len
        # One call for both pieces: where they meet within a page, it is freed once.
        self.token_to_kv_pool_allocator.free_segments([(rows[start:copies_end], start), (rows[given_end:], given_end)])
        if req.last_node is not None:
            self.dec_lock_ref(req.last_node)

    def evict(self, params: EvictParams) -> EvictResult:
        """Free rows that nobody uses: pages that are not full go with what was used as long ago as they were."""
        if self.disable or self.open_pages is None or not len(self.open_pages):
            return super().evict(params)
        oldest = min((node.last_access_time for node in self.evictable_leaves), default=math.inf)
        num_freed = self.open_pages.evict(params.num_tokens, older_than=oldest)
        num_freed += super().evict(EvictParams(num_tokens=params.num_tokens - num_freed)).num_tokens_evicted
        num_freed += self.open_pages.evict(params.num_tokens - num_freed)
        return EvictResult(num_tokens_evicted=num_freed)

    def copy_rows(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy KV from rows to other rows."""
        pool = self.token_to_kv_pool_allocator.get_kvcache()
        move_kv_cache_native(pool.k_buffer, pool.v_buffer, target, source)

    def _begin(self, req: Req) -> None:
        """Before ``req`` changes the tree: its prefill is no longer under way, remember who writes, and count once what
        its first match brought.

        Until now ``last_node`` is the end of the prefix that admitted the request, and locked, so the path to it is
        what SGLang counts as cached tokens. A retracted request matches again, which counts neither there nor here. The
        prefix that a decode worker holds was counted by the prefill worker.
        """
        self._writer = req.prefillshare.origin
        self._num_eager = req.extend_range.length if req.prefillshare.is_eager else 0
        self.underway.end(req)
        if req.prefillshare.are_hits_counted or req.last_node is None or is_decode_worker():
            return
        req.prefillshare.are_hits_counted = True
        hits, node = Hits(req), req.last_node
        while node is not self.root_node:
            node.origin = hits.count(node.origin, len(node.key))
            # Counted once: whether it paid to compute them ahead is known with the first hit.
            self.eager_hit_tokens += node.num_eager
            node.num_eager = 0
            node = node.parent
        continued = req.prefillshare.continued
        hits.count(continued.origin, continued.num_tokens)
        hits.report(req)
        if req.prefillshare.is_unshared and not is_behind_router():  # which knows what prefill workers have
            note(req, avoidable_tokens=self._count_avoidable(req, hits.num_own + hits.num_cross))

    def _count_avoidable(self, req: Req, num_cached: int) -> int:
        """Tokens of a prompt that were computed although the tree has them, made by the prefill module for others."""
        key = RadixKey(req.origin_input_ids[:-1], callers_key(req.extra_key)).page_aligned(self.page_size)
        return max(0, self._count_known(key) - num_cached)

    def _count_known(self, key: RadixKey) -> int:
        """How many tokens of ``key`` the tree has; unlike a match it leaves the tree as it is."""
        num_known, node = 0, self.root_node
        while len(key) > 0 and (child := node.children.get(key.child_key(self.page_size))) is not None:
            num_same = child.key.match(key, page_size=self.page_size)
            num_known += num_same
            if num_same < len(child.key):
                break
            node, key = child, key[num_same:]
        return num_known

    def _insert_helper(
        self, node: Any, key: RadixKey, value: torch.Tensor, priority: int = 0, chunked: bool = False
    ) -> tuple[int, Any]:
        num_known, last = super()._insert_helper(node, key, value, priority, chunked)
        # What is new ends in one leaf of its own; a key that was all known ends in somebody else's node.
        if num_known < len(key):
            self._sign(last)
        return num_known, last

    def _sign(self, node: Any) -> None:
        """Say of a new node whose request put it there.

        It may begin before what was computed now: a page whose start a prompt had computed is full only now.
        """
        node.origin, node.num_eager = self._writer, min(self._num_eager, len(node.key))

    def _split_node(self, key: RadixKey, child: Any, split_len: int) -> Any:
        upper = super()._split_node(key, child, split_len)
        upper.origin = child.origin
        num_eager = child.num_eager
        child.num_eager = min(num_eager, len(child.key))
        upper.num_eager = num_eager - child.num_eager
        if self.leases is not None:
            self.leases.split(upper, child)
        return upper

    def _computed_rows(self, req: Req, num_tokens: int) -> torch.Tensor:
        return self.req_to_token_pool.req_to_token[req.req_pool_idx, :num_tokens]

    def _shareable_key(self, req: Req, num_computed: int) -> RadixKey:
        return RadixKey(self._shareable_tokens(req, num_computed), req.extra_key).page_aligned(self.page_size)

    def _shareable_tokens(self, req: Req, num_computed: int) -> array[int]:
        """The tokens of the rows that are base-made, from the first on."""
        # An abort replaces the prompt by one token, which is then all that is known of the rows' tokens.
        if req.prefillshare.is_all_base_made:
            all_tokens: array[int] = req.origin_input_ids + req.output_ids
            return all_tokens[:num_computed]
        end = min(req.prefillshare.boundary, num_computed, len(req.origin_input_ids))
        tokens: array[int] = req.origin_input_ids[:end]
        return tokens

    def _keep_open_page(self, key: RadixKey, tokens: array[int], rows: torch.Tensor) -> int:
        """Keep the page that base-made rows behind ``key`` (in the tree) begin; where the request's own rows go on."""
        num_whole = len(key)
        begun = tokens[num_whole:]
        if self.open_pages is None or num_whole == 0 or not begun:
            return num_whole
        node = super().match_prefix(MatchPrefixParams(key=key)).last_device_node
        begun_rows = rows[num_whole : len(tokens)]
        is_kept = self.open_pages.keep(node, begun, begun_rows, self._writer)
        return num_whole + self.page_size if is_kept else num_whole

    def _delete_leaf(self, node: Any) -> None:
        if self.open_pages is not None:
            self.open_pages.drop_of(node)
        if self.leases is not None:
            self.leases.end(node)
        if (tenant := tenant_of(node.key.extra_key)) is None:
            super()._delete_leaf(node)
            return
        with self.holdings.changing(tenant):
            super()._delete_leaf(node)

    def _insert(self, req: Req, key: RadixKey, rows: torch.Tensor, chunked: bool = False) -> int:
        """Insert ``key``; the number of leading tokens that the tree already had."""
        result = self.insert(
            InsertParams(
                key=key,
                # A copy, since the tree keeps it, and the pool's row will be another request's.
                value=rows[: len(key)].to(dtype=torch.int64, copy=True),
                chunked=chunked,
                priority=getattr(req, "priority", 0) or 0,
            )
        )
        return result.prefix_len

    def _share(self, req: Req, key: RadixKey, rows: torch.Tensor, *, chunked: bool) -> tuple[torch.Tensor, object]:
        """Insert ``key``, free second copies; the tree's rows for it and its node."""
        num_known = self._insert(req, key, rows, chunked)
        start = req.cache_protected_len
        self.token_to_kv_pool_allocator.free_segment(rows[start:num_known], start_pos=start)
        # Asked again, because the insertion may have split the node in which the key ended.
        match = super().match_prefix(MatchPrefixParams(key=key))
        assert len(match.device_indices) == len(key)
        return match.device_indices, match.last_device_node


@registers(
    "mem_cache.registry:_RADIX_CACHE_REGISTRY",
    "prefillshare",
    by="register_radix_cache_backend",
    fingerprint="629ebca25b3ad996",
    why="decoder-made KV would enter the shared tree",
)
def make_shared_radix_cache(context: TreeCacheBuildContext) -> SharedPrefillRadixCache:
    """Factory for ``--radix-cache-backend prefillshare``.

    Raises: RuntimeError when the model's KV pool is not a plain one, or when the
    engine around the tree is not patched (I8).
    """
    from sglang_patches.bindings import is_applied

    if not is_applied():
        raise RuntimeError(
            "radix-cache backend 'prefillshare' needs the patched engine: "
            "start it with SGLANG_PLUGINS=prefillshare,prefillshare_cpu"
        )
    if context.model_config.is_multimodal:
        raise RuntimeError(
            "shared prefill supports text models only yet: image placeholders change a prompt's length after its "
            "hand-off boundary is fixed"
        )
    if context.is_hybrid_swa or context.is_hybrid_ssm or context.is_dsa:
        raise RuntimeError(
            "shared prefill supports full-attention models only: this model has "
            "sliding-window, state-space or sparse-attention layers"
        )
    if context.enable_hierarchical_cache:
        return _with_store(context)
    cache = SharedPrefillRadixCache(context.params)
    if is_decode_worker() and (told := read_write_back()) is not None:
        cache.write_back = _write_back(context, told)
    return cache


def _write_back(context: TreeCacheBuildContext, told: dict[str, Any]) -> WriteBack | None:
    # Late: without a store, nothing of it is imported.
    from sglang_patches.store.write_back import make_write_back

    return make_write_back(context, told, _weights_of(context))


def _with_store(context: TreeCacheBuildContext) -> SharedPrefillRadixCache:
    # Late: without a store, nothing of it is imported.
    from sglang_patches.store.cache import SharedHiRadixCache

    cache = SharedHiRadixCache(context.params, context.server_args, _weights_of(context))
    context.tp_worker.register_hicache_layer_transfer_counter(cache.cache_controller.layer_done_counter)
    return cache


def _weights_of(context: TreeCacheBuildContext) -> str:
    """What turns the prefill module on disk, which its fingerprint names, into the weights that make KV."""
    args = context.server_args
    return f"{context.model_config.dtype} {args.quantization or ''} {args.json_model_override_args}"


_ROWS = "row ownership that the shared radix cache continues"
_ORIGIN = "when nodes are made, and which matched prefix counts as cached"

RELIED_ON = {
    "mem_cache.radix_cache:RadixCache.match_prefix": ("4ac011eaa716c724", _ROWS),
    "mem_cache.radix_cache:RadixCache.insert": ("d4ee45e66c92906b", _ROWS),
    "mem_cache.radix_cache:RadixCache.cache_unfinished_req": ("153f82d767e5b2c7", _ROWS),
    "mem_cache.radix_cache:RadixCache.cache_finished_req": ("a2b07adf7f49eea8", _ROWS),
    "mem_cache.radix_cache:RadixCache._insert_helper": ("6393e577a0ae7260", _ORIGIN),
    "mem_cache.radix_cache:RadixCache._split_node": ("f2df01f7cd52b1ac", _ORIGIN),
    "mem_cache.radix_cache:RadixCache.evict": ("ddfea2cd83b61d33", _ROWS),
    "mem_cache.radix_cache:RadixCache._delete_leaf": ("5ba6cd44dcabb0ae", _ROWS),
    "mem_cache.memory_pool:move_kv_cache_native": ("bb72faccd0a82f99", _ROWS),
    "mem_cache.hiradix_cache:HiRadixCache.evict": ("59268b0563596c51", _ROWS),
    "mem_cache.radix_cache:RadixKey": ("dcee2fbb2cec9878", _ROWS),
    "managers.schedule_batch:Req.init_next_round_input": ("32feade36c828d1e", _ROWS),
    "mem_cache.common:release_kv_cache": ("22899438db477d53", _ROWS),
    "mem_cache.registry:create_tree_cache": ("7e3a29b2dbbe304d", _ROWS),
}
