"""When a stream is over, what is left of it is aborted; a later call that was given the same id is not."""

import asyncio
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.managers.io_struct import AbortReq, GenerateReqInput

from sglang_patches.engine import tokenizer_manager
from sglang_patches.engine.tokenizer_manager import TokenizerManager


class Manager(TokenizerManager):
    """A manager with what beginning, ending and aborting a request takes."""

    ended_answers = None
    quiet = None

    def __init__(self) -> None:
        self.rid_to_state = {}
        self.logical_rid_to_child_rids = {}
        self.child_rid_to_logical_rid = {}
        self.enable_trace = self.enable_metrics = False
        self.disaggregation_mode = None
        self.server_args: Any = SimpleNamespace(tokenizer_worker_num=1)
        self.aborted: list[str] = []

    def _dispatch_to_scheduler(self, message: AbortReq) -> None:
        self.aborted.append(message.rid)

    def begin(self, *rids: str, num_samples: int = 1) -> GenerateReqInput:
        """A call for as many prompts as ids begins."""
        params = {"n": num_samples}
        obj = GenerateReqInput(text=list(rids), rid=list(rids), sampling_params=params, log_metrics=False)
        obj.normalize_batch_and_arguments()
        self._init_req_state(obj)
        return obj


def end_stream(manager: Manager, obj: GenerateReqInput) -> None:
    (task,) = manager.create_abort_task(obj).tasks
    asyncio.run(task())


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made; none takes any time."""
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return made


def test_nothing_waits_behind_a_stream_that_has_ended(pauses: list[float]) -> None:
    manager = Manager()
    ended = manager.begin("a", "b")
    for rid in ("a", "b"):
        manager._remove_req_state(rid)
    manager.begin("b", "c")
    end_stream(manager, ended)
    assert (manager.aborted, pauses) == ([], [])


def test_what_is_left_of_a_stream_is_aborted_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = Manager()
    left = manager.begin("a", "b", "c")
    manager._remove_req_state("a")

    async def sleep(seconds: float) -> None:
        # In the meantime one more ends, and its id is given to another call.
        manager._remove_req_state("b")
        manager.begin("b")

    monkeypatch.setattr(asyncio, "sleep", sleep)
    end_stream(manager, left)
    assert manager.aborted == ["c"]


def test_samples_that_are_left_are_aborted(pauses: list[float]) -> None:
    manager = Manager()
    left = manager.begin("a", num_samples=2)
    child = GenerateReqInput(text="a", rid="a_child", sampling_params={}, log_metrics=False)
    child.normalize_batch_and_arguments()
    manager._init_child_req_state("a", child)
    manager._remove_req_state("a")
    end_stream(manager, left)
    assert manager.aborted == ["a_child"]
    assert pauses == [tokenizer_manager.LEFT_STREAM_S]


class Held:
    """A gate at which every call waits."""

    def list_held(self, rids: Collection[str] | None) -> list[str]:
        return sorted(rids or ())


def test_a_batch_that_is_aborted_by_its_name_waits_for_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    manager, ended = Manager(), list[str]()
    monkeypatch.setattr(Manager, "gate", Held(), raising=False)
    monkeypatch.setattr(Manager, "_handle_abort_req", lambda self, message: ended.append(message.rid))
    manager.begin("task_0", "task_1")
    manager.begin("other_0")
    manager.abort_request("task")
    assert ended == ["task", "task_0", "task_1"]


def test_the_samples_of_a_call_are_its_own_and_not_whose_ids_look_like_it() -> None:
    manager = Manager()
    manager.begin("task_1")
    manager.begin("a", "b")
    # As of a call with two samples whose own request has been sent.
    manager.logical_rid_to_child_rids["task"] = {"a", "b"}
    manager.abort_request("task")
    assert manager.aborted == ["a", "b"]
