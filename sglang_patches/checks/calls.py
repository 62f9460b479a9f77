"""Calls that would end a scheduler, or fail late and without a reason, are refused with one sentence.

Token ids outside of the vocabulary, more top logprobs than there are tokens, and numbers that tensors cannot hold reach
the model and end the process for everybody. A call for vectors or scores of texts, which a model of this kind cannot
give, ends with status 500.

``check_call`` looks at what needs no model, before anything is multiplied by it (``n``), when a call arrives.
``check_request`` looks at the rest, once the prompt's tokens are known. ``engine/tokenizer_manager`` calls both; a
ValueError is answered with 400.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sglang_patches.checks import sampling_values
from sglang_patches.prefill.unshared import refuse_mark

if TYPE_CHECKING:
    from sglang.srt.managers.io_struct import GenerateReqInput

MAX_TEXTS = 1024
"""In one call, samples counted."""

PER_PROMPT = (
    "sampling_params",
    "rid",
    "lora_path",
    "return_logprob",
    "logprob_start_len",
    "top_logprobs_num",
    "extra_key",
    "custom_logit_processor",
    "return_hidden_states",
    "bootstrap_host",
    "bootstrap_port",
    "bootstrap_room",
)
"""Fields of a call that may be a list, if its prompts are one."""

_NATIVE_PATHS = re.compile(r"/generate|/vertex_generate|/modules/[^/]+/generate")
_SET_BY_CALLERS = frozenset(
    (*PER_PROMPT, "text", "input_ids", "token_ids_logprob", "return_text_in_logprobs", "stream", "session_params")
    + ("session_id", "priority", "routing_key", "routed_dp_rank", "disagg_prefill_dp_rank", "return_prompt_token_ids")
    + ("return_sampling_mask", "return_flat_raw_top_logprobs", "return_flat_raw_top_logprobs_b64", "return_bytes")
    + ("max_thinking_tokens", "require_reasoning", "background", "no_logs", "return_entropy")
    + ("external_trace_header",)
)
"""Fields of /generate that mean something here. The engine's class has some thirty more: they pass between its parts,
or are for models that read pictures and sound, and a value of the wrong kind in some of them ends a process."""

_SESSION_PARAMETERS = frozenset(("id", "rid", "offset", "replace", "drop_previous_output"))

_TEXTS = ("rid", "lora_path", "extra_key", "routing_key", "session_id", "bootstrap_host", "custom_logit_processor")
_INTEGERS = {
    "logprob_start_len": (-1, sampling_values.LARGEST),
    "priority": (-sampling_values.LARGEST, sampling_values.LARGEST),
    "bootstrap_port": (0, 65535),
    "bootstrap_room": (0, (1 << 63) - 1),
    "routed_dp_rank": (0, sampling_values.LARGEST),
}
MAX_TEXT_CHARACTERS = 1024
"""Of a name that a call gives to something."""


def check_call(obj: GenerateReqInput, path: str | None) -> None:
    """Look at a call as it came, to an address or (None) from the engine itself.

    Raises: ValueError saying what is wrong, the value and what is allowed.
    """
    if not hasattr(obj, "return_logprob"):  # embeddings, rerank, classify: SGLang has one class for them
        raise ValueError(
            "this model writes text; it gives no embeddings, scores or classes: ask another server for them"
        )
    # Without a path it is the engine's own (warm-up, health check), which may set what callers may not.
    if path is not None:
        _check_fields(obj, path)
    params = obj.sampling_params
    for given in _as_list(params):
        sampling_values.check_samples(given)
    num_texts, num_samples = _count_prompts(obj), max((_count_samples(given) for given in _as_list(params)), default=1)
    # Before SGLang makes a list of that length, and a request and a state of each.
    if num_texts * num_samples > MAX_TEXTS:
        raise ValueError(
            f"the call asks for {num_texts} x {num_samples} answers: {MAX_TEXTS} are allowed, send several calls"
        )
    _check_lengths(obj, num_texts)


def prepare_call(obj: GenerateReqInput) -> None:
    """Leave out what a call sets to null, where SGLang would stumble over it, and unpack what a newer library packs.

    Effects: changes ``obj``.
    """
    if isinstance(getattr(obj, "input_ids", None), Mapping):
        obj.input_ids = list(obj.input_ids["input_ids"])  # rendered by transformers 5
    for given in _as_list(getattr(obj, "sampling_params", None)):
        if isinstance(given, dict) and given.get("n", 1) is None:
            del given["n"]


def _check_fields(obj: GenerateReqInput, path: str) -> None:
    """Elsewhere SGLang fills the engine's class itself, for its health checks too."""
    if _NATIVE_PATHS.fullmatch(path):
        for field in dataclasses.fields(obj):
            value = getattr(obj, field.name)
            if field.name not in _SET_BY_CALLERS and value != field.default:
                raise ValueError(f"{field.name} cannot be set by a call (to {str(value)[:80]}): leave it out")
    session = obj.session_params
    for given in session if isinstance(session, list) else [session]:
        unknown = sorted(set(given or ()) - _SESSION_PARAMETERS)
        if unknown:
            raise ValueError(f"session_params has no {unknown[0]!r}: it has {', '.join(sorted(_SESSION_PARAMETERS))}")


