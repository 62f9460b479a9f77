"""The HTTP process of an engine: which calls it takes, and what it counts of them.

Target: ``sglang.srt.managers.tokenizer_manager.TokenizerManager``
Why: a call that SGLang takes as it is may end the engine (token ids outside of the vocabulary), hold up everybody (a
    text of megabytes, a schema that takes minutes) or be answered as if it had said nothing (a seed for several
    samples). A prefill worker would obey what a call says to the decode module. SGLang's own metrics know no decode
    module, no session, and cached tokens only as a sum.
How: at each step of a call's way its part is looked at, before or after upstream's: what is for the other worker of a
    pair by ``disaggregation/requests``, sizes by ``checks/prompt_size``, values by ``checks/calls``, grammars by
    ``answers/trials``, seeds by ``answers/seeds``. A request's state carries an observation (``observed/requests``)
    from its beginning to its end, and then tells what comes after it (``eager/answers``); a prefill worker takes jobs
    of that kind from its router (``eager/requests``). A call whose module is still to be chosen becomes a request for
    its prompt's hidden state (``choosing/requests``). New weights are refused where KV of the old ones is in a store.
Remove when: upstream has the checks, metrics per adapter, and a hook for the end of a request.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import BackgroundTasks, HTTPException
from sglang.srt.managers import tokenizer_manager as upstream

from prefillshare.observe.observer import Observer
from sglang_patches.admission.gate import Gate
from sglang_patches.admission.switch import read_longest_wait_s
from sglang_patches.answers.seeds import sample_seed
from sglang_patches.answers.trials import GrammarTrials, check_grammars
from sglang_patches.checks import prompt_size
from sglang_patches.checks.calls import check_call, check_request, prepare_call
from sglang_patches.checks.reserved_ids import is_call_rid, refuse_reserved_rid
from sglang_patches.checks.secrets import hide_secrets
from sglang_patches.choosing.classifiers import read_classifiers
from sglang_patches.choosing.requests import ask_for_state, read_as_choice, take_mark
from sglang_patches.declarations import binds, overrides
from sglang_patches.disaggregation.requests import read_as_half, without_output
from sglang_patches.disaggregation.role import is_decode_worker, is_prefill_worker, worker_role
from sglang_patches.disaggregation.samples import is_sample_of
from sglang_patches.eager.answers import EndedAnswers
from sglang_patches.eager.quiet import Quiet
from sglang_patches.eager.requests import read_as_job
from sglang_patches.eager.switch import QUIET_RID, read_min_tokens
from sglang_patches.http.prefetches import take_prefetch
from sglang_patches.http.request_state import take_namespace, take_pin
from sglang_patches.observed import requests as observed
from sglang_patches.observed import traces
from sglang_patches.prefill.unshared import hashes_by_id, own_namespace
from sglang_patches.store.switch import read_write_back

if TYPE_CHECKING:
    from fastapi import Request
    from sglang.srt.managers.io_struct import (
        AbortReq,
        BatchStrOutput,
        FlushCacheReqOutput,
        GenerateReqInput,
        PauseGenerationReqInput,
        TokenizedGenerateReqInput,
    )

    from prefillshare.tenants.roster import Roster

_UNCOUNTED = "requests would not be counted by module"
LEFT_STREAM_S = 2.0
"""As upstream: how long what is left of a stream may take to end by itself."""
LIFECYCLES = "prefillshare_lifecycles"
"""Attribute of a call: what tells its requests, by id, from later ones with the same ids."""
_OTHERS_KV = "an engine with new weights would go on with the old ones' KV, and give others its own"


@binds(
    "managers.tokenizer_manager:TokenizerManager",
    at=(
        "entrypoints.engine",
        "entrypoints.http_server",
        "entrypoints.openai.realtime.handler",
        "entrypoints.openai.realtime.session",
        "entrypoints.openai.streaming_asr",
        "managers.multi_tokenizer_mixin",
        "parser.template_manager",
    ),
)
class TokenizerManager(upstream.TokenizerManager):
    """Looks at calls before the scheduler sees them, and counts them."""

    gate: Gate | None = None
    """Holds calls back while memory is full; None where nobody waits for that."""

    roster: Roster | None = None
    """The tenants of a deployment that has such; None where one key is everybody's."""

    def get_ready(self, num_kv_tokens: int) -> None:
        """Before the first call: counting begins, and the process of trials starts, unless this worker follows none."""
        self.observer = Observer()
        self.gate = self._make_gate(num_kv_tokens)
        read_classifiers(self)
        if self.tokenizer is not None and not is_prefill_worker():
            self.grammar_trials.start()

    @cached_property
    def observer(self) -> Observer:
        """What this process has counted; an engine without an HTTP server begins with its first call."""
        return Observer()

    @cached_property
    def _unshared(self) -> dict[str, str]:
        """Modules that compute their prompts themselves, by the id of the adapter; they are there from the start."""
        return hashes_by_id(self.lora_registry.get_all_adapters())

    @cached_property
    def grammar_trials(self) -> GrammarTrials:
        """The process in which grammars are tried out."""
        return GrammarTrials(self)

    @cached_property
    def eager_min_tokens(self) -> int | None:
        """From how many tokens on answers are computed ahead; None where they are not."""
        return read_min_tokens()

    @cached_property
    def ended_answers(self) -> EndedAnswers | None:
        """What comes after answers; None where nobody computes it ahead, and on a prefill worker, which has none."""
        if self.eager_min_tokens is None or is_prefill_worker():
            return None
        return EndedAnswers(self, self.eager_min_tokens)

    @cached_property
    def quiet(self) -> Quiet | None:
        """Who tells the scheduler when no call runs; None where nothing is computed ahead."""
        if self.eager_min_tokens is None or is_decode_worker():
            return None
        return Quiet(has_calls=self._has_calls, tell=self._tell_quiet)

    def _has_calls(self) -> bool:
        return any(is_call_rid(rid) for rid in self.rid_to_state)

    def _tell_quiet(self) -> None:
        # An abort reaches every rank in its turn among the calls; no request has this id.
        self._dispatch_to_scheduler(upstream.AbortReq(rid=QUIET_RID))

    @overrides(
        "92834a9b2cce75a6",
        "what answers add to the emptied cache would be computed, from their conversation's beginning",
        of="managers.tokenizer_control_mixin:TokenizerControlMixin.flush_cache",
    )
    async def flush_cache(self, timeout_s: float | None = None) -> FlushCacheReqOutput:
        self._forget_answers()
        flushed = await super().flush_cache(timeout_s)
        if self.gate is not None and flushed.success:
            self.gate.forget_kept()
        return flushed

    @overrides("f30e70b1988247bb", "answers nobody wants would be computed ahead, and calls that wait would not end")
    def abort_request(self, rid: str = "", abort_all: bool = False) -> None:
        if abort_all:
            self._forget_answers()
        # On a worker of a pair, samples of a call are requests of their own (disaggregation/samples).
        # Neither where the call itself is known: others' ids may end as samples' do.
        is_known = rid in self.rid_to_state or rid in self.logical_rid_to_child_rids
        samples = [] if is_known else [known for known in self.rid_to_state if is_sample_of(known, rid)]
        its_own = {rid, *samples}
        its_own |= {child for name in its_own for child in self.logical_rid_to_child_rids.get(name, ())}
        for sample in samples:
            super().abort_request(sample)
        super().abort_request(rid, abort_all)
        if self.gate is not None and (rid or abort_all):
            # The scheduler knows nothing of them, so it does not answer.
            for held in self.gate.list_held(None if abort_all else its_own):
                self._handle_abort_req(upstream.AbortReq(rid=held))

    def _forget_answers(self) -> None:
        if self.ended_answers is not None:
            self.ended_answers.forget()

    @overrides("f903c279068e6021", "a text of megabytes would hold up everybody while it is tokenised")
    def init_tokenizer_and_processor(self) -> None:
        super().init_tokenizer_and_processor()
        prompt_size.guard(self.tokenizer, self.model_config.context_len)

    @overrides("d8eaa29a7e742697", "a prefill worker would obey the decode module's settings")
    def generate_request(self, obj: GenerateReqInput, request: Request | None = None) -> AsyncIterator[Any]:
        prepare_call(obj)
        check_call(obj, None if request is None else request.url.path)
        choice = read_as_choice(obj, request)
        # SGLang's own health checks have such an id, and are not counted, which no call can ask for.
        if obj.log_metrics:
            refuse_reserved_rid(obj.rid)
        if self.eager_min_tokens is not None:
            read_as_job(obj, request)
        take_namespace(obj, request)
        is_prefetch = take_prefetch(obj, request)
        reshape = read_as_half(obj, request)
        take_pin(obj, request)
        take_mark(obj, request, choice)
        answers = super().generate_request(obj, request)
        if choice is not None:
            answers = choice.collect(answers)
        if is_prefetch:
            answers = without_output(answers)
        return answers if reshape is None else reshape(answers)

    @overrides("a1a2a1a47255a080", "generated tokens would be prefilled by the base")
    async def pause_generation(self, obj: PauseGenerationReqInput) -> None:
        # Retracted requests are computed again from prompt and output: on a prefill worker, as if all were prompt.
        if obj.mode == "retract" and worker_role() != "null":
            raise HTTPException(
                HTTPStatus.BAD_REQUEST,
                "pause_generation with mode retract is not supported by disaggregated workers: use abort or in_place",
            )
        await super().pause_generation(obj)

    @overrides("5fb935cea26fd6af", "a token id outside of the vocabulary would end the engine")
    def _validate_one_request(self, obj: GenerateReqInput, input_ids: list[int]) -> None:
        check_request(obj, input_ids, self.model_config.vocab_size)
        super()._validate_one_request(obj, input_ids)

    @overrides("6feabb213ac75a17", "a schema or pattern could take minutes, or end the scheduler")
    async def _validate_and_resolve_lora(self, obj: GenerateReqInput) -> None:
        params = getattr(obj, "sampling_params", None)
        await check_grammars(self.grammar_trials, params if isinstance(params, list) else [params])
        await super()._validate_and_resolve_lora(obj)

    @overrides(
        "73bce132ae96f2dc",
        "KV of a module that computes its prompts itself would be others', too; choices would have no answer",
    )
    def _create_tokenized_object(self, obj: GenerateReqInput, *args: Any, **kwargs: Any) -> Any:
        tokenized = super()._create_tokenized_object(obj, *args, **kwargs)
        if (sha256 := self._unshared.get(tokenized.lora_id)) is not None:
            tokenized.extra_key = own_namespace(sha256, tokenized.extra_key)
        ask_for_state(tokenized)
        return tokenized

    @overrides("02bcddcf7ca48618", "a seed would be taken silently and change nothing")
    def _send_one_request(self, tokenized_obj: TokenizedGenerateReqInput) -> None:
        params = tokenized_obj.sampling_params
        logical = self.rid_to_state.get(self.child_rid_to_logical_rid.get(tokenized_obj.rid))
        # A call for several samples first computes its prompt, as a call for no token.
        if logical is not None and params.sampling_seed is not None and params.max_new_tokens != 0:
            index = getattr(logical, "prefillshare_num_samples", 0)
            logical.prefillshare_num_samples = index + 1
            tokenized_obj.sampling_params = copy.copy(params)
            tokenized_obj.sampling_params.sampling_seed = sample_seed(params.sampling_seed, index)
        if self.gate is not None and _may_wait(tokenized_obj):
            state = self.rid_to_state.get(tokenized_obj.rid)
            self.gate.pass_or_hold(tokenized_obj, getattr(state, "session_name", None))
        else:
            super()._send_one_request(tokenized_obj)

    def _make_gate(self, num_kv_tokens: int) -> Gate | None:
        longest_wait_s = read_longest_wait_s()
        if longest_wait_s is None:
            return None
        args = self.server_args
        sign = 1 if args.schedule_low_priority_values_first else -1
        return Gate(
            num_capacity=num_kv_tokens,
            num_start_tokens=max(args.chunked_prefill_size or 0, 0) or args.max_prefill_tokens,
            longest_wait_s=longest_wait_s,
            send=super()._send_one_request,
            priority_sign=sign if args.enable_priority_scheduling else 0,
        )

    @overrides("35a1d7d08e1109ff", "a call would be ended because an earlier one had its id")
    def create_abort_task(self, obj: GenerateReqInput) -> BackgroundTasks:
        tasks = BackgroundTasks()
        tasks.add_task(self._end_left_stream, obj)
        return tasks

    async def _end_left_stream(self, obj: GenerateReqInput) -> None:
        """Abort what still runs of a stream that is over, since its client has left; mostly nothing does."""
        if self._list_own(obj):
            await asyncio.sleep(LEFT_STREAM_S)
            for rid in self._list_own(obj):
                self.abort_request(rid)

    def _list_own(self, obj: GenerateReqInput) -> list[str]:
        """Ids of a call's requests that are still its own: whoever has given an id may give it again."""
        own: dict[str, object] = getattr(obj, LIFECYCLES, {})
        return [rid for rid, lifecycle in own.items() if lifecycle in self._lifecycles_of(rid)]

    def _lifecycles_of(self, rid: str) -> list[object]:
        # Of several samples, the call's own request goes when theirs have been sent.
        known = (self.rid_to_state.get(name) for name in (rid, *self.logical_rid_to_child_rids.get(rid, ())))
        return [state.lifecycle_id for state in known if state is not None]

    @overrides("e8d69ee3e74f86be", _UNCOUNTED)
    def _init_req_state(
        self, obj: GenerateReqInput, request: Request | None = None, *args: Any, **kwargs: Any
    ) -> dict[str, object]:
        lifecycles: dict[str, object] = super()._init_req_state(obj, request, *args, **kwargs)
        setattr(obj, LIFECYCLES, lifecycles)
        # Health checks are no part of the load.
        if getattr(obj, "log_metrics", False):
            observed.begin(self, obj, request, [self.rid_to_state[rid] for rid in lifecycles])
        return lifecycles

    @overrides("55a8f44d5521488f", _UNCOUNTED)
    def collect_metrics(self, state: upstream.ReqState, recv_obj: BatchStrOutput, i: int) -> None:
        super().collect_metrics(state, recv_obj, i)
        observed.count_output(self.observer, state, recv_obj, i)
        if self.gate is not None and not state.finished:
            self.gate.note_output(str(recv_obj.rids[i]), recv_obj.completion_tokens[i])
        if state.finished and self.ended_answers is not None:
            self.ended_answers.note_end(state, recv_obj, i)

    @overrides("0b612626e83c699d", "spans would name the base as the model that answers, and tokens by withdrawn names")
    def convert_to_span_attrs(self, state: upstream.ReqState, *args: Any, **kwargs: Any) -> dict[str, Any]:
        told = super().convert_to_span_attrs(state, *args, **kwargs)
        return traces.describe_end(told, observed.module_of(self, state.obj)) if told else told

    @overrides("8e49bca9d1d26f2c", _UNCOUNTED)
    def _handle_abort_req(self, recv_obj: AbortReq) -> None:
        state = self.rid_to_state.get(recv_obj.rid)
        super()._handle_abort_req(recv_obj)
        if state is not None and recv_obj.rid not in self.rid_to_state:
            observed.end_aborted(state, recv_obj)

    @overrides("69ad26ca812defad", _UNCOUNTED)
    def _remove_req_state(self, rid: str, *args: Any, **kwargs: Any) -> upstream.ReqState | None:
        state = super()._remove_req_state(rid, *args, **kwargs)
        # A finished one ends with its last output, which is counted a moment later.
        if state is not None and not state.finished:
            observed.end_unfinished(state)
        if state is not None and self.quiet is not None and is_call_rid(state.obj.rid):
            self.quiet.end_call()
        if state is not None and self.gate is not None:
            self.gate.end(str(rid), len(state.output_ids))
        return state

    @overrides("78e5969138691acb", _OTHERS_KV)
    async def update_weights_from_disk(self, *args: Any, **kwargs: Any) -> tuple[bool, str, int]:
        if (reason := self._reason_against_new_weights()) is not None:
            return False, reason, 0
        updated: tuple[bool, str, int] = await super().update_weights_from_disk(*args, **kwargs)
        return updated

    @overrides("802ae6928d1499f6", "whoever has the API key would be told the admin key by /server_info")
    def resolved_config_dict(self, base: dict[str, Any]) -> dict[str, Any]:
        return hide_secrets(super().resolved_config_dict(base))

    @overrides(
        "a6fdcfe347722be8",
        _OTHERS_KV,
        of="managers.tokenizer_control_mixin:TokenizerControlMixin.update_weights_from_distributed",
    )
    async def update_weights_from_distributed(self, *args: Any, **kwargs: Any) -> tuple[bool, str]:
        reason = self._reason_against_new_weights()
        return (False, reason) if reason else await super().update_weights_from_distributed(*args, **kwargs)

    @overrides(
        "afd2d2109128b211",
        _OTHERS_KV,
        of="managers.tokenizer_control_mixin:TokenizerControlMixin.update_weights_from_tensor",
    )
    async def update_weights_from_tensor(self, *args: Any, **kwargs: Any) -> tuple[bool, str]:
        reason = self._reason_against_new_weights()
        return (False, reason) if reason else await super().update_weights_from_tensor(*args, **kwargs)

    @overrides(
        "05ec8f0875855802",
        _OTHERS_KV,
        of="managers.tokenizer_control_mixin:TokenizerControlMixin.update_weights_from_ipc",
    )
    async def update_weights_from_ipc(self, *args: Any, **kwargs: Any) -> tuple[bool, str]:
        reason = self._reason_against_new_weights()
        return (False, reason) if reason else await super().update_weights_from_ipc(*args, **kwargs)

    def _reason_against_new_weights(self) -> str | None:
        """Pages in the store are named by the weights that the engine began with."""
        if not self.server_args.enable_hierarchical_cache and read_write_back() is None:
            return None
        return (
            "this engine shares a store of KV that its present weights have made: change the prefill module in the "
            "deployment file and launch it anew"
        )


def _may_wait(call: upstream.TokenizedGenerateReqInput | upstream.TokenizedEmbeddingReqInput) -> bool:
    """Whether it is somebody's call, of tokens that are known."""
    is_generation = isinstance(call, upstream.TokenizedGenerateReqInput) and call.input_ids is not None
    return is_generation and is_call_rid(call.rid)


RELIED_ON = {
    "managers.tokenizer_manager:TokenizerManager._handle_batch_output": (
        "4adfb1cf333c5972",
        "when a request's state goes and its outputs are counted",
    ),
}
