"""Who aborts a call, or leaves it, ends no other call whose id only begins as that one's."""

from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.constrained.grammar_manager import GrammarManager
from sglang.srt.disaggregation.utils import DisaggregationMode
from sglang.srt.managers.io_struct import AbortReq

from sglang_patches.admission.gate import Gate
from sglang_patches.engine.scheduler import Scheduler


class Request:
    """What an abort looks at, and leaves behind."""

    grammar = None
    to_finish: Any = None
    mamba_pool_idx = None

    def __init__(self, rid: str) -> None:
        self.rid = rid

    def finished(self) -> bool:
        return False

    def set_finish_with_abort(self, message: str) -> None:
        self.to_finish = message


class Engine(Scheduler):
    """A colocated scheduler with one request in each place."""

    _eager = None

    def __init__(self, *rids: str) -> None:
        places: list[list[Any]] = [[Request(f"{rid}.{place}") for rid in rids] for place in range(3)]
        self.waiting_queue, queue, running = places
        self.grammar_manager = object.__new__(GrammarManager)
        self.grammar_manager.grammar_queue = queue
        self.requests = [req for reqs in places for req in reqs]
        self.running_batch = self.last_batch = SimpleNamespace(reqs=running)
        self.chunked_req = running[-1]
        self._pending_chunked_abort_req = None
        self.enable_hicache_storage, self.dllm_config = False, None
        self.disaggregation_mode, self.ps = DisaggregationMode.NULL, SimpleNamespace(pp_size=1)
        self.told: list[str] = []
        self.ipc_channels = SimpleNamespace(send_to_tokenizer=SimpleNamespace(send_output=self.tell))

    def tell(self, message: AbortReq, req: Request) -> None:
        self.told.append(message.rid)

    def list_aborted(self) -> set[str]:
        pending = [self._pending_chunked_abort_req] if self._pending_chunked_abort_req else []
        return {req.rid for req in [*pending, *(req for req in self.requests if req.to_finish)]} | {*self.told}


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("first", ["task", "-", "+"])
def test_an_abort_ends_one_request_wherever_it_is(place: int, first: str) -> None:
    engine = Engine(first, f"{first}.{place}", f"{first}.{place}-", f"{first}.{place}+")
    before = [req.rid for req in engine.requests]
    engine.abort_request(AbortReq(rid=f"{first}.{place}"))
    assert engine.list_aborted() == {f"{first}.{place}"}
    assert [req.rid for req in engine.requests] == before


def test_an_abort_of_all_ends_all() -> None:
    engine = Engine("a", "b")
    engine.abort_request(AbortReq(rid="", abort_all=True))
    assert engine.list_aborted() == {req.rid for req in engine.requests}


def test_of_calls_that_wait_for_memory_only_those_named_are_told() -> None:
    gate = Gate(num_capacity=64, num_start_tokens=64, longest_wait_s=1.0, send=lambda call: None)
    gate._held_back = {rid: SimpleNamespace() for rid in ("a", "a_sample", "ab")}
    assert gate.list_held(("a", "a_sample")) == ["a", "a_sample"]
    assert gate.list_held(("b",)) == []
    assert gate.list_held(None) == ["a", "a_sample", "ab"]
