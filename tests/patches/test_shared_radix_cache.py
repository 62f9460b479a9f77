"""What may enter the shared tree and what a request may read from it, under random schedules.

A small scheduler drives the real cache, allocator and row table the way SGLang's does. Every slot remembers what was
computed into it: the tokens up to its position and whose weights made it. After each step:

- a row that a request matched holds base-made KV of exactly its own tokens, before its boundary (I2, I5);
- every slot in the tree is base-made, and no slot has two owners or none (no leak, no double free);
- so does a row of a page that was begun and not full, which a request goes on in or gets a copy of;
- a request's own and cross-module hits are those of its first match, by the module that put each slot into the tree;
- of the slots that were computed ahead, those are counted as hit that the first match of a call brought, each once.
"""

from array import array
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sglang.srt.mem_cache.base_prefix_cache import EvictParams, MatchPrefixParams
from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.memory_pool import ReqToTokenPool
from sglang.srt.mem_cache.radix_cache import RadixKey

from sglang_patches.cpu.paged_allocator import TorchPagedAllocator
from sglang_patches.engine.radix_cache import SharedPrefillRadixCache
from sglang_patches.observed.call_report import read_note
from sglang_patches.prefill.holdings import tenant_of
from sglang_patches.prefill.open_pages import OpenPages
from sglang_patches.prefill.request_state import ALL_BASE_MADE, RequestState

NUM_ROWS, MAX_CONTEXT, NUM_PAGES = 4, 64, 24
MODULES = [None, "math", "tool"]
TENANT = "tenant:" + "a" * 32 + ":"
SALTS = [None, None, "salt", TENANT, TENANT + "own", "tenant:" + "b" * 32 + ":"]
# Few tokens and nested prompts, so that prompts meet each other, and each other's outputs, all the time.
prompts = st.builds(
    lambda num_common, rest: [1, 2, 2, 1, 1, 2, 1, 2, 2, 2, 1, 1, 2, 1][:num_common] + rest,
    st.integers(0, 14),
    st.lists(st.integers(1, 2), min_size=1, max_size=6),
)


