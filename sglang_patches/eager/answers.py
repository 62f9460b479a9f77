"""The HTTP process's side: when an answer ends, what the next prompt begins with goes to where it is computed.

Colocated that is the own scheduler. A decode worker keeps it for its router, which asks and sends it to a prefill
worker. Rendering and tokenising take milliseconds of a long conversation, so a thread does it, one answer at a time,
few of them waiting, and within a budget of time; the event loop only hands over.
:mod:`sglang_patches.engine.tokenizer_manager` tells of each end.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from prefillshare.wire.continuation import Continuation
from sglang_patches.disaggregation.role import is_decode_worker
from sglang_patches.eager.budget import Budget
from sglang_patches.eager.continuation import Answer, Conversation, after_text, after_tokens, common_start
from sglang_patches.eager.kept import Kept
from sglang_patches.eager.quiet import SETTLE_S
from sglang_patches.eager.switch import make_rid
from sglang_patches.eager.tails import Tails
from sglang_patches.prefill.unshared import unshared_modules
from sglang_patches.store.switch import read_write_back

if TYPE_CHECKING:
    from sglang.srt.managers.io_struct import BatchStrOutput, GenerateReqInput
    from sglang.srt.managers.tokenizer_manager import ReqState, TokenizerManager

MAX_WAITING = 64
"""Answers whose conversation is still to be rendered; further ones are left out until the thread has caught up."""
CONVERSATION = "prefillshare_conversation"
"""Attribute of a request that a chat call has made."""

Found = asyncio.Future[Continuation | None]
Make = Callable[[list[int]], Continuation | None]


def note_conversation(obj: GenerateReqInput, conversation: Conversation) -> None:
    """Let a request know the conversation that it was made of."""
    setattr(obj, CONVERSATION, conversation)


class EndedAnswers:
    """Finds out what comes after the answers of one HTTP process."""

    def __init__(self, manager: TokenizerManager, min_tokens: int) -> None:
        self._manager = manager
        self._min_tokens = min_tokens
        self._renderer = ThreadPoolExecutor(1, thread_name_prefix="continuations")
        self._budget = Budget()
        self._tails = Tails()
        self._tasks: set[asyncio.Future[Any]] = set()
        self.num_left_out = 0
        self._num_forgotten = 0
        self._num_settling = 0
        self.kept = Kept() if is_decode_worker() else None
        self._unshared = unshared_modules()
        """Modules whose answers stay in the cache as they were made."""
        self._goes_back = read_write_back() is not None
        """Whether the KV of answers goes to the store, as it was made, for whichever prefill worker needs it."""

    def note_end(self, state: ReqState, recv_obj: BatchStrOutput, i: int) -> None:
        """The request at place `i` of the scheduler's message has ended; its answer is not on its way yet."""
        obj = state.obj
        if not self._is_worth_it(obj, recv_obj, i):
            return
        ended = (obj, _read_answer(state, recv_obj, i), recv_obj.prompt_tokens[i])
        if self.kept is None:
            # Rendering takes the interpreter from whoever goes on at once.
            self._num_settling += 1
            asyncio.get_running_loop().call_later(SETTLE_S, self._compute, self._num_forgotten, *ended)
        elif (found := self._find(*ended)) is not None:
            self.kept.keep(str(recv_obj.rids[i]), found)

    def forget(self) -> None:
        """What has ended until now is not to be computed any more."""
        self._num_forgotten += 1

    @property
    def num_open(self) -> int:
        """Answers that ended, and of which no job is made yet."""
        return self._num_settling + len(self._tasks)

    def _compute(self, num_forgotten: int, obj: GenerateReqInput, answer: Answer, num_prompt_tokens: int) -> None:
        """Have what comes after an answer computed by the own scheduler, unless it was forgotten since it ended."""
        self._num_settling -= 1
        found = self._find(obj, answer, num_prompt_tokens) if num_forgotten == self._num_forgotten else None
        if found is not None:
            found.add_done_callback(partial(self._submit, num_forgotten, obj.lora_id))

    def _is_worth_it(self, obj: GenerateReqInput, recv_obj: BatchStrOutput, i: int) -> bool:
        is_whole = (recv_obj.finished_reasons[i] or {}).get("type") in ("stop", "length")
        # Of several samples, nobody knows which one comes back.
        is_only = (obj.sampling_params or {}).get("n", 1) == 1
        is_plain = (
            obj.session_params is None
            and obj.lora_path not in self._unshared
            and bool(obj.input_ids or isinstance(obj.text, str))
        )
        return is_whole and is_only and is_plain and recv_obj.completion_tokens[i] >= self._min_tokens

    def _find(self, obj: GenerateReqInput, answer: Answer, num_prompt_tokens: int) -> Found | None:
        """What will have been found; None where too many are being looked for."""
        conversation: Conversation | None = getattr(obj, CONVERSATION, None)
        make = partial(self._make, obj, num_prompt_tokens, answer)
        if conversation is None and obj.input_ids:
            found: Found = asyncio.get_running_loop().create_future()
            found.set_result(make(after_tokens(obj.input_ids, answer)))
            return found
        if len(self._tasks) >= MAX_WAITING or not self._budget.has_some():
            self.num_left_out += 1
            return None
        render = partial(self._after_text, obj.text, answer)
        if conversation is not None:
            render = partial(conversation.find_continuation, answer, self._tails)
        task = asyncio.ensure_future(self._render(render, make))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _render(self, render: Callable[[], list[int]], make: Make) -> Continuation | None:
        # The first step of a task comes after the message is worked through: the answer is on its way by then.
        tokens, seconds = await asyncio.get_running_loop().run_in_executor(self._renderer, _take_time, render)
        self._budget.spend(seconds)
        return None if tokens is None else make(tokens)

    def _after_text(self, prompt: str, answer: Answer) -> list[int]:
        tokenizer = self._manager.tokenizer
        return after_text(lambda text: tokenizer(text)["input_ids"], prompt, answer)

    def _make(
        self, obj: GenerateReqInput, num_prompt_tokens: int, answer: Answer, tokens: list[int]
    ) -> Continuation | None:
        num_new = _count_new(obj, num_prompt_tokens, tokens)
        if self._goes_back:
            num_new = _count_rewritten(obj, answer, tokens)
        if num_new < self._min_tokens:
            return None
        module = obj.lora_path or self._manager.served_model_name
        return Continuation(input_ids=tokens, extra_key=obj.extra_key, module=module, new_tokens=num_new)

    def _submit(self, num_forgotten: int, lora_id: str | None, found: Found) -> None:
        """Hand a job to the own scheduler, which tells nobody how it ends."""
        from sglang.srt.managers.io_struct import TokenizedGenerateReqInput
        from sglang.srt.sampling.sampling_params import SamplingParams

        continuation = None if found.cancelled() else found.result()
        if continuation is None or num_forgotten != self._num_forgotten:
            return
        job = TokenizedGenerateReqInput(
            rid=make_rid(),
            input_text="",
            input_ids=array("q", continuation.input_ids),
            input_embeds=None,
            mm_inputs=None,
            token_type_ids=None,
            sampling_params=SamplingParams(max_new_tokens=0),
            return_logprob=False,
            logprob_start_len=-1,
            top_logprobs_num=0,
            token_ids_logprob=None,
            stream=False,
            routing_key=lora_id,
            extra_key=continuation.extra_key,
        )
        job.wrap_pickle_fields()
        self._manager._dispatch_to_scheduler(job)