def _count_prompts(obj: GenerateReqInput) -> int:
    given = obj.text if obj.text is not None else obj.input_ids
    if isinstance(given, list) and not given:
        raise ValueError("the list of prompts is empty: give at least one")
    return len(given) if isinstance(given, list) and not isinstance(given[0], int | float) else 1


def _count_samples(params: Mapping[str, int | None] | None) -> int:
    return (params or {}).get("n") or 1


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_lengths(obj: GenerateReqInput, num_texts: int) -> None:
    is_batch = isinstance(obj.text if obj.text is not None else obj.input_ids, list) and not _is_token_list(obj)
    for name in PER_PROMPT:
        value = getattr(obj, name)
        if not isinstance(value, list):
            continue
        if not is_batch:
            raise ValueError(f"{name} is a list, and there is one prompt: give one value")
        if len(value) != num_texts:
            raise ValueError(
                f"{name} has {len(value)} entries for {num_texts} prompts: give one for each, or one for all"
            )


def _is_token_list(obj: GenerateReqInput) -> bool:
    return obj.text is None and isinstance(obj.input_ids[0], int | float)


def check_request(obj: GenerateReqInput, input_ids: Sequence[int] | None, vocab_size: int) -> None:
    """Look at what upstream trusts.

    Raises: ValueError saying what is wrong, the value and what is allowed.
    """
    if input_ids is not None and not len(input_ids):
        raise ValueError("the prompt is empty: give at least one token")
    if input_ids and not all(isinstance(token, int) for token in input_ids):
        raise ValueError("a token id is not a whole number: give a list of token ids")
    # All of it is packed for the scheduler, and what cannot be unpacked there ends it.
    _check_plain(obj)
    params = getattr(obj, "sampling_params", None)
    sampling_values.check(params)
    for token in (*_extremes(input_ids or ()), *_named_tokens(params)):
        if not 0 <= token < vocab_size:
            raise ValueError(f"token id {token} does not exist: ids of this model are 0 to {vocab_size - 1}")
    wanted = getattr(obj, "top_logprobs_num", None)
    if isinstance(wanted, int) and not 0 <= wanted <= vocab_size:
        raise ValueError(f"top_logprobs_num is {wanted}: it must be 0 to {vocab_size}")


def _check_plain(obj: GenerateReqInput) -> None:
    trace = getattr(obj, "external_trace_header", None) or {}
    if not isinstance(trace, Mapping) or not all(isinstance(text, str) for pair in trace.items() for text in pair):
        raise ValueError(f"external_trace_header is {str(trace)[:80]}: give an object of texts")
    for name in _TEXTS:
        value = getattr(obj, name, None)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name} is {str(value)[:80]!r}: give a text")
        if value is not None and name != "custom_logit_processor" and len(value) > MAX_TEXT_CHARACTERS:
            raise ValueError(f"{name} has {len(value)} characters: {MAX_TEXT_CHARACTERS} are allowed")
    refuse_mark(getattr(obj, "extra_key", None) or "")
    for name, (least, most) in _INTEGERS.items():
        value = getattr(obj, name, None)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most):
            raise ValueError(f"{name} is {str(value)[:80]}: it must be a whole number from {least} to {most}")


def _extremes(input_ids: Sequence[int]) -> Iterator[int]:
    if input_ids:
        yield from (min(input_ids), max(input_ids))


def _named_tokens(params: object) -> Iterator[int]:
    if isinstance(params, Mapping):
        yield from params.get("stop_token_ids") or ()
        yield from map(int, params.get("logit_bias") or ())