class Scheduler(RuleBasedStateMachine):
    """Admits, extends in chunks, decodes, finishes, aborts, retracts and evicts."""

    @initialize(page_size=st.sampled_from([1, 4]))
    def start(self, page_size):
        self.allocator = TorchPagedAllocator(
            NUM_PAGES * page_size, page_size=page_size, dtype=torch.float32, device="cpu", kvcache=None, need_sort=False
        )
        self.rows = ReqToTokenPool(NUM_ROWS, MAX_CONTEXT, "cpu", enable_memory_saver=False)
        self.cache = SharedPrefillRadixCache(
            CacheInitParams(
                disable=False,
                req_to_token_pool=self.rows,
                token_to_kv_pool_allocator=self.allocator,
                page_size=page_size,
            )
        )
        self.cache.copy_rows = self.copy_rows
        self.all_slots = set(range(page_size, (NUM_PAGES + 1) * page_size))
        self.content = {}
        self.origins = {}
        self.ahead, self.num_ahead_hit = set(), 0
        self.free_rows = list(range(1, NUM_ROWS + 1))
        self.running, self.waiting = [], []

    # --- what the engine does -------------------------------------------------------------------------------------

    def computed_by(self, req, position):
        return "base" if position < req.prefillshare.boundary else req.lora_id

    def compute(self, req, end):
        """Run the forward pass for the positions that are not there yet, up to `end`; False when the pool is full."""
        start = req.kv_committed_len
        one = torch.tensor([1])
        last = self.rows.req_to_token[req.req_pool_idx, start - 1].long() if start else torch.tensor(-1)
        slots = self.allocator.alloc_extend(
            one * start, one * start, one * end, one * end, last.reshape(1), end - start
        )
        if slots is None:
            return False
        self.rows.write((req.req_pool_idx, slice(start, end)), slots)
        tokens = list(req.origin_input_ids + req.output_ids)
        for position, slot in zip(range(start, end), slots.tolist(), strict=True):
            self.content[slot] = (tuple(tokens[: position + 1]), self.computed_by(req, position))
        req.kv_committed_len = end
        return True

    def copy_rows(self, source, target):
        self.content.update(
            {slot: self.content[row] for row, slot in zip(source.tolist(), target.tolist(), strict=True)}
        )

    def go_on_in_page(self, req, may_copy):
        """What a batch does before it allocates rows (patches/extend_batch.py)."""
        fill = req.full_untruncated_fill_ids = req.origin_input_ids + req.output_ids
        req._compute_max_prefix_len = lambda num_tokens: num_tokens - 1
        req.set_extend_range = lambda start, end: None
        req.extend_range = SimpleNamespace(end=len(fill))
        if self.cache.open_pages is not None:
            req.prefillshare.continued = self.cache.open_pages.give_to(req, may_copy=may_copy)
        for position, slot in enumerate(req.prefix_indices.tolist()):
            assert self.content[slot] == (tuple(fill[: position + 1]), "base")
            assert position < req.prefillshare.boundary
            assert position < len(fill) - 1

    def match(self, req):
        fill = req.origin_input_ids + req.output_ids
        found = self.cache.match_prefix(
            MatchPrefixParams(key=RadixKey(fill, req.extra_key, limit=len(fill) - 1), req=req)
        )
        for position, slot in enumerate(found.device_indices.tolist()):
            assert self.content[slot] == (tuple(fill[: position + 1]), "base")
            assert position < req.prefillshare.boundary
        return found

    def wrote(self, req):
        """Slots that are new in the tree are `req`'s; what its first match brought is counted by whose it was."""
        in_tree = self.cache.all_values_flatten().tolist() if self.cache.root_node.children else []
        self.origins = {slot: self.origins.get(slot, req.prefillshare.decode_module) for slot in in_tree}
        if not req.prefillshare.is_eager:
            hit = self.ahead.intersection(req.matched)
            self.ahead, self.num_ahead_hit = self.ahead - hit, self.num_ahead_hit + len(hit)
            req.matched = []
        self.ahead.intersection_update(in_tree)
        assert read_note(req.customized_info) == req.hits

    def release(self, req, is_insert):
        self.cache.cache_finished_req(req, is_insert=is_insert, kv_len_to_handle=req.kv_committed_len)
        self.wrote(req)
        self.free_rows.append(req.req_pool_idx)
        # By identity: to compare two would compare their tensors.
        self.running = [other for other in self.running if other is not req]

    # --- rules ----------------------------------------------------------------------------------------------------

    @rule(lora_id=st.sampled_from(MODULES), prompt=prompts, salt=st.sampled_from(SALTS))
    def submit(self, lora_id, prompt, salt):
        self.waiting.append(
            SimpleNamespace(
                lora_id=lora_id,
                prefillshare=RequestState(
                    boundary=ALL_BASE_MADE if lora_id is None else len(prompt) - 1, decode_module=lora_id
                ),
                customized_info=None,
                hits=None,
                extra_key=salt,
                origin_input_ids=array("q", prompt),
                output_ids=array("q"),
                priority=0,
                sampling_params=SimpleNamespace(max_new_tokens=1),
            )
        )

    @precondition(lambda self: self.free_rows)
    @rule(prompt=prompts, salt=st.sampled_from(SALTS))
    def compute_ahead(self, prompt, salt):
        """A part of a prompt that nobody has asked for: whole pages, in one step."""
        num_tokens = len(prompt) // self.allocator.page_size * self.allocator.page_size
        if not num_tokens:
            return
        self.submit(lora_id=None, prompt=prompt[:num_tokens], salt=salt)
        req = self.waiting.pop()
        self.waiting.insert(0, req)
        req.prefillshare.slice_tokens, req.prefillshare.are_hits_counted = num_tokens, True
        req.hits = read_note(None)
        self.admit(may_copy=True)
        start = req.kv_committed_len
        is_computed = self.compute(req, num_tokens)
        req.extend_range = SimpleNamespace(end=num_tokens, length=num_tokens - start)
        self.release(req, is_insert=is_computed)
        if is_computed:
            computed = self.rows.req_to_token[req.req_pool_idx, start:num_tokens].tolist()
            self.ahead.update(set(computed).intersection(self.origins))

    @precondition(lambda self: self.waiting and self.free_rows)
    @rule(may_copy=st.booleans())
    def admit(self, may_copy):
        req = self.waiting.pop(0)
        found = self.match(req)
        req.prefix_indices, req.last_node = found.device_indices, found.last_device_node
        req.cache_protected_len = req.kv_committed_len = len(found.device_indices)
        self.go_on_in_page(req, may_copy)
        continued = req.prefillshare.continued
        if req.hits is None:  # the first time; a retracted request matches again, which counts nothing
            is_own = [self.origins[slot] == req.prefillshare.decode_module for slot in found.device_indices.tolist()]
            is_own += [continued.origin == req.prefillshare.decode_module] * continued.num_tokens
            req.hits = {"own_hit_tokens": sum(is_own), "cross_hit_tokens": len(is_own) - sum(is_own)}
            req.matched = found.device_indices.tolist()
        req.req_pool_idx = self.free_rows.pop()
        self.cache.inc_lock_ref(req.last_node)
        req.kv_committed_len = len(req.prefix_indices)
        self.rows.write((req.req_pool_idx, slice(0, req.kv_committed_len)), req.prefix_indices.int())
        self.running.append(req)

    @rule(chunk=st.integers(1, 24), token=st.integers(1, 2))
    def extend(self, chunk, token):
        req = next((r for r in self.running if not getattr(r, "decoding", False)), None)
        if req is None:
            return
        total = len(req.origin_input_ids) + len(req.output_ids)
        end = min(total, req.kv_committed_len + chunk)
        if not self.compute(req, end):
            return
        req.extend_range = SimpleNamespace(end=end)
        req.get_fill_ids = lambda: (req.origin_input_ids + req.output_ids)[:end]
        self.cache.cache_unfinished_req(req, chunked=end < total)
        self.wrote(req)
        assert len(req.prefix_indices) == end
        assert req.prefix_indices.tolist() == self.rows.req_to_token[req.req_pool_idx, :end].tolist()
        if end == total:
            req.decoding = True
            req.output_ids.append(token)

    @rule(index=st.integers(0, 3), token=st.integers(1, 2))
    def decode(self, index, token):
        ready = [r for r in self.running if getattr(r, "decoding", False)]
        if not ready:
            return
        req = ready[index % len(ready)]
        total = len(req.origin_input_ids) + len(req.output_ids)
        if total < MAX_CONTEXT and self.compute(req, total):
            req.output_ids.append(token)

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 3), is_insert=st.booleans())
    def finish_or_abort(self, index, is_insert):
        self.release(self.running[index % len(self.running)], is_insert)

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 3))
    def retract(self, index):
        req = self.running[index % len(self.running)]
        self.release(req, is_insert=False)
        req.decoding = False
        self.waiting.append(req)

    @rule(num_tokens=st.integers(1, 16))
    def evict(self, num_tokens):
        self.cache.evict(EvictParams(num_tokens=num_tokens))
        in_tree = set(self.cache.all_values_flatten().tolist() if self.cache.root_node.children else [])
        self.origins = {slot: module for slot, module in self.origins.items() if slot in in_tree}
        self.ahead.intersection_update(in_tree)

    # --- what must hold -------------------------------------------------------------------------------------------

    def private_slots(self, req):
        return self.rows.req_to_token[req.req_pool_idx, req.cache_protected_len : req.kv_committed_len].tolist()

    def slots_of_pages(self, slots):
        page_size = self.allocator.page_size
        return {page * page_size + k for page in {s // page_size for s in slots} for k in range(page_size)}

    @invariant()
    def every_slot_has_one_owner(self):
        page_size = self.allocator.page_size
        in_tree = self.cache.all_values_flatten().tolist() if self.cache.root_node.children else []
        assert len(in_tree) == len(set(in_tree))
        assert {self.content[slot][1] for slot in in_tree} <= {"base"}
        private = [slot for req in self.running for slot in self.private_slots(req)]
        assert len(private) == len(set(private))
        free = [page * page_size + k for page in self.allocator.free_pages.tolist() for k in range(page_size)]
        begun = [slot for page in self.cache.open_pages or () for slot in page.rows.tolist()]
        owned = [self.slots_of_pages(group) for group in (in_tree, begun, private, free)]
        assert sum(map(len, owned)) == len(set().union(*owned)) == len(self.all_slots)

    @invariant()
    def what_can_be_evicted_is_counted(self):
        num_open = len(self.cache.open_pages or ())
        in_tree = self.cache.total_size()
        assert self.cache.evictable_size_ + self.cache.protected_size_ == in_tree + num_open * self.allocator.page_size

    @invariant()
    def hits_of_what_was_computed_ahead_are_counted(self):
        assert self.cache.eager_hit_tokens == self.num_ahead_hit

    @invariant()
    def what_tenants_hold_is_counted_as_a_walk_finds_it(self):
        found, left = Counter(), list(self.cache.root_node.children.values())
        while left:
            node = left.pop()
            if (tenant := tenant_of(node.key.extra_key)) is not None:
                found[tenant] += len(node.key)
            left += node.children.values()
        assert self.cache.holdings.as_dict() == found

    def teardown(self):
        for req in list(getattr(self, "running", [])):
            self.release(req, is_insert=True)
        if hasattr(self, "cache"):
            self.cache.evict(EvictParams(num_tokens=10**6))
            assert len(self.allocator.free_pages) == NUM_PAGES


class TestScheduler(Scheduler.TestCase):
    settings = settings(max_examples=500, stateful_step_count=60, deadline=None)


def one_request_of_a_module() -> None:
    machine = Scheduler()
    machine.start(page_size=1)
    machine.submit(lora_id="math", prompt=[1, 2, 1], salt=None)
    machine.admit(may_copy=True)
    machine.extend(chunk=24, token=2)
    machine.decode(index=0, token=1)
    machine.finish_or_abort(index=0, is_insert=True)
    machine.every_slot_has_one_owner()


def test_the_machine_notices_decoder_made_kv_in_the_tree(monkeypatch):
    """The upstream cache must fail on the simplest schedule, or the machine above proves nothing."""
    from sglang.srt.mem_cache.radix_cache import RadixCache

    one_request_of_a_module()
    monkeypatch.setattr(Scheduler, "wrote", lambda self, req: None)  # it counts no hits, either
    for name in ("match_prefix", "cache_unfinished_req", "cache_finished_req"):
        monkeypatch.setattr(SharedPrefillRadixCache, name, getattr(RadixCache, name))
    with pytest.raises(AssertionError, match="math"):
        one_request_of_a_module()


def ask(machine: Scheduler, lora_id: str | None, prompt: list[int], may_copy: bool = True) -> int:
    """One request from its admission to its end; the rows that it found computed behind its last whole page."""
    machine.submit(lora_id=lora_id, prompt=prompt, salt=None)
    machine.admit(may_copy=may_copy)
    (req,) = machine.running
    machine.every_slot_has_one_owner()
    machine.extend(chunk=24, token=2)
    machine.decode(index=0, token=1)
    machine.finish_or_abort(index=0, is_insert=True)
    machine.every_slot_has_one_owner()
    machine.what_can_be_evicted_is_counted()
    return req.prefillshare.continued.num_tokens


def pages_of_four() -> Scheduler:
    machine = Scheduler()
    machine.start(page_size=4)
    return machine


def test_the_next_call_goes_on_in_a_page_that_is_not_full():
    machine = pages_of_four()
    assert ask(machine, "math", [1, 2, 1, 2, 1, 1, 2]) == 0
    # x_7 was the decode module's, and so is the last of what comes.
    assert ask(machine, "tool", [1, 2, 1, 2, 1, 1, 1, 1, 2, 2]) == 2
    # Its own page is full by now, and in the tree: another one that begins alike gets a copy of the start.
    assert ask(machine, "tool", [1, 2, 1, 2, 1, 1, 1, 2, 2]) == 3
    assert ask(machine, "tool", [1, 2, 1, 2, 1, 1, 1, 2, 1], may_copy=False) == 0


def test_the_start_of_a_page_that_a_prompt_had_computed_is_no_hit_of_what_was_computed_ahead():
    machine = pages_of_four()
    ask(machine, "math", [1, 2, 1, 2, 1, 1, 2])
    machine.compute_ahead(prompt=[1, 2, 1, 2, 1, 1, 2, 1, 2], salt=None)
    assert len(machine.ahead) == 2
    ask(machine, "tool", [1, 2, 1, 2, 1, 1, 2, 1, 2, 2])
    assert machine.cache.eager_hit_tokens == 2


def test_no_row_from_the_boundary_on_is_given():
    machine = pages_of_four()
    ask(machine, None, [1, 2, 1, 2, 1, 1, 2])
    assert ask(machine, "math", [1, 2, 1, 2, 1, 1]) == 1
    assert ask(machine, None, [1, 2, 1, 2, 1, 1]) == 1


def test_pages_that_are_not_full_can_be_evicted():
    machine = pages_of_four()
    ask(machine, "math", [1, 2, 1, 2, 1, 1, 2])
    assert len(machine.cache.open_pages) == 1
    machine.evict(num_tokens=1)
    assert ask(machine, "math", [1, 2, 1, 2, 1, 1, 2]) == 0
    machine.evict(num_tokens=100)
    assert len(machine.allocator.free_pages) == NUM_PAGES


def test_the_machine_notices_rows_behind_the_boundary(monkeypatch):
    monkeypatch.setattr(
        OpenPages, "_last_to_give", lambda self, req: len(req.prefix_indices) + req.prefillshare.boundary
    )
    machine = pages_of_four()
    ask(machine, None, [1, 2, 1, 2, 1, 1, 2])
    with pytest.raises(AssertionError):
        ask(machine, "math", [1, 2, 1, 2, 1, 1])
