"""The shared radix cache with two further tiers: memory of the host, and the store of the deployment.

Extends ``sglang.srt.mem_cache.hiradix_cache.HiRadixCache`` by the rules of
:class:`sglang_patches.engine.radix_cache.SharedPrefillRadixCache`: each ``super()`` of those rules finds upstream's
hierarchical tree here, so only base-made KV is ever written to the tree, the host or the store (I2).

    pool (what the model reads)  <-- load --   host tier   <-- prefetch --  store
                                 -- backup ->              -- backup ->

    evicted from the pool = demoted: the node stays in the tree without rows of the pool (``node.evicted``)
    evicted from the host = gone from this engine; the store may still have it

What upstream does and these overrides do differently:

- a prefix is asked of the store in the namespace of its request (``extra_key``, I7), never past its boundary (I5), with
  the whole chain marked as used, so that no chain loses its head first;
- the store is asked at once, by the scheduler's thread: a prompt that it does not know waits for nothing, and only
  pages that are there count against the budget of loads;
- equal prompts that come together are loaded by the first of them (:attr:`_waiting_for`);
- what was loaded is kept until its request is admitted, and a load for which there is no room is made later
  (:mod:`sglang_patches.store.loads`);
- what the store lost of a chain that the host tier has is written again;
- a request that lost a part of its prefix while it waited for room in the pool asks the store again;
- what would be loaded more slowly than prefilled is prefilled (:mod:`sglang_patches.store.costs`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.managers.cache_controller import PrefetchOperation
from sglang.srt.mem_cache.hiradix_cache import HiRadixCache
from sglang.srt.mem_cache.radix_cache import RadixKey

from sglang_patches.declarations import overrides, subclasses
from sglang_patches.eager.slices import shorten_slice
from sglang_patches.engine.radix_cache import SharedPrefillRadixCache
from sglang_patches.observed.call_report import note
from sglang_patches.patches.node_hashes import ROOT_ATTRIBUTE
from sglang_patches.prefill.holdings import tenant_of
from sglang_patches.store.backend import StoreBackend
from sglang_patches.store.costs import LoadCosts
from sglang_patches.store.fetches import Fetches
from sglang_patches.store.loader import stop_loading, wait_for_loader
from sglang_patches.store.loads import HeldLoads, Postponed, RoomSeen, last_on_host, take_rows
from sglang_patches.store.page_keys import PageKeys

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.mem_cache.base_prefix_cache import InitLoadBackParams, InsertParams, InsertResult
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams
    from sglang.srt.mem_cache.radix_cache import TreeNode
    from sglang.srt.server_args import ServerArgs

    from prefillshare.store import StoreStats

STORED = "\0store"
"""Origin of what came out of the store: nobody knows for which module it was prefilled. No module is called so."""


@subclasses("mem_cache.hiradix_cache:HiRadixCache")
class SharedHiRadixCache(SharedPrefillRadixCache, HiRadixCache):
    """Base-made KV in the pool, on the host, and in the store."""

    _page_keys: PageKeys | None = None
    """None until the store was attached, which the constructor of the tree does not wait for."""

    def __init__(self, params: CacheInitParams, server_args: ServerArgs, weights: str) -> None:
        self.costs = LoadCosts()
        self.num_host_tokens = 0
        """Cached tokens of prompts that came from the host tier."""
        self.num_store_tokens = 0
        """Cached tokens of prompts that came from the store."""
        self._waiting_for: dict[str, tuple[Req, str]] = {}
        """Request id -> the request, and the one that loads what it would load."""
        self._loads: dict[str, str] = {}
        """First key of a load under way -> id of the request that makes it."""
        self._asked: dict[str, tuple[Req, int]] = {}
        """Request id -> the request, and how much the tree had of it when the store was last asked."""
        self._postponed: dict[str, Postponed] = {}
        """Request id -> the request, with a load that had no room."""
        self._held: HeldLoads | None = None
        self._fetches: Fetches | None = None
        """None where the store has no peers."""
        super().__init__(params, server_args)
        self._held = HeldLoads(
            host_tokens=self.token_to_kv_pool_host.size, pool_tokens=self.token_to_kv_pool_allocator.size
        )
        self._page_keys = PageKeys(identity=self._backend.attach(weights))
        self.costs.load = self._backend.load_pace
        if self._backend.has_peers:
            self._fetches = Fetches(self._backend.begin_fetch, self.costs, self.page_size)
        setattr(self.root_node, ROOT_ATTRIBUTE, self._page_keys)
        # Page by page as the prompt comes: a shorter load is worth it as well, since pages have 16 tokens or more.
        self.load_back_threshold = 1

    def store_stats(self) -> StoreStats:
        """What the store holds, what this engine did with it, and why there is none."""
        return self._backend.stats()

    @property
    def num_fetched_pages(self) -> int:
        """Pages that came from stores of other hosts."""
        return self._backend.num_fetched_pages

    @property
    def _backend(self) -> StoreBackend:
        backend: StoreBackend = self.cache_controller.storage_backend
        return backend

    # Tree

    @overrides("db0c714f83b4dc78", "a flush would leave what it is to forget in the store, and take a second")
    def reset(self) -> None:
        is_flush = self.num_flushes >= 0
        ended = stop_loading(self.cache_controller) if is_flush else None
        super().reset()
        setattr(self.root_node, ROOT_ATTRIBUTE, self._page_keys)
        self._waiting_for.clear()
        self._loads.clear()
        self._asked.clear()
        self._postponed.clear()
        if self._held is not None:
            self._held.clear()
        if self._fetches is not None:
            self._fetches.clear()
        if is_flush:
            wait_for_loader(self.cache_controller, ended)
            self._backend.clear()

    @overrides("af30683757e6b557", "nobody would know for which module a prefix was prefilled")
    def insert(self, params: InsertParams) -> InsertResult:
        result = super().insert(params)
        # Upstream makes the node here and not in ``_insert_helper``.
        node = self._end_of(self.root_node, params.key.page_aligned(self.page_size))
        if not _is_signed(node):
            self._sign(node)
        return result

    @overrides("377aac523e228062", "nobody would know that a prefix came out of the store")
    def _insert_helper_host(self, node: TreeNode, key: RadixKey, host_value: Any, hash_value: Any) -> int:
        num_known: int = super()._insert_helper_host(node, key, host_value, hash_value)
        last = self._end_of(node, key)
        if not _is_signed(last):
            last.origin, last.num_eager = STORED, 0
        return num_known

    def _end_of(self, node: TreeNode, key: RadixKey) -> TreeNode:
        """The node in which ``key``, which begins below ``node`` and is in the tree, ends."""
        while len(key) > 0:
            node = node.children[key.child_key(self.page_size)]
            key = key[len(node.key) :]
        return node

    @overrides("95a72c40b15f2e60", "pages that were begun behind it would have no owner")
    def _detach_backuped(self, node: TreeNode) -> int:
        if self.open_pages is not None:
            self.open_pages.drop_of(node)
        if (tenant := tenant_of(node.key.extra_key)) is None:
            return int(super()._detach_backuped(node))
        with self.holdings.changing(tenant):
            return int(super()._detach_backuped(node))

    def _begin(self, req: Req) -> None:
        is_counted = req.prefillshare.are_hits_counted
        self._forget_request(req.rid)
        super()._begin(req)
        if req.prefillshare.are_hits_counted and not is_counted:
            self.num_host_tokens += req.cached_tokens_host
            self.num_store_tokens += req.cached_tokens_storage
            note(req, host_hit_tokens=req.cached_tokens_host, store_hit_tokens=req.cached_tokens_storage)

    def cache_unfinished_req(self, req: Req, chunked: bool = False) -> None:
        # Called when a batch has computed a prompt, or a chunk of it.
        self.costs.finish_prefill(req.extend_range.length, req.time_stats.forward_entry_time)
        super().cache_unfinished_req(req, chunked=chunked)

    # Loads from the store

    def prefetch(self, req: Req, *, may_fetch: bool = True) -> None:
        """Begin to load what the store has of a prompt beyond what the tree has.

        ``may_fetch``: first ask other hosts for what this host's store has not got.
        Effects: the request waits in the queue until the load has ended (:meth:`check_prefetch_progress`), which may
        have to wait for room before it begins.
        """
        self._postponed.pop(req.rid, None)
        req.init_next_round_input(self, cow_mamba=False)
        end = min(req.prefillshare.boundary, req._compute_max_prefix_len(len(req.full_untruncated_fill_ids)))
        num_matched = len(req.prefix_indices) + req.host_hit_length
        self._asked[req.rid] = (req, num_matched)
        # Behind rows that the host has not (yet) got, loaded ones could not be put.
        is_backed = req.host_hit_length > 0 or req.last_host_node is req.last_node
        key = RadixKey(req.full_untruncated_fill_ids[num_matched:end], req.extra_key).page_aligned(self.page_size)
        if not is_backed:
            return
        assert self._page_keys is not None
        keys = self._page_keys.of(key, req.last_host_node.get_last_hash_value()) if len(key) else []
        num_stored = self._count_stored(req.last_host_node, keys)
        if not keys:
            return
        if (loader := self._loads.get(keys[0])) is not None:
            self._waiting_for[req.rid] = (req, loader)
        elif self._fetches is not None and may_fetch and self._begin_fetch(self._fetches, req, keys, num_stored):
            return
        elif num_tokens := self._worthwhile(num_stored * self.page_size):
            self._load_or_postpone(req, key[:num_tokens], keys[: num_tokens // self.page_size])

    def _count_stored(self, node: TreeNode, keys: list[str]) -> int:
        """How many of ``keys``, which continue those of ``node``, the store has, from the first on.

        Asked with what the tree has already: the store forgets first what nobody asks for. What it lost of that is
        written again, since nobody else could find what follows.
        """
        if not self._backend.is_open:
            return 0
        known = node.get_prefix_hash_values(node)
        num_stored = self._backend.count_present([*known, *keys])
        if num_stored >= len(known):
            return num_stored - len(known)
        self._write_lost_again(node, num_stored * self.page_size)
        return self._backend.count_present(keys)

    def _write_lost_again(self, node: TreeNode, num_tokens: int) -> None:
        """Give the store the chain up to ``node`` again, of which it has no more than ``num_tokens``."""
        # What is still being written is not lost.
        if self.ongoing_backup or self.ongoing_write_through:
            return
        chain = []
        while node is not self.root_node:
            chain.append(node)
            node = node.parent
        end = 0
        for part in reversed(chain):
            end += len(part.key)
            if end > num_tokens and part.backuped:
                self.write_backup_storage(part)

    def is_loading(self, rid: str) -> bool:
        """Whether a request waits for the store, for others' stores, or for room for what it would load."""
        is_fetching = self._fetches is not None and self._fetches.get(rid) is not None
        return is_fetching or any(rid in those for those in (self.ongoing_prefetch, self._waiting_for, self._postponed))

    def _has_room(self) -> bool:
        assert self._held is not None
        return self._held.has_room(self.cache_controller.prefetch_tokens_occupied)

    def _worthwhile(self, num_tokens: int) -> int:
        """How many of the tokens that the store has are worth loading."""
        if num_tokens and not self.costs.should_load(num_tokens):
            num_tokens = 0
        # Each rank has pages and measures of its own, and all must go the same way.
        agreed = torch.tensor(num_tokens)
        self._all_reduce_attn_groups(agreed, torch.distributed.ReduceOp.MIN)
        return int(agreed)

    def _begin_fetch(self, fetches: Fetches, req: Req, keys: list[str], num_here: int) -> bool:
        """Let the request wait for pages of other hosts; False where none are to be had that way."""
        known = req.last_host_node.get_prefix_hash_values(req.last_host_node)
        begun = torch.tensor(int(fetches.begin(req, keys[num_here:], [*known, *keys[:num_here]])))
        # A rank that has all pages waits with the others: all must take the prompt in the same round.
        self._all_reduce_attn_groups(begun, torch.distributed.ReduceOp.MAX)
        if begun:
            fetches.join(req)
        return bool(begun)

    def _is_fetching(self, fetches: Fetches, req_id: str) -> bool:
        """Whether the request goes on waiting for other hosts; asks for what has come once it does not."""
        waiting = fetches.get(req_id)
        has_ended = torch.tensor(int(waiting is None or waiting.fetch.has_ended))
        self._all_reduce_attn_groups(has_ended, torch.distributed.ReduceOp.MIN)
        if not has_ended:
            return True
        if waiting is not None:
            fetches.forget(req_id)
            self.prefetch(waiting.req, may_fetch=False)
        return False

    def _load_or_postpone(self, req: Req, key: RadixKey, keys: list[str]) -> None:
        if not self._has_room():
            self._postponed[req.rid] = Postponed(req=req)
        elif not self._load(req, key, keys):
            self._postponed[req.rid] = Postponed(req=req, seen=RoomSeen.of(self))

    def _load(self, req: Req, key: RadixKey, keys: list[str]) -> bool:
        """Begin to load ``key``; False where the host tier has room for it as soon as somebody's work has ended."""
        req.last_host_node.protect_host()  # before others give way
        rows = take_rows(self, len(key))
        comes_later = len(rows) < len(key) and RoomSeen.of(self).is_anything_locked
        if comes_later or len(rows) == 0:
            self.token_to_kv_pool_host.free(rows)
            req.last_host_node.release_host()
            return not comes_later
        key, keys = key[: len(rows)], keys[: len(rows) // self.page_size]
        operation = PrefetchOperation(req.rid, key, req.last_host_node.get_last_hash_value())
        operation.hash_value, operation.storage_hit_count, operation.host_indices = keys, len(key), rows
        self.ongoing_prefetch[req.rid] = (req.last_host_node, key, operation)
        self.cache_controller.prefetch_tokens_occupied += len(key)
        self._loads[keys[0]] = req.rid
        # What upstream's thread hands on after it has asked the backend and taken rows.
        self.cache_controller.prefetch_buffer.put(operation)
        return True

    @overrides("7812f52d5fdfe871", "equal prompts that come together would each be loaded")
    def check_prefetch_progress(self, req_id: str) -> bool:
        if self._fetches is not None and self._is_fetching(self._fetches, req_id):
            return False
        waiting = self._waiting_for.get(req_id)
        if waiting is not None:
            req, loader = waiting
            if loader in self.ongoing_prefetch:
                return False
            del self._waiting_for[req_id]
            self._strike_off(loader)
            # Its own prompt may go on where the other one ended.
            return self._is_ready_after_asking(req)
        if req_id in self.ongoing_prefetch:
            return self._end_load(req_id)
        return self._is_ready(req_id)

    def _end_load(self, req_id: str) -> bool:
        node, key, _ = self.ongoing_prefetch[req_id]
        is_done: bool = super().check_prefetch_progress(req_id)
        if is_done:
            self._strike_off(req_id)
            num_loaded = self.prefetch_loaded_tokens_by_reqid.get(req_id, 0)
            if num_loaded and req_id in self._asked and self._held is not None:
                self._held.hold(self._asked[req_id][0], last_on_host(node, key, self.page_size), num_loaded)
        return is_done

    def _is_ready(self, req_id: str) -> bool:
        """Whether a request without a load may be admitted: not if a part of its prefix went while it waited, and the
        store still has that."""
        if req_id not in self._asked or (self._held is not None and req_id in self._held):
            return True
        req, num_had = self._asked[req_id]
        if (postponed := self._postponed.get(req_id)) is not None:
            may_load = self._has_room() and postponed.seen != RoomSeen.of(self)
            return may_load and self._is_ready_after_asking(req)
        req.init_next_round_input(self, cow_mamba=False)
        return len(req.prefix_indices) + req.host_hit_length >= num_had or self._is_ready_after_asking(req)

    def _is_ready_after_asking(self, req: Req) -> bool:
        self.prefetch(req, may_fetch=False)  # other hosts are asked once
        return not self.is_loading(req.rid)

    def _forget_request(self, rid: str) -> None:
        self._asked.pop(rid, None)
        self._postponed.pop(rid, None)
        if self._held is not None:
            self._held.release(rid)

    @overrides("1f130832e4e6debd", "an aborted request would be waited for")
    def release_aborted_request(self, rid: str) -> None:
        self._waiting_for.pop(rid, None)
        self._forget_request(rid)
        if self._fetches is not None:
            self._fetches.forget(rid)
        super().release_aborted_request(rid)
        self._strike_off(rid)

    def _strike_off(self, rid: str) -> None:
        for key in [key for key, loader in self._loads.items() if loader == rid]:
            del self._loads[key]

    @overrides("ee728714cd7b78c3", "what was not loaded would be counted as cached")
    def init_load_back(self, params: InitLoadBackParams) -> tuple[torch.Tensor, TreeNode]:
        indices, node = self._load_back(params)
        if len(indices) == 0 and params.req is not None:
            params.req.host_hit_length = params.req.storage_hit_length = 0
            shorten_slice(params.req)
        return indices, node

    def _load_back(self, params: InitLoadBackParams) -> tuple[torch.Tensor, TreeNode]:
        if (tenant := tenant_of(params.best_match_node.key.extra_key)) is None:
            return super().init_load_back(params)
        with self.holdings.changing(tenant):
            return super().init_load_back(params)

    # The store stays while the engine runs

    @overrides("c3672ad80a3bdca3", "an engine could change to a store that does not keep tenants and weights apart")
    def attach_storage_backend(self, *args: Any, **kwargs: Any) -> tuple[bool, str]:
        return False, "the store of a deployment is chosen at its start: write [store] into the deployment file"

    @overrides("0c397a0562cb9304", "an engine could leave the store that its deployment counts on")
    def detach_storage_backend(self) -> tuple[bool, str]:
        return False, "the store of a deployment is chosen at its start: take [store] out of the deployment file"

    @overrides("423b976075c3c526", "the store would not be left at the end")
    def shutdown(self) -> None:
        if self.enable_storage:
            super().detach_storage_backend()


def _is_signed(node: TreeNode) -> bool:
    """Whether it is known where a node's KV comes from; the root has none."""
    return node.parent is None or hasattr(node, "origin")