def _count_new(obj: GenerateReqInput, num_prompt_tokens: int, tokens: list[int]) -> int:
    """Tokens of the continuation behind where it leaves the prompt, which may be before the prompt's end.

    Of a prompt that came as text only the number of tokens is known.
    """
    prompt = obj.input_ids
    if not prompt or tokens[:num_prompt_tokens] == prompt:
        return len(tokens) - num_prompt_tokens
    return len(tokens) - len(common_start([tokens, prompt]))


def _count_rewritten(obj: GenerateReqInput, answer: Answer, tokens: list[int]) -> int:
    """Tokens of the continuation behind where it leaves prompt and answer as they were made.

    None of a prompt that came as text: the decode worker's HTTP process does not know its tokens.
    """
    if not obj.input_ids:
        return 0
    return len(tokens) - len(common_start([tokens, [*obj.input_ids, *answer.token_ids]]))


def _take_time(render: Callable[[], list[int]]) -> tuple[list[int] | None, float]:
    """What is rendered, None where that cannot be, and the seconds that it took this thread."""
    started, tokens = time.thread_time(), None
    # A template that takes no such history, or a text that is too long to go on.
    with contextlib.suppress(ValueError):
        tokens = render()
    return tokens, time.thread_time() - started


def _read_answer(state: ReqState, recv_obj: BatchStrOutput, i: int) -> Answer:
    names = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
    meta_info = {name: getattr(recv_obj, name)[i] for name in names}
    meta_info |= {"id": recv_obj.rids[i], "finish_reason": recv_obj.finished_reasons[i], "weight_version": ""}
    return Answer(text=state.get_text(), token_ids=list(state.output_ids), meta_info=meta_info)
